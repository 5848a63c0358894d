"""Existing rows of a new view that is a plain copy go straight to it, while its events wait in the topic.

Sound because the view's offsets were written before the fence was taken: what a block does not see is in the topic
behind these offsets, and is applied in order once all rows are there (ADR 14). How far it came is a row of its own
beside the offsets, moved by the same compare-and-set in the same transaction as the rows.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from msgspec.structs import replace

from sync_hub.errors import OffsetsMoved, SyncHubError, Unavailable
from sync_hub.failpoints import failpoint
from sync_hub.mapping.apply import compile_mapping
from sync_hub.model import Offset, RowBlock
from sync_hub.ports import BLOCK_BYTES, BlockSink, BlockSource, Sink, Source
from sync_hub.runtime.control import Control
from sync_hub.runtime.pipelines import COPYING, copy_row, stored_bundle
from sync_hub.runtime.retry import Backoff
from sync_hub.settings import Settings
from sync_hub.state import Pipeline, State
from sync_hub.state_snapshots import Snapshot, new_id

LOG = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.2
TELL_SECONDS: Final = 0.5
FENCE_SECONDS: Final = 0.1
FIRST_ROWS: Final = 5_000
MOST_ROWS: Final = 200_000
FILLED: Final = 15 / 16
"""So much of a block is asked for: rows may be a little wider than those before."""
BLOCK_SECONDS: Final = 0.25
"""The time that reading one block should take: its size follows."""
PATIENCE_SECONDS: Final = 60.0
"""After so long without either end, capture is asked to send the rows: it may reach the source where this cannot."""


class Copying:
    """What one deliver worker copies, in a thread beside its loop. `look` is called from the loop, often."""

    def __init__(self, target: str, settings: Settings, state: State, control: Control) -> None:
        self._target = target
        self._settings = settings
        self._state = state
        self._control = control
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="copying")
        self._running: Future[None] | None = None
        self._errors: dict[str, SyncHubError] = {}
        self._copy: Copy | None = None

    def look(self, pipelines: Sequence[Pipeline]) -> None:
        """Begin to copy where a pipeline waits for it. Raises what the thread met and nobody expected."""
        if self._running is not None and self._running.done():
            self._running.result()
            self._running = None
        if self._running is None and any(one.phase == COPYING for one in pipelines):
            self._running = self._thread.submit(self._run)

    def failure(self, pipeline: str) -> SyncHubError | None:
        """Why this pipeline's rows do not come."""
        return self._errors.get(pipeline)

    def blocked_by(self, pipeline: str) -> str:
        """Which transaction at the source this pipeline's rows wait for, as one line for people."""
        copy = self._copy
        return copy.blocked_by if copy is not None and copy.pipeline.name == pipeline else ""

    def _run(self) -> None:
        """Copy one pipeline after the other, until none waits; pauses are waited for."""
        backoff, unavailable_since = Backoff(), 0.0
        while not self._control.stopping.is_set() and (waiting := self._waiting()):
            pipeline = waiting[0]
            copy = self._copy = Copy(pipeline, self._settings, self._state, self._control)
            try:
                copy.run()
                self._errors.pop(pipeline.name, None)
                unavailable_since = 0.0
                backoff.reset()
            except OffsetsMoved as error:
                LOG.info("%s", error, extra={"action": "copy", "code": error.code})
                self._control.stopping.wait(LOOK_SECONDS)
            except Unavailable as error:
                self._errors[pipeline.name] = error
                LOG.warning("copying for %s: %s", pipeline.name, error, extra={"action": "retry", "code": error.code})
                unavailable_since = unavailable_since or time.monotonic()
                if time.monotonic() - unavailable_since > PATIENCE_SECONDS:
                    copy.leave(error)
                    unavailable_since = 0.0
                else:
                    self._control.stopping.wait(backoff.next_seconds())
            except SyncHubError as error:
                copy.leave(error)
            finally:
                copy.close()
                self._copy = None

    def _waiting(self) -> list[Pipeline]:
        """Those that wait and are not held; waits itself while all of them are."""
        while not self._control.stopping.is_set():
            mine = [one for one in self._state.pipelines() if one.target == self._target and one.phase == COPYING]
            free = [one for one in mine if self._control.paused.isdisjoint(_subjects(one)) and not self._held(one)]
            if free or not mine:
                return free
            self._control.stopping.wait(LOOK_SECONDS)
        return []

    def _held(self, pipeline: Pipeline) -> bool:
        """Whether someone paused the copying itself."""
        known = self._state.snapshots.all(pipeline.source)
        return any(one.copied and one.state == "paused" and pipeline.name in one.pipelines for one in known)


class BlockSize:
    """How many `rows` to ask for: `fixed`, or as many as take the time of a block and fit into one."""

    def __init__(self, fixed: int = 0) -> None:
        self.rows = fixed or FIRST_ROWS
        self._fixed = bool(fixed)

    def took(self, rows: int, size: int, seconds: float) -> None:
        """A block came that is not the last: so many rows of `size` bytes.

        Fewer are asked for than would fill a block, being as wide as these: a block that is cut costs the source a
        cancelled statement, and a limit far too high a plan for so many rows.
        """
        if not self._fixed:
            longer = min(4.0, max(0.25, BLOCK_SECONDS / max(seconds, 0.001)))
            larger = FILLED * BLOCK_BYTES / max(size, 1)
            self.rows = max(1, min(MOST_ROWS, round(rows * min(longer, larger))))


class Copy:
    """The copying for one pipeline, over connections of its own. `run` returns when all is done, or it is to stop."""

    def __init__(self, pipeline: Pipeline, settings: Settings, state: State, control: Control) -> None:
        self.pipeline = pipeline
        self.blocked_by = ""
        self._settings = settings
        self._state = state
        self._control = control
        self._snapshot = _wanted(pipeline)
        self._opened: list[Source | Sink] = []
        self._size = BlockSize(int(getattr(settings.sources[pipeline.source].options, "snapshot_rows", 0)))
        self._tell_at = 0.0

    def run(self) -> None:
        """Copy what is not copied yet. Raises `OffsetsMoved` when someone else moved it on, or took it away."""
        pipeline, state = self.pipeline, self._state
        table = state.tables(pipeline.source).get(pipeline.table)
        if table is None:
            raise Unavailable("table_unknown", f"capture of {pipeline.source} does not know {pipeline.table} any more")
        self._snapshot = state.snapshots.copying(replace(self._snapshot, rows_estimated=max(0, table.rows_estimated)))
        state.snapshots.start(self._snapshot.id)
        source, sink = self._settings.source(pipeline.source), self._settings.sink(pipeline.target)
        self._opened = [source, sink]
        sink.open()
        row = copy_row(sink.load_offsets([pipeline.name]))
        mapping = compile_mapping(stored_bundle(pipeline), table, secrets=os.environ)
        target = sink.describe(mapping.spec.target_table)
        columns = mapping.copied(mapping.columns, target) if target is not None else {}
        if not (isinstance(source, BlockSource) and isinstance(sink, BlockSink)):
            self._leave("source and target have no form of blocks in common")
            return
        if source.block_kind != sink.block_kind or row is None or not columns:
            self._leave("the view is no plain copy of the source's table")
            return
        if row.topic_id and self._pass_fence(source):
            self._copy(source, sink, row, mapping.spec.target_table, columns)
        elif not row.topic_id:
            state.snapshots.finish(self._snapshot.id)

    def leave(self, error: SyncHubError) -> None:
        """Rows cannot be copied: capture is to send them."""
        LOG.warning(
            "rows for %s cannot be copied (%s): they are sent through the topic",
            self.pipeline.name,
            error,
            extra={"action": "copy", "code": error.code},
        )
        self._leave(f"{error.code}: {error.message}")

    def close(self) -> None:
        """Let go of both ends."""
        for connector in self._opened:
            connector.close()

    def _leave(self, reason: str) -> None:
        self._snapshot = self._state.snapshots.copying(self._snapshot)
        self._state.snapshots.send_instead(self._snapshot.id, reason)

    def _pass_fence(self, source: Source) -> bool:
        """Wait until every transaction that began before the offsets were written is visible; False when stopped."""
        source.track(True)
        source.fence()
        while blocked_by := source.fence_passed():
            self.blocked_by = blocked_by
            self._control.stopping.wait(FENCE_SECONDS)
            if not self._goes_on():
                return False
        self.blocked_by = ""
        return True

    def _copy(self, source: BlockSource, sink: BlockSink, row: Offset, table: str, columns: dict[str, str]) -> None:
        """Write one block while the next one is read."""
        with ThreadPoolExecutor(1, thread_name_prefix="blocks") as reader:

            def following(after: tuple[str, ...] | None) -> Future[tuple[RowBlock, float]]:
                return reader.submit(self._read, source, list(columns.values()), after)

            asked = following(tuple(json.loads(row.last_version)) if row.last_version else None)
            while True:
                block, seconds = asked.result()
                more = block.last_key is not None
                if more:
                    self._size.took(block.rows, sum(map(len, block.data)), seconds)
                    asked = following(block.last_key)
                moved = replace(
                    row,
                    topic_id=row.topic_id if more else "",
                    next_offset=row.next_offset + block.rows,
                    last_version=json.dumps(block.last_key) if more else "",
                )
                sink.write_block((row, moved), table, list(columns), block)
                failpoint("after_block")
                row = moved
                if not more:
                    self._finish(row)
                    return
                if not self._goes_on(row.next_offset):
                    return

    def _read(self, source: BlockSource, columns: list[str], after: tuple[str, ...] | None) -> tuple[RowBlock, float]:
        started = time.monotonic()
        block = source.read_block(self.pipeline.table, columns, after, self._size.rows)
        return block, time.monotonic() - started

    def _finish(self, row: Offset) -> None:
        self._state.snapshots.copied(self._snapshot.id, row.next_offset)
        self._state.snapshots.finish(self._snapshot.id)
        LOG.info("copied %d rows for %s", row.next_offset, self.pipeline.name, extra={"action": "copy"})

    def _goes_on(self, rows_done: int | None = None) -> bool:
        """Whether nobody wants it to stop; tells how far it came, and asks, now and then."""
        if self._control.stopping.is_set() or not self._control.paused.isdisjoint(_subjects(self.pipeline)):
            return False
        if time.monotonic() < self._tell_at:
            return True
        self._tell_at = time.monotonic() + TELL_SECONDS
        if rows_done is not None:
            self._state.snapshots.copied(self._snapshot.id, rows_done)
        now = self._state.snapshots.find(self._snapshot.id)
        return now is not None and now.state == "running"


def _subjects(pipeline: Pipeline) -> tuple[str, str, str]:
    """What holds the copying when it is paused."""
    return f"pipeline:{pipeline.name}", f"target:{pipeline.target}", f"source:{pipeline.source}"


def _wanted(pipeline: Pipeline) -> Snapshot:
    now = time.time()
    return Snapshot(
        new_id(),
        pipeline.source,
        pipeline.table,
        (pipeline.name,),
        state="running",
        asked_at=now,
        started_at=now,
        copied=True,
    )
