"""The reference page of functions, made of the same table that the compiler uses.

`python -m sync_hub.mapping.reference docs/reference/functions.md` writes it; a test keeps page and code in step and
executes every example.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from sync_hub.errors import Rejected
from sync_hub.mapping.compile import compile_expression
from sync_hub.mapping.functions import ENTRIES, THEMES, Entry
from sync_hub.mapping.lookups import parse_lookup
from sync_hub.mapping.scope import FACTS, Scope
from sync_hub.mapping.values import to_text

EXAMPLE_SCOPE: Final = Scope(
    {},
    lookups={"countries": parse_lookup("countries", "code,name,region\nNZ,New Zealand,Oceania\n")},
    secrets={"PHONE_KEY": "example"},
)
"""What the examples may name: one lookup and one secret."""

_HEAD: Final = """# Functions and operators

Expressions in mappings are SQL as PostgreSQL knows it, over one row of the source table. Every result here was
computed by the hub itself, and a test asks a real PostgreSQL for the same. Where the hub differs, the entry says so.

Written by `python -m sync_hub.mapping.reference docs/reference/functions.md`: do not edit it by hand.

## What holds everywhere

- **NULL**: a function of NULL is NULL, unless its entry says otherwise. Conditions have three values.
- **Decimals are exact**, up to 2,000 digits; quotients have as many digits as PostgreSQL gives them. Integers that
  overflow, division by zero and texts that cannot be cast are errors: the event's key is held with PostgreSQL's own
  SQLSTATE. `try(…)` and `try_cast(… as …)` give NULL instead.
- **The session's time zone is UTC.** Dates and timestamps are read in ISO form only (`2026-11-23`,
  `2026-11-23 14:05:00+01`); anything else is rejected with 22007. Infinite dates and timestamps are known, infinite
  intervals are not.
- **Text** is Unicode. It compares by code points (collation C); `upper` and `lower` follow Unicode's full mapping.
  `char(n)` loses its padding, citext compares without case, enumerations and other types are the text that PostgreSQL
  prints.
- **The same event always gives the same row**: there is no `now()` and no random number. Use `_committed_at`.
- **Names** without double quotes are in small letters, as in PostgreSQL: a column with capitals is `"firstName"`.
- **Limits**: 4,000 characters and 50 levels of parentheses; what `lpad`, `rpad`, `repeat` and `replace` give has at
  most a million characters.

## Facts of the event

They can be used like columns: {facts}.

The last five belong to the change, not to the row: `where` and the key cannot use them, and `verify` leaves out the
columns made of them.
"""


def evaluate(expression: str) -> str | None:
    """The result of an expression without columns as text, None for NULL, `error SQLSTATE` for a rejection."""
    compiled = compile_expression(expression, EXAMPLE_SCOPE)
    try:
        value = compiled.run({})
    except Rejected as error:
        return f"error {error.sqlstate}"
    show = to_text(compiled.type)
    return None if value is None else str(show(value) if show else value)


def render() -> str:
    """The whole page in Markdown."""
    lines = [_HEAD.format(facts=" ".join(f"`{name}`" for name in FACTS))]
    for theme in THEMES:
        lines.append(f"\n## {theme}\n")
        for entry in ENTRIES:
            if entry.theme == theme:
                lines.append(_entry(entry))
    return "\n".join(lines)


def _entry(entry: Entry) -> str:
    lines = [f"### `{entry.name}`\n"]
    lines += ["```", *entry.signatures, "```", "", entry.sentence]
    if entry.note:
        lines += ["", f"*{entry.note}*"]
    lines += ["", "| expression | result |", "|---|---|"]
    for expression, result in entry.examples.items():
        lines.append(f"| {_code(expression)} | {_result(result)} |")
    return "\n".join(lines) + "\n"


def _result(result: str | None) -> str:
    if result is None:
        return "NULL"
    return result if result.startswith("error ") else _code(result) if result else "(empty)"


def _code(text: str) -> str:
    escaped = text.replace("|", "\\|")
    return f"`` {escaped} ``" if "`" in text else f"`{escaped}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
