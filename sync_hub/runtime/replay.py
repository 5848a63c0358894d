"""Tries parked records again when they are due: between two batches, by who owns their partition."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from typing import Final

from sync_hub.envelope import decode, topic_name
from sync_hub.errors import Fatal, OffsetsMoved, Rejected, SyncHubError
from sync_hub.failpoints import failpoint
from sync_hub.model import ChangeEvent, Offset, Parked
from sync_hub.ports import Sink
from sync_hub.runtime import parking
from sync_hub.runtime.batch import keyed
from sync_hub.runtime.lag import applied_offsets, passed
from sync_hub.runtime.pipelines import Delivery
from sync_hub.runtime.waiting import NOTHING, Events, Key, Plan, Waiting, about, applying
from sync_hub.settings import Retry
from sync_hub.state import State

LOG = logging.getLogger(__name__)

KEYS_PER_TURN: Final = 500
MOST_BYTES: Final = 16_000_000
"""How much of what was in the topics is read again at a time."""
TURN_SECONDS: Final = 0.1
"""How long one turn may try, before the next batch has its turn again; one key at least is settled in each."""
SOLVE_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.4
LEAD_SECONDS: Final = 2.0
GIVE_UP_SECONDS: Final = 10.0
"""How long a row waits at least, although everything that its source had was applied: others may have to be solved."""
PROGRESS_RECORDS: Final = 20


class Replay:
    """The retries of one session. `write` is the session's: one transaction, with the offsets compared and set.

    `fail` stops a pipeline. `leads`: of several workers of a target, this one also solves what waits in the partitions
    of others.
    """

    def __init__(
        self,
        sink: Sink,
        state: State,
        retry: Retry,
        write: Callable[[Sequence[Plan]], None],
        fail: Callable[[Delivery, SyncHubError], None],
    ) -> None:
        self._sink = sink
        self._state = state
        self._retry = retry
        self._write = write
        self._fail = fail
        self._waiting = Waiting(sink, write)
        self._waiting_of_all = Waiting(sink, write)
        self.leads = False
        self._until = 0.0
        self._look_at = 0.0
        self._lead_at = 0.0
        self._settled = False

    def turn(self, deliveries: Sequence[Delivery]) -> None:
        """Try what is due, for a moment: what waits for other rows all together first."""
        now = time.monotonic()
        if self.leads and now >= self._lead_at:
            self._lead_at = now + LEAD_SECONDS
            self._lead(deliveries)
        if now < self._look_at or not any(one.held for one in deliveries):
            return
        self._look_at = now + LOOK_SECONDS
        due = [Key(one, rows) for one in deliveries for rows in one.held.due(time.time())]
        due.sort(key=lambda key: (key.rows[0].next_at or 0.0, key.rows[0].seq))
        if any(_waits(key) for key in due):
            unknown = {key.name for key in self._solve(deliveries)}
            due = [key for key in due if not _waits(key) or key.name in unknown]
        self._until, self._settled = time.monotonic() + TURN_SECONDS, False
        self._try(list(within(due[:KEYS_PER_TURN])))

    def _solve(self, deliveries: Sequence[Delivery]) -> list[Key]:
        """Apply what waits for other rows, as far as it fits together; returns those of which nothing was found out.

        Takes turns with batches: what it took a long time to try is not tried again soon.
        """
        started = time.monotonic()
        keys = list(within(Key(one, rows) for one in deliveries for rows in one.held.waiting()))
        outcome = self._waiting.solve(*self._read(keys), started + SOLVE_SECONDS)
        self._tell(outcome.applied)
        now = time.time()
        self._again([(key, error) for key, error in outcome.refused if parking.is_due(key.rows[0], now)])
        self._look_at = max(self._look_at, time.monotonic() + 2 * (time.monotonic() - started))
        return outcome.unknown

    def _lead(self, deliveries: Sequence[Delivery]) -> None:
        """Solve what waits in the partitions of all workers of the target: rows may wait for those of another's.

        The others find their offsets moved, and begin anew with what is held now. Where one of them has written
        meanwhile, nothing was done, and the next turn tries again.
        """
        names = [one.name for one in deliveries]
        rows, held = self._sink.load_offsets(names), self._sink.find_parked(names)
        mine = {one.name: one.offsets for one in deliveries}
        theirs: dict[str, dict[int, Offset]] = {}
        for one in deliveries:
            theirs[one.name] = {row.partition: row for row in one.own(rows)}
        if any(not offsets.items() <= theirs[name].items() for name, offsets in mine.items()):
            return  # somebody else writes for our own partitions: the next batch finds out
        everyone = [copy(one) for one in deliveries]  # what is told of our own partitions meanwhile stays right
        for one in everyone:
            one.offsets = theirs[one.name]
            one.hold([row for row in held if row.pipeline == one.name and row.partition in one.offsets])
        try:
            keys = list(within(Key(one, waiting) for one in everyone for waiting in one.held.waiting()))
            if any(row.partition not in mine[key.one.name] for key in keys for row in key.rows):
                outcome = self._waiting_of_all.solve(*self._read(keys), time.monotonic() + SOLVE_SECONDS)
                self._tell(outcome.applied)
        except OffsetsMoved:
            LOG.debug("another worker has written meanwhile", extra={"action": "replay"})
        finally:
            for one, tried in zip(deliveries, everyone, strict=True):
                own = mine[one.name].keys()
                one.offsets = {partition: offset for partition, offset in tried.offsets.items() if partition in own}
                one.hold([row for row in tried.held.all() if row.partition in own])
                one.error = tried.error

    def _try(self, due: Sequence[Key]) -> None:
        """Apply all that is held for these keys; where it is refused, by halves, until it is known for which.

        What there is no time for is due at the next turn.
        """
        if not due or (self._settled and time.monotonic() > self._until):
            return
        failpoint("before_replay")
        keys, events = self._read(due)
        try:
            self._write(applying(keys, events))
        except (Rejected, Fatal) as error:
            if len(keys) > 1:
                middle = len(keys) // 2
                self._try(keys[:middle])
                self._try(keys[middle:])
                return
            self._settled = True
            if isinstance(error, Fatal):
                self._fail(keys[0].one, error)
            else:
                self._again([(keys[0], about(keys[0], events, error))])
            return
        self._settled = True
        failpoint("after_replay")
        self._tell(keys)

    def _tell(self, applied: Iterable[Key]) -> None:
        first: dict[str, tuple[Parked, int]] = {}
        for key in applied:
            row, count = first.get(key.one.name, (key.rows[0], 0))
            first[key.one.name] = row, count + len(key.rows)
        for name, (row, count) in first.items():
            facts = {"action": "replay", "pipeline": name}
            LOG.info("pipeline %s: applied %d parked, the first %s", name, count, row.id, extra=facts)

    def _again(self, refused: Sequence[tuple[Key, Rejected]]) -> None:
        """Keys that are still refused: the oldest record of each says so."""
        now, proven = time.time(), None
        changed: dict[str, tuple[Delivery, list[Parked]]] = {}
        for (one, rows), error in refused:
            again = parking.tried(rows[0], error, self._retry, now)
            if again.state == "waiting" and now - rows[0].first_at >= GIVE_UP_SECONDS:
                proven = self._proven(one) if proven is None else proven
                if rows[0].first_at < proven:
                    again = parking.given_up(again, self._retry, now)
            changed.setdefault(one.name, (one, []))[1].append(again)
        for one, rows in changed.values():
            try:
                self._write([Plan(one, NOTHING, [], rows)])
            except Fatal as too_many:
                self._fail(one, too_many)

    def _read(self, keys: Sequence[Key]) -> tuple[list[Key], Events]:
        """What the records of these keys say, but for pipelines that have stopped.

        One of which a record is gone that nobody has closed stops here.
        """
        found: dict[tuple[str, str], list[ChangeEvent] | Rejected] = {}
        for one in {key.one.name: key.one for key in keys if key.one.error is None}.values():
            mine = [key for key in keys if key.one is one]
            places = {(row.partition, row.seq): key.name for key in mine for row in key.rows}
            said: dict[tuple[str, str], list[ChangeEvent] | Rejected] = {key.name: [] for key in mine}
            rows = self._sink.find_parked([one.name], records=True, seqs=sorted({seq for _, seq in places}))
            for row in sorted(rows, key=parking.order):  # clocks may say otherwise
                name = places.pop((row.partition, row.seq), None)
                if name is not None:
                    said[name] = _with(said[name], row, one.mapping.source_table.key)
            if places:
                self._missing(one, set(places))
            else:
                found |= said
        return [key for key in keys if key.name in found], found

    def _missing(self, one: Delivery, places: set[tuple[int, int]]) -> None:
        """Records that are not open any more: somebody has closed them, or they are gone, which stops the pipeline."""
        closed = self._sink.find_parked([one.name], closed=True, seqs=sorted({seq for _, seq in places}))
        gone = places - {(row.partition, row.seq) for row in closed}
        if not gone:
            raise OffsetsMoved(
                "offsets_moved",
                f"pipeline {one.name}: parked records were closed by another worker or a person",
                hint="they are loaded again; nothing was written",
            )
        self._fail(one, _lost(one.name, *min(gone)))

    def _proven(self, one: Delivery) -> float:
        """The newest moment of which every pipeline into this target has applied all that its source had; else 0."""
        newest = float("inf")
        workers = self._state.workers()
        for pipeline in self._state.pipelines():
            if pipeline.target == one.pipeline.target:
                topic = topic_name(pipeline.source, pipeline.table)
                applied = applied_offsets(workers, pipeline.name)
                known = self._state.progress(pipeline.source, limit=PROGRESS_RECORDS)
                times = [entry.source_time for entry in known if passed(entry, topic, applied)]
                newest = min(newest, max(times, default=0.0))
        return newest


def within(keys: Iterable[Key]) -> Iterator[Key]:
    """The first of these keys whose records may be read at a time; one at least."""
    size = 0
    for key in keys:
        size += sum(row.record_bytes for row in key.rows)
        yield key
        if size >= MOST_BYTES:
            return


def _with(said: list[ChangeEvent] | Rejected, row: Parked, columns: Sequence[str]) -> list[ChangeEvent] | Rejected:
    """What was read of a key so far, with what this record says."""
    if isinstance(said, Rejected):
        return said
    try:
        event = decode(parking.record(row))
        return said if event is None else [*said, keyed(event, columns)]
    except Rejected as error:
        return error


def _waits(key: Key) -> bool:
    return key.rows[0].code in parking.WAITING_FOR_ROWS


def _lost(pipeline: str, partition: int, seq: int) -> Fatal:
    return Fatal(
        "parked_lost",
        f"pipeline {pipeline}: the parked record {pipeline}:{partition}-{seq} is gone from the target",
        hint="somebody has deleted it from sync_hub_parked, and its row may be missing: load the pipeline again",
        command=f"sync-hub snapshot {pipeline} --reload",
    )
