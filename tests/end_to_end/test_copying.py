"""Existing rows of plain copies go straight to their view, while everything changes and everything dies."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from connectors.local_postgres import LocalPostgres
from sync_hub.envelope import decode
from sync_hub.runtime.pipelines import COPYING
from sync_hub.state_snapshots import Snapshot
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import execute, moment, query
from tests.end_to_end.test_snapshots import ROUNDS, Loads
from tests.end_to_end.workload import SCHEMA
from tests.integration.test_postgres_source_whole import late_commit
from tests.servers.postgres import database

__all__ = ["late_commit"]

PLAIN = """
mapping: accounts
from: {source: {source}, table: public.accounts}
to: {target: crm, table: accounts, create: true}
key: [id]
copy: all
---
mapping: orders
from: {source: {source}, table: public.orders}
to: {target: crm, table: order_view, create: true}
key: [shop, number]
copy: [shop, number, total, note]
"""
ROWS = 2000
FILL = (
    "insert into accounts select n, 'name ' || n, n, repeat('x', 3000), n % 5 > 0 from generate_series(1, 60) n",
    f"insert into orders select n % 7, n, n / 3.0, null from generate_series(1, {ROWS}) n",
    "analyze",
)


class Copies(Loads):
    """A lab whose views are plain copies."""

    def copying(self, table: str = "public.orders") -> Snapshot:
        """The copying of a table, once some blocks of it are written."""
        return self._wait(lambda: self._partly(table), f"{table} is being copied", 60)

    def _partly(self, table: str) -> Snapshot | None:
        found = self.loading_of(table)
        return found if found is not None and found.copied and found.rows_done else None

    def read_events(self) -> int:
        """Events in the topics that are existing rows; record by record, which takes Kafka long."""
        broker, count = self.settings.new_broker(), 0
        try:
            topics = broker.topics()
            starts = broker.start_offsets(topics)
            for place, end in broker.end_offsets(topics).items():
                for offset in range(starts[place], end):
                    for record in broker.fetch({place: offset}).values():
                        event = decode(record)
                        count += event is not None and event.operation == "read"
        finally:
            broker.close()
        return count


def made(folder: Path, source: str, target: str, rows: int, broker: str = "", workers: int = 1) -> Copies:
    """A hub that does not run yet, whose blocks have so many rows."""
    execute(source, SCHEMA, *FILL)
    lab = Copies(folder, f"c{uuid.uuid4().hex[:8]}", source, target, PLAIN, broker=broker, workers=workers)
    lab.chunks(rows)
    return lab


@pytest.fixture
def lab(tmp_path: Path, source_dsn: str, target_dsn: str) -> Iterator[Copies]:
    """A hub on the embedded broker, not yet started, whose rows take a while to copy."""
    lab = made(tmp_path, source_dsn, target_dsn, 1)
    yield lab
    lab.close()


@pytest.mark.parametrize(
    ("broker", "rows", "number"), [("embedded", 2, n) for n in range(max(1, ROUNDS // 5))] + [("kafka", 3, 0)]
)
@pytest.mark.timeout(300)
def test_rounds_of_copying_under_load_and_kills(
    broker: str,
    rows: int,
    number: int,
    tmp_path: Path,
    source_dsn: str,
    target_dsn: str,
    request: pytest.FixtureRequest,
) -> None:
    address = request.getfixturevalue("kafka_address") if broker == "kafka" else ""
    kafka = f"{{type: kafka, bootstrap_servers: ['{address}'], partitions: 3, replication_factor: 1}}"
    lab = made(tmp_path, source_dsn, target_dsn, rows, kafka if address else "", workers=1 + number % 2)
    chance = random.Random(f"{broker} {number}")
    try:
        with lab.load(seed=chance.randrange(1000)), lab.load(seed=chance.randrange(1000)):
            lab.start()
            lab.copying()
            for _ in range(3):
                lab.kill(chance.choice(["deliver", "deliver", "capture", "hub"]))
                moment(chance.random() * 0.8)
            lab.proven()
        lab.agrees()
        assert {one.state for one in lab.state.snapshots.all() if one.copied} == {"done"}
        assert broker == "kafka" or lab.read_events() == 0, "rows went through the topic"
    finally:
        lab.close()


def test_a_commit_that_becomes_visible_late_is_waited_for(
    lab: Copies, late_commit: Callable[[str], threading.Thread]
) -> None:
    lab.source = make_conninfo(lab.source, options="-c synchronous_commit=local")
    mappings = lab.mappings / "all.yaml"
    both = mappings.read_text()
    mappings.write_text(both.partition("---")[0])
    lab.start()
    lab.proven()
    late = late_commit("update orders set note = 'late' where shop = 0; delete from orders where shop = 1")
    wait_until(lambda: sum(_ends(lab, "orders")) > 0, "it is streamed")
    lab.stop()
    mappings.write_text(both)
    lab.start()
    lab.problem("source_waiting", f"source:{lab.name}")
    assert late.is_alive(), "nothing was late"
    assert query(lab.target, "select count(*) from order_view") == [(0,)]
    execute(lab.source, "alter system reset synchronous_standby_names", "select pg_reload_conf()")
    late.join(20)
    lab.proven()
    lab.agrees()
    assert query(lab.target, "select count(*) filter (where shop = 1), count(note) from order_view") == [(0, ROWS // 7)]


def _ends(lab: Copies, table: str) -> list[int]:
    broker = lab.settings.new_broker()
    try:
        return list(broker.end_offsets([f"{lab.name}.public.{table}"]).values())
    finally:
        broker.close()


def test_what_happens_to_the_table_meanwhile_is_applied_after(lab: Copies) -> None:
    lab.start()
    lab.copying()
    execute(lab.source, "truncate orders", "insert into orders select 9, n, 1, null from generate_series(1, 50) n")
    execute(lab.source, "update accounts set id = id + 1000 where id % 2 = 0", "delete from accounts where id < 10")
    lab.proven()
    lab.agrees()
    assert query(lab.target, "select count(*), min(shop) from order_view") == [(50, 9)]


def test_a_changed_table_is_loaded_again_through_the_topic(lab: Copies) -> None:
    lab.start()
    lab.copying()
    execute(lab.source, "alter table orders add column extra text default 'new'", "update orders set note = 'x'")
    lab.proven()
    lab.agrees()
    assert [one.state for one in lab.state.snapshots.all() if one.copied and one.table == "public.orders"] == [
        "cancelled"
    ]


def test_rows_that_are_there_already_have_everything_sent_instead(lab: Copies) -> None:
    execute(
        lab.target,
        "create table order_view (shop integer, number text, total numeric, note text, primary key (shop, number))",
        f"insert into order_view select n % 7, n, 0, 'mine' from generate_series(1, {ROWS}, 3) n",
    )
    lab.start()
    lab.proven()
    lab.agrees()
    given_up = next(one for one in lab.state.snapshots.all() if one.copied and one.table == "public.orders")
    assert (given_up.state, given_up.error.partition(":")[0]) == ("failed", "unique_violated")
    assert lab.read_events() == ROWS


def test_copying_rests_while_it_is_paused_and_goes_on_where_it_stood(lab: Copies) -> None:
    lab.start()
    name = lab.copying().id
    assert lab.state.snapshots.pause(name)
    wait_until(lambda: _is_still(lab), "it rests")
    before = query(lab.target, "select count(*) from order_view")
    assert 0 < before[0][0] < ROWS
    assert lab.snapshot(name).state == "paused"
    assert lab.state.snapshots.resume(name)
    lab.proven()
    lab.agrees()
    done = lab.snapshot(name)
    assert (done.state, done.rows_done) == ("done", ROWS)


def _is_still(lab: Copies) -> bool:
    """Whether half a second brings no row."""
    before = query(lab.target, "select count(*) from order_view")
    moment(0.5)
    return query(lab.target, "select count(*) from order_view") == before


def test_cancelled_copying_leaves_a_view_in_doubt_that_takes_events(lab: Copies) -> None:
    lab.start()
    assert lab.state.snapshots.cancel(lab.copying().id)
    lab.becomes("orders", "running")
    assert {one.name: bool(one.unproven) for one in lab.state.pipelines()}["orders"]
    count = query(lab.target, "select count(*) from order_view")[0][0]
    assert count < ROWS
    execute(lab.source, "insert into orders values (99, 'new', 1, null)")
    lab.until([(1,)], "select count(*) from order_view where shop = 99")
    assert lab.cli("verify", "orders", "--repair").returncode == 0
    lab.agrees()


def test_a_source_that_goes_away_is_told_and_copying_goes_on_when_it_is_back(
    tmp_path: Path, own_server: LocalPostgres, target_dsn: str
) -> None:
    with database(own_server) as source:
        lab = made(tmp_path, source, target_dsn, 1)
        try:
            lab.start()
            name = lab.copying().id
            own_server.stop("immediate")
            found = lab.becomes("orders", "retrying")
            assert found["waiting_for"] == "source"
            assert found["error"]["code"] in {"connection_failed", "server_shut_down", "server_starting"}
            own_server.start()
            lab.proven()
            assert lab.snapshot(name).rows_done == ROWS
            lab.agrees()
        finally:
            own_server.start()
            lab.close()


def test_who_copies_on_after_a_reload_writes_nothing(lab: Copies) -> None:
    """A worker that slept while its view was loaded again, and the row that fences it."""
    lab.start()
    lab.copying()
    lab.state.reload(["orders"], "asked")
    lab.proven()
    lab.agrees()
    rows = query(
        lab.target, "select topic_id from sync_hub_offsets where topic like '%#copied' and pipeline = 'orders'"
    )
    assert rows == [("",)], "nobody may go on copying"
    assert COPYING not in {one.phase for one in lab.state.pipelines()}
