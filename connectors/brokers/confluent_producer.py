"""Publishing through librdkafka."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException

from connectors.brokers import kafka_client as common
from sync_hub.errors import PublishingBroken
from sync_hub.model import Outgoing, TopicPartition

UNACKNOWLEDGED_BYTES = 8 * 1024 * 1024
"""More makes librdkafka slower and fatter: 8 MB take 51 MB of memory, its own default of 1 GB 164 MB."""

logger = logging.getLogger(__name__)


Look = Callable[[KafkaError | None, Any], None]


class ConfluentProducer:
    """See `Producer`. The library's own queue limit would stop in mid-call, so it is set high and room counted here.

    Every delivery report is looked at. That costs as much as sending, so looking does nothing but keep the newest of
    each partition; how much is unacknowledged is told by how many reports are still to come.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._sent: deque[tuple[int, int]] = deque()
        self._failed: tuple[str, str] | None = None
        self._newest: dict[TopicPartition, Any] = {}
        self._looking: dict[TopicPartition, Look] = {}
        self._producer = ck.Producer({**settings, "error_cb": self._noticed}, logger=logger)

    def _looks(self, topic: str, partition: int) -> Look:
        """What looks at the delivery reports of one partition."""
        place = TopicPartition(topic, partition)
        if place not in self._looking:
            newest = self._newest

            def look(error: KafkaError | None, message: Any) -> None:
                if error is None:
                    newest[place] = message
                elif self._failed is None:
                    self._failed = (f"{topic}/{partition}", error.str())

            self._looking[place] = look
        return self._looking[place]

    def _noticed(self, error: KafkaError) -> None:
        if error.fatal() and self._failed is None:
            self._failed = ("its topics", error.str())

    def _raise_failed(self) -> None:
        if self._failed is not None:
            raise common.delivery_failed(*self._failed)

    @property
    def ends(self) -> dict[TopicPartition, int]:
        """See `Producer.ends`."""
        return {place: message.offset() + 1 for place, message in self._newest.items()}

    @property
    def room(self) -> bool:
        """See `Producer.room`."""
        sent, waiting = self._sent, len(self._producer)
        while sent and sum(records for records, _ in sent) - sent[0][0] >= waiting:
            sent.popleft()
        return sum(size for _, size in sent) < UNACKNOWLEDGED_BYTES

    def send(self, records: Sequence[Outgoing], partitions: Sequence[int]) -> None:
        """See `Producer.send`."""
        produce: Any = self._producer.produce
        topic, size = "", 0
        looks: dict[int, Look] = {}
        try:
            for record, partition in zip(records, partitions, strict=True):
                if record.topic != topic:
                    topic, looks = record.topic, {}
                look = looks.get(partition)
                if look is None:
                    look = looks[partition] = self._looks(topic, partition)
                if record.headers:
                    produce(topic, record.value, record.key, partition, look, headers=record.headers)
                else:
                    produce(topic, record.value, record.key, partition, look)
                size += len(record.value or b"") + 64
        except (KafkaException, BufferError) as error:
            raise _refused(record.topic, error) from error
        self._sent.append((len(records), size))
        self._producer.flush(common.HASTEN_SECONDS)

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
