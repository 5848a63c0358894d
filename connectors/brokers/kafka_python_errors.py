"""What kafka-python's errors mean to the hub, and what it says only in its log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn, TypeVar

from kafka import errors

from connectors.brokers import kafka_client as common

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


def raise_error(what: str, error: Exception) -> NoReturn:
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


def asking(what: str, ask: Callable[[], T]) -> T:
    """Call the library; its errors come out as ours."""
    try:
        return ask()
    except (errors.KafkaError, OSError) as error:
        raise_error(what, error)


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


def connecting(what: str, connect: Callable[[], T]) -> T:
    """As `asking`, for what makes a connection: the error says why there is none."""
    reason = _Reason()
    _connection_log.addHandler(reason)
    try:
        return connect()
    except (errors.KafkaError, OSError) as error:
        known = reason.error if isinstance(error, errors.KafkaTimeoutError) else None
        raise_error(what, known or error)
    finally:
        _connection_log.removeHandler(reason)
