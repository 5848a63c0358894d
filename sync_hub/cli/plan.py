"""`sync-hub plan`: what applying the changed mapping files would do. Changes nothing."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sync_hub.cli.options import Config, Json, load_settings
from sync_hub.cli.output import STATE_COLOURS, one_line, paint, print_json, say

if TYPE_CHECKING:
    from sync_hub.mapping.differences import Example, FieldChange, Sample
    from sync_hub.runtime.plan import Change, Plan
    from sync_hub.settings import Settings

Names = Annotated[list[str] | None, typer.Argument(metavar="MAPPING", help="These mappings; all when none is named.")]

_WORDS = {
    "new": "never applied: all rows are loaded",
    "changed": "changed: all rows are written again",
    "text": "changed, but not in what rows are made of: nothing is loaded",
    "gone": "its file is gone: the rows stay in the target and are not kept current",
}
_SIGNS = {"added": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red")}
_LONGEST = 60


def plan(context: typer.Context, mappings: Names = None, config: Config = None, json: Json = False) -> None:
    """Compare the mapping files with what was applied. Exit 1 when there is something to apply, 2 when it cannot be."""
    planned = look(load_settings(context, config), mappings or ())
    if json:
        print_json(document(planned))
    else:
        show(planned)
        if planned.changes and not planned.errors:
            say(f"to apply: {paint(' '.join(['sync-hub apply', *(mappings or ())]), 'cyan')}")
    raise typer.Exit(2 if planned.errors else 1 if planned.changes else 0)


def look(settings: Settings, names: Sequence[str]) -> Plan:
    """The plan for these mappings, or all. Creates no state where there is none."""
    from sync_hub.cli.check_stored import Stored
    from sync_hub.runtime.plan import make_plan

    return make_plan(settings, Stored(settings).pipelines, names)


def document(planned: Plan) -> dict[str, Any]:
    """A plan for machines."""
    from msgspec import to_builtins

    changes = []
    for change in planned.changes:
        part = to_builtins(change)
        del part["bundle"], part["planned"]
        part["columns"] = [{"name": column.name, "type": column.type} for column in change.columns]
        changes.append(part)
    return {"changes": changes, "applicable": not planned.errors}


def show(planned: Plan) -> None:
    """A plan for people."""
    if not planned.changes:
        say(paint("nothing to apply: what runs is what the files say", "green"))
    for change in planned.changes:
        say(f"{change.mapping} ({change.place}) {_WORDS[change.kind]}")
        for line in _lines(change):
            say(f"  {line}")
        say()


def _lines(change: Change) -> Iterator[str]:
    for field in change.fields:
        sign, colour = _SIGNS[field.change]
        yield paint(f"{sign} {field.name}: {_field(field, change)}", colour)
    for setting in change.settings:
        yield paint(f"~ {setting.name}: {_short(setting.old) or '–'} → {_short(setting.new) or '–'}", "yellow")
    if change.creates:
        yield f"the target {change.target} gets the table {change.target_table}"
    if change.columns:
        columns = ", ".join(f"{column.name} {column.type}" for column in change.columns)
        yield f"the target table {change.target_table} gets the columns {columns}"
    if change.rows is not None:
        yield f"rows to write: about {change.rows}"
    if change.sample is not None:
        yield from _sample(change.sample, new=change.kind == "new")
    yield from change.notes
    for finding in change.findings:
        said = paint(finding.severity, STATE_COLOURS[finding.severity])
        yield f"{said} {finding.path}: {finding.code}: {one_line(finding.message)}"
        if finding.hint:
            yield f"    {one_line(finding.hint)}"


def _field(field: FieldChange, change: Change) -> str:
    if field.change == "removed":
        return f"no longer written; the column stays in {change.target_table} with the values it has"
    new = _short(field.new)
    return new if field.change == "added" else f"{_short(field.old)} → {new}"


def _sample(sample: Sample, *, new: bool) -> Iterator[str]:
    counts = [
        (sample.changed, "get other values"),
        (sample.entering, "enter the view"),
        (sample.leaving, "leave the view"),
        (sample.rejected, "are rejected" if new else "are rejected from now on"),
        (sample.mended, "are rejected no longer"),
    ]
    told = ", ".join(f"{count} {what}" for count, what in counts if count)
    yield f"of {sample.rows} sampled rows {told or ('none is rejected' if new else 'none gets another value')}"
    for name, count in sample.nulls.items():
        yield paint(f"  {name} becomes NULL in {count}", "yellow")
    for example in sample.examples:
        yield f"  {_example(example)}"
    if sample.rejection is not None:
        where = _key(sample.rejection.key)
        yield paint(f"  rejected: {where}: {sample.rejection.code}: {one_line(sample.rejection.message)}", "red")


def _example(example: Example) -> str:
    from sync_hub.model import ABSENT

    new = _value(example.new)
    told = new if example.old is ABSENT else f"{_value(example.old)} → {new}"
    return f"{_key(example.key)}: {example.field}: {told}"


def _key(key: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in key.items())


def _value(value: Any) -> str:
    return "NULL" if value is None else _short(jsonlib.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
