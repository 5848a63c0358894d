"""Arithmetic: numbers, dates, times and intervals, by the types of both sides."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from sync_hub.mapping import calendar_fields, intervals, moments, numerics
from sync_hub.mapping.faults import SyntaxProblem, rejected
from sync_hub.mapping.functions.numbers import checked_float, mod_integer
from sync_hub.mapping.moments import DAY, Interval, is_finite
from sync_hub.mapping.operands import Operand, apply, convert
from sync_hub.mapping.types import (
    DATE,
    DOUBLE,
    INTEGER,
    INTERVAL,
    NUMERIC,
    TIME,
    TIMESTAMP,
    TIMESTAMPTZ,
    SqlType,
    common_type,
)

Binary = Callable[[Any, Any], Any]


def _divide_integers(left: int, right: int) -> int:
    if not right:
        raise rejected("22012")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _divide_floats(left: float, right: float) -> float:
    if not right:
        if math.isnan(left):
            return left
        raise rejected("22012")
    return checked_float(left / right, left, zero=not left or math.isinf(right))


def _multiply_floats(left: float, right: float) -> float:
    return checked_float(left * right, left, right, zero=not left or not right)


def _add_floats(left: float, right: float) -> float:
    return checked_float(left + right, left, right, zero=True)


def _subtract_floats(left: float, right: float) -> float:
    return checked_float(left - right, left, right, zero=True)


def _multiply_decimals(left: Decimal, right: Decimal) -> Decimal:
    result = numerics.EXACT.multiply(left, right)
    return result or result.copy_abs()  # numeric has no minus zero


def _add_decimals(left: Decimal, right: Decimal) -> Decimal:
    result = numerics.EXACT.add(left, right)
    return result or result.copy_abs()


def _subtract_decimals(left: Decimal, right: Decimal) -> Decimal:
    result = numerics.EXACT.subtract(left, right)
    return result or result.copy_abs()


_NUMBERS: Final[dict[str, dict[str, Binary]]] = {
    "+": {"int": operator.add, "numeric": _add_decimals, "float": _add_floats},
    "-": {"int": operator.sub, "numeric": _subtract_decimals, "float": _subtract_floats},
    "*": {"int": operator.mul, "numeric": _multiply_decimals, "float": _multiply_floats},
    "/": {"int": _divide_integers, "numeric": numerics.divide, "float": _divide_floats},
    "%": {"int": mod_integer, "numeric": numerics.modulo},
}


def _plus_days(days: int, count: int) -> int:
    return moments.checked_date(days + count) if is_finite(days) else days


def _days_between(left: int, right: int) -> int:
    if not is_finite(left) or not is_finite(right):
        raise rejected("22008", "an infinite date cannot be subtracted")
    return left - right


def _time_between(left: int, right: int) -> Interval:
    if not is_finite(left) or not is_finite(right):
        raise rejected("22008", "an infinite timestamp cannot be subtracted")
    micros = left - right
    days = abs(micros) // DAY * (1 if micros >= 0 else -1)
    return Interval(0, days, micros - days * DAY)


def _as_timestamp(days: int) -> int:
    return moments.checked_timestamp(days * DAY) if is_finite(days) else days


def _add_intervals(left: Interval, right: Interval) -> Interval:
    return intervals.checked_interval(left.months + right.months, left.days + right.days, left.micros + right.micros)


def _negated(span: Interval) -> Interval:
    return intervals.checked_interval(-span.months, -span.days, -span.micros)


def _shifted(sign: int) -> Binary:
    return lambda micros, span: calendar_fields.shift(micros, span, sign)


def _date_shifted(sign: int) -> Binary:
    return lambda days, span: calendar_fields.shift(_as_timestamp(days), span, sign)


def _time_shifted(sign: int) -> Binary:
    return lambda micros, span: (micros + sign * span.micros) % DAY


_MOMENTS: Final[dict[tuple[str, str, str], tuple[SqlType, Binary]]] = {
    ("+", "date", "int"): (DATE, _plus_days),
    ("-", "date", "int"): (DATE, lambda days, count: _plus_days(days, -count)),
    ("-", "date", "date"): (INTEGER, _days_between),
    ("+", "date", "time"): (TIMESTAMP, lambda days, micros: _as_timestamp(days) + (micros if is_finite(days) else 0)),
    ("-", "time", "time"): (INTERVAL, lambda left, right: Interval(0, 0, left - right)),
    ("+", "date", "interval"): (TIMESTAMP, _date_shifted(1)),
    ("-", "date", "interval"): (TIMESTAMP, _date_shifted(-1)),
    ("+", "time", "interval"): (TIME, _time_shifted(1)),
    ("-", "time", "interval"): (TIME, _time_shifted(-1)),
    ("+", "timestamp", "interval"): (TIMESTAMP, _shifted(1)),
    ("-", "timestamp", "interval"): (TIMESTAMP, _shifted(-1)),
    ("+", "timestamptz", "interval"): (TIMESTAMPTZ, _shifted(1)),
    ("-", "timestamptz", "interval"): (TIMESTAMPTZ, _shifted(-1)),
    ("-", "timestamp", "timestamp"): (INTERVAL, _time_between),
    ("-", "timestamptz", "timestamptz"): (INTERVAL, _time_between),
    ("+", "interval", "interval"): (INTERVAL, _add_intervals),
    ("-", "interval", "interval"): (INTERVAL, lambda left, right: _add_intervals(left, _negated(right))),
}
_NUMERIC_KINDS: Final = frozenset({"int", "numeric", "float"})


def arithmetic(sign: str, left: Operand, right: Operand, place: int) -> Operand:
    """`left sign right`, by the types of both sides."""
    left, right = _typed(sign, left, right)
    if left.type.kind in _NUMERIC_KINDS and right.type.kind in _NUMERIC_KINDS:
        return _numbers(sign, left, right, place)
    if sign == "+" and (sign, right.type.kind, left.type.kind) in _MOMENTS:
        left, right = right, left
    if sign in "*/" and "interval" in {left.type.kind, right.type.kind}:
        return _scaled(sign, left, right, place)
    if left.type.kind == "date" and right.type.kind in {"timestamp", "timestamptz"}:
        left = convert(left, right.type)
    elif right.type.kind == "date" and left.type.kind in {"timestamp", "timestamptz"}:
        right = convert(right, left.type)
    elif {left.type.kind, right.type.kind} == {"timestamp", "timestamptz"}:
        left, right = convert(left, TIMESTAMPTZ), convert(right, TIMESTAMPTZ)
    found = _MOMENTS.get((sign, left.type.kind, right.type.kind))
    if found is None:
        raise _no_operator(sign, left, right, place)
    return apply(found[0], found[1], [left, right], place)


def _no_operator(sign: str, left: Operand, right: Operand, place: int) -> SyntaxProblem:
    return SyntaxProblem(f"there is no {left.type} {sign} {right.type}", place, "cast one side: (…)::type")


def _typed(sign: str, left: Operand, right: Operand) -> tuple[Operand, Operand]:
    """Literals take the type of the other side; beside a timestamp an added one is an interval."""
    for given, other in ((left, right), (right, left)):
        if given.type.kind != "unknown" or other.type.kind == "unknown":
            continue
        span = sign == "+" and other.type.kind in {"timestamp", "timestamptz", "time"}
        typed = convert(given, INTERVAL if span else other.type.base)
        return (typed, right) if given is left else (left, typed)
    return left, right


def _numbers(sign: str, left: Operand, right: Operand, place: int) -> Operand:
    type_ = common_type([left.type.base, right.type.base]) or NUMERIC
    if sign == "%" and type_.kind == "float":
        raise _no_operator(sign, left, right, place)
    run = _NUMBERS[sign][type_.kind]
    if type_.kind == "int" and sign != "%":
        name, plain = type_.name, run
        return apply(type_, lambda a, b: numerics.check_integer(plain(a, b), name), [left, right], place)
    if type_.name == "real":
        exact = run
        return apply(
            type_, lambda a, b: numerics.to_real(exact(a, b)), [convert(left, type_), convert(right, type_)], place
        )
    return apply(type_, run, [convert(left, type_), convert(right, type_)], place)


def _scaled(sign: str, left: Operand, right: Operand, place: int) -> Operand:
    if left.type.kind != "interval" and sign == "*":
        left, right = right, left
    if left.type.kind != "interval" or right.type.kind not in _NUMERIC_KINDS:
        raise _no_operator(sign, left, right, place)
    divide = sign == "/"
    run = lambda span, factor: intervals.scale_interval(span, factor, divide=divide)  # noqa: E731
    return apply(INTERVAL, run, [left, convert(right, DOUBLE)], place)


def negative(operand: Operand, place: int) -> Operand:
    """`-x`."""
    kind = operand.type.kind
    if kind == "int":
        name = operand.type.name
        return apply(operand.type, lambda value: numerics.check_integer(-value, name), [operand], place)
    if kind == "numeric":
        return apply(NUMERIC, lambda value: numerics.plain(value.copy_negate()), [operand], place)
    if kind == "float":
        return apply(operand.type, operator.neg, [operand], place)
    if kind == "interval":
        return apply(INTERVAL, _negated, [operand], place)
    raise SyntaxProblem(f"there is no - {operand.type}", place)
