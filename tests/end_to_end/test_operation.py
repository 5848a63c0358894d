"""Running the hub: stopping, killing, parts of it, pauses, servers that go and come back, a second hub by mistake."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from connectors.local_postgres import LocalPostgres, free_port
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, frozen, is_alive, moment, query
from tests.end_to_end.workload import MAPPINGS, SCHEMA
from tests.servers.postgres import database

WAREHOUSE = """---
mapping: orders_to_wh
from: {source: {source}, table: public.orders}
to: {target: wh, table: orders, create: true}
key: [shop, number]
copy: [shop, number, note]
"""
BOTH = MAPPINGS.replace("{target}", "crm").replace("{{", "{").replace("}}", "}") + WAREHOUSE
AUDIT = """
create table account_view (account bigint primary key, title text, balance numeric(14,4), big text, event text);
create table writes (at bigserial, account bigint, event text);
create function audit() returns trigger language plpgsql as
    'begin insert into writes (account, event) values (new.account, new.event); return new; end';
create trigger audit after insert or update on account_view for each row execute function audit();
"""
TWICE = "select account, event, count(*) from writes group by 1, 2 having count(*) > 1"
STOP_SECONDS = 10


@pytest.fixture(scope="module")
def lab(
    own_server: LocalPostgres, own_target: LocalPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """One hub for all tests of this file; its port is fixed."""
    with database(own_server) as source, database(own_target) as target:
        execute(source, SCHEMA)
        execute(target, AUDIT)
        lab = Lab(tmp_path_factory.mktemp("operation"), "ops", source, target, BOTH, port=free_port())
        yield lab
        lab.close()


@pytest.fixture
def running(lab: Lab) -> Lab:
    """The hub, running."""
    if lab.process is None:
        lab.start()
    return lab


def test_sigterm_under_load_stops_in_time_and_loses_nothing(running: Lab) -> None:
    with running.load():
        wait_until(lambda: query(running.target, "select count(*) > 5 from account_view") == [(True,)], "rows arrive")
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < STOP_SECONDS
        assert running.alive() == []
        assert {worker.state for worker in running.state.workers()} == {"stopped"}
        moment(0.5)
        running.start()
    running.agrees()
    assert query(running.target, TWICE) == []


def test_a_second_signal_does_not_wait_for_a_worker_that_hangs(running: Lab) -> None:
    process = running.process
    assert process
    with frozen(wait_until(lambda: running.pids().get("deliver:crm"), "a worker")):
        process.send_signal(signal.SIGINT)
        wait_until(lambda: len(running.alive()) == 1, "the others stop")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert time.monotonic() - began < 2
    assert running.alive() == []
    running.process = None


def test_workers_end_by_themselves_when_the_supervisor_is_killed(running: Lab) -> None:
    """Also one that hangs in its database: here it waits for a lock that nobody lets go."""
    process = running.process
    assert process
    with running.load(), psycopg.connect(running.target) as locker:
        wait_until(lambda: len(running.alive()) == 4, "four workers")
        locker.execute("lock table account_view in access exclusive mode")
        wait_until(lambda: query(running.target, WAITING) == [(True,)], "it hangs")
        pids = running.alive()
        began = time.monotonic()
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(is_alive, pids)), "all workers end", STOP_SECONDS + 1)
        assert time.monotonic() - began < STOP_SECONDS + 0.5
    running.process = None
    running.start()
    running.agrees()
    assert query(running.target, TWICE) == []


WAITING = "select count(*) > 0 from pg_locks where not granted and relation = 'account_view'::regclass"


def test_parts_of_a_hub_run_as_processes_of_their_own(lab: Lab, tmp_path: Path) -> None:
    if lab.process is not None:
        assert lab.stop() == 0
    lab.start("--only", "capture:ops", "--only", "deliver:wh")
    other = Lab(tmp_path, lab.name, lab.source, lab.target, BOTH, home=lab.folder)
    try:
        other.start("--only", "deliver:crm")
        with lab.load(seed=2):
            moment(0.5)
        lab.agrees()
        assert other.stop() == 0
        assert lab.stop() == 0
        done = lab.cli("run", "--only", "deliver:nowhere")
        assert done.returncode == 2
        assert "unknown_worker" in done.stderr
    finally:
        other.close()


def test_pauses_hold_what_they_name_and_survive_a_restart(running: Lab) -> None:
    running.agrees()
    assert running.cli("pause", "accounts_to_target", "--reason", "a migration").returncode == 0
    assert running.cli("pause", "wh", "--for", "2h").returncode == 0
    for pipeline in ("accounts_to_target", "orders_to_wh"):
        running.becomes(pipeline, "paused")
    assert "a migration" in running.problem("paused", "pipeline:accounts_to_target")["message"]
    assert running.stop() == 0
    running.start()
    execute(running.source, "insert into accounts values (1000, 'paused', 1, '', true)")
    execute(running.source, "insert into orders values (1000, 'paused', 1, 'new')")
    running.until([("new",)], "select note from order_view where shop = 1000")
    assert query(running.target, "select 1 from account_view where account = 1000") == []
    assert running.state_of("accounts_to_target") == running.state_of("orders_to_wh") == "paused"
    assert "goes on" in running.resume("accounts_to_target")
    assert "goes on" in running.resume("target:wh")
    running.until([("PAUSED!",)], "select title from account_view where account = 1000")
    running.agrees()


def test_a_pause_of_a_source_ends_when_its_time_is_over(running: Lab) -> None:
    assert running.cli("pause", "ops", "--for", "4s").returncode == 0
    wait_until(lambda: running.health()["sources"]["ops"]["state"] == "paused", "paused")
    execute(running.source, "insert into orders values (1001, 'later', 1, 'held')")
    moment(0.3)
    assert query(running.target, "select 1 from order_view where shop = 1001") == []
    running.until([("held",)], "select note from order_view where shop = 1001", timeout_seconds=15)


def test_a_target_that_is_away_delays_nobody_else_and_loses_nothing(running: Lab, own_target: LocalPostgres) -> None:
    sqlite = running.settings.sink("wh")
    flowing = ("running", "catching_up")
    wait_until(lambda: running.state_of("orders_to_wh") in flowing, "the other target has its rows")
    with running.load(seed=3):
        own_target.stop("fast")
        try:
            problem = running.problem("worker_backing_off", "target:crm")
            assert "crm" in problem["message"]
            assert problem["hint"]
            assert sorted(problem["affects"]) == ["accounts_to_target", "orders_to_target"]
            with psycopg.connect(running.source, autocommit=True) as connection:
                connection.execute("insert into orders values (2000, 'meanwhile', 1, null)")

            def arrived() -> bool:
                return any(row[0] == "meanwhile" for row in sqlite.read_rows("orders", ["number"]))

            wait_until(arrived, "the other target applies")
            assert running.state_of("orders_to_wh") in flowing
        finally:
            own_target.start()
    sqlite.close()
    running.agrees()
    assert query(running.target, TWICE) == []
    assert "failed" not in {one["state"] for one in running.health()["pipelines"].values()}


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_source_that_is_restarted_goes_on_where_it_was(running: Lab, own_server: LocalPostgres, mode: str) -> None:
    with running.load(seed=4):
        moment(0.3)
        began = time.monotonic()
        own_server.stop(mode)
        assert time.monotonic() - began < 8, "its shutdown waited for the hub"
        running.problem("worker_backing_off", "source:ops")
        own_server.start()
        moment(0.3)
    running.agrees()
    assert query(running.target, TWICE) == []


def test_a_second_hub_by_mistake_has_no_effect(running: Lab, tmp_path: Path) -> None:
    again = running.cli("run")
    assert again.returncode == 3
    assert "port_in_use" in again.stderr
    second = Lab(tmp_path, running.name, running.source, running.target, BOTH, home=running.folder)
    try:
        with running.load(seed=6):
            second.start()
            wait_until(lambda: "slot_active" in second.log(), "its capture waits")
            moment(1)
            assert second.stop() == 0
    finally:
        second.close()
    running.agrees()
    assert query(running.target, TWICE) == []
    assert "Traceback" not in running.log() + second.log()
    assert running.process
    assert running.process.poll() is None
