"""Casts: from which type to which, and how."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from sync_hub.mapping import documents, moments, numerics
from sync_hub.mapping.faults import rejected
from sync_hub.mapping.moments import DAY, Interval, is_finite
from sync_hub.mapping.types import NUMERIC, SqlType
from sync_hub.mapping.values import Convert, from_text, to_text


def _same(value: Any) -> Any:
    return value


def cast(given: SqlType, wanted: SqlType, *, strict: bool = False) -> Convert | None:
    """A function for the cast; None when PostgreSQL has no such cast.

    `strict` is what storing into a column does: a text that is too long is rejected, not cut.
    """
    convert = _between(given, wanted)
    limit = _limit(wanted, strict=strict)
    if convert is None or limit is None:
        return convert
    if convert is _same:
        return limit
    return lambda value: limit(convert(value))


def _between(given: SqlType, wanted: SqlType) -> Convert | None:
    if given.kind == "secret":
        return None
    if given.name == wanted.name and given.element == wanted.element:
        return _same
    if wanted.kind == "text" and wanted.name != "character":
        return to_text(given) or _same
    if wanted.name == "character":
        show = to_text(given)
        return (lambda value: show(value).rstrip(" ")) if show else (lambda value: value.rstrip(" "))
    if given.kind in {"text", "other"}:
        return from_text(wanted) or _same
    if wanted.kind == "other":
        return to_text(given) or _same if given.kind == "unknown" else None
    if given.kind == "jsonb":
        return _from_jsonb(wanted)
    if given.element is not None or wanted.element is not None:
        return _array(given, wanted)
    make = _MAKERS.get((given.kind, wanted.kind))
    return make(given, wanted) if make else None


def _array(given: SqlType, wanted: SqlType) -> Convert | None:
    if given.element is None or wanted.element is None:
        return None
    convert = cast(given.element, wanted.element)
    if convert is None:
        return None
    return lambda value: [None if item is None else convert(item) for item in value]


def _limit(wanted: SqlType, *, strict: bool) -> Convert | None:
    if wanted.element is not None:
        return None
    length = wanted.length
    if length is None:
        return None
    if wanted.kind == "numeric":
        scale = wanted.scale or 0
        return lambda value: numerics.fit_decimal(value, length, scale)
    if wanted.kind == "text":
        return lambda value: _shortened(value, length, strict=strict)
    if wanted.kind in {"time", "timestamp", "timestamptz"}:
        unit = 10 ** (6 - min(length, 6))
        return lambda micros: _rounded_to(micros, unit)
    return None


def _shortened(value: str, length: int, *, strict: bool) -> str:
    if strict and len(value.rstrip(" ")) > length:
        raise rejected("22001", f"the text is longer than {length} characters")
    return value[:length]


def _rounded_to(micros: int, unit: int) -> int:
    if not is_finite(micros) or unit == 1:
        return micros
    quotient = (2 * abs(micros) + unit) // (2 * unit)
    return quotient * unit if micros >= 0 else -quotient * unit


def _to_integer(_: SqlType, wanted: SqlType) -> Convert:
    name = wanted.name
    return lambda value: numerics.check_integer(int(value), name)


def _numeric_to_integer(_: SqlType, wanted: SqlType) -> Convert:
    name = wanted.name

    def run(value: Decimal) -> int:
        if not value.is_finite():
            raise rejected("0A000", f"NaN and infinity are no {name}")
        return numerics.check_integer(int(numerics.round_to(value, 0)), name)

    return run


def _float_to_integer(_: SqlType, wanted: SqlType) -> Convert:
    name = wanted.name

    def run(value: float) -> int:
        if not math.isfinite(value):
            raise rejected("22003", f"{name} out of range")
        return numerics.check_integer(round(value), name)

    return run


def _float(given: SqlType, wanted: SqlType) -> Convert:
    if given.kind == "numeric":
        read: Convert = _decimal_to_float
    else:
        read = _integer_to_float if given.kind == "int" else _same
    if wanted.name != "real":
        return read
    return lambda value: numerics.to_real(read(value))


def _integer_to_float(value: int) -> float:
    return float(value)


def _decimal_to_float(value: Decimal) -> float:
    result = float(value)
    if (math.isinf(result) and value.is_finite()) or (not result and value):
        raise rejected("22003", "double precision out of range")
    return result


def _float_to_numeric(given: SqlType, _: SqlType) -> Convert:
    real = given.name == "real"
    return lambda value: numerics.float_to_decimal(value, real=real)


def _date_to_timestamp(*_: SqlType) -> Convert:
    return lambda days: moments.checked_timestamp(days * DAY) if is_finite(days) else days


def _timestamp_to_date(*_: SqlType) -> Convert:
    return lambda micros: micros // DAY if is_finite(micros) else micros


def _timestamp_to_time(*_: SqlType) -> Convert:
    return lambda micros: micros % DAY if is_finite(micros) else None


def _plain(*_: SqlType) -> Convert:
    return _same


_MAKERS: Final[dict[tuple[str, str], Callable[[SqlType, SqlType], Convert]]] = {
    ("bool", "int"): _to_integer,
    ("int", "bool"): lambda *_: bool,
    ("int", "int"): _to_integer,
    ("numeric", "int"): _numeric_to_integer,
    ("float", "int"): _float_to_integer,
    ("int", "numeric"): lambda *_: Decimal,
    ("numeric", "numeric"): _plain,
    ("float", "numeric"): _float_to_numeric,
    ("int", "float"): _float,
    ("numeric", "float"): _float,
    ("float", "float"): _float,
    ("date", "timestamp"): _date_to_timestamp,
    ("date", "timestamptz"): _date_to_timestamp,
    ("timestamp", "date"): _timestamp_to_date,
    ("timestamptz", "date"): _timestamp_to_date,
    ("timestamp", "timestamptz"): _plain,
    ("timestamptz", "timestamp"): _plain,
    ("timestamp", "time"): _timestamp_to_time,
    ("timestamptz", "time"): _timestamp_to_time,
    ("interval", "time"): lambda *_: lambda span: span.micros % DAY,
    ("time", "interval"): lambda *_: lambda micros: Interval(0, 0, micros),
    ("json", "jsonb"): lambda *_: documents.normal,
}


def _from_jsonb(wanted: SqlType) -> Convert | None:
    """A jsonb holds a number or a boolean: the cast takes it out; JSON null becomes NULL."""
    if wanted.kind == "json":
        return _same
    if wanted.kind not in {"bool", "int", "numeric", "float"}:
        return None
    convert = _same if wanted.kind == "numeric" else cast(NUMERIC, wanted)

    def run(document: str) -> Any:
        value = documents.load(document)
        if value is None:
            return None
        if isinstance(value, bool) != (wanted.kind == "bool") or isinstance(value, dict | list | str):
            raise rejected("22023", f"the jsonb value is not of type {wanted.name}")
        return convert(value) if convert and not isinstance(value, bool) else value

    return run


def implicit(given: SqlType, wanted: SqlType) -> Convert | None:
    """The conversion that happens by itself where `wanted` is expected; None when there is none."""
    if given.kind == "other" and wanted.kind == "text":
        return _same
    if given.base == wanted.base or (given.kind == wanted.kind == "text"):
        return _same
    return cast(given, wanted)
