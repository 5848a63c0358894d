"""Reading through librdkafka."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import confluent_kafka as ck

from connectors.brokers.confluent_errors import PASSING, asking, raise_error
from sync_hub.model import Record, TopicPartition


class ConfluentConsumer:
    """See `Consumer`."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._assigned: list[TopicPartition] | None = None
        self._leave_first: list[str] = []

    def subscribe(self, topics: Sequence[str], *, again: bool = False) -> None:
        """Join the group for these topics; `again` when the member's old place is to be given up first."""
        self._leave_first = list(topics) if again else []
        self._consumer.subscribe(list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke)

    def _on_assign(self, consumer: Any, partitions: list[Any]) -> None:
        """Take the assignment but read nothing: `start` says where to begin."""
        consumer.assign([])
        self._assigned = [TopicPartition(place.topic, place.partition) for place in partitions]

    def _on_revoke(self, consumer: Any, partitions: list[Any]) -> None:
        consumer.unassign()
        self._assigned = []

    def poll(self, timeout_seconds: float, max_records: int) -> tuple[list[Record], list[TopicPartition] | None]:
        """See `Consumer.poll`. One record is waited for; then what else has come is taken along."""
        first = asking("reading", lambda: self._consumer.poll(timeout_seconds))
        messages = [] if first is None else [first]
        if first is not None and max_records > 1:
            messages += asking("reading", lambda: self._consumer.consume(max_records - 1, 0))
        records = []
        for message in messages:
            if message.error() is None:
                records.append(_record(message))
            else:
                _refuse_bad(message)
        if self._assigned is None:
            return records, None
        assigned, self._assigned = self._assigned, None
        if not self._leave_first:
            return [], assigned
        self._consumer.unsubscribe()  # librdkafka leaves the group, as a member with a name too, only so
        self.subscribe(self._leave_first)
        return [], None

    def start(self, places: Mapping[TopicPartition, int]) -> None:
        """See `Consumer.start`. Assigning anew also drops what was fetched from elsewhere."""
        asking(
            "seeking",
            lambda: self._consumer.assign([ck.TopicPartition(*place, offset) for place, offset in places.items()]),
        )

    def close(self) -> None:
        """See `Consumer.close`."""
        self._consumer.close()


def _refuse_bad(message: Any) -> None:
    """Raise what an error that comes in the place of a record says, unless it passes by itself."""
    error = message.error()
    if error.code() not in PASSING:
        raise_error(f"{message.topic()}/{message.partition()}@{message.offset()}", error)


def _record(message: Any) -> Record:
    headers = message.headers()
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        [(name, value or b"") for name, value in headers] if headers else None,
        message.timestamp()[1],
    )
