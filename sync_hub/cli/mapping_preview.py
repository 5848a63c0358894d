"""`sync-hub mapping preview`: what a mapping makes of real rows. Reads the source, writes nothing."""

from __future__ import annotations

import difflib
import itertools
import json as jsonlib
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sync_hub.cli.options import Config, Json, load_settings
from sync_hub.cli.output import paint, print_json, print_table, say
from sync_hub.errors import ConfigError, Rejected
from sync_hub.model import ABSENT

if TYPE_CHECKING:
    from sync_hub.mapping.apply import CompiledMapping
    from sync_hub.mapping.loader import Bundle
    from sync_hub.model import Table
    from sync_hub.settings import Settings

_INTEGERS = ("smallint", "integer", "bigint", "oid")


def preview(
    context: typer.Context,
    mapping: Annotated[str, typer.Argument(metavar="MAPPING", help="A mapping, as `mapping list` shows them.")],
    key: Annotated[
        str | None, typer.Option("--key", metavar="K", help='This row: 42, or {"a": 1, "b": 2} where the key has more.')
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="How many rows.")] = 5,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show what the mapping makes of real rows of its source. Exit 1 when it rejects one, or the key has no row."""
    settings = load_settings(context, config)
    shown = _rows(settings, mapping, key, limit)
    if json:
        print_json(shown)
    else:
        for row in shown:
            _show(row)
        if not shown:
            say("there is no such row" if key else "the table is empty")
    if any("rejected" in row for row in shown) or (key and not shown):
        raise typer.Exit(1)


def _rows(settings: Settings, name: str, key: str | None, limit: int) -> list[dict[str, Any]]:
    from sync_hub.mapping.apply import compile_mapping
    from sync_hub.mapping.spec import parse_spec

    bundle = _bundle(settings, name)
    spec = parse_spec(bundle)
    if spec.source not in settings.sources:
        hint = f"configured are: {', '.join(settings.sources)}"
        raise spec.error("unknown_source", f"the source {spec.source!r} is not configured", "from", "source", hint=hint)
    source = settings.source(spec.source)
    try:
        table = source.describe(spec.table)
        if table is None:
            raise spec.error("unknown_table", f"{spec.source} has no table {spec.table}", "from", "table")
        compiled = compile_mapping(bundle, table, secrets=os.environ)
        keys = None if key is None else [_key(table, key)]
        return [_mapped(compiled, row) for row in itertools.islice(source.read_rows(table.full_name, keys=keys), limit)]
    finally:
        source.close()


def _bundle(settings: Settings, name: str) -> Bundle:
    from sync_hub.mapping.loader import load_bundles

    bundles = {bundle.name: bundle for bundle in load_bundles(settings.mappings, settings.root)}
    if name not in bundles:
        close = difflib.get_close_matches(name, bundles, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are: {', '.join(bundles) or 'none'}"
        raise ConfigError("unknown_mapping", f"there is no mapping {name!r}", hint=hint)
    return bundles[name]


def _key(table: Table, given: str) -> dict[str, Any]:
    """The key as wire values: one value for a key of one column, else a JSON object."""
    types = {column.name: column.type for column in table.columns}
    if len(table.key) == 1 and not given.lstrip().startswith("{"):
        number = types[table.key[0]] in _INTEGERS
        if number and not given.lstrip("-").isdecimal():
            raise ConfigError("bad_key", f"--key {given!r} is no {types[table.key[0]]}", hint="for example --key 42")
        return {table.key[0]: int(given) if number else given}
    try:
        value = jsonlib.loads(given)
    except ValueError:
        value = None
    if not isinstance(value, dict) or set(value) != set(table.key):
        example = jsonlib.dumps(dict.fromkeys(table.key, "…"), ensure_ascii=False)
        raise ConfigError("bad_key", f"--key {given!r} is not the key of {table.full_name}", hint=f"write '{example}'")
    return value


def _mapped(compiled: CompiledMapping, row: dict[str, Any]) -> dict[str, Any]:
    try:
        values = compiled.map_row(row)
    except Rejected as error:
        return {"row": row, "rejected": {"code": error.code, "message": error.message, "hint": error.hint}}
    if values is None:
        return {"row": row, "mapped": None}
    named = zip(compiled.columns, values, strict=True)
    return {"row": row, "mapped": {name: value for name, value in named if value is not ABSENT}}


def _show(shown: dict[str, Any]) -> None:
    row = {name: _text(value) for name, value in shown["row"].items()}
    if "rejected" in shown:
        say(paint(f"rejected: {shown['rejected']['code']}: {shown['rejected']['message']}", "red"))
        print_table(("source column", "value"), row.items())
    elif shown["mapped"] is None:
        say(paint("no row in the target: `where` is not true", "yellow"))
        print_table(("source column", "value"), row.items())
    else:
        mapped = [(name, _text(value)) for name, value in shown["mapped"].items()]
        pairs = itertools.zip_longest(row.items(), mapped, fillvalue=("", ""))
        print_table(("source column", "value", "target column", "value"), [(*left, *right) for left, right in pairs])


def _text(value: Any) -> str:
    if value is None:
        return "NULL"
    return value if isinstance(value, str) else jsonlib.dumps(value, ensure_ascii=False)
