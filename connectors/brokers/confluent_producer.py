"""Publishing through librdkafka."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException

from connectors.brokers import kafka_client as common
from sync_hub.errors import PublishingBroken
from sync_hub.model import Outgoing, TopicPartition

UNACKNOWLEDGED_BYTES = 8 * 1024 * 1024
"""More makes librdkafka slower and fatter: 8 MB take 51 MB of memory, its own default of 1 GB 164 MB."""

logger = logging.getLogger(__name__)


class ConfluentProducer:
    """See `Producer`. The library's own queue limit would stop in mid-call, so it is set high and room counted here."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._bytes = 0
        self._failed: tuple[str, str] | None = None
        self._ends: dict[tuple[str, int], int] = {}
        self._producer = ck.Producer(
            {**settings, "on_delivery": self._delivered, "error_cb": self._noticed}, logger=logger
        )

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        self._bytes -= len(message) + 64
        if error is None:
            self._ends[message.topic(), message.partition()] = message.offset() + 1
        elif self._failed is None:
            self._failed = (f"{message.topic()}/{message.partition()}", error.str())

    def _noticed(self, error: KafkaError) -> None:
        if error.fatal() and self._failed is None:
            self._failed = ("its topics", error.str())

    def _raise_failed(self) -> None:
        if self._failed is not None:
            raise common.delivery_failed(*self._failed)

    @property
    def ends(self) -> dict[TopicPartition, int]:
        """See `Producer.ends`."""
        return {TopicPartition(topic, partition): end for (topic, partition), end in self._ends.items()}

    @property
    def room(self) -> bool:
        """See `Producer.room`."""
        return self._bytes < UNACKNOWLEDGED_BYTES

    def send(self, records: Sequence[Outgoing], partitions: Sequence[int]) -> None:
        """See `Producer.send`."""
        produce: Any = self._producer.produce
        size = 0
        try:
            for record, partition in zip(records, partitions, strict=True):
                if record.headers:
                    produce(record.topic, record.value, record.key, partition, headers=record.headers)
                else:
                    produce(record.topic, record.value, record.key, partition)
                size += len(record.value or b"") + 64
        except (KafkaException, BufferError) as error:
            raise _refused(record.topic, error) from error
        self._bytes += size

    def collect(self, timeout_seconds: float) -> None:
        """See `Producer.collect`."""
        self._producer.poll(timeout_seconds)
        self._raise_failed()

    def drain(self, timeout_seconds: float | None) -> bool:
        """See `Producer.drain`."""
        left = self._producer.flush() if timeout_seconds is None else self._producer.flush(timeout_seconds)
        self._raise_failed()
        return int(left) == 0

    def abandon(self) -> None:
        """See `Producer.abandon`."""
        self._producer.purge()
        self._producer.flush(1)


def _refused(topic: str, error: Exception) -> PublishingBroken:
    reason = error.args[0] if error.args else error
    return common.delivery_failed(topic, reason.str() if isinstance(reason, KafkaError) else reason)
