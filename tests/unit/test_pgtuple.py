"""Rows read the fast way are the rows that the plain code reads, whatever the values; any bytes are read or refused."""

from __future__ import annotations

from struct import error as StructError
from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.sources.pgtuple import (
    TOO_LONG,
    PairReader,
    TupleColumns,
    TupleReader,
    read_last,
    read_pair,
)


def flag(text: str) -> bool:
    return {"t": True, "f": False}[text]


CONVERTERS = st.sampled_from([None, None, int, flag, str.upper])
NAMES = st.none() | st.text(min_size=1, max_size=8) | st.sampled_from(["id", "a'b", 'a"b', "a\\b", "a{b}", "\n"])
COLUMNS = st.lists(st.tuples(NAMES, CONVERTERS), max_size=8, unique_by=lambda column: column[0] or object())
SIZES = (0, 1, ord("t"), 127, 128, 255, 256, 300, ord("t") << 8, ord("t") << 8 | ord("t"))
TEXTS = st.one_of(
    st.sampled_from(["t", "f", "12", "-7", "", "tt", "n", "u", "Ünal", "\N{SNOWMAN}t", "N"]),
    st.sampled_from(SIZES).map(lambda size: "t" * size),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
)
VALUES = TEXTS.map(str.encode) | st.just(b"\xff")
PARTS = st.one_of(VALUES.map(lambda value: b"t" + pack("!I", len(value)) + value), st.sampled_from([b"n", b"n", b"u"]))
REFUSED = (ValueError, LookupError, TypeError, StructError)


def outcome(read: Any, *given_: Any) -> Any:
    """What reading gives: rows with their order, or the kind of error that bad bytes cause."""
    try:
        found = read(*given_)
    except REFUSED as error:
        return type(error)
    tuples = [found] if isinstance(found[0], dict) else found
    return [(list(row.items()), missing) for row, missing in tuples]


def drawn(data: st.DataObject, columns: TupleColumns) -> bytes:
    parts = data.draw(st.lists(PARTS, min_size=len(columns), max_size=len(columns)))
    return pack("!H", len(parts)) + b"".join(parts)


def both(data: bytes, columns: TupleColumns, position: int = 0) -> Any:
    """The outcome, which both ways of reading one tuple agree on."""
    plain = outcome(read_last, data, position, columns)
    assert outcome(TupleReader(columns).read, data, position) == plain
    return plain


def both_pairs(data: bytes, old: TupleColumns, new: TupleColumns, position: int = 0) -> Any:
    plain = outcome(read_pair, data, position, old, new)
    assert outcome(PairReader(TupleReader(old), TupleReader(new)).read, data, position) == plain
    return plain


@given(st.data(), COLUMNS, st.binary(max_size=4))
def test_tuples_are_read_alike(data: st.DataObject, columns: TupleColumns, before: bytes) -> None:
    both(before + drawn(data, columns), columns, len(before))


@given(st.data(), COLUMNS, st.binary(max_size=4), st.booleans())
def test_pairs_of_tuples_are_read_alike(
    data: st.DataObject, columns: TupleColumns, before: bytes, key_only: bool
) -> None:
    old = [column if place % 2 else (None, None) for place, column in enumerate(columns)] if key_only else columns
    body = drawn(data, columns) + b"N" + drawn(data, columns)
    both_pairs(before + body, old, columns, len(before))


@given(st.data(), COLUMNS, st.binary(max_size=4), st.integers(1, 6), st.integers(0, 3))
def test_runs_are_read_as_their_messages_are_one_by_one(
    data: st.DataObject, columns: TupleColumns, before: bytes, count: int, cut: int
) -> None:
    pool = [drawn(data, columns) for _ in range(count)]
    messages = [before + data.draw(st.sampled_from(pool)) for _ in range(count)]
    messages[data.draw(st.integers(0, count - 1))] += data.draw(
        st.sampled_from([b"", b"", b"n", b"t\0\0", b"\xdc\0\0"])
    )
    broken = data.draw(st.integers(0, count - 1))
    messages[broken] = messages[broken][: max(len(before), len(messages[broken]) - cut)]
    one_by_one = [outcome(read_last, one, len(before), columns) for one in messages]
    found = TupleReader(columns).read_all(messages, len(before))
    if found is None:
        skipping = any(name is None for name, _ in columns)  # what nobody wants may be no text
        assert skipping or any(isinstance(one, type) for one in one_by_one)
    else:
        rows, unchanged = found
        told = [[(list(row.items()), unchanged.pop(place, ()))] for place, row in enumerate(rows)]
        assert told == one_by_one
        assert not unchanged


@given(COLUMNS, st.binary(max_size=60))
def test_any_bytes_are_a_row_or_refused(columns: TupleColumns, data: bytes) -> None:
    for given_ in (data, pack("!H", len(columns)) + data):
        for found in (
            outcome(TupleReader(columns).read, given_, 0),
            outcome(PairReader(TupleReader(columns), TupleReader(columns)).read, given_, 0),
        ):
            assert isinstance(found, list) or issubclass(found, REFUSED)


@given(COLUMNS, st.data(), st.sampled_from([b"", b"x", b"n", b"t\0\0"]), st.integers(0, 8))
def test_a_tuple_that_is_too_long_or_too_short_is_refused(
    columns: TupleColumns, data: st.DataObject, more: bytes, fewer: int
) -> None:
    body = drawn(data, columns)
    wrong = (body + more)[: max(0, len(body + more) - fewer)]
    if wrong != body:
        assert isinstance(both(wrong, columns), type)


@pytest.mark.parametrize("size", [*SIZES, TOO_LONG - 1, TOO_LONG, 0x10074, ord("t") << 16, 0x740074])
@pytest.mark.parametrize("text", ["t", "é"])
def test_values_of_any_size_are_read_whole(size: int, text: str) -> None:
    value = (text * size).encode()[:size].decode(errors="ignore").encode()
    body = pack("!H", 3) + b"t\0\0\0\x011" + b"t" + pack("!I", len(value)) + value + b"t\0\0\0\x01t"
    columns: TupleColumns = [("id", int), ("text", None), ("flag", flag)]
    assert both(body, columns) == [([("id", 1), ("text", value.decode()), ("flag", True)], ())]
    assert both_pairs(body + b"N" + body, columns, columns) == both(body, columns) * 2


@pytest.mark.parametrize("count", [1, 115, 116, 117, 127, 128, 255, 256, 0x6E, 0x75, 1600])
def test_tables_of_any_width_are_read(count: int) -> None:
    columns: TupleColumns = [(f"c{place}", None) for place in range(count)]
    parts = [b"n" if place % 3 else b"t\0\0\0\x02" + f"{place % 90 + 10}".encode() for place in range(count)]
    body = pack("!H", count) + b"".join(parts)
    row = [(f"c{place}", None if place % 3 else f"{place % 90 + 10}") for place in range(count)]
    assert both(body, columns) == [(row, ())]
    assert both_pairs(body + b"N" + body, columns, columns) == [(row, ())] * 2


def test_values_names_and_unchanged_columns_come_as_the_protocol_has_them() -> None:
    columns: TupleColumns = [("id", int), (None, None), ("note", None), ("photo", None)]
    body = pack("!H", 4) + b"t\0\0\0\x0212" + b"t\0\0\0\x03xyz" + b"n" + b"u"
    assert both(body, columns) == [([("id", 12), ("note", None)], ("photo",))]
    assert both(body[:1] + b"\x03" + body[2:-1], columns[:3]) == [([("id", 12), ("note", None)], ())]
    old = body[:-1] + b"n"
    assert both_pairs(old + b"N" + body, columns[:1] + [(None, None)] * 3, columns) == [
        ([("id", 12)], ()),
        ([("id", 12), ("note", None)], ("photo",)),
    ]
