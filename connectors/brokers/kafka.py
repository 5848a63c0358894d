"""The Kafka broker: one class over either client library, which is imported only when it is used.

Publishing never leaves a silent hole: the producer is idempotent and never gives a record up; every delivery report is
looked at; a failed one ends the producer with everything that was waiting in it, and the caller raises the epoch.
"""

from __future__ import annotations

import importlib.util
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

from pydantic import BaseModel

from connectors.brokers.kafka_check import findings_of
from connectors.brokers.kafka_client import (
    BATCH_BYTES,
    Client,
    Consumer,
    Producer,
    ProducerLimits,
    TopicFacts,
    topic_missing,
)
from connectors.brokers.kafka_options import KafkaOptions
from connectors.brokers.kafka_reader import KafkaSubscription
from connectors.brokers.partitioner import partitions_of
from sync_hub.errors import ConfigError, Fatal, PublishingBroken, SyncHubError, Unavailable
from sync_hub.model import Finding, Outgoing, Record, TopicInfo, TopicPartition

logger = logging.getLogger(__name__)

_VERIFY_SECONDS = 30.0
_ROOM_SECONDS = 5.0
_NOT_READY_SECONDS = 0.1
_FETCH_SECONDS = 0.1
_FETCH_RECORDS = 500
_DEFAULT_RECORD_BYTES = 1_048_588


class KafkaBroker:
    """Topics in an Apache Kafka cluster. Each object belongs to one thread."""

    Options: ClassVar[type[BaseModel]] = KafkaOptions

    def __init__(self, name: str, options: KafkaOptions, hub: str) -> None:
        self._name = name
        self._options = options
        self._hub = hub
        self._opened: Client | None = None
        self._topics: dict[str, TopicInfo] = {}
        self._verify_at = 0.0
        self._producer: Producer | None = None
        self._limits = ProducerLimits(0, 0)
        self._published: dict[TopicPartition, int] = {}
        self._fetcher: Consumer | None = None

    def check(self) -> list[Finding]:
        """See `Broker.check`. Topics are looked at where their names have the form that the hub gives them."""
        try:
            client = self._client()
            topics = client.topics(None, settings=True)
            return findings_of(self._name, self._options, client.brokers(), topics)
        except SyncHubError as error:
            return [Finding(error.code, "error", self._name, error.message, error.hint)]

    def create_topics(self, names: Sequence[str]) -> dict[str, TopicInfo]:
        """See `Broker.create_topics`. Raises `Fatal` for an existing topic that is compacted."""
        client, options = self._client(), self._options
        wanted = list(dict.fromkeys(names))
        found = client.topics(wanted, settings=True)
        missing = [name for name in wanted if name not in found]
        if missing:
            client.create_topics(missing, options.partitions, options.replication_factor, options.new_topic_settings)
            found |= client.topics(missing, settings=True)
        for name in wanted:
            if name not in found:
                raise topic_missing(name)
            _refuse_compacted(found[name])
            self._topics[name] = _info(found[name])
        return {name: self._topics[name] for name in wanted}

    def topics(self) -> dict[str, TopicInfo]:
        """See `Broker.topics`."""
        return {name: _info(facts) for name, facts in sorted(self._client().topics(None, settings=True).items())}

    def publish(self, records: Sequence[Outgoing]) -> None:
        """See `Broker.publish`. `Unavailable` means that none of these records was taken: call again later."""
        if not records:
            self._ready_producer()
            return
        by_topic, partitions = self._by_topic(records)
        self._verify()
        producer = self._ready_producer()
        try:
            self._wait_for_room(producer)
            producer.send(by_topic, partitions)
            producer.collect(0)
        except PublishingBroken:
            self._abandon()
            raise

    def _by_topic(self, records: Sequence[Outgoing]) -> tuple[list[Outgoing], list[int]]:
        """The records topic by topic, each topic's in their order, and their partitions.

        A topic's partitions are computed together, and clients take many records of one topic faster than mixed ones.
        """
        groups: dict[str, list[Outgoing]] = {}
        for record in records:
            groups.setdefault(record.topic, []).append(record)
        ordered: list[Outgoing] = []
        partitions: list[int] = []
        for name, group in groups.items():
            count = self._topic(name).partitions
            chosen = partitions_of([record.key for record in group], count)
            for place, record in enumerate(group):
                if record.partition is not None:
                    chosen[place] = record.partition
                    if not 0 <= record.partition < count:
                        raise Fatal(
                            "partition_unknown", f"topic {name} has {count} partitions, none is {record.partition}"
                        )
            ordered += group
            partitions += chosen
        return ordered, partitions

    def _ready_producer(self) -> Producer:
        """The producer, made anew when a topic has come whose limit it does not fit."""
        sizes = [topic.max_record_bytes for topic in self._topics.values()]
        limits = ProducerLimits(min(BATCH_BYTES, *sizes), max(BATCH_BYTES, *sizes))
        if self._producer is not None and limits != self._limits:
            if not self.flush(self._options.timeout_seconds):
                raise _no_room()
            self._abandon()
        if self._producer is None:
            self._producer, self._limits = self._client().producer(limits), limits
        return self._producer

    def _wait_for_room(self, producer: Producer) -> None:
        producer.collect(0)
        end = time.monotonic() + _ROOM_SECONDS
        while not producer.room:
            if time.monotonic() >= end:
                raise _no_room()
            producer.collect(0.05)

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """See `Broker.flush`."""
        if self._producer is None:
            return True
        try:
            if self._producer.drain(timeout_seconds):
                return True
        except PublishingBroken:
            self._abandon()
            raise
        try:
            self._verify()
        except Unavailable as error:
            logger.debug("not durable yet, and the cluster does not answer: %s", error)
        return False

    def published(self) -> dict[TopicPartition, int]:
        """See `Broker.published`."""
        return self._published | (self._producer.ends if self._producer else {})

    def _abandon(self) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            self._published |= producer.ends
            producer.abandon()

    def subscribe(
        self,
        topics: Sequence[str],
        group: str,
        *,
        member: int = 0,
        members: int = 1,
        on_assign: Callable[[list[TopicPartition]], Mapping[TopicPartition, int]],
    ) -> KafkaSubscription:
        """See `Broker.subscribe`. Kafka balances the members; `member` gives this one its name on this machine."""
        names = list(dict.fromkeys(topics))
        full_group = f"{self._hub}.{group}"
        join = partial(self._join, names, full_group, f"{full_group}.{socket.gethostname()}.{member}")
        return KafkaSubscription(join, on_assign, partial(self._verify, names))

    def _join(self, topics: Sequence[str], group: str, instance: str) -> Consumer:
        """Join the group. A new cluster is not ready for its first group at once, and is waited for."""
        client, end = self._client(), time.monotonic() + self._options.timeout_seconds
        while True:
            try:
                return client.group_consumer(topics, group, instance)
            except Unavailable as error:
                if error.code != "broker_not_ready" or time.monotonic() >= end:
                    raise
                time.sleep(_NOT_READY_SECONDS)

    def fetch(self, places: Mapping[TopicPartition, int]) -> dict[TopicPartition, Record]:
        """See `Broker.fetch`. Reading begins again without the partitions that have answered, until all have."""
        if not places:
            return {}
        topics = {topic for topic, _ in places}
        starts, ends = self.start_offsets(topics), self.end_offsets(topics)
        missing = {place: offset for place, offset in places.items() if starts[place] <= offset < ends[place]}
        found: dict[TopicPartition, Record] = {}
        while missing:
            for place, record in self._first_records(missing).items():
                if missing.pop(place, None) == record.offset:
                    found[place] = record
        return found

    def _first_records(self, places: Mapping[TopicPartition, int]) -> dict[TopicPartition, Record]:
        """The first record from its offset on, of the partitions that answer first."""
        if self._fetcher is None:
            self._fetcher = self._client().lone_consumer()
        self._fetcher.start(places)
        end = time.monotonic() + self._options.timeout_seconds
        while time.monotonic() < end:
            records, _ = self._fetcher.poll(_FETCH_SECONDS, _FETCH_RECORDS)
            if records:
                return {TopicPartition(record.topic, record.partition): record for record in reversed(records)}
        (topic, number), offset = next(iter(places.items()))
        raise Unavailable("broker_unreachable", f"Kafka did not deliver {topic}/{number}@{offset}", hint="try again")

    def start_offsets(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """See `Broker.start_offsets`."""
        return self._offsets(topics, "start")

    def end_offsets(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """See `Broker.end_offsets`."""
        return self._offsets(topics, "end")

    def _offsets(self, topics: Iterable[str], which: Literal["start", "end"]) -> dict[TopicPartition, int]:
        partitions = {topic: self._topic(topic).partitions for topic in topics}
        return self._client().offsets(partitions, which) if partitions else {}

    def retain(self, lowest: Mapping[TopicPartition, int], keep_seconds: float) -> None:
        """See `Broker.retain`. Does nothing: `retention.ms` of the topic decides."""

    def close(self) -> None:
        """See `Broker.close`."""
        self._abandon()
        if self._fetcher is not None:
            self._fetcher.close()
            self._fetcher = None
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _topic(self, name: str) -> TopicInfo:
        """The topic as this object first saw it."""
        if name not in self._topics:
            found = self._client().topics([name], settings=True)
            if name not in found:
                raise topic_missing(name)
            self._topics[name] = _info(found[name])
        return self._topics[name]

    def _verify(self, names: Sequence[str] | None = None) -> None:
        """Every half minute: the topics in use are still the same ones, with as many partitions. Else `Fatal`."""
        now = time.monotonic()
        if now < self._verify_at:
            return
        found = self._client().topics(list(self._topics if names is None else {*self._topics, *names}), settings=False)
        for name, known in self._topics.items():
            _same_topic(known, found.get(name))
        if names is not None:
            for name in found.keys() - self._topics.keys():
                self._topic(name)
        self._verify_at = now + _VERIFY_SECONDS

    def _client(self) -> Client:
        if self._opened is None:
            self._opened = _client_for(self._options)
        return self._opened


def _client_for(options: KafkaOptions) -> Client:
    """The adapter that the configuration asks for. Only it imports its library."""
    installed = importlib.util.find_spec("confluent_kafka") is not None
    if options.client == "confluent" and not installed:
        raise ConfigError(
            "client_not_installed",
            "`client: confluent` needs the Python package confluent-kafka",
            hint="pip install 'sync-hub[fast]', or use `client: auto`",
        )
    if installed and options.client != "kafka-python":
        from connectors.brokers.confluent import ConfluentClient

        return ConfluentClient(options)
    from connectors.brokers.kafka_python import KafkaPythonClient

    return KafkaPythonClient(options)


def _info(facts: TopicFacts) -> TopicInfo:
    """The limit is Kafka's for a whole batch, less what surrounds a record that lz4 cannot shrink."""
    limit = int(facts.settings.get("max.message.bytes", _DEFAULT_RECORD_BYTES))
    return TopicInfo(facts.name, facts.id, facts.partitions, max(1, limit - 512 - limit // 8192))


def _refuse_compacted(facts: TopicFacts) -> None:
    if "compact" in facts.settings.get("cleanup.policy", "delete"):
        raise Fatal(
            "topic_compacted",
            f"topic {facts.name} has cleanup.policy={facts.settings['cleanup.policy']}: readers could miss deletes",
            hint="set cleanup.policy=delete on it, or delete the topic and reload",
        )


def _same_topic(known: TopicInfo, found: TopicFacts | None) -> None:
    if found is None:
        raise topic_missing(known.name)
    if found.id != known.id:
        raise Fatal(
            "topic_recreated",
            f"topic {known.name} was deleted and created again while it was in use",
            hint="run `sync-hub recover` for its source",
        )
    if found.partitions != known.partitions:
        raise Fatal(
            "partitions_changed",
            f"topic {known.name} had {known.partitions} partitions and now has {found.partitions}:"
            " order per key would be lost",
            hint="change the number of partitions through the hub, which reloads the topic's readers",
        )


def _no_room() -> Unavailable:
    return Unavailable(
        "broker_slow",
        "Kafka has not acknowledged earlier records, and no more are taken until it does",
        hint="look at the brokers: disk, replicas in sync, network",
    )
