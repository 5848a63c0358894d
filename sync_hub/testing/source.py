"""Reads a source in tests until something has come: waits with conditions, never with time."""

from __future__ import annotations

import time
from collections.abc import Callable

from sync_hub.model import ChangeEvent, ChunkDone, Heartbeat, SourceBatch
from sync_hub.ports import Source


class Collector:
    """Everything that one source has delivered so far, in order."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.batches: list[SourceBatch] = []
        self.events: list[ChangeEvent] = []
        self.heartbeats: list[Heartbeat] = []
        self.chunks: list[ChunkDone] = []
        self.discarded: list[tuple[str, int]] = []
        self.position: str | None = None

    def read(self, timeout_seconds: float = 0.05) -> SourceBatch:
        """Read one batch and remember it."""
        batch = self.source.read(timeout_seconds)
        self.batches.append(batch)
        self.events += batch.events
        self.heartbeats += [batch.heartbeat] if batch.heartbeat else []
        self.chunks += batch.chunks
        self.discarded += batch.discarded
        self.position = batch.position or self.position
        return batch

    def until(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        """Read until the condition holds. Raises `TimeoutError` when it does not in this time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s; {len(self.events)} events, {len(self.batches)} batches")
            self.read()

    def settle(self, seconds: float = 15) -> list[ChangeEvent]:
        """Read until everything committed before this call has come; returns the events of this call.

        Relies on a source server whose clock is the test's own.
        """
        known, asked_at = len(self.events), time.time()
        self.source.heartbeat()
        self.until(lambda: bool(self.heartbeats) and self.heartbeats[-1].source_time >= asked_at, seconds)
        return self.events[known:]

    def acknowledge(self) -> str:
        """Acknowledge everything read so far; returns the position."""
        if self.position is None:
            raise ValueError("nothing was read yet")
        self.source.acknowledge(self.position)
        return self.position
