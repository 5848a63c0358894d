"""Functions on dates and times. The session's time zone is UTC, always; `at time zone` says another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from sync_hub.mapping import calendar_fields, date_formats, intervals, moments, number_formats, numerics
from sync_hub.mapping.faults import rejected
from sync_hub.mapping.functions.registry import define, overload
from sync_hub.mapping.moments import SECOND

THEME: Final = "Dates and times"


@define(
    THEME,
    ["date_trunc(text, timestamp without time zone) → timestamp without time zone"],
    "The beginning of the hour, day, week, month, quarter, year …; with a third argument by that zone's clock.",
    {
        "date_trunc('month', timestamp '2026-11-23 10:30')": "2026-11-01 00:00:00",
        "date_trunc('day', timestamptz '2026-11-23 02:00Z', 'Pacific/Auckland')": "2026-11-22 11:00:00+00",
    },
)
def date_trunc(unit: str, micros: int) -> int:
    """Cut off what is smaller than a unit."""
    return calendar_fields.truncate(unit, micros)


overload("date_trunc(text, timestamp with time zone) → timestamp with time zone", date_trunc)
overload(
    "date_trunc(text, timestamp with time zone, text) → timestamp with time zone", calendar_fields.truncate_in_zone
)
overload("date_trunc(text, interval) → interval", calendar_fields.truncate_interval)


@define(
    THEME,
    ["age(timestamp without time zone, timestamp without time zone) → interval"],
    "The time between, in years, months, days and hours.",
    {"age('2026-11-23', '2024-02-29')": "2 years 8 mons 23 days"},
    note="With one argument it would depend on today, so it is refused.",
)
def age(later: int, earlier: int) -> moments.Interval:
    """Symbolic difference."""
    return intervals.age(later, earlier)


overload("age(timestamp with time zone, timestamp with time zone) → interval", age)


@define(
    THEME,
    ["timezone(text, timestamp with time zone) → timestamp without time zone"],
    "The clock of a time zone; usually written `x at time zone 'Europe/Berlin'`, which from a timestamp without zone "
    "makes the moment.",
    {
        "timestamptz '2026-07-01 12:00Z' at time zone 'Europe/Berlin'": "2026-07-01 14:00:00",
        "timestamp '2026-07-01 12:00' at time zone 'Europe/Berlin'": "2026-07-01 10:00:00+00",
    },
    note="Zones go by name; offsets such as '+02' are refused, because their sign means the opposite of what it says.",
)
def to_zone(name: str, micros: int) -> int:
    """Moment to local time."""
    return moments.to_local(micros, moments.zone_named(name))


def from_zone(name: str, micros: int) -> int:
    """Local time to moment."""
    return moments.from_local(micros, moments.zone_named(name))


overload("timezone(text, timestamp without time zone) → timestamp with time zone", from_zone)


@define(
    THEME,
    ["to_date(text, text) → date"],
    "Read a date in a given form.",
    {"to_date('23.11.2026', 'DD.MM.YYYY')": "2026-11-23", "to_date('2026-13-01', 'YYYY-MM-DD')": "error 22008"},
    note=date_formats.NOTE,
    prepared=(1,),
)
def to_date(form: str) -> Callable[[str], int]:
    """Read by a pattern."""
    read = date_formats.reader(form)
    return lambda text: moments.checked_date(read(text) // moments.DAY)


@define(
    THEME,
    ["to_timestamp(text, text) → timestamp with time zone"],
    "Read a timestamp in a given form, as UTC; a number is seconds since 1970.",
    {
        "to_timestamp('23/11/2026 14:05', 'DD/MM/YYYY HH24:MI')": "2026-11-23 14:05:00+00",
        "to_timestamp(1700000000.5)": "2023-11-14 22:13:20.5+00",
    },
    note=date_formats.NOTE,
    prepared=(1,),
)
def to_timestamp(form: str) -> Callable[[str], int]:
    """Read by a pattern."""
    return date_formats.reader(form)


def _from_epoch(seconds: float) -> int:
    if math.isnan(seconds):
        raise rejected("22008", "NaN is no timestamp")
    if math.isinf(seconds):
        return moments.INFINITY if seconds > 0 else -moments.INFINITY
    if abs(seconds) > 1e13:
        raise rejected("22008")
    return moments.checked_timestamp(round(seconds * SECOND))


overload("to_timestamp(double precision) → timestamp with time zone", _from_epoch)


@define(
    THEME,
    [
        "to_char(timestamp without time zone, text) → text",
        "to_char(timestamp with time zone, text) → text",
    ],
    "A date, a timestamp or a number as text in a given form.",
    {
        "to_char(date '2026-11-03', 'DD.MM.YYYY')": "03.11.2026",
        "to_char(timestamp '2026-11-03 14:05:09', 'FMDay, HH12:MI am')": "Tuesday, 02:05 pm",
        "to_char(1234.5, 'FM9,990.00')": "1,234.50",
        "to_char(-7, '000')": "-007",
    },
    note=f"{date_formats.NOTE} {number_formats.NOTE} Names of months and days are English.",
    prepared=(1,),
)
def to_char(form: str) -> Callable[[int], str | None]:
    """Show by a pattern."""
    return date_formats.writer(form)


overload("to_char(numeric, text) → text", number_formats.writer, (1,))
overload("to_char(integer, text) → text", number_formats.integer_writer, (1,))
overload("to_char(bigint, text) → text", number_formats.integer_writer, (1,))
overload("to_char(double precision, text) → text", number_formats.float_writer, (1,))


@define(
    THEME,
    ["make_date(integer, integer, integer) → date"],
    "A date of year, month and day.",
    {"make_date(2026, 2, 28)": "2026-02-28", "make_date(2026, 2, 29)": "error 22008"},
)
def make_date(year: int, month: int, day: int) -> int:
    """A date of its parts; a negative year is BC."""
    if year == 0 or abs(year) > 5_874_897 or not 1 <= month <= 12:
        raise rejected("22008")
    year = year if year > 0 else year + 1
    if not 1 <= day <= moments.month_days(year, month):
        raise rejected("22008")
    return moments.checked_date(moments.days_of(year, month, day))


def _part(unit: str, kind: str, value: object) -> float | None:
    field = calendar_fields.field_name(unit)
    if field not in calendar_fields.FIELDS[kind]:
        raise rejected("22023", f"date_part does not know the field {field[:20]!r} of this type")
    found = calendar_fields.extractor(field, kind)(value)
    return None if found is None else float(numerics.show_decimal(found))


@define(
    THEME,
    ["date_part(text, timestamp without time zone) → double precision"],
    "A field as a double; `extract` gives it exactly.",
    {"date_part('year', timestamp '2026-11-23 00:00')": "2026"},
)
def date_part(unit: str, value: int) -> float | None:
    """A field of a timestamp."""
    return _part(unit, "timestamp", value)


overload("date_part(text, timestamp with time zone) → double precision", date_part)
overload(
    "date_part(text, date) → double precision", date_part_of_date := lambda unit, value: _part(unit, "date", value)
)
overload("date_part(text, interval) → double precision", lambda unit, value: _part(unit, "interval", value))
