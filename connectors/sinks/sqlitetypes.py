"""Wire values in SQLite columns and back. Pure.

SQLite gives a column an affinity by words in its declared type (https://sqlite.org/datatype3.html). Text that looks
like a number becomes a number, 15 digits exact, in any column that is not TEXT or BLOB: that is why decimals are
created as TEXT. Numbers are stored as numbers, booleans as 0 and 1, lists as JSON, binary values as they are.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from functools import cache
from types import NoneType
from typing import Any, Final, Literal

import msgspec

from connectors.pgtypes import base_name, from_wire, is_array
from sync_hub.errors import Rejected
from sync_hub.model import ABSENT

Kind = Literal["integer", "boolean", "real", "numeric", "text", "blob", "array", "any"]

_CREATED: Final = {
    "smallint": "INTEGER",
    "integer": "INTEGER",
    "bigint": "INTEGER",
    "oid": "INTEGER",
    "boolean": "BOOLEAN",
    "real": "REAL",
    "double precision": "REAL",
    "bytea": "BLOB",
}
_DESCRIBED: Final[tuple[tuple[str, Kind, str], ...]] = (
    # pattern in the declared type, in order → kind, PostgreSQL's name
    (r"ARRAY$", "array", "text[]"),
    (r"BOOL", "boolean", "boolean"),
    (r"^INTERVAL", "text", "text"),  # compared as text: P1M is not P30D there
    (r"INT", "integer", "bigint"),
    (r"CHAR|CLOB|TEXT", "text", "text"),
    (r"BLOB", "blob", "bytea"),
    (r"REAL|FLOA|DOUB", "real", "double precision"),
    (r"^(TIMESTAMP|DATETIME).*(TZ|WITH TIME ZONE)", "text", "timestamp with time zone"),
    (r"^(TIMESTAMP|DATETIME)", "text", "timestamp without time zone"),
    (r"^DATE", "text", "date"),
    (r"^TIME", "text", "time without time zone"),
    (r"^JSON", "text", "json"),
    (r"^UUID", "text", "uuid"),
    (r"^$|^ANY$", "any", "text"),
)
_SPECIAL_FLOATS: Final = frozenset({"NaN", "Infinity", "-Infinity"})
_TRUTH: Final = {True: 1, False: 0, "true": 1, "false": 0, "t": 1, "f": 0, "1": 1, "0": 0}
_text = from_wire("text")


def created_type(type_name: str) -> str:
    """The declared type for a PostgreSQL type: arrays as `INTEGER ARRAY`, decimals and the rest TEXT."""
    if is_array(type_name):
        return f"{created_type(type_name.removesuffix('[]'))} ARRAY"
    return _CREATED.get(base_name(type_name), "TEXT")


@cache
def described(declared: str) -> tuple[Kind, str]:
    """How a declared type is stored, and its nearest name in PostgreSQL's spelling."""
    upper = " ".join(declared.upper().split())
    if upper.endswith(" ARRAY"):
        return "array", described(upper.removesuffix(" ARRAY"))[1] + "[]"
    for pattern, kind, name in _DESCRIBED:
        if re.search(pattern, upper):
            return kind, name
    return "numeric", "numeric"


def to_column(values: Sequence[Any], kind: Kind) -> Sequence[Any]:
    """One column of wire values as SQLite stores them. Raises `Rejected` for what the column's type cannot mean."""
    if set(map(type, values)) <= _AS_IT_IS[kind]:
        return values
    convert = _STORE[kind]
    return [None if value is None or value is ABSENT else convert(value) for value in values]


def to_key(values: Sequence[Any], kind: Kind) -> Sequence[Any]:
    """One column of keys to look for. What the column's type cannot mean is looked for as it is: SQLite keeps it so."""
    try:
        found = to_column(values, kind)
    except Rejected:
        found = [_key(value, kind) for value in values]
    return [str(value) if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63 else value for value in found]


def _key(value: Any, kind: Kind) -> Any:
    try:
        return to_column([value], kind)[0]
    except Rejected:
        return value if isinstance(value, str | int | float) else str(value)


def to_wire(values: Sequence[Any], kind: Kind) -> Sequence[Any]:
    """One column as SQLite returns it, as wire values."""
    if kind in ("integer", "real"):
        return values
    load = _LOAD[kind]
    return [None if value is None else load(value) for value in values]


def _refused(wanted: str) -> Rejected:
    return Rejected(
        "invalid_value",
        f"a value is no {wanted}",
        sqlstate="22P02",
        hint="mend the row at the source, or cast the value in the mapping",
    )


def _integer(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    text = str(value)
    if re.fullmatch(r"\s*[+-]?\d{1,19}\s*", text):
        return int(text)
    raise _refused("integer")


def _boolean(value: Any) -> int:
    try:
        return _TRUTH[value]
    except (KeyError, TypeError):
        raise _refused("boolean") from None


def _real(value: Any) -> Any:
    if isinstance(value, bool):
        raise _refused("number")
    if isinstance(value, str) and value in _SPECIAL_FLOATS:
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise _refused("number") from None


def _numeric(value: Any) -> Any:
    return value if isinstance(value, int | float) else _text(value)


def _blob(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise _refused("base64, which binary values travel as") from None


def _array(value: Any) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, list) else _text(value)


def _any(value: Any) -> Any:
    return _text(value) if isinstance(value, bool | list | dict) else value


def _load_boolean(value: Any) -> Any:
    return bool(value) if value in (0, 1) else value


def _load_text(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _load_array(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("["):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value  # a lower bound other than 1 travels as text: [0:1]={…}
    return value


def _load_any(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


_AS_IT_IS: Final[dict[Kind, set[Any]]] = {
    "integer": {int, NoneType},
    "boolean": {NoneType},
    "real": {int, float, NoneType},
    "numeric": {int, float, str, NoneType},
    "text": {str, NoneType},
    "blob": {NoneType},
    "array": {str, NoneType},
    "any": {int, float, str, NoneType},
}
_STORE: Final[dict[Kind, Callable[[Any], Any]]] = {
    "integer": _integer,
    "boolean": _boolean,
    "real": _real,
    "numeric": _numeric,
    "text": _text,
    "blob": _blob,
    "array": _array,
    "any": _any,
}
_LOAD: Final[dict[Kind, Callable[[Any], Any]]] = {
    "boolean": _load_boolean,
    "numeric": _load_text,
    "text": _load_text,
    "blob": _load_text,
    "array": _load_array,
    "any": _load_any,
}
