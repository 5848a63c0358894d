"""Debezium's PostgreSQL connector and JDBC sink on Kafka Connect as a subject, tuned as their documentation advises.

Capture alone writes JSON without schemas, the fastest it has; the JDBC sink needs schemas, so all other legs have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.connect import Connect
from benchmarks.databases import Databases
from benchmarks.processes import Usage, forget_peak, usage
from benchmarks.topics import KafkaTopics, difference
from benchmarks.waiting import wait_until
from benchmarks.workloads import Events

SOURCE = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "tasks.max": 1,
    "plugin.name": "pgoutput",
    "publication.autocreate.mode": "filtered",
    "tombstones.on.delete": "false",
    "max.batch.size": 20480,
    "max.queue.size": 81920,
    "poll.interval.ms": 10,
    "producer.override.linger.ms": 20,
    "producer.override.batch.size": 1048576,
    "producer.override.compression.type": "lz4",
    "topic.creation.default.replication.factor": 1,
}
SINK = {
    "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
    "tasks.max": 2,
    "insert.mode": "upsert",
    "delete.enabled": "true",
    "primary.key.mode": "record_key",
    "collection.name.format": "${source.table}",
    "batch.size": 5000,
    "use.reduction.buffer": "true",
    "dialect.postgres.unnest.insert.enabled": "true",
    "consumer.override.max.poll.records": 5000,
}
"""Two tasks, as the hub has two workers: on a warm worker a seventh to a quarter faster end to end than one."""
AT_ONCE = {"producer.override.linger.ms": 0}
"""For latency: 15 ms less of it (p50 at 1,000 inserts a second) than with the linger that serves a backlog."""


class DebeziumSubject:
    """The stack on one Connect worker, which stays for all sessions of a comparison: its JVM is warm."""

    name = "debezium"
    legs = frozenset({"capture", "deliver", "end-to-end", "snapshot", "latency"})

    def __init__(self, folder: Path, kafka_address: str) -> None:
        self._folder, self._kafka = folder, kafka_address
        self._connect: Connect | None = None

    def session(self, databases: Databases) -> DebeziumSession:
        """Connectors of its own on the worker, which is started when it is not there."""
        if self._connect is None:
            self._connect = Connect(self._folder, self._kafka)
        forget_peak(self._connect.pid)
        return DebeziumSession(databases, self._connect, KafkaTopics(self._kafka))

    def warm_up(self) -> bool:
        """When the worker is new."""
        return self._connect is None

    def close(self) -> None:
        """Stop the worker."""
        if self._connect is not None:
            self._connect.close()
            self._connect = None


class DebeziumSession:
    """One source connector, and a sink connector a target."""

    readers = 1
    unproven = ""

    def __init__(self, databases: Databases, connect: Connect, topics: KafkaTopics) -> None:
        self.databases = databases
        self._connect, self._topics = connect, topics
        self._source = f"{databases.name}-source"
        self._sinks = [f"{name}-sink" for name in databases.target_names]
        self._made: list[str] = []

    def prepare(self, leg: str) -> Events:
        """Connectors that have passed one row on: only then do they know their place. Then they are stopped."""
        sending = AT_ONCE if leg == "latency" else {}
        self._create(self._source, self._source_config(schemas=leg != "capture", snapshot="no_data") | sending)
        wait_until(lambda: self.databases.readers() == 1, "the source connector reads", self.check, 120)
        greeted = self.databases.greet()
        wait_until(lambda: self.captured(greeted), "a first record", self.check, 120)
        if leg in {"end-to-end", "latency"}:
            self._create_sinks()
            wait_until(self.databases.greeted, "a first row in the target", self.check, 120)
        self.stop("capture")
        return greeted

    def start(self, *parts: str) -> None:
        """The source connector goes on where it stood; sinks are there already, or are created."""
        if "deliver" in parts and not set(self._sinks) & set(self._made):
            self._create_sinks()
        if "capture" in parts:
            self._connect.resume(self._source)

    def wait_delivering(self) -> None:
        """Its sinks have passed a row on by then."""

    def stop(self, *parts: str) -> None:
        """Stop connectors."""
        names = {"capture": [self._source], "deliver": self._sinks}
        for name in [name for part in parts for name in names[part] if name in self._made]:
            self._connect.stop(name)

    def captured(self, events: Events) -> bool:
        """By the topics' ends."""
        return all(self._topics.count(self._topic(name)) >= count for name, count in events.items())

    def difference(self, events: Events) -> str:
        """By reading the topics again."""
        return difference(self._topics, self.databases.name, self.databases, events)

    def load(self) -> float:
        """From the first record in a topic: the connectors' start does not count.

        The sinks run before there is something to read, on topics that are made for them.
        """
        made = self.databases
        self._topics.create([self._topic(table.name) for table in made.tables], made.workload.partitions)
        self._create_sinks()
        self._create(self._source, self._source_config(schemas=True, snapshot="initial"))
        first = {made.tables[0].name: 1}
        return wait_until(lambda: self.captured(first), "a first record", self.check, 120)

    def usage(self, parts: Sequence[str]) -> Usage:
        """Of the JVM, which has all parts; its peak is that of this session."""
        return usage([self._connect.pid])

    def check(self) -> None:
        """No connector and no task may fail."""
        self._connect.refuse_failed(self._made)

    def close(self) -> None:
        """Delete connectors and topics."""
        for name in self._made:
            self._connect.delete(name)
        wait_until(lambda: not self.databases.readers(), "the source connector gone", timeout_seconds=60)
        self._topics.delete(f"{self.databases.name}.")
        self._topics.close()

    def _create(self, name: str, config: dict[str, Any]) -> None:
        self._made.append(name)
        self._connect.create(name, config)

    def _create_sinks(self) -> None:
        for name, database in zip(self._sinks, self.databases.target_names, strict=True):
            self._create(name, self._sink_config(database))

    def _source_config(self, *, schemas: bool, snapshot: str) -> dict[str, Any]:
        made = self.databases
        return (
            SOURCE
            | {
                "database.hostname": "127.0.0.1",
                "database.port": made.source_port,
                "database.user": "postgres",
                "database.password": "none",
                "database.dbname": made.name,
                "topic.prefix": made.name,
                "slot.name": made.name,
                "publication.name": made.name,
                "table.include.list": ",".join(f"public.{table.name}" for table in made.tables),
                "snapshot.mode": snapshot,
                "decimal.handling.mode": "precise" if schemas else "string",
                "topic.creation.default.partitions": made.workload.partitions,
            }
            | _schemas(on=schemas)
        )

    def _sink_config(self, database: str) -> dict[str, Any]:
        return (
            SINK
            | {
                "topics": ",".join(self._topic(table.name) for table in self.databases.tables),
                "connection.url": f"jdbc:postgresql://127.0.0.1:{self.databases.target_port}/{database}",
                "connection.username": "postgres",
                "connection.password": "none",
            }
            | _schemas(on=True)
        )

    def _topic(self, table: str) -> str:
        return f"{self.databases.name}.public.{table}"


def _schemas(*, on: bool) -> dict[str, str]:
    converter = "org.apache.kafka.connect.json.JsonConverter"
    return {f"{part}.converter": converter for part in ("key", "value")} | {
        f"{part}.converter.schemas.enable": str(on).lower() for part in ("key", "value")
    }
