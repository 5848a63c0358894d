"""SQL types as expressions see them: PostgreSQL's names, grouped into kinds that share one representation."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct


class SqlType(Struct, frozen=True):
    """A type. `kind` decides how values look in Python; `length` is a precision or a length, `element` an array's.

    bool, int, float, text: as in Python · numeric: Decimal · date: days, time: microseconds, timestamp and timestamptz:
    microseconds since 1970 (UTC) · interval: `Interval` · json, jsonb: the document's text · bytea: bytes ·
    array: list · unknown: a literal that takes the type its place asks for.
    """

    name: str
    kind: str
    length: int | None = None
    scale: int | None = None
    element: SqlType | None = None

    def __str__(self) -> str:
        if self.element is not None:
            return f"{self.element}[]"
        if self.length is None:
            return self.name
        limit = f"({self.length},{self.scale})" if self.scale is not None else f"({self.length})"
        head, space, tail = self.name.partition(" with")
        return f"{head}{limit}{space}{tail}" if head.startswith("time") else f"{self.name}{limit}"

    @property
    def base(self) -> SqlType:
        """The type without its length."""
        return SqlType(self.name, self.kind, element=self.element) if self.length is not None else self


BOOLEAN: Final = SqlType("boolean", "bool")
SMALLINT: Final = SqlType("smallint", "int")
INTEGER: Final = SqlType("integer", "int")
BIGINT: Final = SqlType("bigint", "int")
NUMERIC: Final = SqlType("numeric", "numeric")
REAL: Final = SqlType("real", "float")
DOUBLE: Final = SqlType("double precision", "float")
TEXT: Final = SqlType("text", "text")
VARCHAR: Final = SqlType("character varying", "text")
CHAR: Final = SqlType("character", "text")
CITEXT: Final = SqlType("citext", "text")
DATE: Final = SqlType("date", "date")
TIME: Final = SqlType("time without time zone", "time")
TIMESTAMP: Final = SqlType("timestamp without time zone", "timestamp")
TIMESTAMPTZ: Final = SqlType("timestamp with time zone", "timestamptz")
INTERVAL: Final = SqlType("interval", "interval")
JSON: Final = SqlType("json", "json")
JSONB: Final = SqlType("jsonb", "jsonb")
BYTEA: Final = SqlType("bytea", "bytea")
UUID: Final = SqlType("uuid", "uuid")
UNKNOWN: Final = SqlType("unknown", "unknown")
SECRET: Final = SqlType("secret", "secret")
"""What `secret('NAME')` gives: only a keyed hash takes it, so that it ends in no target."""

_CANONICAL: Final = (
    BOOLEAN, SMALLINT, INTEGER, BIGINT, NUMERIC, REAL, DOUBLE, TEXT, VARCHAR, CHAR, CITEXT, DATE, TIME, TIMESTAMP,
    TIMESTAMPTZ, INTERVAL, JSON, JSONB, BYTEA, UUID,
)  # fmt: skip
_ALIASES: Final = {
    "bool": BOOLEAN, "int2": SMALLINT, "int": INTEGER, "int4": INTEGER, "int8": BIGINT, "decimal": NUMERIC,
    "float4": REAL, "float": DOUBLE, "float8": DOUBLE, "double": DOUBLE, "varchar": VARCHAR, "char": CHAR,
    "bpchar": CHAR, "time": TIME, "timestamp": TIMESTAMP, "timestamptz": TIMESTAMPTZ, "name": TEXT,
    "serial": INTEGER, "bigserial": BIGINT, "oid": BIGINT,
}  # fmt: skip
KNOWN: Final[dict[str, SqlType]] = {type_.name: type_ for type_ in _CANONICAL} | _ALIASES
INT_BITS: Final = {"smallint": 16, "integer": 32, "bigint": 64}

_TYPE = re.compile(
    r"^(?P<name>[a-z][a-z0-9_]*(?: [a-z]+)*?)\s*(?:\(\s*(?P<length>\d+)\s*(?:,\s*(?P<scale>-?\d+)\s*)?\))?"
    r"(?P<zone> with(?:out)? time zone)?(?P<array>(?:\[\d*\])*)$"
)


def parse_type(text: str) -> SqlType:
    """The type a catalog or a cast names. What is not known is of kind `other`: its values are PostgreSQL's text."""
    match = _TYPE.match(text.strip().lower())
    if not match:
        return SqlType(text, "other")
    type_ = KNOWN.get(match["name"] + (match["zone"] or ""))
    if type_ is None:
        type_ = SqlType(match["name"] + (match["zone"] or ""), "other")
    if match["length"] and type_.kind in {"numeric", "text", "time", "timestamp", "timestamptz", "other"}:
        scale = int(match["scale"]) if match["scale"] else (0 if type_.kind == "numeric" else None)
        type_ = SqlType(type_.name, type_.kind, int(match["length"]), scale)
    elif type_ is CHAR and match["name"] != "bpchar":
        type_ = SqlType(type_.name, type_.kind, 1)
    return SqlType(f"{type_}[]", "array", element=type_) if match["array"] else type_


_NUMBERS: Final = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
_MOMENTS: Final = ("date", "timestamp without time zone", "timestamp with time zone")
_PREFERRED: Final = frozenset({"double precision", "timestamp with time zone", "text", "boolean", "interval"})
EXACT: Final = 0
_PREFERRED_COST: Final = 10
_OTHER_COST: Final = 11
_UNKNOWN_TEXT_COST: Final = 1
_UNKNOWN_COST: Final = 2


def conversion_cost(given: SqlType, wanted: SqlType) -> int | None:
    """How far an argument is from a parameter by PostgreSQL's rules; None when it is not converted by itself."""
    if given.name == wanted.name:
        return EXACT
    if given.kind == "unknown":
        return _UNKNOWN_TEXT_COST if wanted.kind == "text" else _UNKNOWN_COST
    if wanted.kind == "text":
        return EXACT if given.kind == "text" else _OTHER_COST if given.kind == "other" else None
    for family in (_NUMBERS, _MOMENTS):
        if given.name in family and wanted.name in family:
            if family.index(given.name) > family.index(wanted.name):
                return None
            return _PREFERRED_COST if wanted.name in _PREFERRED else _OTHER_COST
    return None


def common_type(types: list[SqlType]) -> SqlType | None:
    """The type that COALESCE, CASE, IN and comparisons bring these to; None when there is none."""
    result: SqlType | None = None
    for type_ in types:
        if type_.kind == "unknown":
            continue
        if result is None or result == type_:
            result = type_
        elif conversion_cost(type_.base, result.base) is not None:
            result = result if result.kind == "array" else _wider(result, type_)
        elif conversion_cost(result.base, type_.base) is not None:
            result = type_.base
        else:
            return None
    return result or TEXT


def _wider(result: SqlType, other: SqlType) -> SqlType:
    return TEXT if result.kind == "text" and other.name != result.name else result.base


def is_orderable(type_: SqlType) -> bool:
    """Whether `<` means something that the hub knows without the source's catalog."""
    return type_.kind not in {"json", "jsonb", "array", "other"}
