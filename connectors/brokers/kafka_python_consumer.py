"""Reading through kafka-python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

import kafka

from connectors.brokers import kafka_client as common
from connectors.brokers.kafka_python_errors import asking
from sync_hub.model import Record, TopicPartition

_JOIN_MILLISECONDS = 1000


class _Rebalance(kafka.ConsumerRebalanceListener):  # type: ignore[misc]
    """Runs on the library's own thread: only notes the assignment, and holds it until `start` says where to begin."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self.assigned: SimpleQueue[list[TopicPartition]] = SimpleQueue()

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """All partitions are given back; a new assignment follows."""
        self.assigned.put([])

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """A place for each is needed now, or the library asks the group for one."""
        places = list(assigned)
        self._consumer.pause(*places)
        for place in places:
            self._consumer.seek(place, 0)
        self.assigned.put([TopicPartition(*place) for place in places])


class KafkaPythonConsumer:
    """See `Consumer`."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._rebalance: _Rebalance | None = None
        self._was_silent = False

    def subscribe(self, topics: Sequence[str]) -> None:
        """Join the group for these topics."""
        self._rebalance = _Rebalance(self._consumer)
        self._consumer.subscribe(topics=list(topics), listener=self._rebalance)

    def poll(self, timeout_seconds: float, max_records: int) -> tuple[list[Record], list[TopicPartition] | None]:
        """See `Consumer.poll`."""
        found = asking("reading", lambda: self._poll(timeout_seconds, max_records))
        assigned = None
        while self._rebalance is not None and not self._rebalance.assigned.empty():
            assigned = self._rebalance.assigned.get()
        if assigned is not None:
            return [], assigned
        return [
            Record(r.topic, r.partition, r.offset, r.key, r.value, _headers(r.headers), r.timestamp)
            for records in found.values()
            for r in records
        ], None

    def _poll(self, timeout_seconds: float, max_records: int) -> dict[Any, list[Any]]:
        found: dict[Any, list[Any]] = self._consumer.poll(int(timeout_seconds * 1000), max_records)
        coordinator = self._consumer._coordinator
        if coordinator._join_task is not None:
            # The poll ended while the group was being joined. kafka-python 3.0 forgets the result of a join that ends
            # between two polls, and then reads nothing for ever: so wait here, or join again when it has just ended.
            coordinator.request_rejoin()
            coordinator.ensure_active_group(timeout_ms=_JOIN_MILLISECONDS)
        # A member whose place was taken is not told: only its heartbeats end. (For an instant so after a join, too.)
        silent = coordinator.stable() and not coordinator._heartbeat_enabled
        if silent and self._was_silent:
            raise common.member_replaced("its heartbeats are refused")
        self._was_silent = silent
        return found

    def start(self, places: Mapping[TopicPartition, int]) -> None:
        """See `Consumer.start`."""
        if self._rebalance is None:
            self._consumer.assign([kafka.TopicPartition(*place) for place in places])
        for place, offset in places.items():
            self._consumer.seek(kafka.TopicPartition(*place), offset)
        self._consumer.resume(*(kafka.TopicPartition(*place) for place in places))

    def close(self) -> None:
        """See `Consumer.close`."""
        asking("leaving the group", lambda: self._consumer.close(autocommit=False, timeout_ms=3000))


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, bytes]] | None:
    return [(name, value or b"") for name, value in headers] if headers else None
