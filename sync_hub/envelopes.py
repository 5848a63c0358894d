"""The envelopes of many records, read at once: `envelope.decode` says how one is read; this is faster.

In what the hub writes `source` comes last, and the version last in it: what comes before the version there is the same
for all events of a table in a transaction, and is read once for them. What each event has for itself is cut off before
it, and all of these are decoded in one call, as lines: JSON text that holds no line break.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from sync_hub.envelope import OPERATIONS, decode, key_in
from sync_hub.errors import Rejected
from sync_hub.model import ChangeEvent, Record, SourceInfo, Transaction, version_prefix, version_suffix
from sync_hub.source_block import read_source

_TOGETHER: Final = 200
"""So many are decoded in one call: with more of them their text no longer stays in the processor's cache."""
_SOURCE: Final = b',"source":{'
_BEFORE_VERSION: Final = b'"syncVersion":"'
_VERSION: Final = version_prefix(0, 0) + version_suffix(0)
_END: Final = f'{_VERSION}"}}}}'.encode()
_WIDTH: Final = len(_END)
_TO_ZERO: Final = bytes.maketrans(b"123456789abcdef", b"0" * 15)


class _Own(Struct, gc=False, forbid_unknown_fields=True):
    """What an event has for itself. With anything else in it, it is not as the hub writes it."""

    op: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    transaction: Transaction | None
    ts_ms: int


_decode_own: Final = msgspec.json.Decoder(_Own).decode_lines
_decode_keys: Final = msgspec.json.Decoder(dict[str, Any]).decode_lines


def decode_all(records: Sequence[Record]) -> list[ChangeEvent | Rejected | None]:
    """For each record its event, None for a tombstone, or why it is no envelope: what `decode` gives or raises."""
    found: list[ChangeEvent | Rejected | None] = []
    for start in range(0, len(records), _TOGETHER):
        found += _decode_some(records[start : start + _TOGETHER])
    return found


def _decode_some(records: Sequence[Record]) -> list[ChangeEvent | Rejected | None]:
    found: list[ChangeEvent | Rejected | None] = [None] * len(records)
    places, heads, ends, keys, sources = [], [], [], [], []
    beginning, length, source = b"", 0, None
    for place, record in enumerate(records):
        value = record.value
        if value is None:
            continue
        if source is None or not value.endswith(beginning, 0, -_WIDTH):
            beginning, source = _beginning(value)
            length = len(beginning) + _WIDTH
        if source is None or record.key is None or record.headers:
            found[place] = _decoded(record)
            continue
        places.append(place)
        heads.append(value[:-length])
        ends.append(value[-_WIDTH:])
        keys.append(record.key)
        sources.append(source)
    try:
        events = _events(heads, ends, keys, sources)
    except (msgspec.DecodeError, ValueError, LookupError, RecursionError):
        events = [_decoded(records[place]) for place in places]
    if len(places) == len(records):
        return events
    for place, event in zip(places, events, strict=True):
        found[place] = event
    return found


def _decoded(record: Record) -> ChangeEvent | Rejected | None:
    try:
        return decode(record)
    except Rejected as error:
        return error


def _beginning(value: bytes) -> tuple[bytes, SourceInfo | None]:
    """From `source` to before the version, and what it says; None where the hub did not write this.

    What is left when it is cut off is whole JSON only if this `source` is the envelope's own.
    """
    place = value.rfind(_SOURCE)
    if place < 0 or not value.endswith(_BEFORE_VERSION, place, -_WIDTH):
        return b"", None
    try:
        return value[place:-_WIDTH], read_source(value[place + len(_SOURCE) - 1 : -1])[0]
    except (msgspec.DecodeError, ValueError, RecursionError):
        return b"", None


def _events(
    heads: Sequence[bytes], ends: Sequence[bytes], keys: Sequence[bytes], sources: Sequence[SourceInfo]
) -> list[ChangeEvent | Rejected | None]:
    """The events of parts cut out of their records. Raises what anything but the hub's own envelopes causes."""
    if not heads:
        return []
    text, key_text, versions = b"}\n".join(heads) + b"}", b"\n".join(keys), b"".join(ends)
    if key_text.count(b"\n") != len(keys) - 1:
        raise ValueError("a line break in a key")  # each other part gives a line at least
    if versions.translate(_TO_ZERO) != _END * len(ends):
        raise ValueError("no version at its end")
    version_text, width = versions.decode(), len(_VERSION)
    starts = range(0, len(version_text), _WIDTH)
    return [
        ChangeEvent(
            source,
            OPERATIONS[own.op],
            key if len(key) != 2 else key_in(key),
            own.before,
            own.after,
            version_text[start : start + width],
            own.transaction,
        )
        for own, key, start, source in zip(_decode_own(text), _decode_keys(key_text), starts, sources, strict=True)
    ]
