"""Dates, times and timestamps as whole numbers, in PostgreSQL's range: BC, beyond 9999, and both infinities.

A date is days, a timestamp microseconds since 1970-01-01, a time microseconds since midnight; ±INFINITY compares right.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from sync_hub.mapping.faults import rejected

SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
INFINITY: Final = 1 << 63

_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_EPOCH: Final = datetime(1970, 1, 1)
_EPOCH_UTC: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FIRST_DAY: Final = -2_440_588
"""4714-11-24 BC, the first day that PostgreSQL knows."""
_LAST_YEAR: Final = 294_276
_LAST_DATE_YEAR: Final = 5_874_897

_MOMENT = re.compile(
    r"^\s*(?P<y>\d{4,7})-(?P<m>\d{1,2})-(?P<d>\d{1,2})"
    r"(?:(?:T|\s+|\s*T\s*)(?P<time>\d{1,2}:\d{2}(?::\d{2}(?:\.\d*)?)?))?"
    r"\s*(?P<zone>Z|z|UTC|GMT|[+-]\d{1,2}(?::?\d{2}(?::?\d{2})?)?)?(?P<era>\s+(?:BC|AD|bc|ad))?\s*$"
)
_COMPACT = re.compile(r"^\s*(\d{4})(\d{2})(\d{2})\s*$")
_TIME = re.compile(r"^\s*T?(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d*))?)?\s*(?:Z|[+-]\d{1,2}(?::?\d{2})?)?\s*$")


class Interval(NamedTuple):
    """A span: months, days and microseconds, which do not turn into one another."""

    months: int
    days: int
    micros: int

    @property
    def order(self) -> int:
        """What intervals compare by: a month counts as 30 days, a day as 24 hours."""
        return (self.months * 30 + self.days) * DAY + self.micros


def days_of(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of a civil date; year 0 is 1 BC."""
    if 1 <= year <= 9999:
        return date(year, month, day).toordinal() - _EPOCH_ORDINAL
    shifted = (year - (month <= 2)) // 400
    year_of_era = (year - (month <= 2)) - shifted * 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return shifted * 146097 + day_of_era - 719468


def civil(days: int) -> tuple[int, int, int]:
    """Year (0 is 1 BC), month and day."""
    days += 719468
    era = days // 146097
    day_of_era = days - era * 146097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return year_of_era + era * 400 + (month <= 2), month, day


def month_days(year: int, month: int) -> int:
    """How many days a month has."""
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in {4, 6, 9, 11} else 31


def is_finite(value: int) -> bool:
    """False for both infinities."""
    return -INFINITY < value < INFINITY


def checked_date(days: int) -> int:
    """The date, or `Rejected` when it is beyond what PostgreSQL can say."""
    if days < _FIRST_DAY or days > 2_145_031_948:
        raise rejected("22008")
    return days


def checked_timestamp(micros: int) -> int:
    """The timestamp, or `Rejected` when it is beyond what PostgreSQL can say."""
    if micros < _FIRST_DAY * DAY or micros >= 9_224_318_016_000_000_000:
        raise rejected("22008")
    return micros


def parse_date(text: str) -> int:
    """Days of an ISO date, or of the date in an ISO timestamp."""
    if len(text) == 10 and text[4] == "-":
        try:
            return date.fromisoformat(text).toordinal() - _EPOCH_ORDINAL
        except ValueError:
            pass
    special = _special(text)
    if special is not None:
        return special
    return checked_date(_fields(text)[0])


def parse_timestamp(text: str) -> int:
    """Microseconds of an ISO timestamp without zone; a zone in the text is ignored, as PostgreSQL does."""
    if len(text) > 18 and text[4] == "-" and text[13] == ":" and text[16] == ":":
        try:
            return (datetime.fromisoformat(text).replace(tzinfo=None) - _EPOCH) // _MICROSECOND
        except ValueError:
            pass
    special = _special(text)
    if special is not None:
        return special
    days, micros, _ = _fields(text)
    return checked_timestamp(days * DAY + micros)


def parse_timestamptz(text: str) -> int:
    """Microseconds of an ISO timestamp; without a zone in the text it is UTC."""
    if len(text) > 18 and text[4] == "-" and text[13] == ":" and text[16] == ":":
        try:
            moment = datetime.fromisoformat(text)
            return (moment - _EPOCH_UTC if moment.tzinfo else moment - _EPOCH) // _MICROSECOND
        except ValueError:
            pass
    special = _special(text)
    if special is not None:
        return special
    days, micros, offset = _fields(text)
    return checked_timestamp(days * DAY + micros - offset)


def parse_time(text: str) -> int:
    """Microseconds since midnight; 24:00:00 is the end of the day."""
    match = _TIME.match(text)
    if not match:
        moment = _MOMENT.match(text)
        if moment and moment["time"]:
            return _fields(text)[1]
        raise rejected("22007")
    hour, minute, second, fraction = match.groups()
    return _clock(int(hour), int(minute), int(second or 0), fraction or "")


def _clock(hour: int, minute: int, second: int, fraction: str) -> int:
    micros = round(int((fraction + "0" * 7)[:7]) / 10) if fraction else 0
    total = hour * HOUR + minute * MINUTE + second * SECOND + micros
    if minute > 59 or second > 60 or hour > 24 or total > DAY:
        raise rejected("22008")
    return total


def _special(text: str) -> int | None:
    word = text.strip().lower()
    if word in {"infinity", "+infinity"}:
        return INFINITY
    if word == "-infinity":
        return -INFINITY
    return 0 if word == "epoch" else None


def _fields(text: str) -> tuple[int, int, int]:
    """Days, microseconds of the day, and the zone's offset in microseconds (0 when there is none)."""
    compact = _COMPACT.match(text)
    match = _MOMENT.match("-".join(compact.groups()) if compact else text)
    if not match:
        raise rejected("22007")
    year, month, day = int(match["y"]), int(match["m"]), int(match["d"])
    if (match["era"] or "").strip().upper() == "BC":
        year = 1 - year
    elif year == 0:
        raise rejected("22008")
    if not 1 <= month <= 12 or not 1 <= day <= month_days(year, month) or year > _LAST_DATE_YEAR:
        raise rejected("22008")
    return days_of(year, month, day), parse_time(match["time"]) if match["time"] else 0, _offset(match["zone"])


def _offset(zone: str | None) -> int:
    if not zone or zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "")
    if len(digits) <= 2:
        digits = digits.zfill(2)
    elif len(digits) % 2:
        digits = "0" + digits
    hours, minutes, seconds = int(digits[:2]), int(digits[2:4] or 0), int(digits[4:6] or 0)
    if hours > 15 or minutes > 59 or seconds > 59:
        raise rejected("22008", "the time zone's offset is out of range")
    total = hours * HOUR + minutes * MINUTE + seconds * SECOND
    return total if zone[0] == "+" else -total


def show_date(days: int) -> str:
    """As PostgreSQL prints it (ISO)."""
    if not is_finite(days):
        return "infinity" if days > 0 else "-infinity"
    if -_EPOCH_ORDINAL < days <= 2_932_896:
        return date.fromordinal(days + _EPOCH_ORDINAL).isoformat()
    year, month, day = civil(days)
    return f"{1 - year:04}-{month:02}-{day:02} BC" if year < 1 else f"{year:04}-{month:02}-{day:02}"


def show_time(micros: int) -> str:
    """As PostgreSQL prints it: a fraction without trailing zeros."""
    seconds, fraction = divmod(micros, SECOND)
    minutes, second = divmod(seconds, 60)
    text = f"{minutes // 60:02}:{minutes % 60:02}:{second:02}"
    return f"{text}.{fraction:06}".rstrip("0") if fraction else text


def show_timestamp(micros: int, *, between: str = " ", zone: str = "") -> str:
    """As PostgreSQL prints it, or with `between=T` (and `zone=Z`) as it goes over the wire."""
    if not is_finite(micros):
        return "infinity" if micros > 0 else "-infinity"
    days, rest = divmod(micros, DAY)
    day, _, era = show_date(days).partition(" ")
    if era or len(day) > 10:  # what ISO 8601 cannot say stays as PostgreSQL prints it
        return f"{day} {show_time(rest)}{'+00' if zone else ''}{' BC' if era else ''}"
    return f"{day}{between}{show_time(rest)}{zone}"


def add_months(days: int, months: int) -> int:
    """The same day of the month, or the month's last."""
    year, month, day = civil(days)
    year, month = divmod(year * 12 + month - 1 + months, 12)
    if year > _LAST_DATE_YEAR or year < -_LAST_YEAR:
        raise rejected("22008")
    return days_of(year, month + 1, min(day, month_days(year, month + 1)))


def add_interval(micros: int, span: Interval) -> int:
    """Timestamp + interval: first months, then days, then time."""
    if not is_finite(micros):
        return micros
    if span.months:
        days, rest = divmod(micros, DAY)
        micros = add_months(days, span.months) * DAY + rest
    return checked_timestamp(micros + span.days * DAY + span.micros)


@lru_cache(maxsize=256)
def zone_named(name: str) -> ZoneInfo:
    """The time zone; `Rejected` (22023) when there is none of that name. Only names count: `+02` is refused."""
    try:
        return ZoneInfo({"utc": "UTC", "gmt": "GMT", "z": "UTC"}.get(name.strip().lower(), name.strip()))
    except (KeyError, ValueError, OSError) as error:
        raise rejected("22023", "there is no time zone of that name") from error


def to_local(micros: int, zone: ZoneInfo) -> int:
    """Timestamp with time zone → the local time there."""
    if not is_finite(micros):
        return micros
    offset = _datetime(micros).replace(tzinfo=UTC).astimezone(zone).utcoffset() or timedelta()
    return micros + offset // _MICROSECOND


def from_local(micros: int, zone: ZoneInfo) -> int:
    """Local time → the moment; in a gap and in an overlap with standard time, as PostgreSQL does."""
    if not is_finite(micros):
        return micros
    local = _datetime(micros).replace(tzinfo=zone)
    first, second = local.utcoffset() or timedelta(), local.replace(fold=1).utcoffset() or timedelta()
    return micros - min(first, second) // _MICROSECOND


def _datetime(micros: int) -> datetime:
    """The moment, or where Python's calendar ends one that has the same offset: rules repeat after 400 years."""
    low, high, cycle = -62_135_510_400 * SECOND, 253_402_214_400 * SECOND, 146_097 * DAY
    if micros >= high:
        micros -= ((micros - high) // cycle + 1) * cycle
    return _EPOCH + timedelta(microseconds=max(low, micros))
