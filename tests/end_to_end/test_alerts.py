"""Alerts of a hub that runs: in time, once, across a kill of the supervisor, with no secret anywhere."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.local_postgres import free_port
from tests.end_to_end.hub import Hub
from tests.end_to_end.lab import execute
from tests.servers.receiver import Receiver, receiving, wait_until

SECRET = "canary-4711"
CONFIG = """\
hub: {{name: acme, state: "sqlite:///{folder}/state.db"}}
broker: {{type: embedded, path: {folder}/log.db}}
sources: {{erp: {{type: postgres, dsn: "{dsn}", heartbeat_seconds: 0.5, tables: [public.customers]}}}}
targets: {{wh: {{type: sqlite, path: {folder}/wh.db}}}}
mappings: [{folder}/mappings]
http: {{port: {port}}}
alerts:
  to: ["${{ALERT_URL:-}}", "${{NOBODY:-}}"]
  heartbeat: {{url: "${{DEADMAN_URL:-}}", every: 1s}}
"""
MAPPING = """
mapping: customers
from: {source: erp, table: public.customers}
to: {target: wh, table: customers, create: true}
key: [id]
copy: [id, name]
"""
PAUSED = "[acme] degraded: paused (target:wh)"
WITHIN_SECONDS = 5.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def deadman() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def hub(source_dsn: str, receiver: Receiver, deadman: Receiver, tmp_path: Path) -> Iterator[Hub]:
    execute(source_dsn, "create table customers (id int primary key, name text); insert into customers values (1, 'x')")
    environment = {
        "ALERT_URL": receiver.address(path=f"/{SECRET}", login=f"{SECRET}:{SECRET}@"),
        "DEADMAN_URL": deadman.address("http", f"/{SECRET}"),
    }
    config = CONFIG.format(folder=tmp_path, dsn=source_dsn, port=free_port())
    one = Hub(tmp_path, config, MAPPING, environment)
    yield one
    one.close()


def test_a_problem_is_told_in_time_once_and_across_a_kill(hub: Hub, receiver: Receiver, deadman: Receiver) -> None:
    hub.start()
    wait_until(lambda: hub.health()["status"] == "ok", "it is well", 30)
    wait_until(lambda: deadman.asked, "the heartbeat calls", 5)
    assert hub.state.alerts.latest(10) == [], "starting is no news"
    hub.state.pause("target:wh")
    began = time.monotonic()
    wait_until(lambda: receiver.taken, "it is told", WITHIN_SECONDS)
    assert time.monotonic() - began < WITHIN_SECONDS
    receiver.stop()
    hub.state.pause("source:erp")
    wait_until(lambda: "no connection" in str(hub.state.alerts.latest(10)), "the receiver is gone")
    assert hub.process
    os.kill(hub.process.pid, signal.SIGKILL)
    hub.process.wait()
    receiver.start()
    assert receiver.titles == [PAUSED]
    hub.start()
    wait_until(lambda: len(receiver.taken) == 2, "what waited is sent", 30)
    assert receiver.titles == [PAUSED, PAUSED.replace("target:wh", "source:erp")]
    shown = hub.cli("alerts", "list")
    assert shown.stdout.count("1 taken") == 2
    assert hub.stop() == 0
    assert len(receiver.taken) == 2
    lines = [line for line in hub.log().splitlines() if "alert opened, degraded: paused" in line]
    assert len(lines) == 2
    files = b"".join(path.read_bytes() for path in hub.folder.rglob("*") if path.is_file())
    assert b"json://127.0.0.1" in files
    assert SECRET.encode() not in files


def test_the_command_line_tries_every_receiver(hub: Hub, receiver: Receiver) -> None:
    tried = hub.cli("alerts", "test")
    assert tried.returncode == 0, tried.stderr
    assert f"json://127.0.0.1:{receiver.port}" in tried.stdout
    assert receiver.titles == ["[acme] test"]
    assert hub.cli("alerts", "list").stdout == "nothing was ever wrong\n"
    receiver.status = 403
    refused = hub.cli("alerts", "test", "--json")
    assert refused.returncode == 1
    answer = {"receiver": f"json://127.0.0.1:{receiver.port}", "taken": False, "error": "it answered 403"}
    assert json.loads(refused.stdout) == [answer]
    hub.environment["ALERT_URL"] = f"tgrm://{SECRET}"
    unknown = hub.cli("alerts", "test")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("bad_receiver: alerts.to: apprise knows no receiver tgrm://…")
    checked = hub.cli("check")
    assert checked.returncode == 2
    assert "error alerts: bad_receiver" in checked.stdout
    started = hub.cli("run")
    assert started.returncode == 2
    assert started.stderr.startswith("bad_receiver")
    hub.environment["ALERT_URL"] = ""
    none = hub.cli("alerts", "test")
    assert none.returncode == 2
    assert none.stderr.startswith("no_receivers")
    said = "".join(one.stdout + one.stderr for one in (tried, refused, unknown, checked, started, none))
    assert SECRET not in said
    assert "Traceback" not in said
