"""Fields of dates, timestamps, times and intervals: `extract` and `date_trunc`."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from sync_hub.mapping.faults import rejected
from sync_hub.mapping.intervals import checked_interval
from sync_hub.mapping.moments import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Interval,
    add_interval,
    checked_timestamp,
    civil,
    days_of,
    from_local,
    is_finite,
    to_local,
    zone_named,
)

_YEAR_SECONDS: Final = 31_557_600
_JULIAN: Final = 2_440_588
_PLURALS: Final = {
    "milliseconds": "millisecond", "microseconds": "microsecond", "days": "day", "hours": "hour", "minutes": "minute",
    "seconds": "second", "months": "month", "years": "year", "weeks": "week", "quarters": "quarter",
    "decades": "decade", "centuries": "century", "millennia": "millennium", "us": "microsecond", "ms": "millisecond",
}  # fmt: skip
_MONOTONIC: Final = frozenset({"year", "isoyear", "decade", "century", "millennium", "epoch", "julian"})


def field_name(name: str) -> str:
    """The field's singular name."""
    lowered = name.strip().lower()
    return _PLURALS.get(lowered, lowered)


def iso_week(days: int) -> tuple[int, int]:
    """ISO year and week."""
    thursday = days - (days + 3) % 7 + 3
    year = civil(thursday)[0]
    return year, (thursday - days_of(year, 1, 1)) // 7 + 1


def weekday(days: int) -> int:
    """Monday is 1, Sunday 7."""
    return (days + 3) % 7 + 1


def _shown_year(year: int) -> int:
    return year if year > 0 else year - 1


def _group(year: int, size: int) -> int:
    return (year + size - 1) // size if year > 0 else -((size - year) // size)


_DATE_FIELDS: Final[dict[str, Callable[[int], int]]] = {
    "year": lambda days: _shown_year(civil(days)[0]),
    "month": lambda days: civil(days)[1],
    "day": lambda days: civil(days)[2],
    "quarter": lambda days: (civil(days)[1] - 1) // 3 + 1,
    "week": lambda days: iso_week(days)[1],
    "isoyear": lambda days: _shown_year(iso_week(days)[0]),
    "dow": lambda days: weekday(days) % 7,
    "isodow": weekday,
    "doy": lambda days: days - days_of(civil(days)[0], 1, 1) + 1,
    "decade": lambda days: civil(days)[0] // 10,
    "century": lambda days: _group(civil(days)[0], 100),
    "millennium": lambda days: _group(civil(days)[0], 1000),
    "julian": lambda days: days + _JULIAN,
    "epoch": lambda days: days * 86400,
}


def _scaled(value: int, digits: int) -> Decimal:
    return Decimal(value).scaleb(-digits)


_TIME_FIELDS: Final[dict[str, Callable[[int], Decimal]]] = {
    "hour": lambda micros: Decimal(micros // HOUR),
    "minute": lambda micros: Decimal(micros // MINUTE % 60),
    "second": lambda micros: _scaled(micros % MINUTE, 6),
    "millisecond": lambda micros: _scaled(micros % MINUTE, 3),
    "microsecond": lambda micros: Decimal(micros % MINUTE),
}


def _of_date(field: str) -> Callable[[int], Decimal]:
    get = _DATE_FIELDS[field]
    return lambda days: Decimal(get(days))


def _of_timestamp(field: str) -> Callable[[int], Decimal]:
    if field == "epoch":
        return lambda micros: _scaled(micros, 6)
    if field in _TIME_FIELDS:
        time = _TIME_FIELDS[field]
        return lambda micros: time(micros % DAY)
    date = _DATE_FIELDS[field]
    return lambda micros: Decimal(date(micros // DAY))


def _of_time(field: str) -> Callable[[int], Decimal]:
    return (lambda micros: _scaled(micros, 6)) if field == "epoch" else _TIME_FIELDS[field]


def _toward_zero(value: int, size: int) -> int:
    return abs(value) // size * (1 if value >= 0 else -1)


def _rest(value: int, size: int) -> int:
    return value - _toward_zero(value, size) * size


_INTERVAL_FIELDS: Final[dict[str, Callable[[Interval], Decimal]]] = {
    "year": lambda span: Decimal(_toward_zero(span.months, 12)),
    "month": lambda span: Decimal(_rest(span.months, 12)),
    "quarter": lambda span: Decimal(_toward_zero(_rest(span.months, 12), 3) + (1 if span.months >= 0 else -1)),
    "decade": lambda span: Decimal(_toward_zero(span.months, 120)),
    "century": lambda span: Decimal(_toward_zero(span.months, 1200)),
    "millennium": lambda span: Decimal(_toward_zero(span.months, 12000)),
    "week": lambda span: Decimal(_toward_zero(span.days, 7)),
    "day": lambda span: Decimal(span.days),
    "hour": lambda span: Decimal(_toward_zero(span.micros, HOUR)),
    "minute": lambda span: Decimal(_toward_zero(_rest(span.micros, HOUR), MINUTE)),
    "second": lambda span: _scaled(_rest(span.micros, MINUTE), 6),
    "millisecond": lambda span: _scaled(_rest(span.micros, MINUTE), 3),
    "microsecond": lambda span: Decimal(_rest(span.micros, MINUTE)),
    "epoch": lambda span: _scaled(
        (_toward_zero(span.months, 12) * _YEAR_SECONDS + _rest(span.months, 12) * 2_592_000) * SECOND
        + span.days * DAY
        + span.micros,
        6,
    ),
}

FIELDS: Final[dict[str, frozenset[str]]] = {
    "date": frozenset(_DATE_FIELDS),
    "timestamp": frozenset(_DATE_FIELDS) - {"julian"} | frozenset(_TIME_FIELDS),
    "timestamptz": frozenset(_DATE_FIELDS) - {"julian"} | frozenset(_TIME_FIELDS),
    "time": frozenset(_TIME_FIELDS) | {"epoch"},
    "interval": frozenset(_INTERVAL_FIELDS),
}
"""What `extract` can take out of each kind of value."""


def extractor(field: str, kind: str) -> Callable[[Any], Decimal | None]:
    """A function that takes a field out of values of a kind; the field must be one of `FIELDS`."""
    if kind == "interval":
        return _INTERVAL_FIELDS[field]
    if kind == "time":
        return _of_time(field)
    run = _of_date(field) if kind == "date" else _of_timestamp(field)

    def extract(value: int) -> Decimal | None:
        if is_finite(value):
            return run(value)
        if field not in _MONOTONIC:
            return None
        return Decimal("Infinity") if value > 0 else Decimal("-Infinity")

    return extract


_TIME_UNITS: Final = {"microsecond": 1, "millisecond": 1000, "second": SECOND, "minute": MINUTE, "hour": HOUR}
_MONTH_UNITS: Final = {"month": 1, "quarter": 3, "year": 12}
_YEAR_UNITS: Final = {"decade": 10, "century": 100, "millennium": 1000}


def truncate(unit: str, micros: int) -> int:
    """The beginning of the hour, day, week, month … that a timestamp lies in."""
    unit = field_name(unit)
    if unit not in _TIME_UNITS and unit not in _MONTH_UNITS and unit not in _YEAR_UNITS and unit not in {"day", "week"}:
        raise rejected("22023", "date_trunc does not know this unit")
    if not is_finite(micros):
        return micros
    if unit in _TIME_UNITS:
        return micros - micros % _TIME_UNITS[unit]
    days = micros // DAY
    year, month, _ = civil(days)
    if unit == "week":
        days -= weekday(days) - 1
    elif unit in _MONTH_UNITS:
        days = days_of(year, (month - 1) // _MONTH_UNITS[unit] * _MONTH_UNITS[unit] + 1, 1)
    elif unit == "decade":
        days = days_of(year // 10 * 10, 1, 1)
    elif unit in _YEAR_UNITS:
        size = _YEAR_UNITS[unit]
        days = days_of((year - 1) // size * size + 1, 1, 1)
    return checked_timestamp(days * DAY)


def truncate_in_zone(unit: str, micros: int, zone: str) -> int:
    """As `truncate`, by the clock of a time zone."""
    there = zone_named(zone)
    local = to_local(micros, there)
    cut = truncate(unit, local)
    if field_name(unit) in _TIME_UNITS and is_finite(micros):
        return micros - (local - cut)  # within the hour the offset stays, also when it comes twice
    return from_local(cut, there)


def truncate_interval(unit: str, span: Interval) -> Interval:
    """An interval without what is smaller than the unit."""
    unit = field_name(unit)
    months = {"millennium": 12000, "century": 1200, "decade": 120, "year": 12, "quarter": 3, "month": 1}
    if unit in months:
        return checked_interval(_toward_zero(span.months, months[unit]) * months[unit], 0, 0)
    if unit == "day":
        return Interval(span.months, span.days, 0)
    if unit == "week":
        raise rejected("0A000", "months are no whole number of weeks: date_trunc cannot cut an interval to weeks")
    if unit not in _TIME_UNITS:
        raise rejected("22023", "date_trunc does not know this unit")
    size = _TIME_UNITS[unit]
    return Interval(span.months, span.days, _toward_zero(span.micros, size) * size)


def shift(micros: int, span: Interval, sign: int) -> int:
    """Timestamp plus or minus an interval."""
    return add_interval(micros, Interval(sign * span.months, sign * span.days, sign * span.micros))
