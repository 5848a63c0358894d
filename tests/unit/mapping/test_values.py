"""Values between wire, computing and text; values that compare equal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_hub.errors import Rejected
from sync_hub.mapping import moments
from sync_hub.mapping.intervals import parse_interval, show_interval_iso
from sync_hub.mapping.moments import Interval
from sync_hub.mapping.types import parse_type
from sync_hub.mapping.values import comparable, from_debezium, from_text, from_wire, to_text, to_wire

WIRE = [
    ("numeric", "10.50"), ("numeric", "-0.0049"), ("numeric", "NaN"), ("numeric", "-Infinity"), ("numeric", "0"),
    ("numeric(30,2)", "1234567890123456789012345678.90"), ("double precision", 0.1), ("double precision", 5),
    ("double precision", -0.0), ("double precision", "NaN"), ("double precision", "Infinity"),
    ("double precision", 1e300), ("real", 0.1), ("real", 3.4e38), ("date", "2024-02-29"), ("date", "infinity"),
    ("date", "0044-03-15 BC"), ("date", "12345-06-07"), ("time without time zone", "12:34:56.7"),
    ("time without time zone", "24:00:00"), ("timestamp without time zone", "2024-02-29T12:34:56.789012"),
    ("timestamp without time zone", "2024-02-29T12:34:56.5"), ("timestamp without time zone", "10000-01-01 00:00:00"),
    ("timestamp without time zone", "-infinity"), ("timestamp with time zone", "2024-02-29T12:34:56Z"),
    ("timestamp with time zone", "0044-03-15 10:00:00+00 BC"), ("interval", "P1Y2M3DT4H5M6.7S"), ("interval", "PT0S"),
    ("interval", "P-1M2DT-3H"), ("interval", "PT-1.5S"), ("bytea", "AP8="), ("text[]", ["a", None, ""]),
    ("numeric[]", ["1.10", None]), ("integer[]", [[1, 2], [3, 4]]), ("boolean", True), ("bigint", 9223372036854775807),
    ("jsonb", '{"a": 1.10}'), ("uuid", "123e4567-e89b-12d3-a456-426614174000"), ("inet", "10.0.0.1/8"),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "wire"), WIRE)
def test_a_wire_value_comes_back_as_it_was(type_: str, wire: Any) -> None:
    known = parse_type(type_)
    read, write = from_wire(known), to_wire(known)
    computed = read(wire) if read else wire
    again = write(computed) if write else computed
    assert (again, type(again), str(again)) == (wire, type(wire), str(wire))


@pytest.mark.parametrize(("type_", "wire"), WIRE)
def test_text_reads_back_as_the_same_value(type_: str, wire: Any) -> None:
    known = parse_type(type_)
    if known.element is not None and isinstance(wire[0], list):
        return
    read, show, parse = from_wire(known), to_text(known), from_text(known)
    computed = read(wire) if read else wire
    text = show(computed) if show else computed
    again = parse(text) if parse else text
    assert repr(again) == repr(computed)


@pytest.mark.parametrize(
    ("type_", "one", "other"),
    [
        ("numeric(12,2)", "10.5", "10.50"), ("numeric", "1E+2", "100"), ("numeric", 5, "5.0"),
        ("numeric", "NaN", "NaN"),
        ("double precision", 1, 1.0), ("double precision", "NaN", "NaN"), ("double precision", -0.0, 0),
        ("real", 0.1, 0.10000000149011612),
        ("timestamp with time zone", "2024-01-01T00:00:00Z", "2024-01-01 01:00:00+01"),
        ("timestamp without time zone", "2024-01-01T00:00:00", "2024-01-01 00:00:00.000"),
        ("date", "2024-01-01", "2024-01-01"),
        ("boolean", True, 1), ("integer", 5, "5"), ("interval", "PT60S", "PT1M"), ("character(5)", "ab", "ab   "),
        ("jsonb", '{"a": 1, "b": [1.0]}', '{"b":[1],"a":1.00}'), ("json", '{"a":1}', '{ "a" : 1 }'),
        ("numeric[]", ["1.0", None], ["1", None]),
        ("uuid", "123E4567-E89B-12D3-A456-426614174000", "123e4567e89b12d3a456426614174000"), ("text", "", ""),
        ("time without time zone", "10:00:00", "10:00"), ("bytea", "AA==", "AA=="), ("bigint", None, None),
    ],
)  # fmt: skip
def test_equal_values_compare_equal(type_: str, one: Any, other: Any) -> None:
    assert comparable(type_)(one) == comparable(type_)(other)


@pytest.mark.parametrize(
    ("type_", "one", "other"),
    [
        ("numeric", "10.5", "10.51"), ("numeric", "NaN", "0"), ("text", "a", "a "), ("text", "1.0", "1.00"),
        ("timestamp with time zone", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00.000001Z"), ("boolean", True, False),
        ("jsonb", '{"a": 1}', '{"a": "1"}'), ("jsonb", "[1, 2]", "[2, 1]"), ("jsonb", "true", "1"), ("text", None, ""),
        ("interval", "P1M", "P30D"), ("numeric", "abc", "1"), ("text[]", ["a"], ["a", None]), ("bigint", 0, None),
    ],
)  # fmt: skip
def test_different_values_compare_different(type_: str, one: Any, other: Any) -> None:
    assert comparable(type_)(one) != comparable(type_)(other)


@pytest.mark.parametrize(
    ("type_", "theirs", "ours"),
    [
        ("date", "2024-02-29Z", "2024-02-29"), ("time without time zone", "23:59:59.9Z", "23:59:59.9"),
        ("timestamp without time zone", "2024-02-29T10:00:00Z", "2024-02-29T10:00:00"), ("numeric", "NAN", "NaN"),
        ("double precision", "NAN", "NaN"), ("date[]", ["2024-02-29Z", None], ["2024-02-29", None]),
        ("date", 19782, 19782),
    ],
)  # fmt: skip
def test_debeziums_spelling_becomes_ours(type_: str, theirs: Any, ours: Any) -> None:
    convert = from_debezium(type_)
    assert convert is not None
    assert convert(theirs) == ours


@pytest.mark.parametrize("type_", ["text", "timestamp with time zone", "jsonb", "text[]", "integer"])
def test_debezium_spells_most_types_as_we_do(type_: str) -> None:
    assert from_debezium(type_) is None


@pytest.mark.parametrize(
    ("type_", "text", "sqlstate"),
    [
        ("integer", "1.5", "22P02"), ("integer", "99999999999", "22003"), ("numeric", "1e99999", "22003"),
        ("numeric", "", "22P02"), ("double precision", "1e999", "22003"), ("boolean", "maybe", "22P02"),
        ("date", "29.02.2024", "22007"), ("date", "2023-02-29", "22008"), ("date", "2024-13-01", "22008"),
        ("time without time zone", "25:00", "22008"), ("timestamp without time zone", "soon", "22007"),
        ("timestamp with time zone", "2024-01-01 00:00:00+99", "22008"), ("interval", "1 fortnight", "22007"),
        ("interval", "infinity", "22008"), ("uuid", "123", "22P02"), ("jsonb", "{", "22P02"), ("jsonb", "NaN", "22P02"),
        ("jsonb", '"\\u0000"', "22P05"), ("jsonb", "[" * 100_000, "22P02"), ("bytea", "\\xzz", "22P02"),
        ("bytea", "\\", "22P02"), ("integer[]", "1,2", "22P02"), ("integer", "9" * 5000, "22P02"),
    ],
)  # fmt: skip
def test_texts_that_are_no_values_are_rejected_as_postgres_does(type_: str, text: str, sqlstate: str) -> None:
    parse = from_text(parse_type(type_))
    assert parse is not None
    with pytest.raises(Rejected) as caught:
        parse(text)
    assert caught.value.sqlstate == sqlstate


@given(st.integers(-2_440_588, 106_000_000))
def test_every_day_has_one_civil_date(days: int) -> None:
    assert moments.days_of(*moments.civil(days)) == days
    assert moments.parse_date(moments.show_date(days)) == days


@given(st.integers(-210_000_000_000_000_000, 9_000_000_000_000_000_000))
def test_every_timestamp_reads_back(micros: int) -> None:
    assert moments.parse_timestamp(moments.show_timestamp(micros, between="T")) == micros
    assert moments.parse_timestamptz(moments.show_timestamp(micros, between="T", zone="Z")) == micros


@given(st.builds(Interval, *[st.integers(-(10**9), 10**9)] * 2, st.integers(-(10**17), 10**17)))
def test_every_interval_reads_back(span: Interval) -> None:
    assert parse_interval(show_interval_iso(span)) == span


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("int4", "integer"), ("VARCHAR(20)", "character varying(20)"), ("decimal(10, 2)", "numeric(10,2)"),
        ("timestamptz(3)", "timestamp(3) with time zone"),
        ("timestamp (3) without time zone", "timestamp(3) without time zone"),
        ("float8", "double precision"), ("char", "character(1)"), ("bpchar", "character"), ("text[][]", "text[]"),
        ("time", "time without time zone"), ("numeric(5)", "numeric(5,0)"), ("mood", "mood"),
        ("numeric(5,-2)", "numeric(5,-2)"),
    ],
)  # fmt: skip
def test_type_names_are_understood_and_shown_as_postgres_shows_them(written: str, shown: str) -> None:
    assert str(parse_type(written)) == shown
