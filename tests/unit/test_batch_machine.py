"""Whatever is read twice, refused, crashes or wakes up late: each key is applied as the source committed it, once.

A small source, topic and target in memory, beside the real rules of choosing, halving and passing barriers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from sync_hub.errors import Rejected
from sync_hub.model import ChangeEvent, Offset, Record, version_prefix, version_suffix
from sync_hub.runtime.batch import Decoded, Unreadable, Work, halves, past_barrier, rebased, select
from tests.events import change_event, decoded_as

PARTITIONS = 3
KEYS = 5
WORKERS = 2
UNREADABLE = Rejected("not_an_envelope", "no")


class Commit(NamedTuple):
    """What the source did: a row was changed, rows were sent for another pipeline, a table was emptied, and so on."""

    kind: str
    number: int
    key: int = 0


KINDS = st.sampled_from(["change"] * 6 + ["others", "tombstone", "unreadable", "truncate"])
COMMITS = st.lists(st.tuples(KINDS, st.integers(0, KEYS - 1)), min_size=2, max_size=8)
STEPS = st.one_of(
    st.just(["halve", "write", "crash"]),
    st.just(["halve", "park", "write"]),
    st.lists(st.sampled_from(["halve", "halve", "write", "park", "crash"]), max_size=10),
)
"""What becomes of work and its parts, in order; what has no step is written."""


def version(number: int) -> str:
    return version_prefix(1, number) + version_suffix(1)


def content(commit: Commit) -> ChangeEvent | Rejected | None:
    """What its record is decoded to."""
    if commit.kind in ("tombstone", "unreadable"):
        return UNREADABLE if commit.kind == "unreadable" else None
    emptied = commit.kind == "truncate"
    return change_event(
        source="erp",
        schema="public",
        table="t",
        operation="truncate" if emptied else "update",
        key=None if emptied else {"id": commit.key},
        before=None,
        after=None if emptied else {"id": commit.key, "n": commit.number},
        version=version(commit.number),
        committed_at=1,
        pipelines=("q",) if commit.kind == "others" else (),
    )


class Worker:
    """What one worker knows: its partitions, their offset rows, and the work it has begun."""

    def __init__(self) -> None:
        self.partitions: set[int] = set()
        self.offsets: dict[int, Offset] = {}
        self.work: Work | None = None
        self.passing: tuple[str, dict[int, tuple[Offset, Offset]]] | None = None


class Deliveries(RuleBasedStateMachine):
    """One source, its capture, a topic of three partitions, two workers and their target."""

    def __init__(self) -> None:
        super().__init__()
        self.source: list[Commit] = []
        self.saved = 0  # capture's position: what it reads from after a crash
        self.sent = 0  # so many commits are in the topic, wholly
        self.topic: dict[int, list[Decoded]] = {partition: [] for partition in range(PARTITIONS)}
        self.target = {p: Offset("p", "t", p, "id", 0, "", "hash") for p in range(PARTITIONS)}
        self.applied: dict[int, list[str]] = defaultdict(list)
        self.parked: set[tuple[int, int]] = set()
        self.workers = [Worker() for _ in range(WORKERS)]
        self._share({0}, 0, 1)

    # The source and its capture

    @rule(commits=COMMITS, cuts=st.tuples(*[st.one_of(st.none(), st.integers(0, 6))] * PARTITIONS))
    def commit(self, commits: list[tuple[str, int]], cuts: tuple[int | None, ...]) -> None:
        """Capture publishes; where it crashes meanwhile, some partitions have less of it than others."""
        self._publish_again()
        new = [Commit(kind, len(self.source) + at + 1, key) for at, (kind, key) in enumerate(commits)]
        self.source += new
        for partition, cut in enumerate(cuts):
            self._append(partition, [one for one in new if partition in places(one)][:cut])
        if cuts == (None,) * PARTITIONS:
            self.sent = len(self.source)

    @rule()
    def capture_starts_again(self) -> None:
        """All that was published after its position is published again."""
        self.sent = self.saved
        self._publish_again()

    @rule()
    def capture_saves_its_position(self) -> None:
        self.saved = self.sent

    def _publish_again(self) -> None:
        if self.sent < len(self.source):
            for partition in range(PARTITIONS):
                self._append(partition, [one for one in self.source[self.saved :] if partition in places(one)])
            self.sent = len(self.source)

    def _append(self, partition: int, commits: list[Commit]) -> None:
        log = self.topic[partition]
        for commit in commits:
            log.append(decoded_as(Record("t", partition, len(log), b"k", b"v", None, 0), content(commit)))

    # The workers

    @rule(mine=st.sets(st.integers(0, PARTITIONS - 1)), told=st.sets(st.integers(0, 1)))
    def share(self, mine: set[int], told: set[int]) -> None:
        """Partitions change hands; who is not told goes on as before."""
        self._share(mine, *told)

    def _share(self, mine: set[int], *told: int) -> None:
        for number, partitions in enumerate((mine, set(range(PARTITIONS)) - mine)):
            self.workers[number].partitions = partitions
            if number in told:
                self._load(self.workers[number])

    def _load(self, worker: Worker) -> None:
        """After a crash, or in doubt: only what the target says counts."""
        worker.offsets = {partition: self.target[partition] for partition in worker.partitions}
        worker.work = worker.passing = None

    @rule(number=st.integers(0, 1), back=st.integers(0, 3), count=st.integers(1, 12))
    def poll(self, number: int, back: int, count: int) -> None:
        """Choose from records that may begin before the offset."""
        worker = self.workers[number]
        worker.passing = None
        polled = {}
        for partition, offset in worker.offsets.items():
            start = max(0, offset.next_offset - back)
            polled[partition] = self.topic[partition][start : start + count]
        worker.work = select("p", worker.offsets, polled)

    @precondition(lambda self: any(worker.work for worker in self.workers))
    @rule(first=st.booleans(), steps=STEPS)
    def write(self, first: bool, steps: list[str]) -> None:
        """Write what was chosen, wholly or in parts; what is refused is parked, and any step may be the last."""
        busy = [worker for worker in self.workers if worker.work is not None]
        self._write(busy[0 if first else -1], steps)

    @rule(number=st.integers(0, 1), back=st.integers(0, 3), steps=STEPS)
    def turn(self, number: int, back: int, steps: list[str]) -> None:
        """All at once, as it mostly is."""
        self.poll(number, back, back + 12)
        self._write(self.workers[number], steps)

    def _write(self, worker: Worker, steps: list[str]) -> None:
        work, worker.work = worker.work, None
        if work is not None and not self._apply(worker, work, iter(steps)):
            self._load(worker)

    def _apply(self, worker: Worker, work: Work, steps: Iterator[str]) -> bool:
        step = next(steps, "write")
        if step == "crash":
            return False
        work = rebased(work, worker.offsets)
        if step != "halve" or len(work.items) < 2:
            return self._transaction(worker, work, park=step == "park" and bool(work.ends))
        if work.unreadable:
            if not self._transaction(worker, replace(work, items=[], ends=work.before), park=True):
                return False
            work = rebased(replace(work, unreadable=[]), worker.offsets)
        first, second = halves(work)
        return self._apply(worker, first, steps) and self._apply(worker, second, steps)

    def _transaction(self, worker: Worker, work: Work, *, park: bool) -> bool:
        ends = work.ends
        if park:
            partition = next(iter(ends))
            ends = ends | {partition: replace(ends[partition], parked_seq=ends[partition].parked_seq + 1)}
        if not self._moved({partition: (work.before[partition], end) for partition, end in ends.items()}):
            return False
        for item in work.items:
            assert item.event.key is not None
            self.applied[item.event.key["id"]].append(item.event.version)
        for record in (one.record for one in work.unreadable):
            assert record.offset >= work.before[record.partition].next_offset, "it was passed before"
            self.parked.add((record.partition, record.offset))
        worker.offsets |= ends
        return True

    def _moved(self, pairs: dict[int, tuple[Offset, Offset]]) -> bool:
        """Compare and set, as every target does."""
        if any(facts(self.target[partition]) != facts(before) for partition, (before, _) in pairs.items()):
            return False
        for partition, (_, after) in pairs.items():
            now, self.target[partition] = self.target[partition], after
            assert after.next_offset >= now.next_offset
            assert after.last_version >= now.last_version
            assert after.parked_seq >= now.parked_seq
        return True

    @rule(number=st.integers(0, 1))
    def crash(self, number: int) -> None:
        self._load(self.workers[number])

    @rule(partition=st.integers(0, PARTITIONS - 1))
    def a_person_discards_what_is_parked(self, partition: int) -> None:
        row = self.target[partition]
        self.target[partition] = replace(row, parked_seq=row.parked_seq + 1)

    @precondition(lambda self: any(row.barrier for row in self.target.values()))
    @rule(number=st.integers(0, 1))
    def look_at_a_barrier(self, number: int) -> None:
        """Whether all partitions stand there; someone else may pass it before this worker does."""
        worker = self.workers[number]
        blocked = [row.barrier for row in worker.offsets.values() if row.barrier]
        if blocked and worker.work is None:
            pairs = past_barrier(self.target.values(), min(blocked))
            worker.passing = (min(blocked), pairs) if pairs else None
            if not pairs:
                self._load(worker)

    @precondition(lambda self: any(worker.passing for worker in self.workers))
    @rule(number=st.integers(0, 1))
    def pass_a_barrier(self, number: int) -> None:
        worker = self.workers[number]
        if worker.passing is not None:
            barrier, pairs = worker.passing
            if self._moved(pairs):
                for key in range(KEYS):
                    self.applied[key].append(barrier)
            self._load(worker)

    # What must hold

    @invariant()
    def versions_of_a_key_never_go_back(self) -> None:
        for versions in self.applied.values():
            assert all(one < next_one for one, next_one in pairwise(versions))

    @invariant()
    def each_key_is_applied_as_it_was_committed(self) -> None:
        """Nothing left out, nothing twice, and nothing on the wrong side of a TRUNCATE."""
        for key, versions in self.applied.items():
            assert versions == self._truth(key)[: len(versions)]

    def _truth(self, key: int) -> list[str]:
        return [
            version(one.number)
            for one in self.source
            if one.kind == "truncate" or (one.kind == "change" and one.key == key)
        ]

    def teardown(self) -> None:
        """Let it settle: then everything is applied."""
        self._publish_again()
        self._share({0, 1}, 0, 1)
        self._until(lambda: all(row.next_offset == len(self.topic[p]) for p, row in self.target.items()))
        for key in range(KEYS):
            assert self.applied[key] == self._truth(key)
        bad = {(p, one.record.offset) for p, log in self.topic.items() for one in log if isinstance(one, Unreadable)}
        assert self.parked == bad

    def _until(self, settled: Callable[[], bool]) -> None:
        for _ in range(4 * len(self.source) + 4):
            if settled():
                return
            for number in range(WORKERS):
                self._load(self.workers[number])
                self.poll(number, 0, 1000)
                self.write(True, [])
                self.look_at_a_barrier(number)
                self.pass_a_barrier(number)
        raise AssertionError("it does not settle")


def places(commit: Commit) -> range:
    """The partitions that have its record."""
    return (
        range(PARTITIONS) if commit.kind == "truncate" else range(commit.key % PARTITIONS, commit.key % PARTITIONS + 1)
    )


def facts(row: Offset) -> tuple[Any, ...]:
    """What a target compares."""
    return row.next_offset, row.topic_id, row.mapping_hash, row.parked_seq


TestDeliveries = Deliveries.TestCase
TestDeliveries.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
