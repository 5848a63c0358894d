"""Functions on text. Lengths and positions count characters, from 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sync_hub.mapping.faults import rejected
from sync_hub.mapping.functions.registry import define, overload
from sync_hub.mapping.patterns import compile_pattern, compile_replacement

THEME: Final = "Text"
MAX_LENGTH: Final = 1_000_000


def _bounded(text: str) -> str:
    if len(text) > MAX_LENGTH:
        raise rejected("54000")
    return text


@define(
    THEME,
    ["lower(text) → text"],
    "Small letters.",
    {"lower('ÄPFEL')": "äpfel"},
    note="Unicode's full mapping; PostgreSQL's depends on the database's collation.",
)
def lower(text: str) -> str:
    """Small letters."""
    return text.lower()


@define(
    THEME,
    ["upper(text) → text"],
    "Capital letters.",
    {"upper('straße')": "STRASSE"},
    note="Unicode's full mapping; PostgreSQL's depends on the database's collation.",
)
def upper(text: str) -> str:
    """Capital letters."""
    return text.upper()


@define(
    THEME,
    ["initcap(text) → text"],
    "The first letter of each word a capital, the rest small.",
    {"initcap('ada LOVELACE-king')": "Ada Lovelace-King"},
)
def initcap(text: str) -> str:
    """Words with a capital."""
    out, inside = [], False
    for character in text:
        out.append(character.lower() if inside else character.title())
        inside = character.isalnum()
    return "".join(out)


@define(
    THEME,
    ["btrim(text [, text]) → text"],
    "Without spaces, or the given characters, at both ends; `trim(x)` and `trim(both 'ab' from x)` are the same.",
    {"trim('  a b ')": "a b", "btrim('xyaxy', 'xy')": "a", "trim(both 'x' from 'xax')": "a"},
)
def btrim(text: str, characters: str = " ") -> str:
    """Trim both ends."""
    return text.strip(characters) if characters else text


@define(
    THEME,
    ["ltrim(text [, text]) → text"],
    "Without spaces, or the given characters, at the start; also `trim(leading … from x)`.",
    {"ltrim('  a ')": "a ", "trim(leading '0' from '007')": "7"},
)
def ltrim(text: str, characters: str = " ") -> str:
    """Trim the start."""
    return text.lstrip(characters) if characters else text


@define(
    THEME,
    ["rtrim(text [, text]) → text"],
    "Without spaces, or the given characters, at the end; also `trim(trailing … from x)`.",
    {"rtrim(' a  ')": " a", "trim(trailing '.' from 'end..')": "end"},
)
def rtrim(text: str, characters: str = " ") -> str:
    """Trim the end."""
    return text.rstrip(characters) if characters else text


@define(THEME, ["length(text) → integer"], "How many characters.", {"length('Zoë')": "3"})
def length(text: str) -> int:
    """Count characters; of bytea, bytes."""
    return len(text)


overload("length(bytea) → integer", len)


@define(
    THEME,
    ["substring(text, integer [, integer]) → text"],
    "From a position, for so many characters; also `substring(x from 2 for 3)`. A position before 1 counts too.",
    {"substring('abcdef', 2, 3)": "bcd", "substring('abcdef' from 4)": "def", "substring('abc', 0, 2)": "a"},
)
def substring(text: str, start: int, count: int | None = None) -> str:
    """A part of the text."""
    if count is None:
        return text[max(start - 1, 0) :]
    if count < 0:
        raise rejected("22011")
    return text[max(start - 1, 0) : max(start - 1 + count, 0)]


overload("substr(text, integer [, integer]) → text", substring)


@define(
    THEME,
    ["replace(text, text, text) → text"],
    "Every occurrence of the second text replaced by the third.",
    {"replace('a-b-c', '-', '/')": "a/b/c"},
)
def replace(text: str, old: str, new: str) -> str:
    """Replace all."""
    return _bounded(text.replace(old, new)) if old else text


@define(
    THEME,
    ["translate(text, text, text) → text"],
    "Each character of the second text replaced by the one at its place in the third, or left out.",
    {"translate('12345', '143', 'ax')": "a2x5"},
)
def translate(text: str, old: str, new: str) -> str:
    """Replace characters one by one."""
    table: dict[int, str | None] = {}
    for index, character in enumerate(old):
        table.setdefault(ord(character), new[index] if index < len(new) else None)
    return text.translate(table)


@define(
    THEME,
    ["split_part(text, text, integer) → text"],
    "The n-th part between separators, from the end when negative; empty when there is none.",
    {"split_part('a,b,c', ',', 2)": "b", "split_part('a,b,c', ',', -1)": "c", "split_part('a', ',', 2)": ""},
)
def split_part(text: str, separator: str, number: int) -> str:
    """The n-th part."""
    if number == 0:
        raise rejected("22023", "split_part counts from 1 or from -1")
    if not text:
        return ""
    parts = text.split(separator) if separator else [text]
    index = number - 1 if number > 0 else len(parts) + number
    return parts[index] if 0 <= index < len(parts) else ""


@define(
    THEME,
    ["left(text, integer) → text"],
    "The first n characters; when negative, all but the last n.",
    {"left('abcde', 2)": "ab", "left('abcde', -2)": "abc"},
)
def left(text: str, count: int) -> str:
    """The beginning."""
    return text[:count]


@define(
    THEME,
    ["right(text, integer) → text"],
    "The last n characters; when negative, all but the first n.",
    {"right('abcde', 2)": "de", "right('abcde', -2)": "cde"},
)
def right(text: str, count: int) -> str:
    """The end."""
    return text[-count:] if count else ""


@define(
    THEME,
    ["lpad(text, integer [, text]) → text"],
    "Filled up at the start to a length, or cut to it.",
    {"lpad('7', 3, '0')": "007", "lpad('abcd', 2)": "ab"},
)
def lpad(text: str, size: int, fill: str = " ") -> str:
    """Fill the start."""
    return _fill(text, size, fill) + text[: max(size, 0)]


@define(
    THEME,
    ["rpad(text, integer [, text]) → text"],
    "Filled up at the end to a length, or cut to it.",
    {"rpad('ab', 4, '.')": "ab..", "rpad('abcd', 2)": "ab"},
)
def rpad(text: str, size: int, fill: str = " ") -> str:
    """Fill the end."""
    return text[: max(size, 0)] + _fill(text, size, fill)


def _fill(text: str, size: int, fill: str) -> str:
    if size > MAX_LENGTH:
        raise rejected("54000")
    missing = size - len(text)
    return (fill * (missing // len(fill) + 1))[:missing] if missing > 0 and fill else ""


@define(
    THEME,
    ["repeat(text, integer) → text"],
    "The text so many times.",
    {"repeat('ab', 3)": "ababab", "repeat('ab', 0)": ""},
)
def repeat(text: str, count: int) -> str:
    """Repeat."""
    if len(text) * count > MAX_LENGTH:
        raise rejected("54000")
    return text * count


@define(THEME, ["reverse(text) → text"], "The characters from last to first.", {"reverse('abc')": "cba"})
def reverse(text: str) -> str:
    """Turn round."""
    return text[::-1]


@define(
    THEME,
    ["strpos(text, text) → integer"],
    "Where the second text begins in the first, 0 when it does not; also `position('b' in 'abc')`.",
    {"position('b' in 'abc')": "2", "strpos('abc', 'x')": "0"},
)
def strpos(text: str, part: str) -> int:
    """Find."""
    return text.find(part) + 1


@define(
    THEME,
    ["starts_with(text, text) → boolean"],
    "Whether the first text begins with the second.",
    {"starts_with('NZ-42', 'NZ')": "true"},
)
def starts_with(text: str, start: str) -> bool:
    """Compare the beginning."""
    return text.startswith(start)


@define(
    THEME,
    ["regexp_replace(text, text, text [, text]) → text"],
    r"The first match of a regular expression replaced, all with flag `g`; flag `i` ignores case. `\1` is a group.",
    {
        "regexp_replace('tel. 12 34', '[^0-9]', '', 'g')": "1234",
        r"regexp_replace('Lovelace, Ada', '(\w+), (\w+)', '\2 \1')": "Ada Lovelace",
    },
    note="Pattern, replacement and flags must be literals; a match that takes over 50 ms is rejected (2201B). "
    "Possessive and conditional forms are not PostgreSQL's.",
    prepared=(1, 2, 3),
)
def regexp_replace(pattern: str, replacement: str, flags: str = "") -> Callable[[str], str]:
    """Replace by pattern."""
    return compile_replacement(pattern, replacement, flags)


@define(
    THEME,
    ["regexp_like(text, text [, text]) → boolean"],
    "Whether a regular expression matches somewhere; the same as `~`, with flag `i` as `~*`.",
    {"regexp_like('abc123', '[0-9]+$')": "true", "'ABC' ~* '^a'": "true", "'ABC' !~ '^a'": "true"},
    note="The pattern must be a literal.",
    prepared=(1, 2),
)
def regexp_like(pattern: str, flags: str = "") -> Callable[[str], bool]:
    """Match a pattern."""
    return compile_pattern(pattern, flags)
