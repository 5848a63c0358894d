"""Events to bytes and back: the Debezium envelope with our values (`design.md` §6).

Field names and op codes are Debezium's, so that what reads Debezium JSON reads ours. `source.syncVersion` carries our
version; events without it were written by Debezium itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from sync_hub import __version__, debezium
from sync_hub.errors import Rejected
from sync_hub.model import ChangeEvent, Operation, Outgoing, Record, SourceInfo, Transaction
from sync_hub.source_block import read_source

OP_CODES: Final[dict[Operation, str]] = {"create": "c", "update": "u", "delete": "d", "read": "r", "truncate": "t"}
OPERATIONS: Final[dict[str, Operation]] = {code: operation for operation, code in OP_CODES.items()}

CORRELATION_ID: Final = "correlationid"
TRACEPARENT: Final = "traceparent"
ACTOR: Final = "actor"
NEW_KEY: Final = "newkey"
OLD_KEY: Final = "oldkey"
FETCHED: Final = "fetched"
UNCHANGED: Final = "unchanged"
PIPELINES: Final = "pipelines"
CHECK: Final = "check"
REPAIR: Final = "repair"
OVERSIZE: Final = "oversize"

_TOGETHER: Final = 1_000
"""So many events at a time: the text of all their changes is in memory twice while it is cut."""

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_decode_any = msgspec.json.Decoder().decode


def topic_name(source: str, table: str) -> str:
    """The topic of a table: `<source>.<schema>.<table>`."""
    return f"{source}.{table}"


class Encoder:
    """Encodes events of one source. Keeps the constant part of the last transaction's envelope, so call it in order."""

    def __init__(self, *, cloudevents: bool = False) -> None:
        self._cloudevents = cloudevents
        self._source: SourceInfo | None = None
        self._transaction = ""
        self._tail = b""
        self._topic = ""

    def encode(self, events: Sequence[ChangeEvent]) -> list[Outgoing]:
        """One record an event, in order. Barriers (`truncate`) have no key: they go to every partition."""
        parts = [events[start : start + _TOGETHER] for start in range(0, len(events), _TOGETHER)]
        return [record for part in parts for record in self._together(part)]

    def _together(self, events: Sequence[ChangeEvent]) -> list[Outgoing]:
        """Changes and keys are encoded in one call each: JSON text holds no line break, so lines tell them apart."""
        changes = _encode_lines(
            [_Change(event.before, event.after, OP_CODES[event.operation], event.transaction) for event in events]
        )
        keys = _encode_lines([event.key for event in events])
        always = self._cloudevents
        out = []
        for event, key, change in zip(events, keys.split(b"\n"), changes.split(b"}\n"), strict=False):
            source = event.source
            transaction = "" if event.transaction is None else event.transaction.id
            if source is not self._source or transaction != self._transaction:
                self._source, self._transaction = source, transaction
                self._tail = _tail(source, transaction)
                self._topic = topic_name(source.name, f"{source.schema}.{source.table}")
            value = b"".join((change, self._tail, event.version.encode(), b'"}}'))
            headers = self._headers(event) if always or _has_headers(event) else None
            out.append(Outgoing(self._topic, None if event.key is None else key, value, headers))
        return out

    def _headers(self, event: ChangeEvent) -> list[tuple[str, bytes]]:
        headers = []
        for name, text in (
            (CORRELATION_ID, event.correlation_id),
            (TRACEPARENT, event.traceparent),
            (ACTOR, event.actor),
        ):
            if text:
                headers.append((name, text.encode()))
        for name, value in (
            (NEW_KEY, event.new_key),
            (OLD_KEY, event.old_key),
            (FETCHED, event.fetched),
            (UNCHANGED, event.unchanged),
            (PIPELINES, event.pipelines),
        ):
            if value:
                headers.append((name, _encode(value)))
        if event.check:
            headers.append((CHECK, event.check.encode()))
            if event.repair:
                headers.append((REPAIR, b"1"))
        if event.oversize_bytes:
            headers.append((OVERSIZE, str(event.oversize_bytes).encode()))
        if self._cloudevents:
            headers += _cloudevents(event)
        return headers


def _has_headers(event: ChangeEvent) -> bool:
    return bool(
        event.correlation_id
        or event.traceparent
        or event.actor
        or event.new_key
        or event.old_key
        or event.fetched
        or event.unchanged
        or event.pipelines
        or event.check
        or event.oversize_bytes
    )


class _Change(Struct, gc=False):
    """The part of an envelope that each event has for itself."""

    before: dict[str, Any] | None
    after: dict[str, Any] | None
    op: str
    transaction: Transaction | None


def _tail(source: SourceInfo, transaction: str) -> bytes:
    block = _encode(
        {
            "version": __version__,
            "connector": source.connector,
            "name": source.name,
            "ts_ms": source.committed_at // 1000,
            "ts_us": source.committed_at,
            "snapshot": "incremental" if source.snapshot else "false",
            "db": source.database,
            "schema": source.schema,
            "table": source.table,
            "txId": int(transaction) if transaction.isdecimal() else None,
            "lsn": source.lsn,
            "sequence": None,
        }
        | ({"origin": source.origin} if source.origin else {})
    )
    return b',"ts_ms":%d,"source":%b,"syncVersion":"' % (source.committed_at // 1000, block[:-1])


def _cloudevents(event: ChangeEvent) -> list[tuple[str, bytes]]:
    source = event.source
    attributes = [
        ("ce_specversion", "1.0"),
        ("ce_id", f"{source.name}/{source.schema}.{source.table}/{event.id}"),
        ("ce_source", f"/sync-hub/{source.name}"),
        ("ce_type", f"sync-hub.row.{event.operation}"),
        ("ce_time", _rfc3339(source.committed_at)),
        ("content-type", "application/json"),
    ]
    for name, value in (
        ("ce_correlationid", event.correlation_id),
        ("ce_traceparent", event.traceparent),
        ("ce_actor", event.actor),
    ):
        if value:
            attributes.append((name, value))
    return [(name, value.encode()) for name, value in attributes]


def _rfc3339(microseconds: int) -> str:
    moment = datetime.fromtimestamp(microseconds // 1_000_000, UTC).replace(microsecond=microseconds % 1_000_000)
    return moment.isoformat().replace("+00:00", "Z")


class _Envelope(Struct, gc=False):
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    op: str = ""
    source: msgspec.Raw | UnsetType = UNSET
    transaction: Transaction | None = None
    payload: msgspec.Raw | UnsetType = UNSET


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_names = msgspec.json.Decoder(tuple[str, ...]).decode


def decode(record: Record) -> ChangeEvent | None:
    """The event in a record; None for a tombstone. Raises `Rejected` for what is no envelope."""
    if record.value is None:
        return None
    try:
        envelope = _decode_envelope(record.value)
        if envelope.payload is not UNSET:
            payload = bytes(envelope.payload)
            if payload == b"null":
                return None
            envelope = _decode_envelope(payload)
        return _event(envelope, _key(record), record.headers)
    except (msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:
        raise Rejected(
            "not_an_envelope",
            f"{record.topic}/{record.partition}@{record.offset}: not a Debezium envelope in JSON: {error}",
            hint="only topics written by sync-hub or Debezium (JSON) can be read",
        ) from error


def key_of(record: Record) -> dict[str, Any] | None:
    """The key of a record; None where it has none. Raises `Rejected` for what is no key."""
    try:
        return _key(record)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Rejected(
            "not_an_envelope", f"{record.topic}/{record.partition}@{record.offset}: its key is no JSON object: {error}"
        ) from error


def _key(record: Record) -> dict[str, Any] | None:
    return None if record.key is None else key_in(_decode_any(record.key))


def key_in(key: Any) -> dict[str, Any]:
    """A key as a mapping; taken out of its schema block, unless `schema` and `payload` are the key's own columns."""
    if not isinstance(key, dict):
        raise ValueError("a key is not a JSON object")  # noqa: TRY004 - one class for what decode reports
    if len(key) == 2 and key.keys() == {"schema", "payload"} and isinstance(key["payload"], dict):
        return key["payload"]
    return key


def _event(envelope: _Envelope, key: dict[str, Any] | None, headers: Sequence[tuple[str, bytes]] | None) -> ChangeEvent:
    before, after = envelope.before, envelope.after
    block = b"null" if envelope.source is UNSET else bytes(envelope.source)
    if block == b"null":
        raise ValueError("it has no `source`")
    operation = OPERATIONS.get(envelope.op)
    if operation is None:
        raise ValueError("its `op` is none of " + " ".join(OPERATIONS))
    source, version = read_source(block)
    more = read_headers(headers) if headers else {}
    if not version:
        before = before and debezium.known(debezium.available(before)[0], key)
        if after is not None:
            after, more["unchanged"] = debezium.available(after)
    event = ChangeEvent(
        source=source,
        operation=operation,
        key=key,
        before=before,
        after=after,
        version=version,
        transaction=envelope.transaction,
    )
    return replace(event, **more) if more else event


_TEXT_HEADERS = {CORRELATION_ID: "correlation_id", TRACEPARENT: "traceparent", ACTOR: "actor", CHECK: "check"}
_KEY_HEADERS = {NEW_KEY: "new_key", OLD_KEY: "old_key", "__debezium.newkey": "new_key", "__debezium.oldkey": "old_key"}
_LIST_HEADERS = {FETCHED: "fetched", UNCHANGED: "unchanged", PIPELINES: "pipelines"}


def read_headers(headers: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
    """What a record's headers say of its event, by the event's fields. Raises what is wrong with them."""
    found: dict[str, Any] = {}
    for name, value in headers:
        if name in _TEXT_HEADERS:
            found[_TEXT_HEADERS[name]] = value.decode()
        elif name in _KEY_HEADERS:
            found[_KEY_HEADERS[name]] = key_in(_decode_any(value))
        elif name in _LIST_HEADERS:
            found[_LIST_HEADERS[name]] = _decode_names(value)
        elif name == OVERSIZE:
            found["oversize_bytes"] = int(value)
        elif name == REPAIR:
            found["repair"] = value == b"1"
    return found
