"""Two deliver workers of one target in one process: real topics in a file, a real SQLite target, turn by turn."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sync_hub.envelope import Encoder, topic_name
from sync_hub.errors import Fatal, OffsetsMoved, Unavailable
from sync_hub.model import Column, Operation, Outgoing, Record, SinkBatch, Table, TopicPartition
from sync_hub.ports import Broker, Sink
from sync_hub.runtime import beginning, deliver, session
from sync_hub.runtime.beginning import Found
from sync_hub.runtime.control import Control
from sync_hub.runtime.deliver import Deliver
from sync_hub.runtime.pipelines import register
from sync_hub.runtime.replay import within
from sync_hub.runtime.session import Session
from sync_hub.runtime.waiting import Key, Waiting
from sync_hub.settings import load
from sync_hub.state import State
from tests.events import change_event

CONFIG = """
hub: {name: acme, state: "sqlite:///state.db"}
broker: {type: embedded, path: log.db, partitions: 2}
sources:
  erp: {type: postgres, dsn: "postgresql://nobody@127.0.0.1:1/erp", tables: [TABLES], snapshot: never}
targets:
  crm: {type: sqlite, path: crm.db, workers: 2}
mappings: [mappings/]
retry: {first: 0.01s, factor: 1, attempts: 1000}
"""
MAPPING = """---
mapping: {name}
from: {{source: erp, table: public.{table}}}
to: {{target: crm, table: {view}, create: true}}
key: [id]
copy: all
"""
MAPPED = {"t": ("m", "v"), "u": ("of_u", "w")}
"""The mapping of each table of the source, and the target's table."""
TABLE = Table(
    "public", "t", (Column("id", "bigint", nullable=False), Column("note", "text"), Column("more", "text")), key=("id",)
)
TOPIC = topic_name("erp", "public.t")


class Target:
    """One target, its workers, and who publishes for it."""

    def __init__(self, folder: Path, *tables: str) -> None:
        (folder / "config").mkdir()
        (folder / "mappings").mkdir()
        mappings = [MAPPING.format(table=table, name=MAPPED[table][0], view=MAPPED[table][1]) for table in tables]
        (folder / "mappings" / "all.yaml").write_text("".join(mappings))
        (folder / "config" / "hub.yaml").write_text(CONFIG.replace("TABLES", ", ".join(f"public.{t}" for t in tables)))
        self.folder = folder
        self.settings = load(folder / "config" / "hub.yaml", {})
        self.state = State(self.settings.hub.state)
        self.state.save_tables("erp", [replace(TABLE, name=table) for table in tables])
        register(self.settings, self.state)
        self.broker = self.settings.new_broker()
        self.broker.create_topics([topic_name("erp", f"public.{table}") for table in tables])
        self.encoder = Encoder()
        self.count = 0
        self.workers = [self.worker(member) for member in (0, 1)]

    def worker(self, member: int) -> Session:
        control = Control(f"deliver:crm:{member}")
        sink, broker = self.settings.sink("crm"), self.settings.new_broker()
        session = Session("crm", sink, broker, self.state, self.settings, control)
        sink.open()
        Deliver("crm", self.settings, self.state, control, member)._prepare(session, sink, broker)
        session.subscribe("g", member, 2)
        return session

    def publish(self, operation: Operation, *ids: int, **changes: Any) -> None:
        """One transaction; a TRUNCATE goes to every partition. `changes`: how its events differ."""
        events, lsn = [], self.count + 1
        for place, id_ in enumerate(ids or (None,), 1):
            self.count += 1
            values: dict[str, Any] = {}
            if id_:
                values = {"key": {"id": id_}, "after": {"id": id_, "note": operation, "more": operation}}
            event = change_event(
                **{
                    "source": "erp", "schema": "public", "table": "t", "operation": operation, "key": None,
                    "before": None, "after": None, "version": f"{1:012x}-{lsn:016x}-{place:010x}00",
                    "committed_at": 1_800_000_000_000_000, "connector": "postgresql",
                } | values | changes
            )  # fmt: skip
            events.append(event)
        records = self.encoder.encode(events)
        if operation == "truncate":
            records = [Outgoing(TOPIC, None, records[0].value, None, partition) for partition in (0, 1)]
        self.broker.publish(records)

    def ids(self) -> list[int]:
        with sqlite3.connect(self.folder / "crm.db") as connection:
            return [id_ for (id_,) in connection.execute("select id from v order by 1")]

    def refuse(self, below: int) -> None:
        """Have the target refuse these ids, and no others."""
        with sqlite3.connect(self.folder / "crm.db") as connection:
            connection.execute("drop trigger if exists refuse")
            connection.execute(
                f"create trigger refuse before insert on v when new.id < {below} begin select raise(abort, 'no'); end"
            )

    def parked(self) -> dict[int, int]:
        """The attempts of each id that is parked."""
        held = [row for worker in self.workers for row in worker._sink.find_parked(["m"])]
        return {json.loads(row.key)["id"]: row.attempts for row in held}

    def turns(self, count: int) -> None:
        for _ in range(count):
            for worker in self.workers:
                worker.turn()

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.broker.close()
        self.state.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target(tmp_path, "t")
    yield target
    target.close()


def test_a_topic_whose_records_may_not_be_looked_at_stops_its_own_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of all pipelines are asked for together; what is wrong with one of them is no fault of the others."""
    target = Target(tmp_path, "t", "u")
    first = target.workers[0]
    try:
        target.publish("create", *range(1, 9))
        target.publish("create", *range(1, 9), table="u")
        target.turns(2)
        fetch = first._broker.fetch

        def refused(places: Mapping[TopicPartition, int]) -> dict[TopicPartition, Record]:
            if any(place.topic.endswith(".u") for place in places):
                raise Fatal("broker_not_authorized", "not for you", hint="grant it")
            return fetch(places)

        monkeypatch.setattr(first._broker, "fetch", refused)
        first.reload()
        errors = {one.name: one.error and one.error.code for one in first.deliveries.values()}
        assert errors == {"m": None, "of_u": "broker_not_authorized"}
        target.publish("create", *range(9, 17))
        target.turns(2)
        assert target.ids() == list(range(1, 17))
    finally:
        target.close()


def test_what_came_behind_a_barrier_that_another_worker_passed_is_read_again_after_a_reload(target: Target) -> None:
    """The parked records of a worker are loaded again just when another one has passed the barrier it stood at."""
    first, second = target.workers
    target.publish("create", *range(1, 41))
    for worker in (first, second):
        worker.turn()
    assert target.ids() == list(range(1, 41))
    target.publish("truncate")
    target.publish("create", *range(41, 81))
    second.turn()
    assert target.ids() == list(range(1, 41)), "the other one is not at the barrier yet"
    first._barriers._look_at = 0.0  # it looks only now and then
    first.turn()
    assert target.ids() == []
    second.reload()
    for worker in (first, second, first, second):
        worker.turn()
    assert target.ids() == list(range(41, 81))


def test_retries_go_on_although_each_attempt_takes_longer_than_a_turn_has(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target far away, or large records: what there is time for is one key at least."""
    for name, value in {"TURN_SECONDS": -1.0, "LOOK_SECONDS": 0.0}.items():
        monkeypatch.setattr(f"sync_hub.runtime.replay.{name}", value)
    monkeypatch.setattr("sync_hub.runtime.session.POLL_SECONDS", 0.02)
    target.refuse(9)
    target.publish("create", *range(1, 13))
    target.turns(1)
    assert target.ids() == [9, 10, 11, 12]
    before = target.parked()
    assert sorted(before) == list(range(1, 9))
    target.turns(10)
    assert sum(target.parked().values()) > sum(before.values()), "attempts go on"
    target.refuse(2)
    target.turns(20)
    assert (target.ids(), list(target.parked())) == (list(range(2, 13)), [1])


def test_a_clock_that_is_set_back_holds_up_no_retry_and_changes_no_order(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is parked afterwards looks older than what it waits for, and that one is due in an hour only."""
    monkeypatch.setattr("sync_hub.runtime.replay.LOOK_SECONDS", 0.0)
    target.refuse(2)
    target.publish("create", 1)
    target.turns(1)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    target.publish("update", 1, after={"id": 1, "more": "newer"}, unchanged=("note",))
    target.turns(1)
    worker = next(one for one in target.workers if one.deliveries["m"].held)
    assert [row.code for row in worker.deliveries["m"].held.all()] == ["constraint_violated", "parked_behind"]
    target.refuse(0)
    target.turns(3)
    with sqlite3.connect(target.folder / "crm.db") as connection:
        assert connection.execute("select id, note, more from v").fetchall() == [(1, "create", "newer")]


def test_large_records_are_read_again_a_few_at_a_time(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is for the budget to say, not for the number of parked records."""
    monkeypatch.setattr("sync_hub.runtime.replay.MOST_BYTES", 500)
    target.refuse(9)
    target.publish("create", *range(1, 13))
    target.turns(1)
    rows = [row for row in target.workers[0]._sink.find_parked(["m"]) if row.partition == 0]
    size = rows[0].record_bytes
    assert 150 < size < 500
    held = target.workers[0].deliveries["m"].held
    assert all(row.record_value is None for row in held.all())
    keys = [Key(target.workers[0].deliveries["m"], [row]) for row in rows]
    assert [len(list(within(keys[:count]))) for count in (0, 1, 2)] == [0, 1, 2]
    assert len(list(within(keys * 5))) == -(-500 // size)


def test_who_solves_for_all_workers_counts_its_own_rows_meanwhile(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures are told at any moment, and health adds up those of all workers."""
    with sqlite3.connect(target.folder / "crm.db") as connection:
        connection.execute("create unique index once on v (note)")
    target.publish("create", *range(1, 9))
    for worker in target.workers:
        worker._replay.leads = False
    target.turns(1)
    counts: list[int] = []
    solve = Waiting.solve

    def counted(self: Waiting, *arguments: Any) -> Any:
        counts.append(sum(worker.deliveries["m"].held.count("waiting") for worker in target.workers))
        return solve(self, *arguments)

    monkeypatch.setattr(Waiting, "solve", counted)
    replay, delivery = target.workers[0]._replay, target.workers[0].deliveries["m"]
    before = delivery.offsets.keys(), [row.id for row in delivery.held.all()]
    replay._lead([delivery])
    assert counts == [7]
    assert (delivery.offsets.keys(), [row.id for row in delivery.held.all()]) == before
    with sqlite3.connect(target.folder / "crm.db") as connection:
        connection.execute("drop index once")
    replay._lead([delivery])
    assert target.ids() == list(range(1, 9))
    assert not delivery.held


def test_a_repair_of_other_rows_leaves_what_is_parked_as_it_is(target: Target) -> None:
    """A row that cannot be mapped either when it is asked for again is not mended."""
    target.publish("create", *range(1, 9))
    target.publish("update", *range(1, 5), after=None, oversize_bytes=10**9)
    target.turns(1)
    with sqlite3.connect(target.folder / "crm.db") as connection:
        connection.execute("delete from v where id > 4")
    target.publish("read", *range(5, 9), check="run.1", repair=True)
    target.publish("read", *range(1, 5), check="run.1", repair=True, after=None, oversize_bytes=10**9)
    target.turns(1)
    assert target.ids() == list(range(1, 9))
    assert sorted(target.parked()) == [1, 2, 3, 4]


def test_offset_rows_that_would_not_have_moved_are_not_waited_for(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a work compares the rows of partitions that the half before it has come to the end of."""
    session, _ = target.workers
    target.publish("create", *range(1, 41))
    session.turn()
    (row,) = session.deliveries["m"].offsets.values()
    other = replace(row, partition=1)

    def away(_: SinkBatch) -> None:
        raise Unavailable("connection_failed", "the target is away")

    monkeypatch.setattr(session._sink, "write", away)
    with pytest.raises(Unavailable):
        session._transact(SinkBatch([(row, row), (other, replace(other, next_offset=other.next_offset + 1))], []))
    assert session.not_taken == [other]


def test_a_place_that_was_passed_without_being_applied_is_noticed(target: Target) -> None:
    first, _ = target.workers
    target.publish("create", *range(1, 41))
    first.turn()
    before = target.ids()
    target.publish("create", *range(41, 81))
    end = target.broker.end_offsets([TOPIC])[TopicPartition(TOPIC, 0)]
    assert first._subscription is not None
    first._subscription.poll(1, 3000)  # taken, and not applied
    first._places[TopicPartition(TOPIC, 0)] = end
    target.publish("create", *range(81, 121))
    with pytest.raises(OffsetsMoved, match=f"which was read from {end}"):
        first.turn()
    assert target.ids() == before


@pytest.mark.parametrize("lost", ["offset_gone", "topic_recreated", "mapping_differs"])
def test_a_worker_that_looked_before_another_one_adopted_begins_all_the_same(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(tmp_path, "t")
    target.publish("create", *range(1, 41))
    target.turns(3)
    for worker in target.workers:
        worker.close()
    if lost == "offset_gone":
        target.publish("create", *range(41, 81))
        target.broker.retain(target.broker.end_offsets([TOPIC]), keep_seconds=-1)
    else:
        column = "topic_id" if lost == "topic_recreated" else "mapping_hash"
        with sqlite3.connect(tmp_path / "crm.db") as connection:
            connection.execute(f"update sync_hub_offsets set {column} = 'other'")
    target.state.reload(["m"], "asked for")
    workers: list[Deliver] = []

    def begin(member: int) -> None:
        control = Control(f"deliver:crm:{member}")
        sink, broker = target.settings.sink("crm"), target.settings.new_broker()
        session = Session("crm", sink, broker, target.state, target.settings, control)
        sink.open()
        worker = Deliver("crm", target.settings, target.state, control, member)
        worker._prepare(session, sink, broker)
        session.close()
        workers.append(worker)

    def find(topics: Mapping[str, str], sink: Sink, broker: Broker) -> dict[str, Found | Exception]:
        found = beginning.find(topics, sink, broker)
        monkeypatch.undo()
        begin(0)
        return found

    monkeypatch.setattr(deliver, "find", find)
    begin(1)
    assert [worker._deliveries["m"].error for worker in workers] == [None, None]
    assert target.state.phase("m") == "ready"


class InParts:
    """A subscription that brings few records in each poll; `before` is done before the second."""

    def __init__(self, subscription: Any, most: int, before: Callable[[], object] = lambda: None) -> None:
        self.real, self.most, self.before, self.polls = subscription, most, before, 0

    def poll(self, timeout_seconds: float, max_records: int) -> list[Record]:
        self.polls += 1
        if self.polls == 2:
            self.before()
        return list(self.real.poll(min(timeout_seconds, 0.01), min(self.most, max_records)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.mark.parametrize(("most", "gathered"), [(session.BUSY_RECORDS - 1, False), (session.BUSY_RECORDS, True)])
def test_a_busy_stream_is_gathered_for_a_moment_and_a_quiet_one_is_not(
    target: Target, monkeypatch: pytest.MonkeyPatch, most: int, gathered: bool
) -> None:
    monkeypatch.setattr(session, "GATHER_SECONDS", 5.0)
    monkeypatch.setattr(session, "POLL_RECORDS", 3 * session.BUSY_RECORDS)
    target.publish("create", *range(1, 10 * session.BUSY_RECORDS))
    worker = target.workers[0]
    parts = worker._subscription = InParts(worker._subscription, most)  # type: ignore[assignment]
    worker.turn()
    assert worker.written == 1
    assert len(target.ids()) == (3 * session.BUSY_RECORDS if gathered else most)
    assert isinstance(parts, InParts)
    assert parts.polls == (3 if gathered else 1)


def test_what_was_gathered_before_an_assignment_is_read_again(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who polls was told where to read on: what it had polled by then is not of there."""
    target.publish("create", *range(1, 1001))
    worker = target.workers[0]
    worker._subscription = InParts(  # type: ignore[assignment]
        worker._subscription, session.BUSY_RECORDS, before=lambda: worker._on_assign([])
    )
    seen: list[int] = []
    apply = worker._apply
    monkeypatch.setattr(
        worker, "_apply", lambda parts: (seen.extend(one.offset for run in parts.values() for one in run), apply(parts))
    )
    worker.turn()
    assert seen == list(range(len(seen)))
    target.turns(8)
    assert target.ids() == list(range(1, 1001))
    assert [one.error for one in worker.deliveries.values()] == [None]
