"""Reading from Kafka through a consumer group, at offsets that are ours: nothing is committed at the broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from connectors.brokers.kafka_client import Consumer, MemberReplaced
from sync_hub.model import Record, TopicPartition

_SLICE_SECONDS = 0.1
"""The client libraries neither notice signals nor tell of a new assignment while they wait: so they wait in slices."""

OnAssign = Callable[[list[TopicPartition]], Mapping[TopicPartition, int]]


class KafkaSubscription:
    """See `Subscription`. Keeps the place in every partition, so that a rebalance in mid-poll loses nothing."""

    def __init__(self, join: Callable[[], Consumer], on_assign: OnAssign, verify: Callable[[], None]) -> None:
        self._join = join
        self._on_assign = on_assign
        self._verify = verify
        self._consumer: Consumer | None = None
        self._places: dict[TopicPartition, int] = {}
        self._moved = False

    def assignment(self) -> list[TopicPartition]:
        """See `Subscription.assignment`."""
        return sorted(self._places)

    def poll(self, timeout_seconds: float, max_records: int) -> list[Record]:
        """See `Subscription.poll`. Also makes sure, now and then, that the topics are still the same ones."""
        if self._consumer is None:
            self._consumer = self._join()
        end = time.monotonic() + timeout_seconds
        while True:
            self._verify()
            if self._moved:
                self._consumer.start(self._places)
                self._moved = False
            left = max(0.0, end - time.monotonic())
            try:
                records, assigned = self._consumer.poll(min(left, _SLICE_SECONDS), max_records)
            except MemberReplaced:
                self._leave()
                raise
            if assigned is not None:
                self._assign(assigned)
            elif records:
                newest = {(record.topic, record.partition): record.offset for record in records}
                self._places |= {TopicPartition(*place): offset + 1 for place, offset in newest.items()}
                return records
            if time.monotonic() >= end:
                return []

    def _assign(self, partitions: list[TopicPartition]) -> None:
        """Take a new assignment, from the offsets that the caller has for it."""
        self._places = {}
        if partitions:
            starts = self._on_assign(sorted(partitions))
            self._places = {partition: starts[partition] for partition in partitions}
        self._moved = True

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """See `Subscription.seek`."""
        if partition in self._places:
            self._places[partition] = offset
            self._moved = True

    def close(self) -> None:
        """See `Subscription.close`."""
        self._leave()

    def _leave(self) -> None:
        """Close the consumer and forget its assignment: a later `poll` joins again."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            self._places = {}
            self._moved = False
            consumer.close()
