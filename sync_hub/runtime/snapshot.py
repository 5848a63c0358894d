"""Sends existing rows, in chunks, while the log streams on (`guarantees.md` §7).

A state machine that the capture loop turns: it never blocks longer than a few chunks take to read. The rules of marks,
touched keys and `recent` are the source's; which chunk comes next, the fence and the saved progress are kept here.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec

from sync_hub.errors import ConfigError, Fatal, Rejected, SyncHubError, Unavailable
from sync_hub.failpoints import failpoint
from sync_hub.model import ChunkDone, ChunkRead, ChunkRequest, SourceBatch, Table
from sync_hub.ports import Source
from sync_hub.runtime.control import Rate
from sync_hub.runtime.probes import Probes
from sync_hub.state import State
from sync_hub.state_snapshots import Snapshot

LOOK_SECONDS: Final = 0.5
FENCE_SECONDS: Final = 0.1
PRUNE_SECONDS: Final = 1.0
"""How often the source forgets transactions that every later chunk sees."""
TURN_SECONDS: Final = 0.1
"""How long one turn may read chunks before the log has its turn again."""
CHUNK_SECONDS: Final = 0.1
"""The time that reading one chunk should take: its size follows."""
FIRST_ROWS: Final = 500
MOST_ROWS: Final = 10_000
KEYS_PER_CHUNK: Final = 1000
ATTEMPTS: Final = 3
AGAIN_SECONDS: Final = 1.0
"""How often, and after how long, a chunk is asked for that fails while its source answers everything else."""
ROW_BYTES: Final = 200
"""What a row counts beside its values: in memory the smallest row is not small."""
BUDGET_BYTES: Final = 12_000_000
"""How much may be read and wait for its marks, over all tables: what it takes in memory is about five times this."""


class Fence(Enum):
    """Whether chunks may be read: only behind a fence taken after what is to be loaded was known."""

    NEEDED = "needed"
    TAKEN = "taken"
    PASSED = "passed"


class Asked(NamedTuple):
    """A chunk that was read and waits for its mark.

    Given up, it is read again from `after`; `end` is where the next one begins, None where nothing follows. No other
    chunk of the session has its `number`: one that was asked for before a pause is not taken for it.
    """

    number: int
    after: tuple[Any, ...] | None
    end: tuple[Any, ...] | None
    size_bytes: int


class Loading:
    """One snapshot under way: `snapshot` as far as it is durable, `next_after` as far as it was read."""

    def __init__(self, snapshot: Snapshot, chunk_rows: int) -> None:
        self.snapshot = snapshot
        self.next_after = snapshot.last_key
        self.read_all = False
        self.fence = Fence.NEEDED
        self.asked: deque[Asked] = deque()
        self.failures = 0
        self.not_before = 0.0
        self.rate = Rate()
        self._fixed = chunk_rows
        self._rows = chunk_rows or FIRST_ROWS

    @property
    def wants(self) -> bool:
        """Whether another chunk can be read now."""
        return self.fence is Fence.PASSED and not self.read_all and time.monotonic() >= self.not_before

    @property
    def by_hand(self) -> bool:
        """Whether a person said which rows: what cannot be read then may be for that, and concerns nothing else."""
        one = self.snapshot
        return one.reason == "asked" and bool(one.condition or one.keys)

    def request(self, number: int) -> ChunkRequest:
        """The next chunk."""
        one = self.snapshot
        chunk = ChunkRequest(one.id, one.table, number, one.pipelines, where=one.condition)
        if one.keys:
            start = self._place(self.next_after)
            return msgspec.structs.replace(chunk, keys=one.keys[start : start + KEYS_PER_CHUNK])
        return msgspec.structs.replace(chunk, after=self.next_after, rows=self._rows)

    def read(self, request: ChunkRequest, read: ChunkRead, seconds: float) -> None:
        """A chunk was read: go on after it, with a size that fits the time it took."""
        end = self._end(read) if request.keys else read.last_key
        self.failures = 0
        self.asked.append(Asked(request.number, self.next_after, end, read.size_bytes + read.rows * ROW_BYTES))
        self.next_after = end
        self.read_all = self.next_after is None
        if not self._fixed:
            fits = self._rows * min(2.0, max(0.5, CHUNK_SECONDS / max(seconds, 0.001)))
            self._rows = max(1, min(MOST_ROWS, round(fits)))

    def done(self, chunk: ChunkDone) -> bool:
        """A chunk's rows are in the log's order now; False for one that was given up. Chunks come back in order."""
        if not self.asked or self.asked[0].number != chunk.number:
            return False
        last_key = self.asked.popleft().end or self.snapshot.last_key
        self.rate.add(chunk.rows)
        rows_done = self.snapshot.rows_done + chunk.rows
        self.snapshot = msgspec.structs.replace(self.snapshot, last_key=last_key, rows_done=rows_done)
        return True

    def given_up(self, number: int) -> None:
        """Begin again at this chunk: what was read after it comes again, too."""
        while self.asked and self.asked[-1].number >= number:
            self.next_after, self.read_all = self.asked.pop().after, False

    @property
    def complete(self) -> bool:
        """Whether all its rows are in the log's order."""
        return self.read_all and not self.asked

    def _place(self, after: tuple[Any, ...] | None) -> int:
        """Where a snapshot of named keys stands: its `last_key` is how many keys are done."""
        return int(after[0]) if after else 0

    def _end(self, read: ChunkRead) -> tuple[int] | None:
        place = self._place(self.next_after) + read.answered
        return (place,) if place < len(self.snapshot.keys) else None


class Snapshots:
    """The snapshots and probes of one source during one session of capture.

    `load`: whether new pipelines get the rows that were there before them.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        state: State,
        tables: Mapping[str, Table],
        *,
        load: bool = True,
        chunk_rows: int = 0,
    ) -> None:
        self._name = name
        self._source = source
        self._state = state
        self._tables = tables
        self._load = load
        self._chunk_rows = chunk_rows
        self._loading: dict[str, Loading] = {}
        self._numbers = itertools.count(1)
        self._tracking = False
        self._fencing = False
        self._look_at = 0.0
        self._fence_at = 0.0
        self._prune_at = 0.0
        self.probes = Probes(name, source, state, tables)
        self.blocked_by = ""

    def turn(self) -> None:
        """Look for what is to be loaded, pass the fence, read chunks: whatever is due."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._look()
        if not (self._loading or self.probes.pending):
            self._track(False)
            return
        if self._fencing or self._new_ones():
            self._pass_fence(now)
        elif now >= self._prune_at:
            self._prune_at = now + PRUNE_SECONDS
            self._source.fence_passed()
        self._read(now + TURN_SECONDS)

    def collect(self, batch: SourceBatch) -> list[Snapshot]:
        """What to store once this batch is durable: the snapshots as far as its chunks bring them."""
        for run, number in batch.discarded:
            if run in self._loading:
                self._loading[run].given_up(number)
            self.probes.given_up(run)
        moved = {}
        for chunk in batch.chunks:
            self.probes.done(chunk)
            loading = self._loading.get(chunk.run)
            if loading is not None and loading.done(chunk):
                moved[chunk.run] = loading.snapshot
        return list(moved.values())

    def stored(self) -> None:
        """All that was collected is durable and stored."""
        for name in [name for name, loading in self._loading.items() if loading.complete]:
            failpoint("before_finish")
            self._state.snapshots.finish(name)
            del self._loading[name]
        self.probes.stored()

    def figures(self) -> dict[str, Any] | None:
        """Progress of the snapshot that is furthest, for health; None when nothing is loading."""
        if not self._loading:
            return None
        loading = max(list(self._loading.values()), key=lambda one: one.snapshot.rows_done)
        snapshot, rate = loading.snapshot, loading.rate.figure()
        left = max(0, snapshot.rows_estimated - snapshot.rows_done)
        return {
            "id": snapshot.id,
            "table": snapshot.table,
            "rows_done": snapshot.rows_done,
            "rows_estimated": max(snapshot.rows_estimated, snapshot.rows_done),
            "rows_per_second": rate,
            "eta_seconds": round(left / rate, 1) if rate else None,
        }

    def _look(self) -> None:
        """Take up what was asked for; let go of what was paused or cancelled."""
        self._begin_ready()
        unfinished = [one for one in self._state.snapshots.unfinished(self._name) if one.table in self._tables]
        known = {one.id: one for one in unfinished if one.state != "paused"}
        for name in self._loading.keys() - known.keys():
            del self._loading[name]
        for name, stored in known.items():
            loading = self._loading.setdefault(name, Loading(stored, self._chunk_rows))
            loading.snapshot = msgspec.structs.replace(loading.snapshot, pipelines=stored.pipelines)

    def _begin_ready(self) -> None:
        if not self._load:
            new = [one.name for one in self._state.pipelines() if one.source == self._name and not one.unproven]
            self._state.advance_phase(new, "loaded", only_from=["ready"])
        estimates = {name: max(0, table.rows_estimated) for name, table in self._tables.items()}
        self._state.snapshots.begin_ready(self._name, estimates)

    def _new_ones(self) -> bool:
        """Whether something came that no fence was taken for; a fence is taken then, for all that wait.

        Not before the last fence is passed: fences that replace one another might never be passed.
        """
        new = [one for one in self._loading.values() if one.fence is Fence.NEEDED]
        if not (new or self.probes.unfenced):
            return False
        self._track(True)
        for loading in new:
            self._state.snapshots.start(loading.snapshot.id)
            loading.fence = Fence.TAKEN
        self.probes.fencing()
        self._source.fence()
        self._fencing, self._fence_at = True, 0.0
        return True

    def _pass_fence(self, now: float) -> None:
        if now < self._fence_at:
            return
        self._fence_at = now + FENCE_SECONDS
        self.blocked_by = self._source.fence_passed()
        if not self.blocked_by:
            self._fencing = False
            for loading in self._loading.values():
                if loading.fence is Fence.TAKEN:
                    loading.fence = Fence.PASSED
            self.probes.fenced()

    def _read(self, until: float) -> None:
        """Read chunks of all that are due, in turns, within the byte budget and until the time is over."""
        self.probes.read()
        while time.monotonic() < until:
            due = [one for one in self._loading.values() if one.wants]
            waiting = sum(asked.size_bytes for one in self._loading.values() for asked in one.asked)
            if not due or waiting >= BUDGET_BYTES:
                return
            self._ask(min(due, key=lambda one: len(one.asked)))

    def _ask(self, loading: Loading) -> None:
        request, started = loading.request(next(self._numbers)), time.monotonic()
        try:
            read = self._source.request_chunk(request)
        except ConfigError as error:
            if loading.snapshot.reason != "asked":
                raise
            self._fail(loading, f"{error.code}: {error.message}")
            return
        except (Fatal, Rejected, Unavailable) as error:
            if not loading.by_hand:
                raise
            self._failed(loading, error)
            return
        loading.read(request, read, time.monotonic() - started)
        failpoint("after_chunk")

    def _failed(self, loading: Loading, error: SyncHubError) -> None:
        """Rows that a person chose cannot be read. Raises `Unavailable` where it is the source that does not answer."""
        if isinstance(error, Unavailable):
            self._source.heartbeat()
            loading.failures += 1
            loading.not_before = time.monotonic() + AGAIN_SECONDS
            if loading.failures < ATTEMPTS:
                return
        code = "bad_where" if loading.snapshot.condition else "bad_key"
        self._fail(loading, f"{code}: the rows asked for cannot be read: {error.message} ({error.code})")

    def _fail(self, loading: Loading, reason: str) -> None:
        self._state.snapshots.finish(loading.snapshot.id, reason)
        del self._loading[loading.snapshot.id]

    def _track(self, active: bool) -> None:
        if self._tracking != active:
            self._tracking = active
            self._source.track(active)
            if not active:
                self._fencing, self.blocked_by = False, ""
