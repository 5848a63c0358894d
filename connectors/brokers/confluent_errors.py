"""What librdkafka's error codes mean to the hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

from confluent_kafka import KafkaError, KafkaException

from connectors.brokers import kafka_client as common

T = TypeVar("T")

_LOGIN = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.UNSUPPORTED_SASL_MECHANISM}
_REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_GONE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION}
_FENCED = {KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED, KafkaError._FATAL}
MISSING = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_PERMANENT = {
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_CONFIG,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.INVALID_REQUEST,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError._UNSUPPORTED_FEATURE,
    KafkaError._INVALID_ARG,
}
PASSING = {
    KafkaError._PARTITION_EOF,
    KafkaError._MAX_POLL_EXCEEDED,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    *MISSING,
}
"""While reading: what librdkafka mends by itself, or what the next check of the topics tells better."""


def raise_error(what: str, error: KafkaError) -> NoReturn:
    """Turn an error of the library into ours."""
    code = error.code()
    if code in _LOGIN:
        raise common.login_failed(error.str())
    if code in _REFUSED:
        raise common.not_authorized(what, error.str())
    if code in _GONE:
        raise common.offset_gone(what, error.str())
    if code in _FENCED:
        raise common.member_replaced(error.str())
    if code in MISSING:
        raise common.topic_missing(what)
    if code in _PERMANENT:
        raise common.refused(what, error.str())
    if code < 0:
        raise common.unreachable(what, error.str())
    raise common.not_ready(what, error.str())


def asking(what: str, ask: Callable[[], T]) -> T:
    """Call the library; its errors come out as ours."""
    try:
        return ask()
    except KafkaException as error:
        raise_error(what, error.args[0])
    except TimeoutError as error:  # of a future: the library's own deadline came later
        raise common.unreachable(what, "no answer in time") from error
