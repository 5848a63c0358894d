"""The log messages of PostgreSQL's pgoutput plugin (protocol version 1), decoded.

Pure: any bytes give a message or `MalformedMessage`.
Rows are decoded straight into wire values: what a relation's columns need is prepared once, when its Relation message
comes (`pgtuple`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from struct import Struct as Format
from struct import error as StructError
from typing import Any, Final

from connectors.sources.pgmessages import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogMessage,
    Message,
    Origin,
    Relation,
    RelationColumn,
    Skipped,
    Truncate,
    Type,
    Update,
)
from connectors.sources.pgruns import HEAD_BYTES, READ_TOGETHER, Run, decode_all
from connectors.sources.pgtuple import Converter, PairReader, Tuple, TupleReader
from sync_hub.errors import Fatal

POSTGRES_EPOCH_MICROSECONDS: Final = 946_684_800_000_000
"""2000-01-01 in microseconds since 1970, UTC: where PostgreSQL's clock starts."""


class MalformedMessage(Fatal):
    """Bytes that are no message of this protocol."""


Reader = Callable[[bytes], LogMessage]
ReadPair = Callable[[bytes, int], tuple[Tuple, Tuple]]

_SKIPPED: Final = Skipped()
_SKIPPING: Final[dict[bytes, Reader]] = dict.fromkeys((b"IN", b"UN", b"UK", b"UO", b"DK", b"DO"), lambda _: _SKIPPED)
_u16 = Format("!H").unpack_from
_u32 = Format("!I").unpack_from
_oid = Format("!I").pack
_u64 = Format("!Q").unpack_from
_begin = Format("!QqI").unpack_from
_commit = Format("!BQQq").unpack_from
_type_of_column = Format("!Ii").unpack_from


def _head(kind: bytes, oid: int) -> bytes:
    """How a message about a row begins: kind, relation, and kind of first tuple.

    The first tuple is the new row (N), the old row (O), or an old key (K): values in the key's columns only.
    """
    return kind[:1] + _oid(oid) + kind[1:]


def _tuple_readers(relation: Relation, converters: Sequence[tuple[bool, Converter]]) -> tuple[TupleReader, TupleReader]:
    """What reads a row, and an old key."""
    row = [
        (column.name, converter) if wanted else (None, None)
        for column, (wanted, converter) in zip(relation.columns, converters, strict=True)
    ]
    key = [one if column.key else (None, None) for column, one in zip(relation.columns, row, strict=True)]
    return TupleReader(row), TupleReader(key)


def _readers(oid: int, row: TupleReader, key: TupleReader) -> dict[bytes, Reader]:
    """How to read the messages about rows of a relation, by kind and kind of first tuple."""
    names = [name for name, _ in row.columns if name is not None]
    read, read_key = row.read, key.read
    read_rows, read_key_and_row = PairReader(row, row).read, PairReader(key, row).read

    def insert(data: bytes) -> Insert:
        row, missing = read(data, HEAD_BYTES)
        if missing:
            raise ValueError("an insert with unchanged columns")
        return Insert(oid, row)

    def update(data: bytes) -> Update:
        return Update(oid, None, False, *read(data, HEAD_BYTES))

    def update_with(read_pair: ReadPair, data: bytes, *, whole: bool) -> Update:
        (old, _), (new, unchanged) = read_pair(data, HEAD_BYTES)
        if unchanged:  # a whole old row has all of them; an old key has large key columns
            new, unchanged = _filled(new, old, names)
        return Update(oid, old, whole, new, unchanged)

    return {
        b"IN": insert,
        b"UN": update,
        b"UK": partial(update_with, read_key_and_row, whole=False),
        b"UO": partial(update_with, read_rows, whole=True),
        b"DK": lambda data: Delete(oid, read_key(data, HEAD_BYTES)[0], False),
        b"DO": lambda data: Delete(oid, read(data, HEAD_BYTES)[0], True),
    }


class Decoder:
    """Decodes one stream of messages in order; remembers relations, so a new stream needs a new decoder.

    `prepare` is called for each Relation message and answers for each column whether it is wanted and how its text
    becomes a wire value; None: changes of this relation are not wanted at all.
    """

    def __init__(self, prepare: Callable[[Relation], Sequence[tuple[bool, Converter]] | None]) -> None:
        self._prepare = prepare
        self._rows: dict[bytes, Reader] = {}
        self._runs: dict[bytes, Run | None] = {}
        self._others: dict[int, Reader] = {
            ord("B"): _read_begin,
            ord("C"): _read_commit,
            ord("O"): _read_origin,
            ord("R"): self._relation,
            ord("Y"): _read_type,
            ord("T"): _read_truncate,
            ord("M"): _read_message,
        }

    def decode_all(self, messages: Sequence[bytes]) -> Iterator[LogMessage]:
        """Messages in order, many about rows of one relation that follow each other as one `Rows`; see `pgruns`.

        They are decoded while they are asked for. Raises `MalformedMessage` in its place.
        """
        return decode_all(messages, self._runs.get, self.decode)

    def decode(self, data: bytes) -> LogMessage:
        """One message. Raises `MalformedMessage`."""
        try:
            return (self._rows.get(data[:HEAD_BYTES]) or self._others[data[0]])(data)
        except (StructError, ValueError, LookupError, TypeError) as error:
            raise MalformedMessage(
                "malformed_log_message",
                f"{len(data)} bytes, starting {data[:16]!r}, are no pgoutput message: {error!r}",
                hint="is something between the hub and the server changing the stream?",
            ) from error

    def _relation(self, data: bytes) -> Relation:
        relation = _read_relation(data)
        oid, converters = relation.oid, self._prepare(relation)
        by_kind, run = _SKIPPING, None
        if converters is not None:
            row, key = _tuple_readers(relation, converters)
            by_kind, run = _readers(oid, row, key), Run(oid, row, key)
        self._rows |= {_head(kind, oid): reader for kind, reader in by_kind.items()}
        self._runs |= {_head(kind, oid): run for kind in READ_TOGETHER}
        return relation


def _filled(new: dict[str, Any], old: dict[str, Any], names: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The new row with what the log left out taken from the old one, as far as that goes, in the columns' order."""
    row = {name: new[name] if name in new else old[name] for name in names if name in new or name in old}
    return row, tuple(name for name in names if name not in row)


def _at_end(data: bytes, position: int) -> None:
    if position != len(data):
        raise ValueError("its length does not match its content")


def _text(data: bytes, position: int) -> tuple[str, int]:
    end = data.index(0, position)
    return data[position:end].decode(), end + 1


def _read_begin(data: bytes) -> Begin:
    _at_end(data, 21)
    lsn, time, xid = _begin(data, 1)
    return Begin(lsn, time + POSTGRES_EPOCH_MICROSECONDS, xid)


def _read_commit(data: bytes) -> Commit:
    _at_end(data, 26)
    _, lsn, end_lsn, time = _commit(data, 1)
    return Commit(lsn, end_lsn, time + POSTGRES_EPOCH_MICROSECONDS)


def _read_origin(data: bytes) -> Origin:
    name, end = _text(data, 9)
    _at_end(data, end)
    return Origin(_u64(data, 1)[0], name)


def _read_type(data: bytes) -> Type:
    schema, position = _text(data, 5)
    name, end = _text(data, position)
    _at_end(data, end)
    return Type(_u32(data, 1)[0], schema, name)


def _read_relation(data: bytes) -> Relation:
    (oid,) = _u32(data, 1)
    schema, position = _text(data, 5)
    name, position = _text(data, position)
    identity = chr(data[position])
    (count,) = _u16(data, position + 1)
    position += 3
    columns = []
    for _ in range(count):
        flags = data[position]
        column, position = _text(data, position + 1)
        type_oid, modifier = _type_of_column(data, position)
        columns.append(RelationColumn(column, type_oid, modifier, bool(flags & 1)))
        position += 8
    _at_end(data, position)
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns))


def _read_truncate(data: bytes) -> Truncate:
    (count,) = _u32(data, 1)
    _at_end(data, 6 + 4 * count)
    return Truncate(tuple(_u32(data, 6 + 4 * number)[0] for number in range(count)))


def _read_message(data: bytes) -> Message:
    (lsn,) = _u64(data, 2)
    prefix, position = _text(data, 10)
    (size,) = _u32(data, position)
    position += 4
    _at_end(data, position + size)
    return Message(bool(data[1] & 1), lsn, prefix, data[position : position + size])
