"""What an expression raises when a value is wrong: `Rejected` with the SQLSTATE that PostgreSQL gives.

Messages never repeat the value: they reach logs, and values may be personal.
"""

from __future__ import annotations

from sync_hub.errors import Rejected

CODES: dict[str, tuple[str, str]] = {
    "22P02": ("invalid_text", "the text is not of the type asked for"),
    "22003": ("value_out_of_range", "the number is out of range"),
    "22012": ("division_by_zero", "division by zero"),
    "22007": ("invalid_date", "the text is not a date or time in ISO form"),
    "22008": ("date_out_of_range", "the date or time is out of range"),
    "22023": ("invalid_parameter", "an argument is not allowed"),
    "22011": ("negative_length", "a length is negative"),
    "22001": ("text_too_long", "the text is longer than the column"),
    "2201E": ("invalid_logarithm", "the logarithm of zero or of a negative number"),
    "2201F": ("invalid_power", "this power of this number does not exist"),
    "2201B": ("regex_failed", "the regular expression took too long"),
    "22025": ("invalid_escape", "the pattern ends with its escape character"),
    "22P05": ("untranslatable_character", "the text holds the character U+0000"),
    "0A000": ("not_supported", "the operation is not supported"),
    "54000": ("result_too_large", "the result is longer than a million characters"),
}


def rejected(sqlstate: str, message: str = "") -> Rejected:
    """The error for a SQLSTATE, to be raised."""
    code, text = CODES[sqlstate]
    return Rejected(code, message or text, sqlstate=sqlstate)


class SyntaxProblem(Exception):
    """An expression that cannot be compiled; `offset` is the place in its text. It becomes a `ConfigError`."""

    def __init__(self, message: str, offset: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.hint = hint
