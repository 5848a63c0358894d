"""LIKE patterns, in time that grows with the text alone, and regular expressions with a time limit."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import regex

from sync_hub.errors import ConfigError
from sync_hub.mapping.faults import rejected

TIMEOUT_SECONDS: Final = 0.05
_FLAGS: Final = {"i": regex.IGNORECASE, "c": 0, "n": 0, "s": 0, "x": regex.VERBOSE, "g": 0}
_WORD_ESCAPES: Final = {"y": r"\b", "Y": r"\B", "m": r"\m", "M": r"\M", "A": r"\A", "Z": r"\Z"}
_REFERENCE = re.compile(r"\\(\d|&|\\|.)", re.DOTALL)


@lru_cache(maxsize=1024)
def like(pattern: str, escape: str = "\\", *, fold: bool = False) -> Callable[[str], bool]:
    """A function that tells whether a text is LIKE the pattern; `fold` ignores case (ILIKE)."""
    if fold:
        pattern = pattern.lower()
    parts = _like_parts(pattern, escape)
    segments = [re.compile("".join(part), re.DOTALL) for part in parts]
    first, last = segments[0], re.compile("".join(parts[-1]) + r"\Z", re.DOTALL)
    tail_length = len(parts[-1])

    def run(text: str) -> bool:
        if fold:
            text = text.lower()
        if len(segments) == 1:
            return bool(first.fullmatch(text))
        match = first.match(text)
        if not match:
            return False
        position = match.end()
        for segment in segments[1:-1]:
            match = segment.search(text, position)
            if not match:
                return False
            position = match.end()
        start = len(text) - tail_length
        return start >= position and bool(last.match(text, start))

    return run


def _like_parts(pattern: str, escape: str) -> list[list[str]]:
    """The pieces between `%`: each a list of one-character patterns."""
    parts: list[list[str]] = [[]]
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if escape and character == escape:
            position += 1
            if position == len(pattern):
                raise rejected("22025")
            parts[-1].append(re.escape(pattern[position]))
        elif character == "%":
            parts.append([])
        else:
            parts[-1].append("." if character == "_" else re.escape(character))
        position += 1
    return parts


def compile_pattern(pattern: str, flags: str = "") -> Callable[[str], bool]:
    """A function that tells whether the regular expression matches somewhere."""
    search = _compiled(pattern, flags).search
    return lambda text: _timed(search, text) is not None


def compile_replacement(pattern: str, replacement: str, flags: str = "") -> Callable[[str], str]:
    """A function that replaces the first match, or all of them with flag `g`."""
    substitute = _compiled(pattern, flags).sub
    count = 0 if "g" in flags else 1
    parts = _REFERENCE.split(replacement)

    def replaced(match: Any) -> str:
        out = []
        for index, part in enumerate(parts):
            if index % 2 == 0:
                out.append(part)
            elif part == "&":
                out.append(match.group())
            elif part.isdigit():
                out.append((match.group(int(part)) or "") if int(part) <= match.re.groups else "")
            else:
                out.append(part if part == "\\" else f"\\{part}")
        return "".join(out)

    return lambda text: str(_timed(substitute, replaced, text, count))


def _timed(run: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return run(*arguments, timeout=TIMEOUT_SECONDS)
    except TimeoutError as error:
        raise rejected("2201B") from error


def _compiled(pattern: str, flags: str) -> Any:
    unknown = set(flags) - set(_FLAGS)
    if unknown:
        raise ConfigError("bad_pattern", f"unknown flag {sorted(unknown)[0]!r}", hint="known are g, i, c, n, s, x")
    bits = regex.VERSION0 | (0 if "n" in flags else regex.DOTALL)
    for flag in flags:
        bits |= _FLAGS[flag]
    if "n" in flags:
        bits |= regex.MULTILINE
    if not re.search(r"[*+?}]\?", pattern):
        bits |= regex.POSIX  # as PostgreSQL: of all matches at the leftmost place the longest
    try:
        return regex.compile(_translated(pattern, multiline="n" in flags), bits)
    except regex.error as error:
        raise ConfigError("bad_pattern", f"the regular expression is not valid: {error}") from error


def _translated(pattern: str, *, multiline: bool) -> str:
    """PostgreSQL's escapes and its `$`, which never matches before a line's end, in the spelling of `regex`."""
    out, position = [], 0
    while position < len(pattern):
        character = pattern[position]
        width = 1
        if character == "\\" and position + 1 < len(pattern):
            width, escaped = 2, pattern[position + 1]
            out.append(_WORD_ESCAPES.get(escaped, character + escaped))
        elif character == "[":
            width = _set_width(pattern, position)
            out.append(pattern[position : position + width])
        else:
            out.append(r"\Z" if character == "$" and not multiline else character)
        position += width
    return "".join(out)


def _set_width(pattern: str, start: int) -> int:
    """How long the bracket expression is that begins at `start`."""
    end = start + 1
    if pattern[end : end + 1] == "^":
        end += 1
    end += 1  # a closing bracket in the first place is a member
    while end < len(pattern) and pattern[end] != "]":
        if pattern[end] == "\\":
            end += 1
        elif pattern.startswith("[:", end) and ":]" in pattern[end:]:
            end = pattern.index(":]", end) + 1
        end += 1
    return end + 1 - start
