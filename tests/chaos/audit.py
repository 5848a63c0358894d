"""What must be true after every round, seen from outside: the ledger, the topics, the targets with their triggers."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Set
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from sync_hub.envelope import decode
from sync_hub.errors import SyncHubError
from sync_hub.model import ChangeEvent, Record, TopicPartition
from tests.chaos.application import committed
from tests.chaos.world import TABLES, World, rows
from tests.end_to_end.hub import wait_until

GREEN_SECONDS = 10.0
SETTLE_SECONDS = 150.0
WORKER_MEMORY_KB = 300_000
RETAINED_BYTES = 32_000_000
SAMPLE_SECONDS = 0.5
LOOK_SECONDS = 0.3
OPERATIONS = {"create": "c", "update": "u", "delete": "d", "truncate": "t"}
CRM = ("parents", "children", "items", "items_copy")
VIEWS = (
    (
        "select id, code, name, balance, big, active from parents order by id",
        "select id, code, name, balance, big, active from parent_view order by id",
    ),
    (
        "select id, parent, slot, note from children order by id",
        "select id, parent, slot, note from child_view order by id",
    ),
    ("select * from items order by shop, number", "select * from item_copy order by shop, number"),
    (
        "select * from items order by shop, number",
        "select shop, number, total, note from item_view order by shop, number",
    ),
)
WAREHOUSE_VIEW = (
    "select id, upper(name) || '!', big from parents where active order by id",
    "select number, title, big from parent_wh order by number",
)
TWICE = "select {tbl} key, event, count(*) from writes where {kept} group by {tbl} key, event having count(*) > 1"
BACKWARDS = """
select * from (select {tbl} key, event, lag(event) over (partition by {tbl} key order by at) before
               from writes where {kept}) w where event < before
"""
CONFIRMED = "select confirmed_flush_lsn - '0/0'::pg_lsn from pg_replication_slots where slot_name = %s"


class Sample(NamedTuple):
    """At one moment: what the source was told it may forget, and, read after it, how far the topics went."""

    confirmed: int
    ends: dict[TopicPartition, int]


class Sampler(threading.Thread):
    """Looks at the hub all the while: what it acknowledged, and how much memory its workers take."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self._world = world
        self._stopping = threading.Event()
        self.samples: list[Sample] = []
        self.memory_kb: dict[str, int] = {}

    def run(self) -> None:
        """Look until `stop`; what is out of reach is left out."""
        while not self._stopping.wait(SAMPLE_SECONDS):
            with contextlib.suppress(SyncHubError):
                self._measure()
            with contextlib.suppress(SyncHubError, psycopg.OperationalError):
                self.samples.append(self._sample())

    def stop(self) -> None:
        """End after the look at hand."""
        self._stopping.set()
        self.join(90)

    def _sample(self) -> Sample:
        slot = f"sync_hub_{self._world.name}_{self._world.name}"
        with psycopg.connect(self._world.source.dsn(), connect_timeout=2) as connection:
            found = connection.execute(CONFIRMED, (slot,)).fetchone()
        broker = self._world.lab.settings.new_broker()
        try:
            return Sample(int(found[0]) if found else 0, ends(broker, topics(self._world)))
        finally:
            broker.close()

    def _measure(self) -> None:
        for name, pid in self._world.lab.pids().items():
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
                self.memory_kb[name] = max(peak, self.memory_kb.get(name, 0))


class First(NamedTuple):
    """The first record of an event in a partition."""

    offset: int
    lsn: int
    version: str
    value: bytes
    loose: frozenset[str]
    """Columns that the log left out: they were read by key, taken from an earlier event, or are not there."""


class Topics:
    """What was ever read from the topics of a world, checked while it is read."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._next: dict[TopicPartition, int] = {}
        self._first: dict[tuple[str, int, str], First] = {}
        self._newest: dict[tuple[str, str], str] = {}
        self.changes: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        self.truncations: dict[TopicPartition, list[str]] = defaultdict(list)
        self.records = 0

    def read(self) -> None:
        """Take in what is new."""
        broker = self._world.lab.settings.new_broker()
        try:
            wanted = ends(broker, topics(self._world))
            left = {place for place, end in wanted.items() if end > self._next.get(place, 0)}
            if not left:
                return
            subscription = broker.subscribe(
                sorted({place.topic for place in wanted}),
                f"chaos-{uuid.uuid4().hex}",
                on_assign=lambda places: {place: self._next.get(place, 0) for place in places},
            )

            def done() -> bool:
                for record in subscription.poll(0.2, 5000):
                    self._take(record)
                    place = TopicPartition(record.topic, record.partition)
                    self._next[place] = record.offset + 1
                left.difference_update({place for place in left if self._next.get(place, 0) >= wanted[place]})
                return not left

            wait_until(done, "all topics are read")
            subscription.close()
        finally:
            broker.close()

    def acknowledged(self, samples: list[Sample]) -> None:
        """What the source was told it may forget was in the topics at that moment."""
        for (topic, partition, name), first in self._first.items():
            place = TopicPartition(topic, partition)
            for sample in samples:
                if first.lsn <= sample.confirmed and first.offset >= sample.ends[place]:
                    raise AssertionError(f"acknowledged, and not in the topics: {place}@{first.offset} {name}")

    def _take(self, record: Record) -> None:
        event = decode(record)
        if event is None or event.check:
            return
        self.records += 1
        name = (record.topic, record.partition, event.id)
        loose, value = frozenset((*event.fetched, *event.unchanged)), record.value or b""
        seen = self._first.get(name)
        if seen is not None:
            same = event.version != seen.version or same_but(seen.loose | loose, seen.value, value)
            assert same, f"{record.topic}/{record.partition}@{record.offset}: {event.id} was read with other bytes"
            return
        self._first[name] = First(record.offset, int(event.version.split("-")[1], 16), event.version, value, loose)
        self._in_order(record, event)

    def _in_order(self, record: Record, event: ChangeEvent) -> None:
        table = event.source.table
        xid = event.transaction.id if event.transaction else ""
        if event.operation == "truncate":
            self.truncations[TopicPartition(table, record.partition)].append(xid)
            return
        key = key_text(event.key or {})
        newest = self._newest.get((table, key), "")
        place = f"{record.topic}/{record.partition}@{record.offset}"
        assert event.version > newest, f"{place}: {table} {key} goes back from {newest} to {event.version}"
        self._newest[table, key] = event.version
        if event.operation in OPERATIONS:
            self.changes[table, key].append((xid, OPERATIONS[event.operation]))


class Audit:
    """The checks of one world, over all its rounds."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._topics = Topics(world)
        self._ledger = max((row[0] for row in committed(world.source.dsn(), 0)), default=0)
        self._changes: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        self._truncations: dict[str, list[str]] = defaultdict(list)
        self.committed = 0

    def green(self) -> float:
        """Seconds until health is green but for a lag that is worked off: how long that takes, the machine decides."""
        started = time.monotonic()
        document: dict[str, Any] = {}

        def ok() -> bool:
            threading.Event().wait(LOOK_SECONDS)  # looking must not be what the hub waits for
            document.update(self._world.lab.health())
            return all(problem["code"] == "lag" for problem in document["problems"])

        try:
            wait_until(ok, "health is green", SETTLE_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(document['problems'], indent=1)}") from error
        return time.monotonic() - started

    def settled(self) -> None:
        """Every change is applied or parked; what was parked is mended; then everything is proven to be applied."""
        seen: list[Any] = []

        def applied_or_parked() -> bool:
            threading.Event().wait(LOOK_SECONDS)
            bad = {
                f"{shop}/{number}" for shop, number in self._source("select shop, number from items where note = 'bad'")
            }
            seen[:] = [bad, self._parked()]
            if seen[1] != {("items", key) for key in bad}:
                return False
            try:
                self._same_views(bad)
            except AssertionError as error:
                seen.append(error)
                return False
            return True

        try:
            wait_until(applied_or_parked, "every change is applied or parked", SETTLE_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {seen}") from error
        with psycopg.connect(self._world.source.dsn()) as connection:
            connection.execute("update items set note = 'mended' where note = 'bad'")
        self._world.lab.settle(SETTLE_SECONDS)
        assert self._parked() == set()
        wait_until(lambda: self._world.lab.health()["status"] == "ok", "health is green", 10)

    def check(self, sampler: Sampler) -> None:
        """All invariants. Raises `AssertionError` for the first that does not hold."""
        self._same_views()
        for comparison in self._world.lab.compare():
            assert comparison.agrees, comparison
        self._once_and_in_order()
        self._topics.read()
        self._topics.acknowledged(sampler.samples)
        self._same_as_ledger()
        for worker, memory in sampler.memory_kb.items():
            assert memory < WORKER_MEMORY_KB, f"{worker} took {memory} kB"
        slot = f"sync_hub_{self._world.name}_{self._world.name}"
        ((retained,),) = self._source(
            f"select pg_current_wal_lsn() - restart_lsn from pg_replication_slots where slot_name = '{slot}'"
        )
        assert retained < RETAINED_BYTES, f"the slot keeps {retained} bytes of log"

    def _source(self, statement: str) -> list[tuple[Any, ...]]:
        return rows(self._world.source.dsn(), statement)

    def _target(self, statement: str) -> list[tuple[Any, ...]]:
        return rows(self._world.target.dsn(), statement)

    def _warehouse(self, statement: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self._world.disk.folder / "wh.db", timeout=10)) as connection:
            return connection.execute(statement).fetchall()

    def _parked(self) -> set[tuple[str, str]]:
        sinks = {"crm": CRM, "wh": ("parents_wh", "items_wh")}
        found = set()
        for target, pipelines in sinks.items():
            sink = self._world.lab.settings.sink(target)
            try:
                held = sink.find_parked(pipelines)
            finally:
                sink.close()
            found |= {(row.pipeline, key_text(json.loads(row.key))) for row in held}
        return found

    def _same_views(self, parked: Set[str] = frozenset()) -> None:
        """By value; of items that are parked the view has an older state, or none."""
        for truth, view in VIEWS:
            found = [self._source(truth), self._target(view)]
            if "item_view" in view:
                found = [[row for row in some if f"{row[0]}/{row[1]}" not in parked] for some in found]
            same(found[0], found[1], view)
        same(self._source(WAREHOUSE_VIEW[0]), self._warehouse(WAREHOUSE_VIEW[1]), WAREHOUSE_VIEW[1])

    def _once_and_in_order(self) -> None:
        """At most one writer had effect, and none went back."""
        crm, warehouse = {"tbl": "tbl,", "kept": "op <> 'DELETE'"}, {"tbl": "", "kept": "true"}
        for statement in (TWICE, BACKWARDS):
            found = self._target(statement.format(**crm)) + self._warehouse(statement.format(**warehouse))
            assert not found, f"written twice, or backwards: {found[:5]}"

    def _same_as_ledger(self) -> None:
        """On the topics is what was committed, all of it, nothing else, in the order of the commits of each key."""
        for seq, xid, table, operation, key in committed(self._world.source.dsn(), self._ledger):
            self._ledger = seq
            self.committed += 1
            if operation == "t":
                self._truncations[table].append(xid)
            else:
                self._changes[table, str(key)].append((xid, operation))
        topics = self._topics
        for key in self._changes.keys() | topics.changes.keys():
            same(self._changes[key], topics.changes[key], f"changes of {key}", ordered=True)
        for table in TABLES:
            for partition in range(3):
                found = topics.truncations[TopicPartition(table, partition)]
                same(self._truncations[table], found, f"truncations of {table} in partition {partition}", ordered=True)


def same_but(columns: Set[str], one: bytes, other: bytes) -> bool:
    """Whether two values of an event are the same, whatever these columns have."""
    if one == other or not columns:
        return one == other
    values = [json.loads(value) for value in (one, other)]
    for value in values:
        value["after"] = {name: held for name, held in (value["after"] or {}).items() if name not in columns}
    return bool(values[0] == values[1])


def same(truth: list[Any], found: list[Any], what: str, *, ordered: bool = False) -> None:
    """Raise with what is missing and what is too much."""
    if truth == found or (not ordered and Counter(truth) == Counter(found)):
        return
    missing, extra = Counter(truth) - Counter(found), Counter(found) - Counter(truth)
    shown = [[str(row)[:200] for row in list(rows)[:3]] for rows in (missing, extra)]
    raise AssertionError(f"{what}: {missing.total()} missing {shown[0]}, {extra.total()} extra {shown[1]}")


def topics(world: World) -> list[str]:
    """The topics of the captured tables."""
    return [f"{world.name}.public.{table}" for table in TABLES]


def ends(broker: Any, names: list[str]) -> dict[TopicPartition, int]:
    """How far the topics go."""
    found: dict[TopicPartition, int] = broker.end_offsets(names)
    return found


def key_text(key: dict[str, Any]) -> str:
    """A key as the ledger has it."""
    return "/".join(str(key[name]) for name in ("id", "shop", "number") if name in key)
