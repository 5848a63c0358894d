"""Kafka through kafka-python: pure Python, always installed."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Literal, NoReturn, TypeVar

import kafka
from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType

from connectors.brokers import kafka_client as common
from connectors.brokers.kafka_client import ProducerLimits, TopicFacts
from connectors.brokers.kafka_options import KafkaOptions
from sync_hub.errors import PublishingBroken
from sync_hub.model import Outgoing, Record, TopicPartition

UNACKNOWLEDGED_BYTES = 32 * 1024 * 1024
_FOREVER_MILLISECONDS = 2**31 - 1
_JOIN_MILLISECONDS = 1000

T = TypeVar("T")

if logging.getLogger("kafka").level == logging.NOTSET:
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters is raised; the rest would only repeat it

_connection_log = logging.getLogger("kafka.net.manager")
_connection_log.setLevel(logging.WARNING)
_connection_log.propagate = False
_connection_log.addHandler(logging.NullHandler())

_LOGIN = (errors.SaslAuthenticationFailedError, errors.UnsupportedSaslMechanismError)
_PERMANENT = (
    errors.InvalidReplicationFactorError,
    errors.InvalidPartitionsError,
    errors.InvalidConfigurationError,
    errors.PolicyViolationError,
    errors.InvalidTopicError,
    errors.InvalidRequestError,
    errors.UnsupportedVersionError,
    errors.IncompatibleBrokerVersion,
    errors.KafkaConfigurationError,
)


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


def _raise(what: str, error: Exception) -> NoReturn:
    """Turn an error of the library into ours."""
    if isinstance(error, _LOGIN):
        raise common.login_failed(error) from error
    if isinstance(error, (errors.OffsetOutOfRangeError, errors.NoOffsetForPartitionError, errors.LogTruncationError)):
        raise common.offset_gone(what, error) from error
    if isinstance(error, errors.FencedInstanceIdError):
        raise common.member_replaced(error) from error
    if isinstance(error, errors.AuthorizationError):
        raise common.not_authorized(what, error) from error
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        raise common.topic_missing(what) from error
    if isinstance(error, _PERMANENT):
        raise common.refused(what, error) from error
    if isinstance(error, errors.BrokerResponseError) and not isinstance(error, errors.RequestTimedOutError):
        raise common.not_ready(what, error) from error
    raise common.unreachable(what, error) from error


def _asking(what: str, ask: Callable[[], T]) -> T:
    try:
        return ask()
    except (errors.KafkaError, OSError) as error:
        _raise(what, error)


class _Reason(logging.Handler):
    """The library says only in its log why it cannot connect; this keeps the last reason."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Look for an exception among what is logged; a refused login is not forgotten for what it leads to."""
        found = [argument for argument in record.args or () if isinstance(argument, Exception)]
        for error in found:
            if not isinstance(self.error, _LOGIN) and not isinstance(error, errors.KafkaTimeoutError):
                self.error = error


def _connecting(what: str, connect: Callable[[], T]) -> T:
    reason = _Reason()
    _connection_log.addHandler(reason)
    try:
        return connect()
    except (errors.KafkaError, OSError) as error:
        known = reason.error if isinstance(error, errors.KafkaTimeoutError) else None
        _raise(what, known or error)
    finally:
        _connection_log.removeHandler(reason)


class KafkaPythonClient:
    """See `Client`."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._settings = connection_settings(options)
        self._admin: Any = None

    def _open(self) -> Any:
        if self._admin is None:
            settings = self._settings | {"request_timeout_ms": int(self._options.timeout_seconds * 1000)}
            self._admin = _connecting("connecting", lambda: kafka.KafkaAdminClient(**settings))
        return self._admin

    def brokers(self) -> int:
        """See `Client.brokers`."""
        admin = self._open()
        return len(_asking("describing the cluster", admin.describe_cluster)["brokers"])

    def topics(self, names: Sequence[str] | None, *, settings: bool) -> dict[str, TopicFacts]:
        """See `Client.topics`."""
        if names is not None and not names:
            return {}
        admin = self._open()
        described = _asking("listing topics", lambda: admin.describe_topics(None if names is None else list(names)))
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
        found = _asking("reading topic settings", lambda: admin.describe_configs(resources, config_filter="all"))
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
        response = _asking("creating topics", lambda: admin.create_topics(wanted, raise_errors=False))
        for topic in response["topics"]:
            kind = errors.for_code(topic["error_code"])
            if kind not in (errors.NoError, errors.TopicAlreadyExistsError):
                _raise(f"creating topic {topic['name']}", kind(topic.get("error_message") or ""))
        timeout = int(self._options.timeout_seconds * 1000)
        _asking("waiting for new topics", lambda: admin.wait_for_topics(list(names), timeout_ms=timeout))

    def offsets(self, topic: str, partitions: int, which: Literal["start", "end"]) -> dict[int, int]:
        """See `Client.offsets`."""
        admin = self._open()
        moment = -2 if which == "start" else -1
        wanted = {kafka.TopicPartition(topic, partition): moment for partition in range(partitions)}
        found = _asking(topic, lambda: admin.list_partition_offsets(wanted))
        return {place.partition: found[place].offset for place in sorted(found)}

    def producer(self, limits: ProducerLimits) -> KafkaPythonProducer:
        """See `Client.producer`."""
        settings = self._settings | delivery_settings(self._options, limits)
        return KafkaPythonProducer(_connecting("connecting to publish", lambda: kafka.KafkaProducer(**settings)))

    def group_consumer(self, topics: Sequence[str], group: str, instance: str) -> KafkaPythonConsumer:
        """See `Client.group_consumer`."""
        settings = self._settings | {
            "group_id": group,
            "group_instance_id": instance,
            "session_timeout_ms": common.SESSION_MILLISECONDS,
            "heartbeat_interval_ms": common.HEARTBEAT_MILLISECONDS,
        }
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
        return _connecting("connecting to read", lambda: kafka.KafkaConsumer(**settings, **reading))

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


class KafkaPythonProducer:
    """See `Producer`. The library bounds no memory, so what is unacknowledged is counted here."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._waiting: deque[tuple[list[Any], dict[TopicPartition, Any], int]] = deque()
        self._bytes = 0
        self.ends: dict[TopicPartition, int] = {}

    @property
    def room(self) -> bool:
        """See `Producer.room`."""
        return self._bytes < UNACKNOWLEDGED_BYTES

    def send(self, records: Sequence[Outgoing], partitions: Sequence[int]) -> None:
        """See `Producer.send`."""
        futures: list[Any] = []
        last: dict[TopicPartition, Any] = {}
        size = 0
        send = self._producer.send
        for record, partition in zip(records, partitions, strict=True):
            try:
                future = send(record.topic, record.value, record.key, record.headers, partition)
            except (errors.KafkaError, ValueError) as error:
                raise common.delivery_failed(f"{record.topic}/{partition}", error) from error
            futures.append(future)
            last[TopicPartition(record.topic, partition)] = future
            size += len(record.value or b"") + len(record.key or b"") + 64
        self._waiting.append((futures, last, size))
        self._bytes += size

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
                self.ends[place] = future.value.offset + 1
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


def _undelivered(last: Mapping[TopicPartition, Any], future: Any) -> PublishingBroken:
    topics = ", ".join(sorted({place.topic for place in last}))
    return common.delivery_failed(topics, f"{type(future.exception).__name__}: {future.exception}")


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
        found = _asking("reading", lambda: self._poll(timeout_seconds, max_records))
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
        self.resume(places)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """See `Consumer.pause`."""
        self._consumer.pause(*(kafka.TopicPartition(*place) for place in partitions))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """See `Consumer.resume`."""
        self._consumer.resume(*(kafka.TopicPartition(*place) for place in partitions))

    def close(self) -> None:
        """See `Consumer.close`."""
        _asking("leaving the group", lambda: self._consumer.close(autocommit=False, timeout_ms=3000))


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, bytes]] | None:
    return [(name, value or b"") for name, value in headers] if headers else None


def _hex(topic_id: Any) -> str:
    """The id as 32 hex digits, from whatever form the library gives it."""
    if isinstance(topic_id, uuid.UUID):
        return topic_id.hex
    if isinstance(topic_id, bytes):
        return topic_id.hex()
    text = str(topic_id)
    return uuid.UUID(text).hex if len(text) == 36 else b64decode(text + "==", altchars=b"-_").hex()
