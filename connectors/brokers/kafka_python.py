"""Kafka through kafka-python: pure Python, always installed."""

from __future__ import annotations

import uuid
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import kafka
from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove

from connectors.brokers import kafka_client as common
from connectors.brokers.kafka_client import ProducerLimits, TopicFacts
from connectors.brokers.kafka_options import KafkaOptions
from connectors.brokers.kafka_python_assignor import RoundRobin
from connectors.brokers.kafka_python_consumer import KafkaPythonConsumer
from connectors.brokers.kafka_python_errors import asking, connecting, raise_error
from connectors.brokers.kafka_python_producer import KafkaPythonProducer
from sync_hub.model import TopicPartition

_FOREVER_MILLISECONDS = 2**31 - 1


def connection_settings(options: KafkaOptions) -> dict[str, Any]:
    """The options as kafka-python names them."""
    settings: dict[str, Any] = {
        "bootstrap_servers": options.bootstrap_servers,
        "client_id": "sync-hub",
        "security_protocol": options.security_protocol,
        "bootstrap_timeout_ms": int(options.timeout_seconds * 1000),
        "reconnect_backoff_max_ms": 2000,
    }
    if options.security_protocol.endswith("SSL"):
        settings |= {
            "ssl_cafile": options.ssl_cafile,
            "ssl_certfile": options.ssl_certfile,
            "ssl_keyfile": options.ssl_keyfile,
            "ssl_password": options.ssl_password.get_secret_value() if options.ssl_password else None,
            "ssl_check_hostname": options.ssl_check_hostname,
        }
    if options.sasl_mechanism == "GSSAPI":
        settings |= {
            "sasl_mechanism": options.sasl_mechanism,
            "sasl_kerberos_service_name": options.sasl_kerberos_service_name,
        }
    elif options.sasl_mechanism:
        settings |= {
            "sasl_mechanism": options.sasl_mechanism,
            "sasl_plain_username": options.sasl_username,
            "sasl_plain_password": options.sasl_password.get_secret_value() if options.sasl_password else None,
        }
    return settings


class KafkaPythonClient:
    """See `Client`."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._settings = connection_settings(options)
        self._admin: Any = None

    def _open(self) -> Any:
        if self._admin is None:
            settings = self._settings | {"request_timeout_ms": int(self._options.timeout_seconds * 1000)}
            self._admin = connecting("connecting", lambda: kafka.KafkaAdminClient(**settings))
        return self._admin

    def brokers(self) -> int:
        """See `Client.brokers`."""
        admin = self._open()
        return len(asking("describing the cluster", admin.describe_cluster)["brokers"])

    def topics(self, names: Sequence[str] | None, *, settings: bool) -> dict[str, TopicFacts]:
        """See `Client.topics`."""
        if names is not None and not names:
            return {}
        admin = self._open()
        described = asking("listing topics", lambda: admin.describe_topics(None if names is None else list(names)))
        there = [topic for topic in described if topic["error_code"] == 0 and not topic["is_internal"]]
        for topic in described:
            kind = errors.for_code(topic["error_code"])
            if issubclass(kind, errors.AuthorizationError):
                raise common.not_authorized(f"topic {topic['name']}", kind.__name__)
        effective = self._topic_settings([topic["name"] for topic in there]) if settings else {}
        return {
            topic["name"]: TopicFacts(
                topic["name"], _hex(topic["topic_id"]), len(topic["partitions"]), effective.get(topic["name"], {})
            )
            for topic in there
        }

    def _topic_settings(self, names: list[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        admin = self._open()
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        found = asking("reading topic settings", lambda: admin.describe_configs(resources, config_filter="all"))
        return {
            name: {key: str(entry["value"]) for key, entry in entries.items()}
            for name, entries in found.get("topic", {}).items()
        }

    def create_topics(self, names: Sequence[str], partitions: int, copies: int, settings: Mapping[str, str]) -> None:
        """See `Client.create_topics`."""
        admin = self._open()
        wanted = {
            name: {"num_partitions": partitions, "replication_factor": copies, "configs": dict(settings)}
            for name in names
        }
        response = asking("creating topics", lambda: admin.create_topics(wanted, raise_errors=False))
        for topic in response["topics"]:
            kind = errors.for_code(topic["error_code"])
            if kind not in (errors.NoError, errors.TopicAlreadyExistsError):
                raise_error(f"creating topic {topic['name']}", kind(topic.get("error_message") or ""))
        timeout = int(self._options.timeout_seconds * 1000)
        asking("waiting for new topics", lambda: admin.wait_for_topics(list(names), timeout_ms=timeout))

    def offsets(self, topics: Mapping[str, int], which: Literal["start", "end"]) -> dict[TopicPartition, int]:
        """See `Client.offsets`."""
        admin = self._open()
        moment = -2 if which == "start" else -1
        wanted = {kafka.TopicPartition(*place): moment for place in common.all_partitions(topics)}
        found = asking(", ".join(topics), lambda: admin.list_partition_offsets(wanted))
        return {TopicPartition(*place): found[place].offset for place in sorted(found)}

    def producer(self, limits: ProducerLimits) -> KafkaPythonProducer:
        """See `Client.producer`."""
        settings = self._settings | delivery_settings(self._options, limits)
        return KafkaPythonProducer(connecting("connecting to publish", lambda: kafka.KafkaProducer(**settings)))

    def group_consumer(self, topics: Sequence[str], group: str, instance: str) -> KafkaPythonConsumer:
        """See `Client.group_consumer`."""
        settings = self._settings | {
            "group_id": group,
            "group_instance_id": instance,
            "session_timeout_ms": common.SESSION_MILLISECONDS,
            "heartbeat_interval_ms": common.HEARTBEAT_MILLISECONDS,
            "partition_assignment_strategy": [RoundRobin],
        }
        admin, old = self._open(), MemberToRemove(group_instance_id=instance)
        asking("leaving the old place in the group", lambda: admin.remove_group_members(group, [old]))
        consumer = KafkaPythonConsumer(self._consumer(settings))
        consumer.subscribe(topics)
        return consumer

    def lone_consumer(self) -> KafkaPythonConsumer:
        """See `Client.lone_consumer`."""
        return KafkaPythonConsumer(self._consumer(self._settings))

    def _consumer(self, settings: Mapping[str, Any]) -> Any:
        reading = {
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "allow_auto_create_topics": False,
            "metadata_max_age_ms": common.METADATA_MILLISECONDS,
            "fetch_max_bytes": common.FETCH_TOTAL_BYTES,
            "max_partition_fetch_bytes": common.FETCH_BYTES,
            "metrics_enabled": False,
        }
        return connecting("connecting to read", lambda: kafka.KafkaConsumer(**settings, **reading))

    def close(self) -> None:
        """See `Client.close`."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None


def delivery_settings(options: KafkaOptions, limits: ProducerLimits) -> dict[str, Any]:
    """Settings of the producer: idempotent, acknowledged by all replicas, never giving up unless told to."""
    forever = options.delivery_timeout_seconds is None
    delivery = _FOREVER_MILLISECONDS if forever else int((options.delivery_timeout_seconds or 0) * 1000)
    return {
        "enable_idempotence": True,
        "acks": "all",
        "delivery_timeout_ms": delivery,
        "request_timeout_ms": min(30_000, max(1, delivery - common.LINGER_MILLISECONDS)),
        "batch_size": limits.batch_bytes,
        "linger_ms": common.LINGER_MILLISECONDS,
        "max_request_size": limits.record_bytes + 4096,
        "compression_type": "lz4",
        "max_block_ms": int(options.timeout_seconds * 1000),
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }


def _hex(topic_id: Any) -> str:
    """The id as 32 hex digits, from whatever form the library gives it."""
    if isinstance(topic_id, uuid.UUID):
        return topic_id.hex
    if isinstance(topic_id, bytes):
        return topic_id.hex()
    text = str(topic_id)
    return uuid.UUID(text).hex if len(text) == 36 else b64decode(text + "==", altchars=b"-_").hex()
