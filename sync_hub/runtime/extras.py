"""Rows of a view that no row of its source makes, under keys that cannot be asked for: proven, and removed (ADR 16).

The source's key cannot be told from such a row's key, so no probe can name it. It is extra when no row of the source
makes it, and no event that the view applied since before the source was looked at concerns it: see `Extras.settle`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from sync_hub.envelope import topic_name
from sync_hub.errors import OffsetsMoved, Unavailable
from sync_hub.model import ChangeEvent, Offset, RowChange, SinkBatch, TableWrite
from sync_hub.ports import Broker, Sink, Source
from sync_hub.runtime.compare import Expected, Values, expectations
from sync_hub.runtime.lag import CLOCK_RECORDS, Clock, passed
from sync_hub.runtime.reread import Reread, Unreadable
from sync_hub.runtime.tally import Tally
from sync_hub.runtime.view import View
from sync_hub.state import Pipeline, State

LOG = logging.getLogger(__name__)

PAGE_ROWS: Final = 2000
AT_ONCE: Final = 1000
"""Rows that one transaction removes: it holds up the view's own worker."""
LOOK_SECONDS: Final = 0.1
PROVEN_SECONDS: Final = 60.0
ATTEMPTS: Final = 50
"""How often the view may move on between looking at its rows and removing some."""


class Extras:
    """Settles which rows of one view are extra."""

    def __init__(self, view: View, ends: tuple[Source, Sink], pipeline: Pipeline, tally: Tally, state: State) -> None:
        self._view = view
        self._source, self._sink = ends
        self._pipeline = pipeline
        self._topic = topic_name(pipeline.source, pipeline.table)
        self._tally = tally
        self._state = state

    def settle(self, keys: Sequence[Values], new_broker: Callable[[], Broker], *, repair: bool, shared: bool) -> None:
        """Find out which of these target keys are extra, count them, and with `repair` remove them.

        `shared`: other mappings write to the same rows, so that only this one's part is removed.

        1. The view's offsets are noted; then a fence is passed: all that was applied is visible to what follows.
        2. The whole source is read: keys that one of its rows makes are not extra.
        3. The view has applied all that was committed before.
        4. Keys that an event of the topic concerns, from the noted offsets to those that the view has now, are left
           alone. Of the others the source had no row when it was read, and none came since: if they are there, they
           are extra. They are removed in one transaction with a compare-and-set of these very offsets.

        Keys count as busy when that cannot be told. Raises `Unavailable` when the view does not catch up, or its source
        does not let the fence pass.
        """
        if not keys:
            return
        noted = self._offsets()
        if not self._pass_fence():
            return
        broker = new_broker()
        try:
            left = self._not_made(keys)
            if left and self._proven_past():
                with Reread(broker, self._topic, noted) as log:
                    self._conclude(left, log, noted, repair=repair, shared=shared)
        except Unreadable as reason:
            LOG.warning("extra rows of %s are not settled: %s", self._view.name, reason, extra={"action": "verify"})
            self._tally.add(busy=len(keys))
        finally:
            broker.close()

    def _offsets(self) -> dict[int, Offset]:
        """Where the view stands, by partition."""
        rows = self._sink.load_offsets([self._pipeline.name])
        return {row.partition: row for row in rows if row.topic == self._topic}

    def _pass_fence(self) -> bool:
        """Wait until every transaction that began before is visible; False when stopped."""
        until = time.monotonic() + PROVEN_SECONDS
        self._source.track(True)
        try:
            self._source.fence()
            while not self._tally.stopped:
                blocked_by = self._source.fence_passed()
                if not blocked_by:
                    return True
                if time.monotonic() > until:
                    raise self._late(f"source {self._pipeline.source} is held up by {blocked_by}")
                self._wait()
        finally:
            self._source.track(False)
        return False

    def _not_made(self, keys: Sequence[Values]) -> list[Values]:
        """Those of the keys that no row of the source makes."""
        view = self._view
        left = {repr(key): key for key in keys}
        after: tuple[Any, ...] | None = None
        while left and not self._tally.stopped:
            rows, after = self._source.read_page(view.table.full_name, after, PAGE_ROWS)
            made = self._keys(view.expected(rows, view.event_keys(rows, self._source)))
            for name in self._there(made):
                left.pop(name, None)
            self._tally.turn()
            if after is None:
                return list(left.values())
        return []

    def _keys(self, expected: Sequence[Expected]) -> list[Values]:
        """The target keys of rows or events, also of those that the mapping rejects for another reason."""
        unknown = next((one.error for one in expected if not one.key), None)
        if unknown is not None:
            raise Unreadable(unknown.message)
        return [key for one in expected for key in (one.key, self._view.comparer.written_key(one))]

    def _there(self, keys: Sequence[Values]) -> set[str]:
        """The keys of the target's rows that these keys find, as the target spells them."""
        comparer = self._view.comparer
        return {repr(comparer.key_of(row)) for row in comparer.find(keys) if row is not None}

    def _conclude(
        self, left: list[Values], log: Reread, noted: dict[int, Offset], *, repair: bool, shared: bool
    ) -> None:
        attempts = 0
        while left and not self._tally.stopped and attempts < ATTEMPTS:
            now = self._offsets()
            if not _same_log(noted, now):
                break
            concerned: set[str] = set()
            for events in log.up_to(now, turn=self._tally.turn):
                concerned |= self._concerned(events)
            left = [key for key in left if repr(key) not in concerned]
            some = left[:AT_ONCE]
            there = self._there(some)
            extra = [key for key in some if repr(key) in there]
            if self._settled(extra, now, repair=repair, shared=shared):
                self._count(extra, repair=repair)
                left = left[AT_ONCE:]
                attempts = 0
            else:
                attempts += 1
        self._tally.add(busy=len(left))

    def _concerned(self, events: Iterable[ChangeEvent]) -> set[str]:
        """The target's keys that these events may have written or removed."""
        mine = [one for one in events if not one.pipelines or self._pipeline.name in one.pipelines]
        if any(one.operation == "truncate" for one in mine):
            raise Unreadable("the table was emptied meanwhile")
        return self._there(self._keys(expectations(self._view.mapping, mine)))

    def _settled(self, extra: Sequence[Values], now: dict[int, Offset], *, repair: bool, shared: bool) -> bool:
        """Remove these rows if the view still stands where it stood; without `repair` only say whether it does."""
        if not extra:
            return True
        if not repair:
            return self._offsets() == now
        mapping = self._view.mapping
        changes = [RowChange("delete", key) for key in extra]
        write = TableWrite(self._pipeline.name, self._view.target, mapping.key, mapping.columns, changes, shared=shared)
        try:
            self._sink.write(SinkBatch([(row, row) for row in now.values()], [write]))
        except OffsetsMoved:
            return False
        return True

    def _count(self, extra: Sequence[Values], *, repair: bool) -> None:
        if repair:
            self._tally.add(repaired=len(extra))
        else:
            self._tally.example([f"{', '.join(map(str, key))}: extra" for key in extra])
            self._tally.add(extra=len(extra))
        self._tally.turn()

    def _proven_past(self) -> bool:
        """Wait until the view has applied all that was committed before, by the source's clock; False when stopped."""
        until = time.monotonic() + PROVEN_SECONDS
        source = self._pipeline.source
        moment = Clock(time.time(), heartbeat_seconds=0.0).at_source(self._state.progress(source, limit=CLOCK_RECORDS))
        while not self._tally.stopped:
            applied = {partition: row.next_offset for partition, row in self._offsets().items()}
            proven = [one for one in self._state.progress(source, limit=20) if passed(one, self._topic, applied)]
            if proven and proven[0].source_time > moment:
                return True
            if time.monotonic() > until:
                raise self._late(f"pipeline {self._pipeline.name} has not caught up")
            self._wait()
        return False

    def _late(self, what: str) -> Unavailable:
        return Unavailable(
            "probe_unanswered",
            f"{what} within {PROVEN_SECONDS:.0f} s",
            hint="a view can only be verified while it keeps up with its source",
            command=f"sync-hub status {self._pipeline.name}",
        )

    def _wait(self) -> None:
        self._tally.control.wait(LOOK_SECONDS)
        self._tally.turn()


def _same_log(noted: dict[int, Offset], now: dict[int, Offset]) -> bool:
    """Whether the view reads the same topic with the same mapping as it did, and has not gone back."""
    return noted.keys() == now.keys() and all(
        (row.topic_id, row.mapping_hash) == (now[partition].topic_id, now[partition].mapping_hash)
        and row.next_offset <= now[partition].next_offset
        for partition, row in noted.items()
    )
