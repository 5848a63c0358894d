"""Publishing through kafka-python."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import errors
from kafka.structs import TopicPartition as Place

from connectors.brokers import kafka_client as common
from sync_hub.errors import PublishingBroken
from sync_hub.model import Outgoing, TopicPartition

UNACKNOWLEDGED_BYTES = 32 * 1024 * 1024


class KafkaPythonProducer:
    """See `Producer`. The library bounds no memory, so what is unacknowledged is counted here.

    Records are given to the library's accumulator, as its `send` does in the end: what `send` does before, checking
    topic, types, size and headers of each record and formatting a line for its log, is a fifth of capturing a row.
    """

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._waiting: deque[tuple[list[Any], dict[Place, Any], int]] = deque()
        self._bytes = 0
        self.ends: dict[TopicPartition, int] = {}

    @property
    def room(self) -> bool:
        """See `Producer.room`."""
        return self._bytes < UNACKNOWLEDGED_BYTES

    def send(self, records: Sequence[Outgoing], partitions: Sequence[int]) -> None:
        """See `Producer.send`."""
        futures: list[Any] = []
        last: dict[Place, Any] = {}
        places: dict[tuple[str, int], Place] = {}
        size = 0
        append, wake = self._producer._accumulator.append, self._producer._sender.wakeup
        self._learn_topics(records)
        for record, partition in zip(records, partitions, strict=True):
            name = (record.topic, partition)
            try:
                place = places.get(name) or places.setdefault(name, self._place(*name))
                future, full, begun, _ = append(place, None, record.key, record.value, record.headers or [])
                if full or begun:
                    wake()
            except (errors.KafkaError, ValueError) as error:
                raise common.delivery_failed(f"{record.topic}/{partition}", error) from error
            futures.append(future)
            last[place] = future
            size += len(record.value or b"") + len(record.key or b"") + 64
        self._waiting.append((futures, last, size))
        self._bytes += size
        if futures:
            self._hasten(futures[-1])

    def _learn_topics(self, records: Sequence[Outgoing]) -> None:
        """Have all topics asked for together: where each is met by itself, each costs a tenth of a second."""
        for topic in {record.topic for record in records}:
            try:
                self._producer._sender.add_topic(topic)
            except ValueError as error:
                raise common.delivery_failed(topic, error) from error

    def _hasten(self, last: Any) -> None:
        """As the library's `flush`, which waits its time for each batch that is under way, not for all."""
        accumulator = self._producer._accumulator
        accumulator.begin_flush()
        try:
            self._producer._sender.wakeup()
            _done_until(last, time.monotonic() + common.HASTEN_SECONDS)
        finally:
            accumulator._flushes_in_progress.decrement()

    def _place(self, topic: str, partition: int) -> Place:
        """The partition as the library names it. Asked for first: to a topic it does not know nothing is sent."""
        if partition not in self._producer.partitions_for(topic):
            raise ValueError(f"there is no partition {partition}")
        return Place(topic, partition)

    def collect(self, timeout_seconds: float) -> None:
        """See `Producer.collect`."""
        end = time.monotonic() + timeout_seconds
        while self._waiting:
            futures, last, size = self._waiting[0]
            for future in futures:
                if not future.is_done and not _done_until(future, end):
                    return
                if future.exception is not None:
                    raise _undelivered(last, future)
            for place, future in last.items():
                self.ends[TopicPartition(*place)] = future.value.offset + 1
            self._waiting.popleft()
            self._bytes -= size
            end = 0

    def drain(self, timeout_seconds: float | None) -> bool:
        """See `Producer.drain`."""
        end = time.monotonic() + (threading.TIMEOUT_MAX if timeout_seconds is None else timeout_seconds)
        with suppress(errors.KafkaError):  # the library's own flush hastens, but fails when it has to split a batch
            self._producer.flush(timeout_seconds)
        while self._waiting:
            left = end - time.monotonic()
            self.collect(max(0.0, left))
            if left <= 0:
                break
        return not self._waiting

    def abandon(self) -> None:
        """See `Producer.abandon`."""
        self._waiting.clear()
        try:
            self._producer.close(timeout=0)
        except errors.KafkaTimeoutError:
            self._producer._sender.force_close()  # `close` gives up before it when records are waiting
            self._producer._closed = True


def _done_until(future: Any, end: float) -> bool:
    """Wait for one delivery report. Not by the future's own `get`: a batch that was split wakes it too early."""
    left = end - time.monotonic()
    if left <= 0:
        return False
    done = threading.Event()
    future.add_both(lambda *_: done.set())
    return done.wait(left)


def _undelivered(last: Mapping[Place, Any], future: Any) -> PublishingBroken:
    topics = ", ".join(sorted({place.topic for place in last}))
    return common.delivery_failed(topics, f"{type(future.exception).__name__}: {future.exception}")
