"""PostgreSQL's text of a value to the hub's wire value and back, and the canonical form of keys. Pure.

Type names are PostgreSQL's spelling (`numeric(12,2)`, `timestamp with time zone`, `text[]`), domains resolved. The
text must come from a session with `postgresql.SESSION`. A converter of None means: the value is taken as it is.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, Final

import msgspec

from sync_hub.errors import Rejected

Convert = Callable[[Any], Any]

_INTEGERS: Final = frozenset({"smallint", "integer", "bigint", "oid"})
_FLOATS: Final = frozenset({"real", "double precision"})
_SPECIAL_FLOATS: Final = frozenset({"NaN", "Infinity", "-Infinity"})


def base_name(type_name: str) -> str:
    """The type without its modifier: `numeric(12,2)` → `numeric`, `timestamp(3) with time zone` → without the 3."""
    return re.sub(r"\([^)]*\)", "", type_name) if "(" in type_name else type_name


def is_array(type_name: str) -> bool:
    """Whether values of this type are arrays."""
    return type_name.endswith("[]")


def to_wire(type_name: str) -> Callable[[str], Any]:
    """Make the function that turns PostgreSQL's text of a non-null value into the wire value."""
    return wire_converter(type_name) or str


@cache
def wire_converter(type_name: str) -> Callable[[str], Any] | None:
    """As `to_wire`, but None where the text is the wire value."""
    if is_array(type_name):
        element = type_name[:-2]
        return _array_reader(wire_converter(element), ";" if base_name(element) == "box" else ",")
    base = base_name(type_name)
    if base in _INTEGERS:
        return int
    return _TO_WIRE.get(base)


def _float(text: str) -> Any:
    try:
        return int(text) if text != "-0" else -0.0
    except ValueError:
        return text if text in _SPECIAL_FLOATS else float(text)


def _timestamptz(text: str) -> str:
    if text[-3:] == "+00" and text[4] == "-":  # years of four digits; neither infinite nor BC
        return text[:-3].replace(" ", "T") + "Z"
    return text


def _timestamp(text: str) -> str:
    if text[4:5] == "-" and text[-1] != "C":
        return text.replace(" ", "T")
    return text


def _bytea(text: str) -> str:
    return base64.b64encode(bytes.fromhex(text[2:])).decode()


def _money(text: str) -> str:
    return text.replace("$", "").replace(",", "")


_TO_WIRE: Final[dict[str, Callable[[str], Any]]] = {
    "boolean": {"t": True, "f": False}.__getitem__,
    "real": _float,
    "double precision": _float,
    "timestamp with time zone": _timestamptz,
    "timestamp without time zone": _timestamp,
    "timestamp": _timestamp,
    "bytea": _bytea,
    "money": _money,
}


def _array_reader(element: Callable[[str], Any] | None, delimiter: str) -> Callable[[str], Any]:
    token = re.compile(rf'"((?:[^"\\]|\\.)*)"|([{{}}{delimiter}])|([^{{}}{delimiter}"]+)', re.DOTALL)
    escape = re.compile(r"\\(.)", re.DOTALL)

    def read(text: str) -> Any:
        if not text.startswith("{"):
            return text  # a lower bound other than 1: [0:1]={…}
        top: list[Any] = []
        stack = [top]
        for quoted, mark, plain in token.findall(text):
            if plain:
                stack[-1].append(None if plain == "NULL" else element(plain) if element else plain)
            elif mark == "{":
                inner: list[Any] = []
                stack[-1].append(inner)
                stack.append(inner)
            elif mark == "}":
                stack.pop()
            elif not mark:
                value = escape.sub(r"\1", quoted) if "\\" in quoted else quoted
                stack[-1].append(element(value) if element else value)
        return top[0]

    return read


@cache
def from_wire(type_name: str) -> Callable[[Any], str]:
    """Make the function that turns a non-null value into text that PostgreSQL's input of this type takes.

    Takes what a mapping may give, not only this type's own wire values: numbers, decimals, booleans, text, lists and
    objects. Raises `Rejected` for base64 that is none.
    """
    if is_array(type_name):
        return _array_writer(type_name[:-2])
    if base_name(type_name) == "bytea":
        return _bytea_text
    return _text


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else str(value)
    if isinstance(value, list | dict):
        return msgspec.json.encode(value).decode()
    return str(value)


def _bytea_text(value: Any) -> str:
    try:
        return "\\x" + base64.b64decode(value, validate=True).hex()
    except (binascii.Error, TypeError, ValueError) as error:
        raise Rejected("invalid_base64", f"binary values travel as base64: {error}") from error


def _array_writer(element: str) -> Callable[[Any], str]:
    convert = from_wire(element)
    delimiter = ";" if base_name(element) == "box" else ","

    def write(value: Any) -> str:
        if isinstance(value, list):
            return "{" + delimiter.join(map(item, value)) + "}"
        return _text(value)

    def item(value: Any) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, list):
            return write(value)
        text = convert(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'

    return write


@cache
def canonical_key(type_name: str) -> Callable[[Any], Any] | None:
    """Make the function that gives equal keys one wire value (None: they have one already).

    Numerics lose trailing zeros, citext is folded, char(n) loses its padding, minus zero becomes 0, intervals are
    counted out as PostgreSQL compares them.
    """
    if is_array(type_name):
        return _canonical_elements(canonical_key(type_name[:-2]))
    base = base_name(type_name)
    if base.rpartition(".")[2] == "citext":
        return str.lower
    return _CANONICAL.get(base)


def _canonical_elements(element: Convert | None) -> Convert | None:
    if element is None:
        return None

    def convert(value: Any) -> Any:
        if isinstance(value, list):
            return [convert(part) for part in value]
        return value if value is None or isinstance(value, dict) else element(value)

    return convert


def _canonical_numeric(text: str) -> str:
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text


def _canonical_float(value: Any) -> Any:
    return 0 if value == 0 else value


_INTERVAL = re.compile(
    r"P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)D)?(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?)(\d+)(?:\.(\d+))?S)?)?"
)


def _canonical_interval(text: str) -> str:
    match = _INTERVAL.fullmatch(text)
    if match is None:
        return text  # infinity
    years, months, days, hours, minutes = (int(part or 0) for part in match.groups()[:5])
    sign, seconds, fraction = match.groups()[5:]
    micros = int(seconds or 0) * 1_000_000 + int((fraction or "").ljust(6, "0"))
    total = ((((years * 12 + months) * 30 + days) * 24 + hours) * 60 + minutes) * 60_000_000
    total += -micros if sign else micros
    whole, rest = divmod(abs(total), 1_000_000)
    number = f"{whole}.{rest:06d}".rstrip("0").rstrip(".")
    return f"PT{'-' if total < 0 else ''}{number}S"


_CANONICAL: Final[dict[str, Convert]] = {
    "numeric": _canonical_numeric,
    "real": _canonical_float,
    "double precision": _canonical_float,
    "character": lambda text: text.rstrip(" "),
    "bpchar": lambda text: text.rstrip(" "),
    "interval": _canonical_interval,
}


SUM_KIND = "postgresql hash_record_extended"
"""What checksums over rows are made of: hashes of values, not of their text, since PostgreSQL 14."""
_HASHED = frozenset(
    {
        "smallint", "integer", "bigint", "numeric", "real", "double precision", "boolean", "text", "character varying",
        "character", "uuid", "date", "timestamp without time zone", "timestamp with time zone", "bytea",
        "time without time zone", "jsonb", "inet", "oid",
    }
)  # fmt: skip
_COLLATED = frozenset({"text", "character varying", "character"})
_ORDERED = frozenset(
    {
        "smallint", "integer", "bigint", "numeric", "uuid", "date", "timestamp without time zone",
        "timestamp with time zone", "oid",
    }
)  # fmt: skip


def can_sum(types: Sequence[str], key_types: Sequence[str]) -> bool:
    """Whether rows of such columns can be summed, and such keys are ordered alike in every database: no collations."""
    return all(base_name(name) in _HASHED and not is_array(name) for name in types) and all(
        base_name(name) in _ORDERED and not is_array(name) for name in key_types
    )


def summed(name: str, type_name: str) -> str:
    """A quoted column as it goes into a checksum: byte by byte, whatever its collation takes for equal."""
    return f'{name} collate "C"' if base_name(type_name) in _COLLATED else name
