"""The envelopes of many records: `envelope.decode` says how one is read; this is faster.

In what the hub writes `source` comes last, and the version last in it. What comes before the version there is the same
for all events of a table in a transaction: it is read once, and for those that follow only compared, and cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sync_hub.envelope import OPERATIONS, decode, key_in, read_headers
from sync_hub.errors import Rejected
from sync_hub.model import ChangeEvent, Record, SourceInfo, Transaction, version_prefix, version_suffix
from sync_hub.source_block import read_source

_SOURCE: Final = b',"source":{'
_BEFORE_VERSION: Final = b'"syncVersion":"'
_VERSION: Final = (version_prefix(0, 0) + version_suffix(0)).encode()
_END: Final = _VERSION + b'"}}'
_VERSION_WIDTH, _WIDTH = len(_VERSION), len(_END)
_TO_ZERO: Final = bytes.maketrans(b"123456789abcdef", b"0" * 15)


class _Own(Struct, gc=False, forbid_unknown_fields=True):
    """What an event has for itself. With anything else in it, it is not as the hub writes it."""

    op: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    transaction: Transaction | None
    ts_ms: int


_decode_own: Final = msgspec.json.Decoder(_Own).decode
_decode_key: Final = msgspec.json.Decoder(dict[str, Any]).decode
_NOT_PLAIN: Final = (msgspec.DecodeError, ValueError, LookupError, TypeError, RecursionError)
"""What anything causes that is not as the hub writes it: `decode` says what it is."""


def decode_all(records: Sequence[Record]) -> list[ChangeEvent | Rejected | None]:
    """For each record its event, None for a tombstone, or why it is no envelope: what `decode` gives or raises."""
    found: list[ChangeEvent | Rejected | None] = []
    beginning, length, source = b"", 0, None
    met: dict[bytes, SourceInfo] = {}
    for record in records:
        value, key = record.value, record.key
        if value is not None and key is not None and (end := value[-_WIDTH:]).translate(_TO_ZERO) == _END:
            if source is None or not value.endswith(beginning, 0, -_WIDTH):
                beginning, source = _beginning(value, met)
                length = len(beginning) + _WIDTH
            if source is not None:
                try:
                    own, key_found = _decode_own(value[:-length] + b"}"), _decode_key(key)
                    event = ChangeEvent(
                        source,
                        OPERATIONS[own.op],
                        key_found if len(key_found) != 2 else key_in(key_found),
                        own.before,
                        own.after,
                        end[:_VERSION_WIDTH].decode(),
                        own.transaction,
                    )
                    found.append(replace(event, **read_headers(record.headers)) if record.headers else event)
                    continue
                except _NOT_PLAIN:
                    pass
        found.append(_decoded(record))
    return found


def _decoded(record: Record) -> ChangeEvent | Rejected | None:
    try:
        return decode(record)
    except Rejected as error:
        return error


def _beginning(value: bytes, met: dict[bytes, SourceInfo]) -> tuple[bytes, SourceInfo | None]:
    """From `source` to before the version at its end, and what it says; None where the hub did not write this.

    What is left when it is cut off is whole JSON only if this `source` is the envelope's own. `met` are those read so
    far: a transaction's events lie in several partitions.
    """
    place = value.rfind(_SOURCE)
    if place < 0 or not value.endswith(_BEFORE_VERSION, place, -_WIDTH):
        return b"", None
    beginning = value[place:-_WIDTH]
    try:
        if beginning not in met:
            met[beginning] = read_source(value[place + len(_SOURCE) - 1 : -1])[0]
        return beginning, met[beginning]
    except _NOT_PLAIN:
        return b"", None
