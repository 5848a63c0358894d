"""`sync-hub snapshot` beside a hub that runs, and where none does: what is sent, what is refused, in one line."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.local_postgres import LocalPostgres
from sync_hub.runtime.control import PROBE
from sync_hub.runtime.snapshot import LOOK_SECONDS
from sync_hub.state_snapshots import Snapshot
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, query
from tests.end_to_end.workload import SCHEMA
from tests.integration.test_cli import Project
from tests.servers.postgres import database

MAPPINGS = """
mapping: accounts
from: {source: {source}, table: public.accounts}
to: {target: crm, table: account_view, create: true}
key: [id]
copy: [id, name]
---
mapping: orders_to_crm
from: {source: {source}, table: public.orders}
to: {target: crm, table: order_view, create: true}
key: [shop, number]
copy: all
---
mapping: orders_to_wh
from: {source: {source}, table: public.orders}
to: {target: wh, table: order_view, create: true}
key: [shop, number]
copy: all
"""
FILL = (
    "insert into accounts select n, 'name ' || n, n, null, true from generate_series(1, 40) n",
    "insert into orders select n % 4, n, n, null from generate_series(1, 1600) n",
    "analyze",
)


class Shell:
    """The command line of one lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._project = Project(lab.folder)

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """`sync-hub snapshot` to its end."""
        return self._project.call("-c", str(self.lab.config), "snapshot", *arguments, code=code)

    def json(self, *arguments: str, code: int = 0) -> Any:
        """The same with --json."""
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def fails(self, *arguments: str, code: int = 2) -> str:
        """What must fail; its one line."""
        done = self.run(*arguments, code=code)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr

    def snapshot(self, name: str) -> Snapshot:
        """How a snapshot stands."""
        found = self.lab.state.snapshots.find(name)
        assert found is not None
        return found

    def rests(self) -> None:
        """Wait until capture has noticed that there is nothing to load, and said so."""
        since = time.time() + LOOK_SECONDS

        def said() -> bool:
            capture = next(one for one in self.lab.state.workers() if one.name.startswith("capture"))
            return capture.beat_at > since and not capture.detail["snapshot"]

        wait_until(said, "nothing is loading")


def lab_in(folder: Path, source: str, target: str) -> Lab:
    execute(source, SCHEMA, *FILL)
    lab = Lab(folder, f"c{uuid.uuid4().hex[:8]}", source, target, MAPPINGS)
    lab.config.write_text(lab.config.read_text().replace("heartbeat_s", "snapshot_rows: 2\n    heartbeat_s"))
    return lab


@pytest.fixture(scope="module")
def shell(
    source_server: LocalPostgres, target_server: LocalPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    """Beside a hub that has loaded everything; its chunks are small, so that loading takes a while."""
    with database(source_server) as source, database(target_server) as target:
        lab = lab_in(tmp_path_factory.mktemp("snapshot"), source, target)
        try:
            lab.start()
            lab.settle()
            yield Shell(lab)
        finally:
            lab.close()


def test_rows_by_condition_come_back(shell: Shell) -> None:
    execute(shell.lab.target, "delete from account_view")
    done = shell.json("accounts", "--where", "id <= 10 and name like 'name 1%'")
    assert (done["state"], done["rows_done"], done["pipelines"]) == ("done", 2, ["accounts"])
    shell.lab.until([(2,)], "select count(*) from account_view")
    assert "10 rows of public.accounts for accounts" in shell.run("accounts", "--where", "id between 11 and 20").stdout
    shell.lab.until([(12,)], "select count(*) from account_view")
    assert shell.json("public.accounts")["rows_done"] == 40
    shell.lab.agrees()


def test_rows_by_key_come_back(shell: Shell) -> None:
    execute(shell.lab.target, "delete from account_view", "delete from order_view where shop = 1")
    assert shell.json("accounts", "--keys", "1,2, 3,999")["rows_done"] == 3
    shell.lab.until([(3,)], "select count(*) from account_view")
    keys = json.dumps([{"shop": 1, "number": "5"}, {"number": "9", "shop": "1"}])
    assert shell.json("orders_to_crm", "--keys", keys)["rows_done"] == 2
    shell.lab.until([("5",), ("9",)], "select number from order_view where shop = 1 order by 1")
    both = shell.json("public.orders", "--where", "shop = 1")
    assert (both["pipelines"], both["rows_done"]) == (["orders_to_crm", "orders_to_wh"], 400)
    assert shell.json(f"{shell.lab.name}:public.accounts", "--where", "true -- all")["rows_done"] == 40
    shell.lab.agrees()


def test_a_loading_is_paused_resumed_and_cancelled_by_its_id(shell: Shell) -> None:
    execute(shell.lab.source, "insert into orders select 4 + n % 4, n, n, null from generate_series(1, 6400) n")
    name = shell.json("orders_to_crm", "--no-wait")["id"]
    wait_until(lambda: shell.snapshot(name).rows_done, "it is loading")
    assert shell.run(name, "--do", "pause").stdout == f"{name} paused\n"
    assert f"{name}" in shell.fails(name, "--do", "pause")
    shell.rests()
    rested = shell.snapshot(name)
    assert (rested.state, 0 < rested.rows_done < 8000) == ("paused", True)
    (shown,) = [one for one in shell.json() if one["id"] == name]
    assert (shown["state"], shown["rows_done"]) == ("paused", rested.rows_done)
    assert shell.json(name, "--do", "resume")["state"] == "waiting"
    wait_until(lambda: shell.snapshot(name).rows_done > rested.rows_done, "it goes on")
    assert shell.run(name, "--do", "cancel").stdout == f"{name} cancelled\n"
    assert "sync-hub snapshot" in shell.fails(name, "--do", "resume")
    shell.rests()
    assert shell.snapshot(name).rows_done < 8000
    assert any(name in line and "cancelled" in line for line in shell.run().stdout.splitlines())
    execute(shell.lab.source, "delete from orders where shop >= 4")
    shell.lab.agrees()


def test_a_view_is_loaded_again_and_proven(shell: Shell) -> None:
    execute(shell.lab.target, "insert into account_view values (777, 'extra')", "delete from account_view where id < 9")
    assert shell.json("accounts", "--reload") == {"reload": ["accounts"]}
    shell.lab.until([(40,)], "select count(*) from account_view where id <> 777")
    shell.lab.until([(0,)], "select count(*) from account_view where id = 777")
    wait_until(lambda: not any(one.unproven for one in shell.lab.state.pipelines()), "proven")
    assert "orders_to_crm, orders_to_wh: loaded again, then verified" in shell.run("orders", "--reload").stdout
    wait_until(lambda: not any(one.unproven for one in shell.lab.state.pipelines()), "proven")
    shell.lab.agrees()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["accounts", "--where", "nope = 1"], "bad_where"),
        (["accounts", "--where", "id >"], "bad_where"),
        (["accounts", "--where", "id"], "bad_where"),
        (["accounts", "--where", "1 / (id - 5) > 0"], "division by zero"),
        (["accounts", "--where", "count(*) > 1"], "bad_where"),
        (["accounts", "--where", "name ~ '('"], "bad_where"),
        (["accounts", "--where", "true) limit 1) r on true; delete from accounts; --"], "bad_where"),
        (["accounts", "--where", "name = '%s' and \x01"], "bad_where"),
        (["accounts", "--where", ""], "bad_where"),
        (["accounts", "--where", "1 = 1) or (1 = 1"], "bad_where"),
        (["accounts", "--where", "name = '\udcff'"], "bad_where"),
        (["accounts", "--where", "repeat(name, 1100000000) is not null"], "bad_where"),
        (["accounts", "--where", "pg_cancel_backend(pg_backend_pid())"], "bad_where"),
        (["accounts", "--where", "pg_terminate_backend(pg_backend_pid())"], "bad_where"),
        (["accounts", "--keys", "abc"], "bad_key"),
        (["accounts", "--keys", ","], "bad_key"),
        (["accounts", "--keys", "[1]"], "bad_key"),
        (["accounts", "--keys", '[{"id": null}]'], "bad_key"),
        (["accounts", "--keys", '[{"id": {"a": 1}}]'], "bad_key"),
        (["accounts", "--keys", "99999999999999999999999"], "bad_key"),
        (["orders_to_wh", "--keys", "1,2"], "bad_key"),
        (["orders_to_wh", "--keys", '[{"shop": "x", "number": "1"}]'], "bad_key"),
        (["orders_to_wh", "--keys", '[{"shop": 1}]'], "bad_key"),
        (["orders_to_wh", "--keys", '[{"shop": 1, "number": "\\ud800"}]'], "bad_key"),
        (["accounts", "--keys", "[" * 50_000], "bad_key"),
        (["accounts", "--keys", "1", "--where", "true"], "usage"),
        (["accounts", "--keys", "1", "--reload"], "usage"),
        (["--where", "true"], "usage"),
        (["acounts"], "accounts"),
        (["crm"], "ambiguous_name"),
        (["nothing", "--do", "cancel"], "unknown_snapshot"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_does_no_harm(shell: Shell, arguments: list[str], says: str) -> None:
    assert says in shell.fails(*arguments)
    (worker,) = [one for one in shell.lab.state.workers() if one.name == f"capture:{shell.lab.name}"]
    assert worker.state == "running"
    assert query(shell.lab.source, "select count(*) from accounts") == [(40,)]


def test_a_question_about_a_table_that_is_not_captured_any_more_is_let_go(shell: Shell) -> None:
    name, state = shell.lab.name, shell.lab.state
    arguments = {"run": "r", "table": "public.gone", "pipeline": "accounts", "keys": [{"id": 1}], "repair": False}
    asked = state.ask(f"capture:{name}", PROBE, arguments)
    assert wait_until(lambda: state.result(asked), "an answer") == {"ok": False}
    (worker,) = [one for one in state.workers() if one.name == f"capture:{name}"]
    assert worker.state == "running"


def test_without_a_hub_nothing_is_sent_unless_it_may_wait(tmp_path: Path, source_dsn: str, target_dsn: str) -> None:
    shell = Shell(lab := lab_in(tmp_path, source_dsn, target_dsn))
    assert "accounts" in shell.fails("accounts")
    assert "nothing" in shell.run().stdout or shell.json() == []
    try:
        lab.start()
        lab.settle()
        lab.stop()
        for worker in lab.state.workers():
            lab.state.forget_workers([worker.name])
        execute(target_dsn, "delete from account_view", "delete from order_view")
        known = shell.json()
        assert "sync-hub run" in shell.fails("accounts", code=3)
        assert shell.json() == known, "what was refused is not asked for"
        later = shell.json("accounts", "--no-wait")
        assert later["state"] == "waiting"
        assert "as soon as the hub runs" in shell.run("orders_to_wh", "--no-wait").stdout
        assert "once the hub runs" in shell.run("orders_to_crm", "--reload").stdout
        lab.start()
        wait_until(lambda: shell.snapshot(later["id"]).state == "done", "sent")
        wait_until(lambda: all(p.phase == "loaded" and not p.unproven for p in lab.state.pipelines()), "proven")
        lab.agrees()
    finally:
        lab.close()
