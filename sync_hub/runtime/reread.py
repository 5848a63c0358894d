"""Reads a part of a topic again that a view has applied."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final

from sync_hub.envelope import decode
from sync_hub.errors import Fatal, Rejected
from sync_hub.model import ChangeEvent, Offset, Record, TopicPartition
from sync_hub.ports import Broker, Subscription

POLL_SECONDS: Final = 0.25
POLL_RECORDS: Final = 3000
READ_SECONDS: Final = 60.0
"""How long to wait for the next record of a part that was applied, so that it must be there."""


class Unreadable(Exception):
    """What happened in the topic cannot be told any more."""


class Reread:
    """One topic from given offsets on, in a group of its own: it disturbs nobody. Use it as a context."""

    def __init__(self, broker: Broker, topic: str, start: Mapping[int, Offset]) -> None:
        self._broker = broker
        self._topic = topic
        self._next = {partition: row.next_offset for partition, row in start.items()}
        self._ahead: list[Record] = []
        self._subscription: Subscription | None = None

    def __enter__(self) -> Reread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._subscription is not None:
            self._subscription.close()

    def up_to(self, ends: Mapping[int, Offset], *, turn: Callable[[], None]) -> Iterator[list[ChangeEvent]]:
        """The events below these offsets that were not given before; `turn` is called now and then.

        Raises `Unreadable` when one of them is gone or cannot be read.
        """
        limits = {partition: row.next_offset for partition, row in ends.items()}
        yield self._taken(limits)
        until = time.monotonic() + READ_SECONDS
        while any(self._next[partition] < limit for partition, limit in limits.items()):
            records = self._poll()
            for record in records:
                self._next[record.partition] = record.offset + 1
            self._ahead += records
            yield self._taken(limits)
            turn()
            if records:
                until = time.monotonic() + READ_SECONDS
            elif time.monotonic() > until:
                raise Unreadable(f"{self._topic} does not give what was read from it before")

    def _poll(self) -> list[Record]:
        try:
            if self._subscription is None:
                group = f"sync-hub-reread-{uuid.uuid4().hex[:12]}"
                self._subscription = self._broker.subscribe([self._topic], group, on_assign=self._assigned)
            return self._subscription.poll(POLL_SECONDS, POLL_RECORDS)
        except Fatal as error:
            raise Unreadable(error.message) from error

    def _assigned(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {place: self._next[place.partition] for place in partitions}

    def _taken(self, limits: Mapping[int, int]) -> list[ChangeEvent]:
        """Of what was read so far that which lies below the limits."""
        below = [record for record in self._ahead if record.offset < limits[record.partition]]
        self._ahead = [record for record in self._ahead if record.offset >= limits[record.partition]]
        try:
            events = [decode(record) for record in below]
        except Rejected as error:
            raise Unreadable(error.message) from error
        return [event for event in events if event is not None]
