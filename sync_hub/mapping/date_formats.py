"""The patterns of `to_char`, `to_date` and `to_timestamp` for dates and times."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sync_hub.errors import ConfigError
from sync_hub.mapping.calendar_fields import iso_week, weekday
from sync_hub.mapping.faults import rejected
from sync_hub.mapping.moments import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    checked_timestamp,
    civil,
    days_of,
    is_finite,
    month_days,
)

MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class _Moment(NamedTuple):
    year: int
    month: int
    day: int
    days: int
    micros: int


def _positive(year: int) -> int:
    return year if year > 0 else 1 - year


def _shown_year(moment: _Moment) -> int:
    return _positive(moment.year)


def _hour12(moment: _Moment) -> int:
    return (moment.micros // HOUR + 11) % 12 + 1


_NUMBERS: Final[dict[str, tuple[int, Callable[[_Moment], int]]]] = {
    "YYYY": (4, _shown_year),
    "YYY": (3, lambda moment: _shown_year(moment) % 1000),
    "YY": (2, lambda moment: _shown_year(moment) % 100),
    "Y": (1, lambda moment: _shown_year(moment) % 10),
    "IYYY": (4, lambda moment: _positive(iso_week(moment.days)[0])),
    "MM": (2, lambda moment: moment.month),
    "DDD": (3, lambda moment: moment.days - days_of(moment.year, 1, 1) + 1),
    "DD": (2, lambda moment: moment.day),
    "D": (1, lambda moment: weekday(moment.days) % 7 + 1),
    "ID": (1, lambda moment: weekday(moment.days)),
    "WW": (2, lambda moment: (moment.days - days_of(moment.year, 1, 1)) // 7 + 1),
    "IW": (2, lambda moment: iso_week(moment.days)[1]),
    "W": (1, lambda moment: (moment.day - 1) // 7 + 1),
    "Q": (1, lambda moment: (moment.month - 1) // 3 + 1),
    "HH24": (2, lambda moment: moment.micros // HOUR),
    "HH12": (2, _hour12),
    "HH": (2, _hour12),
    "MI": (2, lambda moment: moment.micros // MINUTE % 60),
    "SS": (2, lambda moment: moment.micros // SECOND % 60),
    "MS": (3, lambda moment: moment.micros % SECOND // 1000),
    "US": (6, lambda moment: moment.micros % SECOND),
    "SSSS": (1, lambda moment: moment.micros // SECOND),
}
_WORDS: Final[dict[str, Callable[[_Moment], str]]] = {
    "MONTH": lambda moment: MONTHS[moment.month - 1],
    "MON": lambda moment: MONTHS[moment.month - 1][:3],
    "DAY": lambda moment: DAYS[weekday(moment.days) - 1],
    "DY": lambda moment: DAYS[weekday(moment.days) - 1][:3],
    "AM": lambda moment: "AM" if moment.micros < 12 * HOUR else "PM",
    "A.M.": lambda moment: "A.M." if moment.micros < 12 * HOUR else "P.M.",
    "BC": lambda moment: "BC" if moment.year < 1 else "AD",
}
for _alias, _word in (("PM", "AM"), ("P.M.", "A.M."), ("AD", "BC")):
    _WORDS[_alias] = _WORDS[_word]
_READABLE: Final = frozenset(
    {"YYYY", "YY", "MM", "DDD", "DD", "HH24", "HH12", "HH", "MI", "SS", "MS", "US", "MONTH", "MON", "AM", "PM"}
)
_PATTERN: Final = re.compile(
    "|".join(re.escape(name) for name in sorted([*_NUMBERS, *_WORDS], key=len, reverse=True)), re.IGNORECASE
)
_REFUSED = re.compile(r"TZ|OF|CC|RM|TH|J|IDDD|IYY|IY|I|Y,YYY|SP|FF\d|TM|FX", re.IGNORECASE)
NOTE: Final = (
    f"The form must be a literal. For dates and times: {' '.join(sorted({*_NUMBERS, *_WORDS}))}, FM, and text in "
    "double quotes; for reading only "
    f"{' '.join(sorted(_READABLE))}."
)


class _Part(NamedTuple):
    name: str
    written: str
    fill: bool


def _parse(form: str) -> list[_Part]:
    """The form's patterns in order; a name of nothing is text to be written as it is."""
    parts, position, fill = [], 0, True
    while position < len(form):
        if form[position] == '"':
            end = form.find('"', position + 1)
            end = len(form) if end < 0 else end
            parts.append(_Part("", form[position + 1 : end], True))
            position = end + 1
            continue
        if form[position : position + 2].upper() == "FM":
            fill, position = False, position + 2
            continue
        match = _PATTERN.match(form, position)
        refused = _REFUSED.match(form, position)
        if refused and (match is None or refused.end() > match.end()):
            raise ConfigError(
                "bad_format", f"the pattern {refused[0]!r} is not supported", hint="put plain text in double quotes"
            )
        if match:
            parts.append(_Part(match[0].upper(), match[0], fill))
            position = match.end()
        else:
            parts.append(_Part("", form[position], True))
            position += 1
        fill = True
    return parts


def writer(form: str) -> Callable[[int], str | None]:
    """A function that shows a timestamp in this form."""
    shows = [_shower(part) for part in _parse(form)]

    def show(micros: int) -> str | None:
        if not is_finite(micros):
            return None
        days, rest = divmod(micros, DAY)
        moment = _Moment(*civil(days), days, rest)
        return "".join([part(moment) for part in shows])

    return show


def _shower(part: _Part) -> Callable[[_Moment], str]:
    if not part.name:
        return lambda _: part.written
    if part.name in _NUMBERS:
        width, number = _NUMBERS[part.name]
        return lambda moment: f"{number(moment):0{width if part.fill else 1}}"
    word = _WORDS[part.name]
    width = 9 if part.fill and part.name in {"MONTH", "DAY"} else 0
    if part.written[0].islower():
        return lambda moment: f"{word(moment).lower():{width}}"
    if part.written[1:2].islower():
        return lambda moment: f"{word(moment):{width}}"
    return lambda moment: f"{word(moment).upper():{width}}"


def reader(form: str) -> Callable[[str], int]:
    """A function that reads a timestamp in this form; what the form leaves out is the beginning of the year or day."""
    parts = _parse(form)
    for part in parts:
        if part.name and part.name not in _READABLE:
            raise ConfigError("bad_format", f"the pattern {part.written!r} cannot be read, only written")

    def read(text: str) -> int:
        found: dict[str, int] = {}
        position = 0
        for index, part in enumerate(parts):
            if part.name:
                position = _read_part(part, text, position, found, exact=_digits_follow(parts, index))
            else:
                position = _skip(part.written, text, position)
        return _moment_of(found)

    return read


def _digits_follow(parts: list[_Part], index: int) -> bool:
    return index + 1 < len(parts) and parts[index + 1].name in _NUMBERS


def _skip(written: str, text: str, position: int) -> int:
    """Past a separator of the form: any separators of the text; past letters of the form: as many characters."""
    for character in written:
        if character.isalnum():
            position += 1
            continue
        while position < len(text) and text[position].isspace():
            position += 1
        if position < len(text) and not text[position].isalnum() and not character.isspace():
            position += 1
    return position


def _read_part(part: _Part, text: str, position: int, found: dict[str, int], *, exact: bool) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    if part.name in {"MONTH", "MON", "AM", "PM"}:
        return _read_word(part.name, text, position, found)
    width = _NUMBERS[part.name][0] if part.fill and (exact or part.name != "YYYY") else 6
    match = re.compile(rf"\d{{1,{width}}}").match(text, position)
    if not match:
        raise rejected("22007", "the text does not have the form")
    value = int(match[0])
    if part.name == "YY":
        value += 2000 if value < 70 else 1900
    elif part.name in {"MS", "US"}:
        value = round(int((match[0] + "0" * 6)[:6]))
    name = {"YY": "YYYY", "HH": "HH12", "MS": "US"}.get(part.name, part.name)
    if found.setdefault(name, value) != value:
        raise rejected("22007", "the text says a field twice, differently")
    return match.end()


def _read_word(name: str, text: str, position: int, found: dict[str, int]) -> int:
    rest = text[position:].lower()
    if name in {"AM", "PM"}:
        if rest[:2] not in {"am", "pm"}:
            raise rejected("22007", "the text does not have the form")
        found["PM"] = int(rest[:2] == "pm")
        return position + 2
    for number, month in enumerate(MONTHS, 1):
        word = month.lower() if name == "MONTH" else month[:3].lower()
        if rest.startswith(word):
            found["MM"] = number
            return position + len(word)
    raise rejected("22007", "the text does not have the form")


_LIMITS: Final = {"MM": (1, 12), "HH24": (0, 24), "HH12": (1, 12), "MI": (0, 59), "SS": (0, 59)}


def _moment_of(found: dict[str, Any]) -> int:
    for name, (low, high) in _LIMITS.items():
        if name in found and not low <= found[name] <= high:
            raise rejected("22008" if name != "HH12" else "22007")
    year, month, day = found.get("YYYY", 1), found.get("MM", 1), found.get("DD", 1)
    if "YYYY" not in found:
        year = 0  # PostgreSQL: 1 BC
    if not 1 <= day <= month_days(year, month) or year > 294_276:
        raise rejected("22008")
    days = days_of(year, month, day)
    if "DDD" in found and "DD" not in found:
        if not 1 <= found["DDD"] <= 366:
            raise rejected("22008")
        days = days_of(year, 1, 1) + found["DDD"] - 1
    hour = found.get("HH24", found.get("HH12", 0) % 12 + 12 * found.get("PM", 0) if "HH12" in found else 0)
    micros = hour * HOUR + found.get("MI", 0) * MINUTE + found.get("SS", 0) * SECOND + found.get("US", 0)
    if micros > DAY:
        raise rejected("22008")
    return checked_timestamp(days * DAY + micros)
