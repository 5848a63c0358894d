"""Values between three forms: as they go over the wire, as expressions compute with them, and as SQL text."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from sync_hub.errors import Rejected
from sync_hub.mapping import documents, intervals, moments, numerics
from sync_hub.mapping.faults import rejected
from sync_hub.mapping.types import SqlType, parse_type

Convert = Callable[[Any], Any]
"""Never called with None: NULL stays NULL everywhere."""

_BOOLEANS: Final = {word[:n]: word == "true" for word in ("true", "false") for n in range(1, len(word) + 1)} | {
    "yes": True, "ye": True, "y": True, "on": True, "1": True, "no": False, "n": False, "off": False, "of": False,
    "0": False,
}  # fmt: skip
_UUID = re.compile(r"^\{?(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}\}?$")


def parse_boolean(text: str) -> bool:
    """What PostgreSQL takes for a boolean: true, yes, on, 1, their beginnings, and the opposites."""
    value = _BOOLEANS.get(text.strip().lower())
    if value is None:
        raise rejected("22P02", "the text is not a boolean")
    return value


def parse_uuid(text: str) -> str:
    """A UUID in its usual spelling."""
    stripped = text.strip()
    if not _UUID.match(stripped) or stripped.startswith("{") != stripped.endswith("}"):
        raise rejected("22P02", "the text is not a UUID")
    digits = stripped.strip("{}").replace("-", "").lower()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def parse_bytes(text: str) -> bytes:
    r"""Bytes of PostgreSQL's text: `\x0aff`, or characters with `\\` and `\012` for what is special."""
    try:
        if text.startswith("\\x"):
            return bytes.fromhex(text[2:])
        unescaped = re.sub(
            rb"\\(\\|[0-3][0-7]{2}|.?)", lambda match: _escaped(match[1]), text.encode(), flags=re.DOTALL
        )
    except ValueError as error:
        raise rejected("22P02", "the text is not bytea") from error
    return unescaped


def _escaped(code: bytes) -> bytes:
    if code == b"\\":
        return code
    if len(code) != 3:
        raise ValueError("a lone backslash")
    return bytes([int(code, 8)])


def _wire_decimal(value: Any) -> Decimal:
    return Decimal(value) if isinstance(value, str | int) else Decimal(repr(value))


def _wire_real(value: Any) -> float:
    return numerics.to_real(float(value))


def _wire_bytes(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise rejected("22P02", "the value is not base64") from error


def _trimmed(value: str) -> str:
    return value.rstrip(" ")


_FROM_WIRE: Final[dict[str, Convert]] = {
    "numeric": _wire_decimal,
    "double precision": float,
    "real": _wire_real,
    "character": _trimmed,
    "date": moments.parse_date,
    "time without time zone": moments.parse_time,
    "timestamp without time zone": moments.parse_timestamp,
    "timestamp with time zone": moments.parse_timestamptz,
    "interval": intervals.parse_interval,
    "bytea": _wire_bytes,
}


def from_wire(type_: SqlType) -> Convert | None:
    """Wire value → value to compute with; None: they are the same."""
    if type_.element is not None:
        return _each(from_wire(type_.element))
    return _FROM_WIRE.get(type_.name)


def _each(convert: Convert | None) -> Convert:
    def run(value: Any) -> Any:
        if not isinstance(value, list):
            raise rejected("22P02", "an array whose first index is not 1 cannot be computed with")
        if convert is None:
            return value
        return [None if item is None else run(item) if isinstance(item, list) else convert(item) for item in value]

    return run


def _float_to_wire(value: float) -> Any:
    if not math.isfinite(value):
        return numerics.show_float(value)
    whole = abs(value) < 1e15 and value.is_integer() and math.copysign(1, value) == math.copysign(1, value or 1)
    return int(value) if whole else value


def _real_to_wire(value: float) -> Any:
    return _float_to_wire(float(numerics.show_float(value, real=True)))


def _timestamp_to_wire(micros: int) -> str:
    return moments.show_timestamp(micros, between="T")


def _timestamptz_to_wire(micros: int) -> str:
    return moments.show_timestamp(micros, between="T", zone="Z")


def _bytes_to_wire(value: bytes) -> str:
    return base64.b64encode(value).decode()


_TO_WIRE: Final[dict[str, Convert]] = {
    "numeric": numerics.show_decimal,
    "double precision": _float_to_wire,
    "real": _real_to_wire,
    "date": moments.show_date,
    "time without time zone": moments.show_time,
    "timestamp without time zone": _timestamp_to_wire,
    "timestamp with time zone": _timestamptz_to_wire,
    "interval": intervals.show_interval_iso,
    "bytea": _bytes_to_wire,
}


def to_wire(type_: SqlType) -> Convert | None:
    """Computed value → wire value; None: they are the same."""
    if type_.element is not None:
        convert = to_wire(type_.element)
        return None if convert is None else _each(convert)
    return _TO_WIRE.get(type_.name)


def _show_boolean(value: bool) -> str:
    return "true" if value else "false"


def _show_real(value: float) -> str:
    return numerics.show_float(value, real=True)


def _show_timestamptz(micros: int) -> str:
    return moments.show_timestamp(micros, zone="+00")


def _show_bytes(value: bytes) -> str:
    return "\\x" + value.hex()


_TO_TEXT: Final[dict[str, Convert]] = {
    "boolean": _show_boolean,
    "smallint": str,
    "integer": str,
    "bigint": str,
    "numeric": numerics.show_decimal,
    "double precision": numerics.show_float,
    "real": _show_real,
    "date": moments.show_date,
    "time without time zone": moments.show_time,
    "timestamp without time zone": moments.show_timestamp,
    "timestamp with time zone": _show_timestamptz,
    "interval": intervals.show_interval,
    "bytea": _show_bytes,
}


def to_text(type_: SqlType) -> Convert | None:
    """Computed value → what `::text` gives; None: they are the same."""
    if type_.element is not None:
        return _array_text(to_text(type_.element), boolean=type_.element.kind == "bool")
    return _TO_TEXT.get(type_.name)


_NEEDS_QUOTES = re.compile(r'[{},"\\\s]')


def _array_text(convert: Convert | None, *, boolean: bool) -> Convert:
    def show(value: Any) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, list):
            return "{" + ",".join(map(show, value)) + "}"
        text = convert(value) if convert else str(value)
        if boolean:
            text = text[0]
        if not text or text.upper() == "NULL" or _NEEDS_QUOTES.search(text):
            text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return str(text)

    return show


_FROM_TEXT: Final[dict[str, Convert]] = {
    "boolean": parse_boolean,
    "numeric": numerics.parse_decimal,
    "double precision": numerics.parse_float,
    "character": _trimmed,
    "date": moments.parse_date,
    "time without time zone": moments.parse_time,
    "timestamp without time zone": moments.parse_timestamp,
    "timestamp with time zone": moments.parse_timestamptz,
    "interval": intervals.parse_interval,
    "json": documents.checked,
    "jsonb": documents.normal,
    "bytea": parse_bytes,
    "uuid": parse_uuid,
}


def from_text(type_: SqlType) -> Convert | None:
    """SQL text, as in a literal or a cast from text → computed value; None: they are the same."""
    if type_.kind == "int":
        return lambda text: numerics.check_integer(numerics.parse_integer(text), type_.name)
    if type_.name == "real":
        return lambda text: numerics.to_real(numerics.parse_float(text))
    if type_.element is not None:
        return _array_from_text(type_.element)
    return _FROM_TEXT.get(type_.name)


_ARRAY_ITEM = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^{},"\s](?:[^{},"]*[^{},"\s])?))\s*([,}])', re.DOTALL)


def _array_from_text(element: SqlType) -> Convert:
    convert = from_text(element)

    def run(text: str) -> list[Any]:
        stripped = text.strip()
        if not stripped.startswith("{") or not stripped.endswith("}"):
            raise rejected("22P02", "the text is not an array")
        if not stripped[1:-1].strip():
            return []
        items: list[Any] = []
        position, end = 1, ","
        while end == ",":
            match = _ARRAY_ITEM.match(stripped, position)
            if not match:
                raise rejected("22P02", "the text is not a flat array")
            quoted, bare, end = match.groups()
            word = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare
            null = quoted is None and bare.upper() == "NULL"
            items.append(None if null else convert(word) if convert else word)
            position = match.end()
        return items

    return run


def comparable(type_name: str) -> Convert:
    """A function that turns a wire value of this type into one that equals another's when the values are equal.

    10.5 and 10.50, `…T10:00:00Z` and `… 10:00:00+00`, `{"a": 1}` and `{"a":1.0}` are equal then. A value that is not
    of the type stays as it is, so that it differs. None stays None.
    """
    compare = _comparable(parse_type(type_name))

    def run(value: Any) -> Any:
        if value is None:
            return None
        try:
            return compare(value)
        except (Rejected, ValueError, TypeError, AttributeError, ArithmeticError):
            return value

    return run


def _comparable(type_: SqlType) -> Convert:
    if type_.element is not None:
        inner = _comparable(type_.element)

        def items(value: Any) -> Any:
            if isinstance(value, list):
                return tuple(None if item is None else items(item) for item in value)
            return inner(value)

        return items
    if type_.kind in {"json", "jsonb"}:
        return documents.comparable
    if type_.kind == "bool":
        return lambda value: parse_boolean(str(value))
    if type_.kind == "int":
        return int
    if type_.kind == "numeric":
        return lambda value: _comparable_number(Decimal(str(value)))
    if type_.name == "real":
        return lambda value: _comparable_number(numerics.to_real(float(value)))
    if type_.kind == "float":
        return lambda value: _comparable_number(float(value))
    return from_wire(type_) or (parse_uuid if type_.kind == "uuid" else lambda value: value)


def _comparable_number(value: Any) -> Any:
    return "NaN" if math.isnan(value) else value


def from_debezium(type_name: str) -> Convert | None:
    """Debezium's own spelling of a value of this type → ours; None: they are the same.

    Debezium adds a Z to dates, times and timestamps without zone, and writes NAN.
    """
    type_ = parse_type(type_name)
    if type_.kind in {"date", "time", "timestamp"}:
        return lambda value: value.removesuffix("Z") if isinstance(value, str) else value
    if type_.kind in {"numeric", "float"}:
        return lambda value: "NaN" if value == "NAN" else value
    if type_.element is not None:
        inner = from_debezium(str(type_.element))
        if inner is not None:
            return lambda value: (
                [None if item is None else inner(item) for item in value] if isinstance(value, list) else value
            )
    return None
