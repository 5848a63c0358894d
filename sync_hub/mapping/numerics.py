"""Exact decimals and floats as PostgreSQL computes and prints them."""

from __future__ import annotations

import math
import re
import struct
from decimal import MAX_EMAX, MIN_EMIN, ROUND_05UP, ROUND_HALF_UP, Context, Decimal, Inexact
from functools import lru_cache
from typing import Final

from sync_hub.mapping.faults import rejected
from sync_hub.mapping.types import INT_BITS

DIGITS: Final = 2000
EXACT: Final = Context(prec=DIGITS, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[Inexact])
"""Adds and multiplies without loss; a result of more than 2,000 digits raises `Inexact`."""
ROUNDING: Final = Context(prec=DIGITS, rounding=ROUND_HALF_UP, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
_SIGNIFICANT: Final = 16
_MAX_SCALE: Final = 1000

_INTEGER = re.compile(
    r"^\s*[+-]?(?:\d+(?:_\d+)*|0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+)\s*$", re.ASCII
)
_NUMBER = re.compile(r"^\s*[+-]?(?:\d+(?:_\d+)*\.?(?:\d+(?:_\d+)*)?|\.\d+(?:_\d+)*)(?:[eE][+-]?\d{1,6})?\s*$", re.ASCII)
_SPECIAL: Final = {
    "nan": "NaN", "infinity": "Infinity", "inf": "Infinity", "+infinity": "Infinity", "+inf": "Infinity",
    "-infinity": "-Infinity", "-inf": "-Infinity",
}  # fmt: skip


def parse_integer(text: str) -> int:
    """A whole number as PostgreSQL 16 and newer read it."""
    if not _INTEGER.match(text) or len(text) > DIGITS:
        raise rejected("22P02", "the text is not a whole number")
    digits = text.strip().replace("_", "")
    bare = digits.lstrip("+-")
    value = int(bare, 0) if bare[:2].lower() in {"0x", "0o", "0b"} else int(bare)
    return -value if digits[0] == "-" else value


def parse_decimal(text: str) -> Decimal:
    """A decimal; its digits after the point are kept, as PostgreSQL's numeric does."""
    if not _NUMBER.match(text):
        special = _SPECIAL.get(text.strip().lower())
        if special is not None:
            return Decimal(special)
        if not _INTEGER.match(text):
            raise rejected("22P02", "the text is not a number")
        return Decimal(parse_integer(text))
    value = Decimal(text.strip().replace("_", ""))
    if value.adjusted() > DIGITS or len(text) > DIGITS or value.as_tuple().exponent < -DIGITS:  # type: ignore[operator]  # finite: the exponent is a number
        raise rejected("22003", f"a number of more than {DIGITS} digits")
    return plain(value)


def plain(value: Decimal) -> Decimal:
    """The same value without a positive exponent, and without minus zero: numeric has neither."""
    if not value.is_finite():
        return value
    if not value:
        return value.copy_abs() if value.adjusted() <= 0 else Decimal(0)
    return value.quantize(Decimal(1), context=ROUNDING) if value.as_tuple().exponent > 0 else value  # type: ignore[operator]  # finite


def show_decimal(value: Decimal) -> str:
    """As PostgreSQL prints it: never with an exponent."""
    return format(value, "f") if value.is_finite() else "NaN" if value.is_nan() else str(value)


def scale_of(value: Decimal) -> int:
    """Digits after the point."""
    exponent = value.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


@lru_cache(maxsize=4096)
def _quantum(scale: int) -> Decimal:
    return Decimal((0, (1,), -scale))


def round_to(value: Decimal, scale: int) -> Decimal:
    """Rounded half away from zero; a negative scale rounds tens, hundreds and so on."""
    if not value.is_finite():
        return value
    scale = max(-DIGITS, min(scale, DIGITS))
    return plain(value.quantize(_quantum(scale), context=ROUNDING))


def _weight(value: Decimal) -> tuple[int, int]:
    """Weight and first digit in base 10,000: what PostgreSQL derives the scale of a quotient from."""
    if not value:
        return 0, 0
    weight = value.adjusted() // 4
    return weight, int(abs(value).scaleb(-4 * weight, ROUNDING))


def divide(left: Decimal, right: Decimal) -> Decimal:
    """Quotient with at least 16 significant digits, and no fewer after the point than either side."""
    if left.is_nan() or right.is_nan():
        return Decimal("NaN")
    if not right:
        raise rejected("22012")
    if left.is_infinite() or right.is_infinite():
        return Decimal(0) if left.is_finite() else ROUNDING.divide(left, right)
    (weight, first), (other_weight, other_first) = _weight(left), _weight(right)
    quotient_weight = weight - other_weight - (first <= other_first)
    scale = max(_SIGNIFICANT - quotient_weight * 4, scale_of(left), scale_of(right), 0)
    return divide_to(left, right, min(scale, _MAX_SCALE))


def divide_to(left: Decimal, right: Decimal, scale: int) -> Decimal:
    """Quotient rounded half away from zero at `scale`; the guard digits are cut so that nothing is rounded twice."""
    if not left:
        return _quantum(scale) * 0
    digits = max(left.adjusted() - right.adjusted() + scale + 3, 1)
    return plain(_cutting(digits).divide(left, right).quantize(_quantum(scale), context=ROUNDING))


@lru_cache(maxsize=512)
def _cutting(digits: int) -> Context:
    return Context(prec=digits, rounding=ROUND_05UP, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])


def modulo(left: Decimal, right: Decimal) -> Decimal:
    """Remainder with the sign of the dividend."""
    if left.is_nan() or right.is_nan():
        return Decimal("NaN")
    if not right:
        raise rejected("22012")
    if left.is_infinite():
        return Decimal("NaN")
    return left if right.is_infinite() else plain(EXACT.remainder(left, right))


def power(base: Decimal, exponent: Decimal) -> Decimal:
    """A power with PostgreSQL's choice of scale: at least 16 significant digits."""
    if base.is_nan() or exponent.is_nan():
        return Decimal(1) if base == 1 or (exponent.is_finite() and not exponent) else Decimal("NaN")
    if not base and exponent < 0:
        raise rejected("2201F", "zero to a negative power")
    whole = exponent.is_finite() and exponent == exponent.to_integral_value(context=ROUNDING)
    if base < 0 and exponent.is_finite() and not whole:
        raise rejected("2201F", "a negative number to a power that is not whole")
    if base.is_infinite() or exponent.is_infinite():
        return _infinite_power(base, exponent, odd=whole and bool(exponent % 2))
    scales = max(scale_of(base), scale_of(exponent))
    if not exponent:
        return round_to(Decimal(1), max(_SIGNIFICANT, scales))
    if not base:
        return round_to(Decimal(0), max(_SIGNIFICANT, scale_of(base)))
    weight = float(exponent) * _log10(abs(base))
    if weight > DIGITS:
        raise rejected("22003", f"a number of more than {DIGITS} digits")
    scale = min(max(_SIGNIFICANT - int(weight), scales, 0), _MAX_SCALE)
    if weight < -scale - 2:
        return round_to(Decimal(0), scale)
    context = Context(prec=max(int(weight) + scale, 0) + 25, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
    return round_to(context.power(base, exponent), scale)


def _log10(value: Decimal) -> float:
    shift = value.adjusted()
    return math.log10(float(value.scaleb(-shift, ROUNDING))) + shift


def _infinite_power(base: Decimal, exponent: Decimal, *, odd: bool) -> Decimal:
    if exponent.is_infinite():
        if abs(base) == 1:
            return Decimal(1)
        return Decimal("Infinity") if (abs(base) > 1) == (exponent > 0) else Decimal(0)
    if not exponent:
        return Decimal(1)
    if exponent < 0:
        return Decimal(0)
    return Decimal("-Infinity") if base < 0 and odd else Decimal("Infinity")


def check_integer(value: int, name: str) -> int:
    """The value when it fits the integer type, else `Rejected` (22003)."""
    bits = INT_BITS[name]
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise rejected("22003", f"{name} out of range")
    return value


def fit_decimal(value: Decimal, length: int, scale: int) -> Decimal:
    """Rounded to `numeric(length, scale)`, or `Rejected` (22003) when it does not fit."""
    if value.is_nan():
        return value
    if value.is_infinite():
        raise rejected("22003", f"numeric({length},{scale}) out of range")
    rounded = round_to(value, scale)
    if rounded and rounded.adjusted() >= length - scale:
        raise rejected("22003", f"numeric({length},{scale}) out of range")
    return rounded


def parse_float(text: str) -> float:
    """A double; beyond its range `Rejected` (22003)."""
    if text.lower().lstrip(" +-").startswith("0x"):
        return _hexadecimal(text)
    if not _NUMBER.match(text) or "_" in text:
        special = _SPECIAL.get(text.strip().lower())
        if special is None:
            raise rejected("22P02", "the text is not a number")
        return float(special)
    value = float(text)
    if math.isinf(value) or (not value and any(digit in "123456789" for digit in text.lower().split("e")[0])):
        raise rejected("22003", "double precision out of range")
    return value


def _hexadecimal(text: str) -> float:
    try:
        return float.fromhex(text.strip())
    except ValueError as error:
        raise rejected("22P02", "the text is not a number") from error
    except OverflowError as error:
        raise rejected("22003", "double precision out of range") from error


def to_real(value: float) -> float:
    """The nearest single-precision float; overflow and underflow are `Rejected` (22003)."""
    if not math.isfinite(value):
        return value
    try:
        result = float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError as error:
        raise rejected("22003", "real out of range") from error
    if value and not result:
        raise rejected("22003", "real out of range")
    return result


def show_float(value: float, *, real: bool = False) -> str:
    """The shortest text that reads back as the same value, in PostgreSQL's spelling."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    sign, digits, exponent = Decimal(_shortest(value, real=real)).normalize(ROUNDING).as_tuple()
    text = "".join(map(str, digits))
    point = len(text) + int(exponent) - 1
    if not value:
        return "-0" if sign else "0"
    if -5 < point < (6 if real else 15):
        if point < 0:
            shown = "0." + "0" * (-point - 1) + text
        elif len(text) <= point + 1:
            shown = text + "0" * (point + 1 - len(text))
        else:
            shown = f"{text[: point + 1]}.{text[point + 1 :]}"
    else:
        mantissa = f"{text[0]}.{text[1:]}" if len(text) > 1 else text
        shown = f"{mantissa}e{'-' if point < 0 else '+'}{abs(point):02}"
    return f"-{shown}" if sign else shown


def _shortest(value: float, *, real: bool) -> str:
    """The shortest digits that only this value has: PostgreSQL leaves out a text halfway to a neighbour."""
    if not real and abs(value) < 1 << 53:
        return repr(value)  # a halfway point would need more digits than these
    for digits in range(1 if real else 15, 10 if real else 18):
        text = f"{value:.{digits}g}"
        same = to_real(float(text)) if real else float(text)
        if same == value and not _is_halfway(Decimal(text), value, real=real):
            return text
    return repr(value)


def _is_halfway(number: Decimal, value: float, *, real: bool) -> bool:
    if number == Decimal(value):
        return False
    if real:
        (bits,) = struct.unpack("<i", struct.pack("<f", value))
        neighbours = [float(struct.unpack("<f", struct.pack("<i", bits + step))[0]) for step in (-1, 1)]
    else:
        neighbours = [math.nextafter(value, math.inf), math.nextafter(value, -math.inf)]
    twice = EXACT.multiply(number, Decimal(2))
    return any(twice == EXACT.add(Decimal(value), Decimal(other)) for other in neighbours if math.isfinite(other))


def float_to_decimal(value: float, *, real: bool = False) -> Decimal:
    """A float as numeric: 15 significant digits (real: 6), as PostgreSQL's cast keeps."""
    if not math.isfinite(value):
        return Decimal(show_float(value))
    return plain(Decimal(f"{value:.{6 if real else 15}g}"))
