"""Topics seen from outside: how many records they hold, and what all of them come to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.databases import Databases
from benchmarks.workloads import Events, Table
from sync_hub import model
from sync_hub.ports import Broker

Row = tuple[Any, ...]
NOT_YET = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
}
"""A topic that is just being made."""


class Topics(Protocol):
    """What a measurement asks."""

    def count(self, topic: str) -> int:
        """Records in a topic."""
        ...

    def records(self, topic: str) -> Iterator[tuple[bytes | None, bytes | None]]:
        """Key and value of all records, each partition in order."""
        ...


class KafkaTopics:
    """Topics of Kafka."""

    def __init__(self, address: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
        self._consumer = Consumer(
            {
                "bootstrap.servers": address,
                "log_level": 0,
                "group.id": "benchmarks",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "queued.max.messages.kbytes": 65536,
            }
        )
        self._partitions: dict[str, list[TopicPartition]] = {}

    def count(self, topic: str) -> int:
        """Records in a topic; none when it is not there yet."""
        if not self._partitions.get(topic):
            found = self._consumer.list_topics(topic, timeout=10).topics[topic]
            self._partitions[topic] = [TopicPartition(topic, partition) for partition in found.partitions]
        try:
            return sum(self._consumer.get_watermark_offsets(one, timeout=10)[1] for one in self._partitions[topic])
        except KafkaException as error:
            if error.args[0].code() in NOT_YET:
                return 0
            raise

    def records(self, topic: str) -> Iterator[tuple[bytes | None, bytes | None]]:
        """All up to the end as it is now."""
        left = self.count(topic)
        self._consumer.assign([TopicPartition(one.topic, one.partition, 0) for one in self._partitions[topic]])
        while left:
            for message in self._consumer.consume(min(left, 10_000), timeout=10):
                if message.error():
                    raise RuntimeError(str(message.error()))
                yield message.key(), message.value()
                left -= 1
        self._consumer.unassign()

    def create(self, names: Iterable[str], partitions: int) -> None:
        """Make topics, and wait for it."""
        for done in self._admin.create_topics([NewTopic(name, partitions, 1) for name in names]).values():
            done.result(30)

    def delete(self, prefix: str) -> None:
        """Delete all topics whose names begin so."""
        names = [name for name in self._admin.list_topics(timeout=10).topics if name.startswith(prefix)]
        for done in self._admin.delete_topics(names).values() if names else ():
            done.result(30)

    def close(self) -> None:
        """Leave."""
        self._consumer.close()


class BrokerTopics:
    """Topics of any broker of the hub's."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def count(self, topic: str) -> int:
        """Records in a topic."""
        starts, ends = self._broker.start_offsets([topic]), self._broker.end_offsets([topic])
        return sum(ends.values()) - sum(starts.values())

    def records(self, topic: str) -> Iterator[tuple[bytes | None, bytes | None]]:
        """All up to the end as it is now."""

        def from_the_start(found: list[model.TopicPartition]) -> Mapping[model.TopicPartition, int]:
            return dict.fromkeys(found, 0)

        left = self.count(topic)
        reader = self._broker.subscribe([topic], "benchmarks", on_assign=from_the_start)
        while left:
            for record in reader.poll(10, 10_000):
                yield record.key, record.value
                left -= 1
        reader.close()


class _Envelope(msgspec.Struct):
    op: str
    after: dict[str, Any] | None = None


def difference(topics: Topics, prefix: str, databases: Databases, events: Events) -> str:
    """Whether topics hold so many records, of every key that was changed, and the last of each is the source's row.

    What is wrong, if something. Rows that no event was about are not compared. A key that was inserted and deleted
    again is only known from its records.
    """
    for table in databases.tables:
        topic = f"{prefix}.public.{table.name}"
        found, count = _last_states(topics, topic, table)
        if count != events[table.name]:
            return f"{topic} holds {count} records, not {events[table.name]}"
        wrong = compared(found, dict(_rows(databases, table)), databases.changed_keys(table))
        if wrong:
            return f"{topic}: {wrong}"
    return ""


def compared(found: Mapping[Any, Row | None], there: Mapping[Any, Row], changed: Set[Any]) -> str:
    """What is wrong with the last states that were found, beside the source's rows and the keys that were changed."""
    missing = sorted(changed - found.keys())
    if missing:
        return f"{len(missing)} changed keys have no record, {missing[0]} for one"
    wrong = [key for key, row in found.items() if there.get(key) != row]
    if wrong:
        return f"{len(wrong)} keys differ, {wrong[0]} for one: {found[wrong[0]]}, not {there.get(wrong[0])}"
    return ""


def _last_states(topics: Topics, topic: str, table: Table) -> tuple[dict[Any, Row | None], int]:
    decode = msgspec.json.Decoder(_Envelope).decode
    states: dict[Any, Row | None] = {}
    count = 0
    for key, value in topics.records(topic):
        assert key and value
        after = decode(value).after
        states[msgspec.json.decode(key)[table.key]] = None if after is None else _row(after, table)
        count += 1
    return states, count


def _row(values: Mapping[str, Any], table: Table) -> Row:
    return tuple(_plain(values[name], kind) for name, kind in table.columns)


def _plain(value: Any, kind: str) -> Any:
    """A value as it can be compared, whichever of the usual texts it comes as."""
    if value is None:
        return None
    if kind.startswith("numeric"):
        return Decimal(value)
    if kind == "timestamptz":
        return datetime.fromisoformat(value) if isinstance(value, str) else value
    if kind.startswith("char("):
        return value.rstrip()
    return value


def _rows(databases: Databases, table: Table) -> Iterator[tuple[Any, Row]]:
    place = [name for name, _ in table.columns].index(table.key)
    for row in databases.source.execute(f"select {table.names} from {table.name}".encode()):
        yield row[place], tuple(_plain(value, kind) for value, (_, kind) in zip(row, table.columns, strict=True))
