"""Existing rows are loaded while everything changes and everything dies: every view ends as its mapping says."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from sync_hub.runtime.snapshot import LOOK_SECONDS
from sync_hub.state_snapshots import Snapshot, new_id
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, frozen, moment, query
from tests.end_to_end.workload import SCHEMA
from tests.integration.test_postgres_source_whole import late_commit

__all__ = ["late_commit"]

ROUNDS = int(os.environ.get("SYNC_HUB_ROUNDS", "4"))
"""How often everything is loaded and killed, over all cases: a few times, or fifty."""
SHARES = {("embedded", 1): 0.28, ("embedded", 7): 0.28, ("embedded", 1000): 0.28, ("kafka", 7): 0.16}

ACCOUNTS = """
mapping: accounts_to_crm
from: {source: {source}, table: public.accounts}
to: {target: crm, table: account_view, create: true}
key: [account]
fields:
  account: id
  title: upper(name) || '!'
  balance: {expr: balance, type: "numeric(14,4)"}
  big: big
where: active
"""
ORDERS = """
---
mapping: orders_to_crm
from: {source: {source}, table: public.orders}
to: {target: crm, table: order_view, create: true}
key: [shop, number]
copy: all
"""
ORDERS_LITE = """
---
mapping: orders_to_wh
from: {source: {source}, table: public.orders}
to: {target: wh, table: order_view, create: true}
key: [shop, number]
copy: all
"""
FILL = (
    "insert into accounts select n, 'name ' || n, n, repeat('x', 9000), n % 5 > 0 from generate_series(1, 60) n",
    "insert into orders select n % 7, n, n / 3.0, null from generate_series(1, 300) n",
)


class Loads(Lab):
    """A lab whose rows can be asked for."""

    def chunks(self, rows: int, **options: Any) -> None:
        """Have chunks of so many rows, before the hub starts."""
        more = "".join(f"\n    {name}: {value}" for name, value in options.items())
        text = self.config.read_text()
        self.config.write_text(
            text.replace("heartbeat_seconds: 0.5", f"heartbeat_seconds: 0.5\n    snapshot_rows: {rows}{more}")
        )

    def ask(self, table: str, *pipelines: str, **fields: Any) -> str:
        """Ask for the rows of a table; the snapshot's id."""
        snapshot = Snapshot(new_id(), self.name, table, pipelines, "asked", asked_at=time.time(), **fields)
        self.state.snapshots.ask(snapshot)
        return snapshot.id

    def snapshot(self, name: str) -> Snapshot:
        """How a snapshot stands."""
        found = self.state.snapshots.find(name)
        assert found is not None
        return found

    def done(self, *names: str, timeout_seconds: float = 60) -> None:
        """Wait until these are done."""
        self._wait(lambda: all(self.snapshot(one).state == "done" for one in names), "loaded", timeout_seconds)

    def loading_of(self, table: str) -> Snapshot | None:
        """The newest snapshot of a table."""
        return next((one for one in reversed(self.state.snapshots.all(self.name)) if one.table == table), None)

    def proven(self) -> None:
        """Wait until all views are loaded, and verified where they were in doubt."""

        def all_proven() -> bool:
            known = self.state.pipelines()
            return bool(known) and all(one.phase == "loaded" and not one.unproven for one in known)

        self._wait(all_proven, "proven", 90)

    def partly(self, name: str, rows: int) -> Snapshot:
        """Wait until so many rows are done, but not all."""
        self._wait(lambda: self.snapshot(name).rows_done >= rows, f"{rows} rows are done", 60)
        found = self.snapshot(name)
        assert found.state == "running", f"it came too late: {found}"
        return found

    def kill(self, what: str) -> None:
        """Kill a worker that works, or the hub and all its workers; the hub is started again."""
        if what == "hub":
            assert self.process is not None
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            self.start()
            return
        pid = self._wait(lambda: self._working(what), f"{what} works", 30)
        os.kill(pid, signal.SIGKILL)

    def _working(self, kind: str) -> int | None:
        alive = self.alive()
        working = (one.pid for one in self.state.workers() if one.name.startswith(kind) and one.state == "running")
        return next((pid for pid in working if pid in alive), None)

    def _wait(self, condition: Callable[[], Any], what: str, timeout_seconds: float) -> Any:
        try:
            return wait_until(condition, what, timeout_seconds)
        except AssertionError as error:
            pipelines = [(one.name, one.phase, one.unproven) for one in self.state.pipelines()]
            shown = f"{pipelines}\n{self.state.snapshots.all()}\n{self.health()['problems']}\n{self.log()[-3000:]}"
            raise AssertionError(f"{error}: {shown}") from error


def made(folder: Path, source: str, target: str, mappings: str, **options: Any) -> Loads:
    """A hub that does not run yet; its name is its own, so slots and topics are."""
    return Loads(folder, f"l{uuid.uuid4().hex[:8]}", source, target, mappings, **options)


@pytest.fixture
def lab(tmp_path: Path, source_dsn: str, target_dsn: str) -> Iterator[Loads]:
    """A hub on the embedded broker, not yet started, with some rows at its source."""
    execute(source_dsn, SCHEMA, *FILL)
    lab = made(tmp_path, source_dsn, target_dsn, ACCOUNTS + ORDERS)
    yield lab
    lab.close()


@pytest.mark.parametrize(("broker", "rows"), list(SHARES))
@pytest.mark.timeout(900)
def test_rounds_of_loading_under_load_and_kills(
    broker: str, rows: int, tmp_path: Path, source_dsn: str, target_dsn: str, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue("kafka_address") if broker == "kafka" else ""
    kafka = f"{{type: kafka, bootstrap_servers: ['{address}'], partitions: 3, replication_factor: 1}}"
    execute(source_dsn, SCHEMA, *FILL)
    lab = made(tmp_path, source_dsn, target_dsn, ACCOUNTS + ORDERS + ORDERS_LITE, broker=kafka if address else "")
    lab.chunks(rows)
    chance = random.Random(f"{broker} {rows}")
    try:
        with lab.load(seed=chance.randrange(1000)):  # the first loading, of new pipelines, is under load as well
            lab.start()
            moment(chance.random())
            lab.kill("capture")
            lab.proven()
        for number in range(max(1, round(ROUNDS * SHARES[broker, rows]))):
            _one_round(lab, chance, number)
    finally:
        lab.close()


def _one_round(lab: Loads, chance: random.Random, number: int) -> None:
    """Rows that are lost at the target come back by a snapshot; a reload proves itself. Kills at random moments."""
    asked: list[str] = []
    reload = number % 2 == 1
    with lab.load(seed=chance.randrange(1000)), lab.load(seed=chance.randrange(1000)):
        moment(chance.random() * 0.2)
        for view, gone in (("account_view", "account % 3 = 0"), ("order_view", "shop < 4")):
            execute(lab.target, f"lock table {view} in exclusive mode; delete from {view} where {gone}")
        if reload:
            lab.state.reload(["accounts_to_crm", "orders_to_crm", "orders_to_wh"], "asked")
        else:
            asked.append(lab.ask("public.accounts", "accounts_to_crm"))
            asked.append(lab.ask("public.orders", "orders_to_crm", "orders_to_wh"))
        for _ in range(chance.randint(1, 2)):
            moment(chance.random() * 1.2)
            lab.kill(chance.choice(["capture", "capture", "deliver", "hub"]))
        if reload:
            lab.proven()
        else:
            lab.done(*asked)
    lab.agrees()


# Commits that are in the log before any statement sees them


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_commit_that_becomes_visible_late_is_not_undone(
    when: str, lab: Loads, late_commit: Callable[[str], threading.Thread]
) -> None:
    lab.chunks(1)
    lab.source = make_conninfo(lab.source, options="-c synchronous_commit=local")
    lab.start()
    lab.proven()
    late = (
        "update orders set note = 'late' where shop in (0, 6); delete from orders where shop = 1;"
        "update accounts set id = id + 1000 where id % 2 = 0; insert into orders values (99, 'late', 1, null)"
    )
    execute(lab.target, "delete from order_view where shop in (2, 5)")
    waiting: list[threading.Thread] = []
    if when == "before":
        waiting.append(late_commit(late))
        lab.until([(1,)], "select count(*) from order_view where shop = 99")
    names = [lab.ask("public.orders", "orders_to_crm"), lab.ask("public.accounts", "accounts_to_crm")]
    if when == "before":
        lab.problem("source_waiting", f"source:{lab.name}")
        assert [lab.snapshot(name).rows_done for name in names] == [0, 0]
        return _released(lab, names, waiting)
    if when == "during":
        wait_until(lambda: lab.snapshot(names[0]).rows_done > 3, "loading")
        waiting.append(late_commit(late))
        assert lab.snapshot(names[0]).rows_done < 250, "it came too late to matter"
    lab.done(*names)
    if when == "after":
        waiting.append(late_commit(late))
        lab.until([(1,)], "select count(*) from order_view where shop = 99")
        names = [lab.ask("public.orders", "orders_to_crm", keys=({"shop": 0, "number": "7"},))]
    return _released(lab, names, waiting)


def _released(lab: Loads, names: list[str], waiting: list[threading.Thread]) -> None:
    assert all(thread.is_alive() for thread in waiting), "nothing was late"
    execute(lab.source, "alter system reset synchronous_standby_names", "select pg_reload_conf()")
    for thread in waiting:
        thread.join(20)
    lab.done(*names)
    lab.agrees()
    assert query(lab.target, "select count(*) from order_view where note = 'late'") == [(85,)]
    assert query(lab.target, "select count(*) from order_view where shop in (1, 2)") == [(43,)]


# Tables and pipelines that come later


def test_a_table_that_comes_later_waits_for_who_already_wrote_to_it_and_loads_alone(lab: Loads) -> None:
    lab.config.write_text(lab.config.read_text().replace("public.accounts, public.orders", "public.accounts"))
    (lab.mappings / "all.yaml").write_text(ACCOUNTS.replace("{source}", lab.name))
    lab.start()
    lab.proven()
    lab.agrees()
    execute(lab.source, "create table later (id int primary key)", "insert into later select generate_series(1, 20)")
    before = query(lab.target, "select account, xmin::text, ctid::text from account_view order by 1")
    lab.stop()
    later = (ACCOUNTS + ORDERS + ACCOUNTS.replace("accounts_to_crm", "again").replace("account_view", "again")).replace(
        "mapping: again", "---\nmapping: again"
    )
    with psycopg.connect(lab.source) as writer:
        writer.execute("insert into orders values (8, 'begun before', 1, null)")
        writer.execute("update orders set note = 'begun before' where shop = 3")
        writer.execute("delete from orders where shop = 4")
        lab.config.write_text(lab.config.read_text().replace("[public.accounts]", "[public.accounts, public.orders]"))
        (lab.mappings / "all.yaml").write_text(later.replace("{source}", lab.name))
        lab.start()
        problem = lab.problem("source_waiting", f"source:{lab.name}")
        assert str(writer.info.backend_pid) in problem["message"], problem
        assert query(lab.target, "select count(*) from order_view") in ([], [(0,)])
        writer.execute("insert into orders values (8, 'still open', 1, null)")
        writer.commit()
    lab.proven()
    lab.agrees()
    assert query(lab.target, "select count(*) from order_view where shop = 8") == [(2,)]
    assert query(lab.target, "select count(*) from again") == [(48,)]
    after = query(lab.target, "select account, xmin::text, ctid::text from account_view order by 1")
    assert after == before, "a view that was there was written"


def test_a_source_that_is_never_loaded_gives_changes_alone_and_what_is_asked_for(lab: Loads) -> None:
    lab.chunks(0, snapshot="never")
    lab.start()
    lab.becomes("orders_to_crm", "running")
    execute(lab.source, "insert into orders values (50, 'new', 1, null)", "update orders set note = 'x' where shop = 1")
    lab.until([(44,)], "select count(*) from order_view")
    lab.settle()
    assert query(lab.target, "select count(*) from account_view") == [(0,)]
    assert lab.state.snapshots.all() == []
    lab.state.reload(["accounts_to_crm"], "asked")
    lab.proven()
    assert query(lab.target, "select count(*) from account_view") == [(48,)]
    lab.done(lab.ask("public.orders", "orders_to_crm"))
    lab.agrees()


# Keys of every kind

KEYED = {
    "composite": (
        'a text collate "{collation}", b integer, c text',
        "a, b",
        "select chr(65 + n % 26) || case n % 3 when 0 then 'é' when 1 then lower(chr(70 + n % 20)) else '' end, -n, n"
        " from generate_series(1, 60) n",
    ),
    "text": (
        'a text collate "{collation}", c text',
        "a",
        "select v, v from unnest(array['', ' ', 'a', 'A', 'ä', 'Ä', 'z', 'Z', 'a-b', 'ab', 'a b', 'a''b', 'a\\b',"
        " 'a%s', 'a\"b', E'a\\nb', E'a\\tb', '{{}}', 'NULL', '10', '9', 'ß', 'ss', '中', '😀']) v",
    ),
    "uuid": ("a uuid, c text", "a", "select gen_random_uuid(), n from generate_series(1, 40) n"),
    "negative": ("a bigint, c text", "a", "select n * 400000000000000000, n from generate_series(-20, 20) n"),
    "small": ("a smallint, b real, c text", "a, b", "select -n, n / 3.0, n from generate_series(-15, 15) n"),
    "bytes": (
        "a bytea, c text",
        "a",
        "select decode(lpad(to_hex(n * 7), 4, '0'), 'hex'), n from generate_series(0, 40) n",
    ),
    "moments": (
        "a timestamptz, c text",
        "a",
        "select now() - n * interval '1 day 3 hours 0.000123 seconds', n::text from generate_series(1, 30) n"
        " union all values ('infinity'::timestamptz, 'i'), ('-infinity', 'm'), ('0044-03-15 12:00:00+00 BC', 'bc')",
    ),
    "numbers": (
        "a numeric, c text",
        "a",
        "select n / 8.0, n::text from generate_series(-20, 20) n"
        " union all values (1e30, 'b'), (-1e-30, 's'), ('NaN', 'n')",
    ),
    "days": (
        "a date, b boolean, c text",
        "a, b",
        "select '2026-01-01'::date + n / 2, n % 2 = 0, n from generate_series(1, 30) n",
    ),
    "nothing": ("a integer, c text", "a", "select 1, 'x' where false"),
    "one": ("a integer, c text", "a", "select 1, 'x'"),
}


def test_keys_of_every_kind_are_loaded_in_chunks(tmp_path: Path, source_dsn: str, target_dsn: str) -> None:
    found = query(source_dsn, "select collname from pg_collation where collname in ('en-x-icu', 'en_US.utf8') limit 1")
    collation = found[0][0] if found else "C"
    mappings = []
    for name, (columns, key, rows) in KEYED.items():
        execute(
            source_dsn,
            f"create table {name} ({columns.format(collation=collation)}, primary key ({key}))",
            f"insert into {name} {rows.format()}",
        )
        mappings.append(
            f"mapping: {name}\nfrom: {{source: {{source}}, table: public.{name}}}\n"
            f"to: {{target: crm, table: {name}, create: true}}\nkey: [{key}]\ncopy: all\n"
        )
    lab = made(tmp_path, source_dsn, target_dsn, "---\n".join(mappings), tables='"public.*"')
    lab.chunks(7)
    try:
        lab.start()
        lab.proven()
        execute(source_dsn, *(f"update {name} set c = c || '!'" for name in KEYED))
        lab.agrees()
        for name in KEYED:
            assert query(source_dsn, f"select count(*) from {name}") == query(
                target_dsn, f"select count(*) from {name}"
            )
        execute(target_dsn, *(f"delete from {name}" for name in KEYED))
        lab.done(*(lab.ask(f"public.{name}", name) for name in KEYED))
        lab.agrees()
    finally:
        lab.close()


def test_rows_whose_keys_no_source_row_can_have_are_told_as_extra_and_removed_by_repair(lab: Loads) -> None:
    (lab.mappings / "all.yaml").write_text(ORDERS_LITE.removeprefix("\n---").replace("{source}", lab.name))
    lab.start()
    lab.agrees()
    values = "('abc', '1'), (99999999999, '2'), (-1.5, ''), (3, '3 too many')"
    with sqlite3.connect(lab.folder / "wh.db", timeout=20) as target:
        target.execute(f"insert into order_view (shop, number) values {values}")
    found = lab.cli("verify", "--json")
    assert found.returncode == 1, found.stderr
    (report,) = json.loads(found.stdout)
    assert (report["matched"], report["extra"], report["missing"]) == (300, 4, 0)
    found = lab.cli("verify", "--json", "--repair")
    assert found.returncode == 0, found.stderr
    (report,) = json.loads(found.stdout)
    assert (report["matched"], report["extra"], report["repaired"]) == (300, 0, 4)
    assert lab.cli("verify").returncode == 0
    lab.agrees()


# What it costs


class Watch(threading.Thread):
    """Looks at what a worker of one lab holds: transactions, locks, memory."""

    def __init__(self, lab: Lab, worker: str, table: str) -> None:
        super().__init__(daemon=True)
        self._lab, self._worker, self._table = lab, worker, table
        self._stopping = threading.Event()
        self.samples = 0
        self.memory_bytes = 0
        self.longest_seconds = 0.0
        self.locks: set[str] = set()

    def run(self) -> None:
        """Look every few milliseconds until told to stop."""
        pid = self._lab.pids()[self._worker]
        with psycopg.connect(self._lab.source, autocommit=True) as connection:
            while not self._stopping.wait(0.005):
                self._look(connection, pid)

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self.join()

    def _look(self, connection: psycopg.Connection[Any], pid: int) -> None:
        ages = connection.execute(
            "select extract(epoch from clock_timestamp() - xact_start)::float from pg_stat_activity"
            " where datname = current_database() and application_name like 'sync-hub %' and xact_start is not null"
        )
        self.longest_seconds = max([self.longest_seconds, *(age for (age,) in ages)])
        held = connection.execute(
            "select mode from pg_locks join pg_stat_activity using (pid)"
            " where relation = %s::regclass and application_name like 'sync-hub%%'",
            (self._table,),
        )
        self.locks |= {mode for (mode,) in held}
        status = Path(f"/proc/{pid}/status").read_text()
        self.memory_bytes = max(self.memory_bytes, int(status.partition("VmRSS:")[2].split()[0]) * 1024)
        self.samples += 1


def test_a_long_loading_holds_no_transaction_no_lock_and_no_memory(lab: Loads) -> None:
    rows = 300_000
    execute(
        lab.source,
        f"insert into orders select n, 'number ' || n, n, repeat('wide ', 50) from generate_series(8, {rows}) n",
        "analyze",
    )
    lab.start()
    wait_until(lambda: lab.loading_of("public.orders"), "loading begins")
    with watched(lab, "deliver:crm"):
        lab.proven()
    assert query(lab.target, "select count(*) from order_view") == [(rows + 293,)]
    asked = lab.ask("public.orders", "orders_to_crm")
    wait_until(lambda: lab.snapshot(asked).rows_done, "loading begins")
    with frozen(lab.pids()["deliver:crm"]), watched(lab, f"capture:{lab.name}"):
        lab.done(asked, timeout_seconds=120)
    lab.agrees()


@contextlib.contextmanager
def watched(lab: Lab, worker: str) -> Iterator[None]:
    """A worker that reads existing orders holds nothing long, locks nobody out and stays small."""
    watch = Watch(lab, worker, "orders")
    watch.start()
    yield
    watch.stop()
    assert watch.samples > 20
    assert watch.locks == {"AccessShareLock"}
    assert watch.longest_seconds < 1
    assert watch.memory_bytes < 200_000_000


def test_a_loading_goes_on_at_its_last_chunk_after_a_kill(lab: Loads) -> None:
    lab.chunks(10)
    execute(lab.source, "insert into orders select 10, n, n, null from generate_series(1, 20000) n", "analyze")
    lab.start()
    wait_until(lambda: (found := lab.loading_of("public.orders")) and found.rows_done > 1000, "loading")
    lab.kill("capture")
    killed = lab.loading_of("public.orders")
    assert killed is not None
    assert (killed.state, killed.rows_done >= 1000) == ("running", True)
    lab.proven()
    done = lab.snapshot(killed.id)
    assert done.rows_done == 20300, "a chunk was counted twice, or all began again"
    lab.agrees()


def test_a_paused_loading_rests_and_goes_on_where_it_stood(lab: Loads) -> None:
    lab.chunks(5)
    execute(lab.source, "insert into orders select 10, n, n, null from generate_series(1, 5000) n", "analyze")
    lab.start()
    lab.proven()
    execute(lab.target, "delete from order_view")
    name = lab.ask("public.orders", "orders_to_crm")
    lab.partly(name, 500)
    assert lab.state.snapshots.pause(name)
    resting = _resting(lab, name)
    execute(lab.source, "delete from orders where number like '9%'", "update orders set note = 'x' where shop = 10")
    lab.settle()
    assert lab.snapshot(name).rows_done == resting.rows_done
    assert lab.state.snapshots.resume(name)
    lab.done(name)
    (left,) = query(lab.source, "select count(*) from orders")[0]
    assert left <= lab.snapshot(name).rows_done < 5300
    assert lab.snapshot(name).rows_done - left < 50, "it began again"
    lab.agrees()
    other = lab.ask("public.orders", "orders_to_crm")
    lab.partly(other, 100)
    assert lab.state.snapshots.cancel(other)
    resting = _resting(lab, other)
    assert (resting.state, resting.rows_done < left) == ("cancelled", True)
    lab.agrees()


def _resting(lab: Loads, name: str) -> Snapshot:
    """Wait until capture has let go of it."""
    since = time.time() + LOOK_SECONDS

    def said() -> bool:
        capture = next(one for one in lab.state.workers() if one.name.startswith("capture"))
        return capture.beat_at > since and not capture.detail["snapshot"]

    wait_until(said, "capture reads no more chunks")
    return lab.snapshot(name)
