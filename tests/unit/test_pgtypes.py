from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.pgtypes import base_name, canonical_key, from_wire, to_wire
from sync_hub.errors import Rejected

# type, PostgreSQL's text, wire value: https://www.postgresql.org/docs/current/datatype.html, printed under SESSION
CASES: list[tuple[str, str, Any]] = [
    ("smallint", "-32768", -32768),
    ("bigint", "9223372036854775807", 9223372036854775807),
    ("oid", "4294967295", 4294967295),
    ("boolean", "t", True),
    ("boolean", "f", False),
    ("real", "1.1", 1.1),
    ("double precision", "1", 1),
    ("double precision", "1e-310", 1e-310),
    ("double precision", "1.7976931348623157e+308", 1.7976931348623157e308),
    ("double precision", "NaN", "NaN"),
    ("double precision", "-Infinity", "-Infinity"),
    ("numeric", "12345678901234567890.10", "12345678901234567890.10"),
    ("numeric(12,2)", "NaN", "NaN"),
    ("money", "-$1,234.50", "-1234.50"),
    ("timestamp with time zone", "2026-11-23 02:24:33.151664+00", "2026-11-23T02:24:33.151664Z"),
    ("timestamp(3) with time zone", "2026-11-23 02:24:33+00", "2026-11-23T02:24:33Z"),
    ("timestamp with time zone", "0044-03-15 00:00:00+00 BC", "0044-03-15 00:00:00+00 BC"),
    ("timestamp with time zone", "10000-01-01 00:00:00+00", "10000-01-01 00:00:00+00"),
    ("timestamp with time zone", "infinity", "infinity"),
    ("timestamp without time zone", "2026-11-23 02:24:33.1", "2026-11-23T02:24:33.1"),
    ("timestamp without time zone", "0044-03-15 00:00:00 BC", "0044-03-15 00:00:00 BC"),
    ("timestamp without time zone", "294276-12-31 00:00:00", "294276-12-31 00:00:00"),
    ("timestamp without time zone", "-infinity", "-infinity"),
    ("date", "2024-02-29", "2024-02-29"),
    ("time without time zone", "24:00:00", "24:00:00"),
    ("time with time zone", "12:00:00+05:30", "12:00:00+05:30"),
    ("interval", "P1Y2M3DT4H5M6.7S", "P1Y2M3DT4H5M6.7S"),
    ("bytea", "\\x00ff", "AP8="),
    ("bytea", "\\x", ""),
    ("json", '{"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
    ("text", "", ""),
    ("character(3)", "a  ", "a  "),
    ("integer[]", "{1,NULL,-3}", [1, None, -3]),
    ("integer[]", "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
    ("integer[]", "{}", []),
    ("integer[]", "[0:1]={1,2}", "[0:1]={1,2}"),
    ("text[]", '{a,"b\\"c","NULL",NULL,"","x\\\\y","{,}"," "}', ["a", 'b"c', "NULL", None, "", "x\\y", "{,}", " "]),
    ("box[]", "{(1,2),(0,0);(3,4),(2,2)}", ["(1,2),(0,0)", "(3,4),(2,2)"]),
    ("bytea[]", '{"\\\\x00ff"}', ["AP8="]),
    ("boolean[]", "{t,f,NULL}", [True, False, None]),
    ("numeric(5,1)[]", "{1.5,NaN}", ["1.5", "NaN"]),
    ("timestamp with time zone[]", '{"2026-11-23 02:24:33+00",infinity}', ["2026-11-23T02:24:33Z", "infinity"]),
    ("json[]", '{"{\\"a\\":[1,2]}"}', ['{"a":[1,2]}']),
    ("int4range", "[1,5)", "[1,5)"),
    ("inet", "10.0.0.0/8", "10.0.0.0/8"),
]


@pytest.mark.parametrize(("kind", "text", "wire"), CASES, ids=lambda value: str(value)[:30])
def test_text_becomes_the_wire_value(kind: str, text: str, wire: Any) -> None:
    made = to_wire(kind)(text)
    assert (made, type(made)) == (wire, type(wire))


@pytest.mark.parametrize(("kind", "text", "wire"), CASES, ids=lambda value: str(value)[:30])
def test_wire_values_survive_json(kind: str, text: str, wire: Any) -> None:
    value = to_wire(kind)(text)
    assert json.loads(msgspec.json.encode(value)) == wire


def test_minus_zero_stays_minus_zero() -> None:
    assert msgspec.json.encode(to_wire("double precision")("-0")) == b"-0.0"
    assert from_wire("double precision")(msgspec.json.decode(b"-0.0")) == "-0.0"


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("integer", 42, "42"),
        ("numeric", Decimal("1E+3"), "1000"),
        ("numeric", Decimal("NaN"), "NaN"),
        ("boolean", True, "true"),
        ("text", False, "false"),
        ("jsonb", {"a": [1, None]}, '{"a":[1,null]}'),
        ("jsonb", [1, "x"], '[1,"x"]'),
        ("bytea", "AP8=", "\\x00ff"),
        ("integer[]", [[1, None], [2, 3]], '{{"1",NULL},{"2","3"}}'),
        ("text[]", ['a"b', "\\", "NULL", ""], '{"a\\"b","\\\\","NULL",""}'),
        ("integer[]", "[0:1]={1,2}", "[0:1]={1,2}"),
        ("double precision", "-Infinity", "-Infinity"),
    ],
)
def test_values_become_text_that_postgresql_takes(kind: str, value: Any, text: str) -> None:
    assert from_wire(kind)(value) == text


@pytest.mark.parametrize("value", ["not base64!", "AA", 5])
def test_binary_that_is_no_base64_is_rejected(value: Any) -> None:
    with pytest.raises(Rejected) as raised:
        from_wire("bytea")(value)
    assert raised.value.code == "invalid_base64"


elements = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(elements, max_size=5))
def test_text_arrays_survive_the_round_trip(values: list[str | None]) -> None:
    assert to_wire("text[]")(from_wire("text[]")(values)) == values


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("numeric(10,4)", "1.5000", "1.5"),
        ("numeric", "100", "100.00"),
        ("numeric", "0.000", "0"),
        ("citext", "ADA@Example.com", "ada@example.com"),
        ("public.citext", "A", "a"),
        ("character(5)", "a    ", "a"),
        ("double precision", -0.0, 0),
        ("interval", "P1D", "PT24H"),
        ("interval", "P1Y", "P360D"),
        ("interval", "PT-0.5S", "PT-0.500S"),
        ("numeric[]", ["1.0", None], ["1.00", None]),
    ],
)
def test_equal_keys_have_one_canonical_form(kind: str, one: Any, other: Any) -> None:
    convert = canonical_key(kind)
    assert convert is not None
    assert repr(convert(one)) == repr(convert(other))


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("numeric", "10", "1"),
        ("interval", "PT1S", "PT-1S"),
        ("interval", "PT0.5S", "PT0.05S"),
        ("interval", "infinity", "-infinity"),
        ("character(5)", "a", " a"),
    ],
)
def test_different_keys_stay_different(kind: str, one: Any, other: Any) -> None:
    convert = canonical_key(kind)
    assert convert is not None
    assert convert(one) != convert(other)


@pytest.mark.parametrize("kind", ["integer", "text", "uuid", "date", "bigint"])
def test_plain_keys_need_no_conversion(kind: str) -> None:
    assert canonical_key(kind) is None


def test_modifiers_do_not_matter() -> None:
    assert base_name("numeric(12,2)") == "numeric"
    assert base_name("timestamp(3) with time zone") == "timestamp with time zone"
    assert base_name("character varying(10)") == "character varying"
