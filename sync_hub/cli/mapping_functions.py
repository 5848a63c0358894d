"""`sync-hub mapping functions`: what expressions may call, with examples."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sync_hub.cli.options import Json
from sync_hub.cli.output import paint, print_json, print_table, say
from sync_hub.errors import ConfigError

if TYPE_CHECKING:
    from sync_hub.mapping.functions.registry import Entry


def functions(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One function or operator.")] = None,
    json: Json = False,
) -> None:
    """Show the functions and operators of expressions; with a name, its signatures and examples."""
    from sync_hub.mapping.functions import ENTRIES, THEMES

    found = sorted(ENTRIES, key=lambda entry: THEMES.index(entry.theme))
    if name is not None:
        found = _named(found, name)
    if json:
        print_json([_described(entry) for entry in found])
    elif name is not None:
        for entry in found:
            _show(entry)
    else:
        for theme in THEMES:
            say(paint(theme, "cyan"))
            rows = [("; ".join(entry.signatures), entry.sentence) for entry in found if entry.theme == theme]
            print_table(("signature", "what it gives"), rows)


def _named(entries: Sequence[Entry], name: str) -> list[Entry]:
    found = [entry for entry in entries if entry.name.lower() == name.lower()]
    if not found:
        close = difflib.get_close_matches(name.lower(), [entry.name for entry in entries], n=1)
        hint = f"did you mean {close[0]}?" if close else "sync-hub mapping functions lists them all"
        raise ConfigError("unknown_function", f"there is no function or operator {name!r}", hint=hint)
    return found


def _described(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "theme": entry.theme,
        "signatures": list(entry.signatures),
        "sentence": entry.sentence,
        "examples": dict(entry.examples),
        "note": entry.note,
    }


def _show(entry: Entry) -> None:
    for signature in entry.signatures:
        say(paint(signature, "cyan"))
    say(f"  {entry.sentence}")
    for expression, result in entry.examples.items():
        say(f"  {expression}  →  {'NULL' if result is None else result}")
    if entry.note:
        say(f"  {entry.note}")
