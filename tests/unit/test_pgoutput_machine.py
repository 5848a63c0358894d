"""A stream of log messages in any order, damaged ones among them: each gives its value or the typed error, no more."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

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
    Rows,
    Skipped,
    Truncate,
    Type,
    Update,
)
from connectors.sources.pgoutput import POSTGRES_EPOCH_MICROSECONDS, Decoder, MalformedMessage

INTEGER, TEXT = 23, 25
UNWANTED = 4
OIDS = st.integers(1, UNWANTED)
NUMBERS = st.integers(0, 2**32 - 1)
PLACES = st.integers(0, 2**64 - 1)
TIMES = st.integers(-(2**50), 2**50)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
COLUMNS = st.lists(
    st.builds(RelationColumn, NAMES, st.sampled_from([INTEGER, TEXT]), st.just(-1), st.booleans()),
    min_size=1,
    max_size=5,
    unique_by=lambda column: column.name,
)
Row = list[str | None]
KINDS = st.sampled_from(b"BCORYIUDTM\0\xff")


class Cell(NamedTuple):
    """A column of a tuple: `t` with a text, `n` null, `u` unchanged."""

    kind: bytes
    text: str = ""

    @property
    def data(self) -> bytes:
        encoded = self.text.encode()
        return self.kind + (struct.pack("!I", len(encoded)) + encoded if self.kind == b"t" else b"")


def wanted(relation: Relation) -> list[bool] | None:
    """The receiver excludes columns whose name begins with x, and one relation altogether."""
    return None if relation.oid == UNWANTED else [not column.name.startswith("x") for column in relation.columns]


def prepare(relation: Relation) -> list[tuple[bool, Any]] | None:
    chosen = wanted(relation)
    types = [int if column.type_oid == INTEGER else None for column in relation.columns]
    return None if chosen is None else list(zip(chosen, types, strict=True))


def tuple_data(cells: list[Cell]) -> bytes:
    return struct.pack("!H", len(cells)) + b"".join(cell.data for cell in cells)


def relation_data(relation: Relation) -> bytes:
    columns = b"".join(
        struct.pack("!B", column.key) + column.name.encode() + b"\0" + struct.pack("!Ii", column.type_oid, -1)
        for column in relation.columns
    )
    names = relation.schema.encode() + b"\0" + relation.name.encode() + b"\0" + relation.identity.encode()
    return b"R" + struct.pack("!I", relation.oid) + names + struct.pack("!H", len(relation.columns)) + columns


def values(relation: Relation, cells: list[Cell], *, key_only: bool = False) -> dict[str, Any]:
    """What a receiver gets of a tuple."""
    found: dict[str, Any] = {}
    for column, cell, chosen in zip(relation.columns, cells, wanted(relation) or [False] * len(cells), strict=True):
        if chosen and cell.kind != b"u" and (column.key or not key_only):
            text = cell.text if cell.kind == b"t" else None
            found[column.name] = int(text) if text is not None and column.type_oid == INTEGER else text
    return found


def cells_of(relation: Relation, *, unchanged: bool) -> st.SearchStrategy[list[Cell]]:
    """A row of this relation."""

    def cell(column: RelationColumn) -> st.SearchStrategy[Cell]:
        texts = st.integers().map(str) if column.type_oid == INTEGER else st.text(max_size=8)
        others = [st.just(Cell(b"n"))] + [st.just(Cell(b"u"))] * unchanged
        return st.one_of(st.builds(Cell, st.just(b"t"), texts), *others)

    return st.tuples(*map(cell, relation.columns)).map(list)


def one_by_one(message: LogMessage) -> list[LogMessage]:
    """Rows that were read together, as the messages that they were."""
    if not isinstance(message, Rows):
        return [message]
    assert len(message.rows) > 1
    made: dict[str, Callable[[dict[str, Any], tuple[str, ...]], LogMessage]] = {
        "create": lambda row, _: Insert(message.relation, row),
        "update": lambda row, unchanged: Update(message.relation, None, False, row, unchanged),
        "delete": lambda row, _: Delete(message.relation, row, False),
    }
    return [
        made[operation](row, message.unchanged.get(place, ()))
        for place, (operation, row) in enumerate(zip(message.operations, message.rows, strict=True))
    ]


class Stream(RuleBasedStateMachine):
    """One decoder, and what it was told of relations."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = Decoder(prepare)
        self.relations: dict[int, Relation] = {}
        self.last = b"B" + struct.pack("!QqI", 1, 2, 3)
        self.read: list[tuple[bytes, LogMessage]] = []

    def decodes(self, data: bytes, expected: LogMessage) -> None:
        self.last = data
        self.read.append((data, expected))
        assert self.decoder.decode(data) == expected

    def refuses(self, data: bytes) -> None:
        with pytest.raises(MalformedMessage) as raised:
            self.decoder.decode(data)
        assert raised.value.code == "malformed_log_message"

    # Messages as a server sends them

    @rule(oid=OIDS, schema=NAMES, name=NAMES, identity=st.sampled_from("dnfi"), columns=COLUMNS)
    def relation(self, oid: int, schema: str, name: str, identity: str, columns: list[RelationColumn]) -> None:
        found = Relation(oid, schema, name, identity, tuple(columns))
        self.last = relation_data(found)
        self.relations[oid] = Relation(oid, schema or "pg_catalog", name, identity, tuple(columns))
        self.decodes(self.last, self.relations[oid])

    @rule(oid=OIDS, data=st.data())
    def insert(self, oid: int, data: st.DataObject) -> None:
        relation = self._known(oid, b"I", b"N\0\0")
        if relation:
            cells = data.draw(cells_of(relation, unchanged=False))
            self._change(relation, b"I", b"N" + tuple_data(cells), Insert(oid, values(relation, cells)))

    @rule(oid=OIDS, old_kind=st.sampled_from([b"", b"K", b"O"]), data=st.data())
    def update(self, oid: int, old_kind: bytes, data: st.DataObject) -> None:
        relation = self._known(oid, b"U", b"N\0\0")
        if relation is None:
            return
        cells, old, before = data.draw(cells_of(relation, unchanged=True)), None, b""
        if old_kind:
            old_cells = data.draw(cells_of(relation, unchanged=False))
            old = values(relation, old_cells, key_only=old_kind == b"K")
            before = old_kind + tuple_data(old_cells)
        new = values(relation, cells)
        left_out = [c.name for c, cell in zip(relation.columns, cells, strict=True) if cell.kind == b"u"]
        new |= {name: old[name] for name in left_out if old and name in old}
        chosen = [c.name for c, one in zip(relation.columns, wanted(relation) or (), strict=False) if one]
        unchanged = tuple(name for name in chosen if name not in new)
        expected = Update(oid, old, old_kind == b"O", new, unchanged)
        self._change(relation, b"U", before + b"N" + tuple_data(cells), expected)

    @rule(oid=OIDS, kind=st.sampled_from([b"K", b"O"]), data=st.data())
    def delete(self, oid: int, kind: bytes, data: st.DataObject) -> None:
        relation = self._known(oid, b"D", b"K\0\0")
        if relation:
            cells = data.draw(cells_of(relation, unchanged=False))
            old = values(relation, cells, key_only=kind == b"K")
            self._change(relation, b"D", kind + tuple_data(cells), Delete(oid, old, kind == b"O"))

    def _known(self, oid: int, kind: bytes, rest: bytes) -> Relation | None:
        """The relation, or None after a change of one that was never named was refused."""
        if oid not in self.relations:
            self.refuses(kind + struct.pack("!I", oid) + rest)
        return self.relations.get(oid)

    def _change(self, relation: Relation, kind: bytes, rest: bytes, expected: LogMessage) -> None:
        self.decodes(kind + struct.pack("!I", relation.oid) + rest, Skipped() if relation.oid == UNWANTED else expected)

    @rule(lsn=PLACES, time=TIMES, xid=NUMBERS)
    def begin(self, lsn: int, time: int, xid: int) -> None:
        self.decodes(b"B" + struct.pack("!QqI", lsn, time, xid), Begin(lsn, time + POSTGRES_EPOCH_MICROSECONDS, xid))

    @rule(lsn=PLACES, end=PLACES, time=TIMES)
    def commit(self, lsn: int, end: int, time: int) -> None:
        self.decodes(b"C\0" + struct.pack("!QQq", lsn, end, time), Commit(lsn, end, time + POSTGRES_EPOCH_MICROSECONDS))

    @rule(lsn=PLACES, name=NAMES, schema=NAMES, oid=NUMBERS)
    def origin_and_type(self, lsn: int, name: str, schema: str, oid: int) -> None:
        self.decodes(b"O" + struct.pack("!Q", lsn) + name.encode() + b"\0", Origin(lsn, name))
        names = schema.encode() + b"\0" + name.encode() + b"\0"
        self.decodes(b"Y" + struct.pack("!I", oid) + names, Type(oid, schema, name))

    @rule(lsn=PLACES, prefix=NAMES, content=st.binary(max_size=12), transactional=st.booleans())
    def message(self, lsn: int, prefix: str, content: bytes, transactional: bool) -> None:
        head = b"M" + struct.pack("!BQ", transactional, lsn) + prefix.encode() + b"\0"
        data = head + struct.pack("!I", len(content)) + content
        self.decodes(data, Message(transactional, lsn, prefix, content))

    @rule(oids=st.lists(NUMBERS, max_size=4))
    def truncate(self, oids: list[int]) -> None:
        self.decodes(b"T" + struct.pack(f"!IB{len(oids)}I", len(oids), 0, *oids), Truncate(tuple(oids)))

    @rule(size=st.integers(1, 60))
    def together(self, size: int) -> None:
        """All messages so far, some at a time: the same as one by one."""
        decoder, found = Decoder(prepare), list[LogMessage]()
        messages = [data for data, _ in self.read]
        for start in range(0, len(messages), size):
            decoded = decoder.decode_all(messages[start : start + size])
            found += [single for message in decoded for single in one_by_one(message)]
        assert found == [expected for _, expected in self.read]

    @rule(place=st.integers(0, 60), damage=st.sampled_from(["cut", "empty", "unknown"]))
    def together_with_a_damaged_one(self, place: int, damage: str) -> None:
        """What comes before it is read all the same."""
        messages = [data for data, _ in self.read]
        place = min(place, len(messages))
        rows = [data for data, read in self.read[:place] if isinstance(read, Insert | Update | Delete)]
        damaged = rows[-1][:-1] if damage == "cut" and rows else b"" if damage == "empty" else b"\xff"
        found = list[LogMessage]()
        with pytest.raises(MalformedMessage):
            for message in Decoder(prepare).decode_all([*messages[:place], damaged, *messages[place:]]):
                found += one_by_one(message)
        assert found == [expected for _, expected in self.read[:place]]

    # What no server sends

    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        """A message that ends too early says nothing, unless it says that nobody wants to know."""
        part = self.last[: data.draw(st.integers(0, len(self.last) - 1))]
        if len(part) > 5 and part[0] in b"IUD" and struct.unpack("!I", part[1:5])[0] == UNWANTED:
            assert self.decoder.decode(part) == Skipped()
        else:
            self.refuses(part)

    @rule(more=st.binary(min_size=1, max_size=4))
    def prolonged(self, more: bytes) -> None:
        if self.last[0] in b"IUD" and struct.unpack("!I", self.last[1:5])[0] == UNWANTED:
            assert self.decoder.decode(self.last + more) == Skipped()
        else:
            self.refuses(self.last + more)

    @precondition(lambda self: self.relations.keys() - {UNWANTED})
    @rule(data=st.data(), more=st.booleans())
    def row_of_another_width(self, data: st.DataObject, more: bool) -> None:
        """As of a relation that has changed without being named again."""
        oid = data.draw(st.sampled_from(sorted(self.relations.keys() - {UNWANTED})))
        cells = data.draw(cells_of(self.relations[oid], unchanged=False))
        cells = [*cells, Cell(b"n")] if more else cells[:-1]
        self.refuses(b"I" + struct.pack("!I", oid) + b"N" + tuple_data(cells))

    @rule(kind=KINDS, rest=st.binary(max_size=40), place=st.integers(0, 100), byte=st.integers(0, 255))
    def any_bytes(self, kind: int, rest: bytes, place: int, byte: int) -> None:
        """Bytes at random, and a message with one of them changed."""
        place %= len(self.last)
        for data in (bytes([kind]) + rest, self.last[:place] + bytes([byte]) + self.last[place + 1 :]):
            decoder = Decoder(prepare) if data[0] == ord("R") else self.decoder  # else it might name another relation
            try:
                found = decoder.decode(data)
            except MalformedMessage as error:
                assert "no pgoutput message" in error.message
            else:
                assert isinstance(found, LogMessage)


TestStream = Stream.TestCase
TestStream.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
