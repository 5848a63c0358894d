"""Loads the existing rows of new pipelines, in chunks, while the log streams on (`guarantees.md` §7).

A state machine that the capture loop turns: it never blocks longer than one chunk takes to read. The rules of marks,
touched keys and `recent` are the source's; the order of fence, chunks and saved progress is kept here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sync_hub.model import ChunkDone, ChunkRequest, SourceBatch, Table
from sync_hub.ports import Source
from sync_hub.runtime.control import Rate
from sync_hub.state import Pipeline, Snapshot, State

CHUNK_ROWS = 5000
LOOK_SECONDS = 1.0
FENCE_SECONDS = 0.2


class Snapshots:
    """The snapshots of one source, one table at a time, during one session of capture."""

    def __init__(self, name: str, source: Source, state: State, tables: Mapping[str, Table], *, load: bool) -> None:
        self._name = name
        self._source = source
        self._state = state
        self._tables = tables
        self._load = load
        self._run = uuid.uuid4().hex
        self._waiting: list[Snapshot] = []
        self._current: Snapshot | None = None
        self._chunk = 0
        self._outstanding = False
        self._fenced = False
        self._look_at = 0.0
        self._rate = Rate()
        self.blocked_by = ""

    def turn(self) -> None:
        """Look for pipelines to load, pass the fence, ask for the next chunk: whatever is due."""
        now = time.monotonic()
        if not self._current and not self._waiting:
            if now < self._look_at:
                return
            self._look_at = now + LOOK_SECONDS
            self._begin()
            return
        if not self._fenced:
            if now >= self._look_at:
                self._look_at = now + FENCE_SECONDS
                self.blocked_by = self._source.fence_passed()
                self._fenced = not self.blocked_by
            if not self._fenced:
                return
        if self._current is None:
            self._current = self._waiting.pop(0)
            self._state.start_snapshot(self._current)
        if not self._outstanding:
            self._ask(self._current)

    def collect(self, batch: SourceBatch) -> list[Snapshot]:
        """What to store once this batch is durable: the snapshots as far as its chunks bring them."""
        if any(run == self._run for run, _ in batch.discarded):
            self._outstanding = False
        return [self._advance(chunk) for chunk in batch.chunks if chunk.run == self._run]

    def stored(self, snapshots: Sequence[Snapshot], finished: Sequence[str]) -> None:
        """These are durable and stored; tables in `finished` have all their rows."""
        for snapshot in snapshots:
            if snapshot.table in finished:
                self._state.finish_snapshot(snapshot)

    def finished(self, batch: SourceBatch) -> list[str]:
        """Tables whose last chunk is in this batch."""
        return [chunk.table for chunk in batch.chunks if chunk.run == self._run and chunk.last_key is None]

    def figures(self) -> dict[str, Any] | None:
        """Progress for health; None when nothing is loading."""
        snapshot = self._current or next(iter(self._waiting), None)
        if snapshot is None:
            return None
        rate = self._rate.figure()
        left = max(0, snapshot.rows_estimated - snapshot.rows_done)
        return {
            "table": snapshot.table,
            "rows_done": snapshot.rows_done,
            "rows_estimated": max(snapshot.rows_estimated, snapshot.rows_done),
            "rows_per_second": rate,
            "eta_seconds": round(left / rate, 1) if rate else None,
        }

    def _begin(self) -> None:
        ready = [p for p in self._state.pipelines() if p.source == self._name and p.phase in ("ready", "loading")]
        ready = [p for p in ready if p.table in self._tables]
        if not ready:
            return
        if not self._load:
            self._state.advance_phase([p.name for p in ready], "loaded", only_from=["ready", "loading"])
            return
        self._waiting = _planned(self._name, ready, self._state.snapshots(self._name), self._tables)
        self._fenced = False
        self._source.track(True)
        self._source.fence()

    def _ask(self, snapshot: Snapshot) -> None:
        self._chunk += 1
        self._outstanding = True
        self._source.request_chunk(
            ChunkRequest(
                self._run, snapshot.table, self._chunk, snapshot.pipelines, after=snapshot.last_key, rows=CHUNK_ROWS
            )
        )

    def _advance(self, chunk: ChunkDone) -> Snapshot:
        assert self._current is not None  # noqa: S101 - a chunk of this run was asked for by it
        self._rate.add(chunk.rows)
        self._outstanding = False
        done = msgspec.structs.replace(
            self._current,
            last_key=chunk.last_key if chunk.last_key is not None else self._current.last_key,
            rows_done=self._current.rows_done + chunk.rows,
        )
        self._current = done if chunk.last_key is not None else None
        if self._current is None and not self._waiting:
            self._source.track(False)
        return done


def _planned(
    source: str, ready: Sequence[Pipeline], begun: Sequence[Snapshot], tables: Mapping[str, Table]
) -> list[Snapshot]:
    """Continue what was begun of captured tables; then one snapshot for each table that has new pipelines."""
    begun = [snapshot for snapshot in begun if snapshot.table in tables]
    loading = {name for snapshot in begun for name in snapshot.pipelines}
    fresh: dict[str, list[str]] = {}
    for pipeline in ready:
        if pipeline.name not in loading and pipeline.table not in {snapshot.table for snapshot in begun}:
            fresh.setdefault(pipeline.table, []).append(pipeline.name)
    now = time.time()
    new = [
        Snapshot(source, table, tuple(names), None, 0, tables[table].rows_estimated, now)
        for table, names in fresh.items()
    ]
    return [*begun, *new]
