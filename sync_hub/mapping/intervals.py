"""Intervals: reading, printing, and the arithmetic in which fractions of months become days, and of days time."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Final

from sync_hub.mapping.faults import rejected
from sync_hub.mapping.moments import DAY, HOUR, MINUTE, SECOND, Interval, civil, is_finite, month_days

_MONTH_DAYS: Final = 30
_UNITS: Final[dict[str, tuple[str, int]]] = {
    "microsecond": ("micros", 1), "us": ("micros", 1), "millisecond": ("micros", 1000), "ms": ("micros", 1000),
    "second": ("micros", SECOND), "sec": ("micros", SECOND), "s": ("micros", SECOND),
    "minute": ("micros", MINUTE), "min": ("micros", MINUTE), "m": ("micros", MINUTE),
    "hour": ("micros", HOUR), "hr": ("micros", HOUR), "h": ("micros", HOUR),
    "day": ("days", 1), "d": ("days", 1), "week": ("days", 7), "w": ("days", 7),
    "month": ("months", 1), "mon": ("months", 1), "year": ("months", 12), "yr": ("months", 12), "y": ("months", 12),
    "decade": ("months", 120), "century": ("months", 1200), "centurie": ("months", 1200),
}  # fmt: skip
_ISO = re.compile(r"^P(?=.)((?:-?\d+(?:\.\d+)?[YMWD])*)(?:T((?:-?\d+(?:\.\d*)?[HMS])+))?$")
_ISO_PART = re.compile(r"(-?\d+(?:\.\d*)?)([A-Z])")
_WORD = re.compile(
    r"\s*(?:([+-])?(\d+):(\d{1,2})(?::(\d{1,2}(?:\.\d*)?))?|([+-]?(?:\d+\.?\d*|\.\d+))\s*(?:([a-z]+)(?=[\s\d+-]|$)|(?=\s|$)))"
)
_DATE_UNITS: Final = {"Y": "year", "M": "month", "W": "week", "D": "day"}
_TIME_UNITS: Final = {"H": "hour", "M": "minute", "S": "second"}
_LIMIT: Final = 1 << 63


def checked_interval(months: int, days: int, micros: int) -> Interval:
    """The interval, or `Rejected` when a part is beyond what PostgreSQL can say."""
    if abs(months) >= 1 << 31 or abs(days) >= 1 << 31 or abs(micros) >= _LIMIT:
        raise rejected("22008", "the interval is out of range")
    return Interval(months, days, micros)


def parse_interval(text: str) -> Interval:
    """ISO 8601 (`P1Y2M3DT4H`) or PostgreSQL's words (`1 year 2 mons 3 days 04:05:06`, `2 hours ago`)."""
    stripped = text.strip()
    if stripped.lower().lstrip("+-") == "infinity":
        raise rejected("22008", "an infinite interval cannot be computed with")
    match = _ISO.match(stripped.upper())
    if match:
        return _iso(match)
    lowered = stripped.lower()
    ago = lowered.endswith(" ago")
    total = _words(lowered.removesuffix(" ago").removeprefix("@"))
    return checked_interval(*(-part for part in total)) if ago else checked_interval(*total)


def _iso(match: re.Match[str]) -> Interval:
    total = Interval(0, 0, 0)
    for part, units in ((match[1], _DATE_UNITS), (match[2], _TIME_UNITS)):
        for number, letter in _ISO_PART.findall(part or ""):
            total = _plus(total, Fraction(number.rstrip(".")), units[letter])
    return checked_interval(*total)


def _words(text: str) -> Interval:
    total, position = Interval(0, 0, 0), 0
    if not text.strip():
        raise rejected("22007", "the text is not an interval")
    while position < len(text.rstrip()):
        match = _WORD.match(text, position)
        if not match or (match[5] and not match[6] and text[match.end() :].strip()):
            raise rejected("22007", "the text is not an interval")
        position = match.end()
        sign, hours, minutes, seconds, number, unit = match.groups()
        if hours is not None:
            micros = int(hours) * HOUR + int(minutes) * MINUTE + _rounded(Fraction(seconds or 0) * SECOND)
            total = Interval(total.months, total.days, total.micros + (-micros if sign == "-" else micros))
        else:
            total = _plus(total, Fraction(number), unit or "second")
    return total


def _plus(total: Interval, number: Fraction, unit: str) -> Interval:
    known = _UNITS.get(unit) or _UNITS.get(unit.removesuffix("s"))
    if known is None:
        raise rejected("22007", "the text is not an interval")
    part, factor = known
    months, days, micros = total
    if part == "months":
        whole = _truncated(number * factor)
        rest = (number * factor - whole) * _MONTH_DAYS if factor == 1 else Fraction(0)
        if factor > 1:
            whole = _rounded(number * factor)
        return Interval(months + whole, days + _truncated(rest), micros + _rounded((rest - _truncated(rest)) * DAY))
    if part == "days":
        whole = _truncated(number * factor)
        return Interval(months, days + whole, micros + _rounded((number * factor - whole) * DAY))
    return Interval(months, days, micros + _rounded(number * factor))


def _truncated(value: Fraction) -> int:
    return abs(value.numerator) // value.denominator * (-1 if value < 0 else 1)


def _rounded(value: Fraction) -> int:
    return round(value)


def scale_interval(span: Interval, factor: float, *, divide: bool = False) -> Interval:
    """Interval × number, or ÷, by PostgreSQL's own steps: what is left of months becomes days, of days time."""
    if math.isnan(factor):
        raise rejected("22008", "the interval is out of range")
    if math.isinf(factor):
        raise rejected("22008", "an infinite interval cannot be computed with")
    if divide and not factor:
        raise rejected("22012")
    exact = [part / factor if divide else part * factor for part in span]
    if abs(exact[0]) >= 1 << 31 or abs(exact[1]) >= 1 << 31 or abs(exact[2]) >= _LIMIT:
        raise rejected("22008", "the interval is out of range")
    months, days = int(exact[0]), int(exact[1])
    month_rest = _microscopic((exact[0] - months) * _MONTH_DAYS)
    day_rest = _microscopic((exact[1] - days + month_rest - int(month_rest)) * 86400)
    if abs(day_rest) >= 86400:
        days += int(day_rest / 86400)
        day_rest -= int(day_rest / 86400) * 86400
    return checked_interval(months, days + int(month_rest), round(exact[2] + day_rest * SECOND))


def _microscopic(value: float) -> float:
    return round(value * 1e6) / 1e6


def _parts(span: Interval) -> tuple[int, int, int, int, int, int, int]:
    """Years, months, days, hours, minutes, seconds, microseconds; each with the sign of its field."""
    sign = -1 if span.months < 0 else 1
    years, months = divmod(abs(span.months), 12)
    clock = -1 if span.micros < 0 else 1
    seconds, micros = divmod(abs(span.micros), SECOND)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return sign * years, sign * months, span.days, clock * hour, clock * minute, clock * second, clock * micros


def show_interval(span: Interval) -> str:
    """As PostgreSQL prints it by default: `1 year 2 mons -3 days +04:05:06`."""
    years, months, days, hour, minute, second, micros = _parts(span)
    text, negative = "", False
    for value, unit in ((years, "year"), (months, "mon"), (days, "day")):
        if value:
            plural = "" if value == 1 else "s"
            text += f"{' ' if text else ''}{'+' if negative and value > 0 else ''}{value} {unit}{plural}"
            negative = value < 0
    if span.micros or not text:
        minus = "-" if span.micros < 0 else "+" if negative else ""
        text += f"{' ' if text else ''}{minus}{abs(hour):02}:{abs(minute):02}:{abs(second):02}{_fraction(micros)}"
    return text


def show_interval_iso(span: Interval) -> str:
    """As it goes over the wire: ISO 8601 as PostgreSQL prints it, `P1Y2M-3DT4H5M6S`."""
    years, months, days, hour, minute, second, micros = _parts(span)
    text = "".join(f"{value}{unit}" for value, unit in ((years, "Y"), (months, "M"), (days, "D")) if value)
    time = "".join(f"{value}{unit}" for value, unit in ((hour, "H"), (minute, "M")) if value)
    if second or micros:
        time += f"{'-' if span.micros < 0 else ''}{abs(second)}{_fraction(micros)}S"
    return f"P{text}{'T' + time if time else ''}" if text or time else "PT0S"


def _fraction(micros: int) -> str:
    return f".{abs(micros):06}".rstrip("0") if micros else ""


def age(later: int, earlier: int) -> Interval:
    """The difference of two timestamps in years, months, days and time, as PostgreSQL's `age` counts it."""
    if not is_finite(later) or not is_finite(earlier):
        raise rejected("22008", "an infinite timestamp has no age")
    if later < earlier:
        back = age(earlier, later)
        return Interval(-back.months, -back.days, -back.micros)
    late_days, late_rest = divmod(later, DAY)
    early_days, early_rest = divmod(earlier, DAY)
    late, early = civil(late_days), civil(early_days)
    days, months, years = late[2] - early[2], late[1] - early[1], late[0] - early[0]
    micros = late_rest - early_rest
    if micros < 0:
        micros += DAY
        days -= 1
    while days < 0:
        days += month_days(early[0], early[1])
        months -= 1
    return Interval(years * 12 + months, days, micros)
