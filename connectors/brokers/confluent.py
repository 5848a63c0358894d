"""Kafka through confluent-kafka (librdkafka): five times faster than pure Python, used when it is installed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import confluent_kafka as ck
import confluent_kafka.admin
from confluent_kafka import KafkaError, KafkaException

from connectors.brokers import kafka_client as common
from connectors.brokers.confluent_consumer import ConfluentConsumer
from connectors.brokers.confluent_errors import MISSING, asking, raise_error
from connectors.brokers.confluent_producer import ConfluentProducer
from connectors.brokers.kafka_client import ProducerLimits, TopicFacts
from connectors.brokers.kafka_options import KafkaOptions
from sync_hub.errors import Unavailable
from sync_hub.model import TopicPartition

logger = logging.getLogger(__name__)
admin_api: Any = confluent_kafka.admin


def connection_settings(options: KafkaOptions) -> dict[str, Any]:
    """The options as librdkafka names them."""
    settings: dict[str, Any] = {
        "bootstrap.servers": ",".join(options.bootstrap_servers),
        "client.id": "sync-hub",
        "security.protocol": options.security_protocol,
        "allow.auto.create.topics": False,
        "topic.metadata.refresh.interval.ms": common.METADATA_MILLISECONDS,
        "reconnect.backoff.max.ms": 2000,
        "socket.nagle.disable": True,
        "log_level": 0,  # what matters is raised; the rest would repeat itself while a broker is down
    }
    given: dict[str, str | None] = {}
    if options.security_protocol.endswith("SSL"):
        given |= {
            "ssl.ca.location": options.ssl_cafile,
            "ssl.certificate.location": options.ssl_certfile,
            "ssl.key.location": options.ssl_keyfile,
            "ssl.key.password": options.ssl_password.get_secret_value() if options.ssl_password else None,
            "ssl.endpoint.identification.algorithm": "https" if options.ssl_check_hostname else "none",
        }
    if options.sasl_mechanism == "GSSAPI":
        given |= {
            "sasl.mechanism": options.sasl_mechanism,
            "sasl.kerberos.service.name": options.sasl_kerberos_service_name,
        }
    elif options.sasl_mechanism:
        given |= {
            "sasl.mechanism": options.sasl_mechanism,
            "sasl.username": options.sasl_username,
            "sasl.password": options.sasl_password.get_secret_value() if options.sasl_password else None,
        }
    return settings | {name: value for name, value in given.items() if value is not None}


class ConfluentClient:
    """See `Client`."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._settings = connection_settings(options)
        self._timeout = options.timeout_seconds
        self._admin: Any = None
        self._last_error: KafkaError | None = None

    def _open(self) -> Any:
        if self._admin is None:
            self._admin = admin_api.AdminClient(self._settings | {"error_cb": self._noticed}, logger=logger)
        return self._admin

    def _noticed(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last_error = error

    def _metadata(self, topic: str | None = None) -> Any:
        """The cluster's own list. On failure the call itself says only that it timed out; the callback says why."""
        self._last_error = None
        admin = self._open()
        try:
            return admin.list_topics(topic=topic, timeout=self._timeout)
        except KafkaException as error:
            admin.poll(0)
            raise_error("connecting", self._last_error or error.args[0])

    def brokers(self) -> int:
        """See `Client.brokers`."""
        return len(self._metadata().brokers)

    def topics(self, names: Sequence[str] | None, *, settings: bool) -> dict[str, TopicFacts]:
        """See `Client.topics`."""
        if names is not None and not names:
            return {}
        listed = self._metadata().topics
        wanted = [name for name in (listed if names is None else names) if name in listed]
        if not wanted:
            return {}
        described = self._open().describe_topics(ck.TopicCollection(wanted), request_timeout=self._timeout)
        found: dict[str, Any] = {}
        for name, future in described.items():
            try:
                found[name] = future.result(self._timeout)
            except KafkaException as error:
                if error.args[0].code() not in MISSING:
                    raise_error(f"topic {name}", error.args[0])
        there = {name: topic for name, topic in found.items() if not topic.is_internal}
        effective = self._topic_settings(list(there)) if settings else {}
        return {
            name: TopicFacts(name, _hex(topic.topic_id), len(topic.partitions), effective.get(name, {}))
            for name, topic in there.items()
        }

    def _topic_settings(self, names: list[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        resources = [admin_api.ConfigResource(admin_api.ResourceType.TOPIC, name) for name in names]
        futures = self._open().describe_configs(resources, request_timeout=self._timeout)
        return {
            resource.name: {key: str(entry.value) for key, entry in self._result(resource.name, future).items()}
            for resource, future in futures.items()
        }

    def _result(self, what: str, future: Any) -> Any:
        return asking(what, lambda: future.result(self._timeout))

    def create_topics(self, names: Sequence[str], partitions: int, copies: int, settings: Mapping[str, str]) -> None:
        """See `Client.create_topics`."""
        self._metadata()
        new = [admin_api.NewTopic(name, partitions, copies, config=dict(settings)) for name in names]
        for name, future in self._open().create_topics(new, request_timeout=self._timeout).items():
            try:
                future.result(self._timeout)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise_error(f"creating topic {name}", error.args[0])
        self._wait_for_leaders(names)

    def _wait_for_leaders(self, names: Sequence[str]) -> None:
        end = time.monotonic() + self._timeout
        while True:
            topics = self._metadata().topics
            parts = [topics[name].partitions.values() if name in topics else () for name in names]
            if all(each and all(partition.leader >= 0 for partition in each) for each in parts):
                return
            if time.monotonic() >= end:
                raise common.unreachable("waiting for new topics", ", ".join(names))
            time.sleep(0.02)

    def offsets(self, topics: Mapping[str, int], which: Literal["start", "end"]) -> dict[TopicPartition, int]:
        """See `Client.offsets`. Looks at the metadata first: leaders known from before an outage are refused.

        A leader that was named does not know of it at once, least of all for a new topic: it is asked again.
        """
        end = time.monotonic() + self._timeout
        while True:
            self._metadata(*topics if len(topics) == 1 else ())
            try:
                return self._offsets(topics, which)
            except Unavailable as error:
                if error.code != "broker_not_ready" or time.monotonic() >= end:
                    raise
                time.sleep(0.05)

    def _offsets(self, topics: Mapping[str, int], which: Literal["start", "end"]) -> dict[TopicPartition, int]:
        moment = admin_api.OffsetSpec.earliest() if which == "start" else admin_api.OffsetSpec.latest()
        wanted = {ck.TopicPartition(*place): moment for place in common.all_partitions(topics)}
        futures = self._open().list_offsets(wanted, request_timeout=self._timeout)
        found = {
            TopicPartition(place.topic, place.partition): self._result(place.topic, future).offset
            for place, future in futures.items()
        }
        for (topic, partition), offset in found.items():
            if offset < 0:  # librdkafka 2.16: an answer that is lost on its way is no error, and leaves no offset
                raise common.unreachable(f"offsets of {topic}/{partition}", "the connection was lost meanwhile")
        return dict(sorted(found.items()))

    def producer(self, limits: ProducerLimits) -> ConfluentProducer:
        """See `Client.producer`."""
        return ConfluentProducer(self._settings | delivery_settings(self._options, limits))

    def group_consumer(self, topics: Sequence[str], group: str, instance: str) -> ConfluentConsumer:
        """See `Client.group_consumer`."""
        self._metadata()
        again = self._is_member(group, instance)
        consumer = self._consumer(
            {
                "group.id": group,
                "group.instance.id": instance,
                "session.timeout.ms": common.SESSION_MILLISECONDS,
                "heartbeat.interval.ms": common.HEARTBEAT_MILLISECONDS,
                "partition.assignment.strategy": common.ASSIGNMENT,
            }
        )
        consumer.subscribe(topics, again=again)
        return consumer

    def _is_member(self, group: str, instance: str) -> bool:
        admin = admin_api.AdminClient(self._settings, logger=logger)  # one that saw a broker restart gets no answer
        described = admin.describe_consumer_groups([group], request_timeout=self._timeout)
        found = self._result("looking for the old place in the group", described[group])
        return any(member.group_instance_id == instance for member in found.members)

    def lone_consumer(self) -> ConfluentConsumer:
        """See `Client.lone_consumer`."""
        return self._consumer({"group.id": "sync-hub"})

    def _consumer(self, settings: Mapping[str, Any]) -> ConfluentConsumer:
        reading = {
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "queued.max.messages.kbytes": common.FETCH_TOTAL_BYTES // 1024,
            "fetch.message.max.bytes": common.FETCH_BYTES,
            "fetch.max.bytes": common.FETCH_TOTAL_BYTES,
            "fetch.queue.backoff.ms": 5,
            "fetch.wait.max.ms": 100,
            "check.crcs": True,
        }
        return ConfluentConsumer(ck.Consumer({**self._settings, **settings, **reading}, logger=logger))

    def close(self) -> None:
        """See `Client.close`."""
        self._admin = None


def delivery_settings(options: KafkaOptions, limits: ProducerLimits) -> dict[str, Any]:
    """Settings of the producer: idempotent, acknowledged by all replicas, never giving up unless told to."""
    return {
        "enable.idempotence": True,
        "acks": "all",
        "message.timeout.ms": int((options.delivery_timeout_seconds or 0) * 1000),
        "batch.size": limits.batch_bytes,
        "message.max.bytes": limits.record_bytes + 4096,
        "linger.ms": common.LINGER_MILLISECONDS,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 2**31 - 1,
        "queue.buffering.max.kbytes": 2**21,
    }


def _hex(topic_id: Any) -> str:
    """The id as 32 hex digits."""
    mask = (1 << 64) - 1
    most, least = topic_id.get_most_significant_bits(), topic_id.get_least_significant_bits()
    return f"{(most & mask) << 64 | least & mask:032x}"
