"""Rows read by compiled code are the rows that the plain code reads, whatever the bytes."""

from __future__ import annotations

from struct import pack
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from connectors.sources.pgtuple import Reader, TupleColumns, compile_reader, read_tuple

PAD = bytes(5)


def flag(text: str) -> bool:
    return {"t": True, "f": False}[text]


CONVERTERS = st.sampled_from([None, None, int, flag, str.upper])
NAMES = st.none() | st.text(min_size=1, max_size=8) | st.sampled_from(["id", "a'b", 'a"b', "a\\b", "a{b}", "\n"])
COLUMNS = st.lists(st.tuples(NAMES, CONVERTERS), max_size=8, unique_by=lambda column: column[0] or object())
VALUES = st.one_of(
    st.sampled_from([b"t", b"f", b"12", b"-7", b"", "Ünal".encode(), b"x" * 127, b"y" * 128, b"z" * 300, b"\xff"]),
    st.text(max_size=20).map(str.encode),
)
PARTS = st.one_of(VALUES.map(lambda value: b"t" + pack("!I", len(value)) + value), st.sampled_from([b"n", b"n", b"u"]))


def outcome(read: Reader, data: bytes, position: int) -> Any:
    """What reading gives: the row with its order, or the kind of error that bad bytes cause."""
    try:
        row, missing, end = read(data, position)
    except (ValueError, LookupError, TypeError) as error:
        return type(error)
    except Exception as error:
        assert type(error).__name__ == "error", error
        return "error"
    return list(row.items()), missing, end


def same(columns: TupleColumns, data: bytes, position: int = 0) -> Any:
    """The outcome, which both ways of reading agree on."""
    plain = outcome(lambda bytes_, start: read_tuple(bytes_, start, columns), data, position)
    assert outcome(compile_reader(columns), data, position) == plain
    return plain


@given(st.data(), COLUMNS, st.binary(max_size=4))
def test_tuples_are_read_alike(data: st.DataObject, columns: TupleColumns, before: bytes) -> None:
    parts = data.draw(st.lists(PARTS, min_size=len(columns), max_size=len(columns)))
    body = pack("!H", len(parts)) + b"".join(parts)
    found = same(columns, before + body + PAD, len(before))
    if isinstance(found, tuple):
        assert found[2] == len(before) + len(body)


@given(COLUMNS, st.binary(max_size=60))
@example([("a", None)], b"\x00\x01t\x00\x00\x00\xff")
def test_any_bytes_are_read_alike(columns: TupleColumns, data: bytes) -> None:
    same(columns, pack("!H", len(columns)) + data + PAD)


def test_values_names_and_unchanged_columns_come_as_the_protocol_has_them() -> None:
    columns: TupleColumns = [("id", int), (None, None), ("note", None), ("photo", None)]
    body = pack("!H", 4) + b"t\0\0\0\x0212" + b"t\0\0\0\x03xyz" + b"n" + b"u"
    assert same(columns, body + PAD) == ([("id", 12), ("note", None)], ("photo",), len(body))
    assert same(columns[:3], body[:1] + b"\x03" + body[2:-1] + PAD) == ([("id", 12), ("note", None)], (), len(body) - 1)
