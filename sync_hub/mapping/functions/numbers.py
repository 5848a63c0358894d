"""Functions on numbers: exact for integers and numeric, as the processor computes for floats."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from typing import Final

from sync_hub.mapping import numerics
from sync_hub.mapping.faults import rejected
from sync_hub.mapping.functions.registry import define, overload

THEME: Final = "Numbers"
_INTEGERS: Final = ("smallint", "integer", "bigint")


@define(
    THEME,
    ["round(numeric, integer) → numeric", "round(numeric) → numeric"],
    "Rounded half away from zero to so many digits after the point; negative: tens, hundreds.",
    {"round(2.345, 2)": "2.35", "round(-2.5)": "-3", "round(1250, -2)": "1300", "round(2.5::double precision)": "2"},
    note="Floats round half to even, as in PostgreSQL.",
)
def round_numeric(value: Decimal, digits: int = 0) -> Decimal:
    """Round exactly."""
    return numerics.round_to(value, digits)


@define(
    THEME,
    ["trunc(numeric, integer) → numeric", "trunc(numeric) → numeric"],
    "Cut off after so many digits.",
    {"trunc(2.789, 1)": "2.7", "trunc(-2.9)": "-2"},
)
def trunc_numeric(value: Decimal, digits: int = 0) -> Decimal:
    """Cut off."""
    return _whole(value, ROUND_DOWN, digits)


@define(
    THEME,
    ["ceil(numeric) → numeric", "ceiling(numeric) → numeric"],
    "The next whole number up.",
    {"ceil(2.1)": "3", "ceil(-2.9)": "-2"},
)
def ceil_numeric(value: Decimal) -> Decimal:
    """Round up."""
    return _whole(value, ROUND_CEILING, 0)


@define(THEME, ["floor(numeric) → numeric"], "The next whole number down.", {"floor(2.9)": "2", "floor(-2.1)": "-3"})
def floor_numeric(value: Decimal) -> Decimal:
    """Round down."""
    return _whole(value, ROUND_FLOOR, 0)


def _whole(value: Decimal, rounding: str, digits: int) -> Decimal:
    if not value.is_finite():
        return value
    exponent = Decimal(1).scaleb(-max(-numerics.DIGITS, min(digits, numerics.DIGITS)))
    return numerics.plain(value.quantize(exponent, rounding=rounding, context=numerics.ROUNDING))


def _round_float(value: float) -> float:
    return math.copysign(float(round(value)), value) if math.isfinite(value) else value


def _trunc_float(value: float) -> float:
    return math.copysign(float(math.trunc(value)), value) if math.isfinite(value) else value


def _ceil_float(value: float) -> float:
    return math.copysign(float(math.ceil(value)), value) if math.isfinite(value) else value


def _floor_float(value: float) -> float:
    return math.copysign(float(math.floor(value)), value) if math.isfinite(value) else value


for _name, _run in (
    ("round", _round_float),
    ("trunc", _trunc_float),
    ("ceil", _ceil_float),
    ("ceiling", _ceil_float),
    ("floor", _floor_float),
):
    overload(f"{_name}(double precision) → double precision", _run)


@define(
    THEME,
    ["abs(numeric) → numeric"],
    "Without its sign.",
    {"abs(-4.50)": "4.50", "abs(-3)": "3"},
)
def abs_numeric(value: Decimal) -> Decimal:
    """Absolute value."""
    return value.copy_abs() if not value.is_nan() else value


overload("abs(real) → real", abs)
overload("abs(double precision) → double precision", abs)
for _name in _INTEGERS:
    overload(f"abs({_name}) → {_name}", lambda value, name=_name: numerics.check_integer(abs(value), name))


@define(
    THEME,
    ["mod(numeric, numeric) → numeric"],
    "The remainder, with the sign of the first; the same as `%`.",
    {"mod(7, 3)": "1", "mod(-7, 3)": "-1", "7.5 % 2": "1.5", "mod(1, 0)": "error 22012"},
)
def mod_numeric(left: Decimal, right: Decimal) -> Decimal:
    """Remainder of decimals."""
    return numerics.modulo(left, right)


def mod_integer(left: int, right: int) -> int:
    """Remainder of whole numbers, with the sign of the first."""
    if not right:
        raise rejected("22012")
    rest = abs(left) % abs(right)
    return -rest if left < 0 else rest


for _name in _INTEGERS:
    overload(f"mod({_name}, {_name}) → {_name}", mod_integer)


@define(
    THEME,
    ["power(numeric, numeric) → numeric", "pow(numeric, numeric) → numeric"],
    "The first to the power of the second; `^` is the same. Whole numbers give a double, decimals stay exact.",
    {"power(2, 10)": "1024", "power(1.5, 2)": "2.2500000000000000", "2 ^ 0.5": "1.4142135623730950"},
)
def power_numeric(base: Decimal, exponent: Decimal) -> Decimal:
    """Power of decimals."""
    return numerics.power(base, exponent)


def power_float(base: float, exponent: float) -> float:
    """Power of floats, with PostgreSQL's errors."""
    if base == 0 and exponent < 0:
        raise rejected("2201F", "zero to a negative power")
    if base < 0 and math.isfinite(base) and math.isfinite(exponent) and exponent != math.floor(exponent):
        raise rejected("2201F", "a negative number to a power that is not whole")
    try:
        result = math.pow(base, exponent)
    except OverflowError as error:
        raise rejected("22003", "double precision out of range") from error
    return checked_float(result, base, exponent, zero=base == 0 or math.isinf(exponent) or math.isinf(base))


def checked_float(result: float, *given: float, zero: bool) -> float:
    """The result, or `Rejected` when it left the range of a double though what it was made of had not."""
    if math.isinf(result) and not any(map(math.isinf, given)):
        raise rejected("22003", "double precision out of range")
    if not result and not zero:
        raise rejected("22003", "double precision out of range")
    return result


for _name in ("power", "pow"):
    overload(f"{_name}(double precision, double precision) → double precision", power_float)


@define(
    THEME,
    ["sign(numeric) → numeric"],
    "-1, 0 or 1.",
    {"sign(-8.4)": "-1", "sign(0)": "0"},
)
def sign_numeric(value: Decimal) -> Decimal:
    """The sign of a decimal."""
    return value if value.is_nan() else Decimal((value > 0) - (value < 0))


def _sign_float(value: float) -> float:
    return float((value > 0) - (value < 0))  # of NaN 0, as in PostgreSQL


overload("sign(double precision) → double precision", _sign_float)
