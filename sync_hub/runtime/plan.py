"""What applying the mapping files would change, and doing it: the files, what was applied, and both ends compared.

Planning changes nothing. Carrying a plan out adds columns to targets and asks for reloads (`guarantees.md` §7); the
workers do the rest, now or when they run next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Literal, Self

import msgspec
from msgspec import Struct

from sync_hub.errors import ConfigError
from sync_hub.mapping.apply import CompiledMapping, compile_mapping
from sync_hub.mapping.check import check_mapping
from sync_hub.mapping.differences import (
    FieldChange,
    Sample,
    SettingChange,
    compare_rows,
    field_changes,
    key_differs,
    lookup_changes,
    setting_changes,
)
from sync_hub.mapping.loader import Bundle
from sync_hub.mapping.spec import MappingSpec, parse_spec
from sync_hub.model import Column, Finding, Table
from sync_hub.ports import Sink, Source
from sync_hub.runtime.pipelines import BEGINNING, configured, differs, is_copy_row, missing_columns, stored_bundle
from sync_hub.settings import Settings
from sync_hub.state import NO_ROWS, Pipeline, State, Step

SAMPLE_ROWS = 200
"""How many rows are mapped both ways: the first by key, which no table takes long to give."""
REASON = "its mapping was changed"
"""Why a pipeline is in doubt until it was loaded again and verified."""

_OFFSETS = "sync_hub_offsets"


class Change(Struct, frozen=True):
    """What applying one mapping's file does.

    `new`: never applied, all rows are loaded. `changed`: all rows are written again. `text`: the file differs in
    nothing that rows are made of. `gone`: there is no file any more; the rows stay and are not kept current.
    `columns` are added to the target table; `creates` says that the whole table is. `rows` to write are an estimate,
    None where none are written. Findings that are errors refuse it. `planned` is the pipeline that this was planned on,
    None where nothing was applied: only that one may be changed.
    """

    mapping: str
    kind: Literal["new", "changed", "text", "gone"]
    place: str
    source: str
    target: str
    target_table: str
    owner: str = ""
    fields: tuple[FieldChange, ...] = ()
    settings: tuple[SettingChange, ...] = ()
    key_changed: bool = False
    creates: bool = False
    columns: tuple[Column, ...] = ()
    rows: int | None = None
    sample: Sample | None = None
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    bundle: str = ""
    planned: Pipeline | None = None

    @property
    def dropped(self) -> list[str]:
        """Target columns that are no longer written."""
        return [field.name for field in self.fields if field.change == "removed"]

    @property
    def errors(self) -> list[Finding]:
        """Why it cannot be applied."""
        return [finding for finding in self.findings if finding.severity == "error"]


class Plan(Struct, frozen=True):
    """All changes, by name; none: what runs is what the files say."""

    changes: tuple[Change, ...]

    @property
    def errors(self) -> list[Finding]:
        """Why it cannot be applied."""
        return [error for change in self.changes for error in change.errors]

    def of_kind(self, kind: str) -> list[Change]:
        """The changes of one kind."""
        return [change for change in self.changes if change.kind == kind]


def make_plan(settings: Settings, applied: Mapping[str, Pipeline], names: Sequence[str] = ()) -> Plan:
    """Compare the mapping files with what was applied, these mappings or all. Reads both ends, changes nothing.

    Raises `ConfigError` when a mapping is wrong in itself, or no mapping has one of `names`.
    """
    found = configured(settings)
    known = found.keys() | applied.keys()
    for name in names:
        if name not in known:
            hint = f"known are: {', '.join(sorted(known)) or 'none'}"
            raise ConfigError("unknown_mapping", f"there is no mapping {name!r}", hint=hint)
    with Planner(settings) as planner:
        changes = []
        for name in sorted(set(names) or known):
            change = (
                planner.change(*found[name], applied.get(name))
                if name in found
                else _gone(stored_bundle(applied[name]))
            )
            if change is not None:
                changes.append(msgspec.structs.replace(change, planned=applied.get(name)))
    return Plan(tuple(changes))


def carry_out(settings: Settings, state: State, plan: Plan) -> list[str]:
    """Do what a plan without errors says; returns the DDL that ran.

    The target's columns come first: what is loaded again finds them. Everything else is asked of the workers. Raises
    `ConfigError` (`plan_outdated`) when pipelines are not what the plan rests on: then nothing was applied.
    """
    steps = [_step(change) for change in plan.changes]
    known = {pipeline.name: pipeline for pipeline in state.pipelines()}
    _refuse_outdated([step.name for step in steps if not step.rests_on(known.get(step.name))])
    ddl = []
    for change in plan.of_kind("changed"):
        if change.columns:
            sink = settings.sink(change.target)
            try:
                ddl.append(sink.add_columns(change.target_table, change.columns))
            finally:
                sink.close()
    _refuse_outdated(state.apply(steps))
    return [statement for statement in ddl if statement]


def _step(change: Change) -> Step:
    if change.kind == "gone":
        return Step(change.mapping, change.planned, None)
    spec = parse_spec(msgspec.json.decode(change.bundle, type=Bundle))
    after = Pipeline(spec.name, spec.source, spec.table, spec.target, change.bundle, time.time(), "new")
    return Step(change.mapping, change.planned, after, REASON if change.kind == "changed" else "")


def _refuse_outdated(names: Sequence[str]) -> None:
    if names:
        raise ConfigError(
            "plan_outdated",
            f"applied, loaded again or forgotten since this was planned: {', '.join(names)}",
            hint="nothing was applied; look at what there is to apply now",
            command="sync-hub plan",
        )


class Planner:
    """Looks at both ends of mappings; connections are opened once and closed at the end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open = ExitStack()
        self._sources: dict[str, Source] = {}
        self._sinks: dict[str, Sink] = {}
        self._captured: dict[str, list[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def change(self, bundle: Bundle, spec: MappingSpec, pipeline: Pipeline | None) -> Change | None:
        """What applying this file does; None when nothing."""
        table = self._table(spec)
        mapping = compile_mapping(bundle, table, secrets=os.environ)
        if pipeline is None or (pipeline.phase == "new" and differs(bundle, pipeline)):
            return self._described(_change("new", bundle, spec), mapping, None, table)
        return self._changed(bundle, mapping, pipeline, table)

    def _changed(self, bundle: Bundle, mapping: CompiledMapping, pipeline: Pipeline, table: Table) -> Change | None:
        spec, before = mapping.spec, stored_bundle(pipeline)
        old = parse_spec(before)
        moved = _moved(old, spec)
        if moved:
            changes = tuple(setting_changes(old, spec))
            return _change("changed", bundle, spec, settings=changes, findings=moved)
        compiled, notes = _compiled(before, table)
        written = set() if pipeline.phase in BEGINNING else self._hashes(pipeline)
        other_rows = compiled is None or compiled.hash != mapping.hash or bool(written - {mapping.hash})
        if not other_rows and (pipeline.phase in NO_ROWS or not self._lacks(mapping)):
            return _change("text", bundle, spec) if differs(bundle, pipeline) else None
        settings = [*setting_changes(old, spec), *lookup_changes(before.lookups, bundle.lookups)]
        if compiled is not None and compiled.hash == mapping.hash and other_rows:
            notes += ("a secret, or the source's columns, are not what the rows were written with",)
        change = _change(
            "changed",
            bundle,
            spec,
            fields=field_changes(old, spec, table),
            settings=tuple(settings),
            key_changed=key_differs(old, spec, table),
            notes=notes,
        )
        if pipeline.phase not in NO_ROWS and (change.key_changed or old.target_table != spec.target_table):
            change = msgspec.structs.replace(change, findings=self._not_empty(spec))
        return self._described(change, mapping, compiled, table)

    def _described(self, change: Change, mapping: CompiledMapping, old: CompiledMapping | None, table: Table) -> Change:
        """The change with what it means for the target and for rows."""
        spec = mapping.spec
        target = self._sink(spec.target).describe(spec.target_table)
        adds = missing_columns(mapping, target) if spec.create and target and change.kind == "changed" else ()
        after = msgspec.structs.replace(target, columns=(*target.columns, *adds)) if target else None
        rows, more = self._source(spec.source).read_page(table.full_name, None, SAMPLE_ROWS)
        return msgspec.structs.replace(
            change,
            creates=target is None and spec.create,
            columns=adds,
            rows=len(rows) if more is None else max(table.rows_estimated, len(rows)),
            sample=compare_rows(old, mapping, rows),
            findings=(*change.findings, *check_mapping(mapping, table, after)),
        )

    def _lacks(self, mapping: CompiledMapping) -> bool:
        """Whether the target's table, where there is one, lacks columns: the source got one that `copy: all` takes."""
        target = self._sink(mapping.spec.target).describe(mapping.spec.target_table)
        return target is not None and bool(missing_columns(mapping, target))

    def _not_empty(self, spec: MappingSpec) -> tuple[Finding, ...]:
        """Rows under other keys, or of somebody else, would stay among the new ones."""
        sink = self._sink(spec.target)
        target = sink.describe(spec.target_table)
        if target is None:
            return ()
        for _ in sink.read_rows(spec.target_table, [target.columns[0].name]):
            message = f"mapping {spec.name}: a changed key or target table needs an empty table, and "
            message += f"{spec.target_table} has rows"
            hint = "give the mapping another name and another table; or pause it and empty the table first"
            return (Finding("target_not_empty", "error", spec.node.where("key"), message, hint),)
        return ()

    def _hashes(self, pipeline: Pipeline) -> set[str]:
        """Which versions of the mapping the target's rows were written with."""
        sink = self._sink(pipeline.target)
        if sink.describe(_OFFSETS) is None:
            return set()
        return {row.mapping_hash for row in sink.load_offsets([pipeline.name]) if not is_copy_row(row)}

    def _table(self, spec: MappingSpec) -> Table:
        source = self._source(spec.source)
        if spec.source not in self._captured:
            self._captured[spec.source] = source.tables()
        table = source.describe(spec.table) if spec.table in self._captured[spec.source] else None
        if table is None:
            captured = ", ".join(sorted(self._captured[spec.source])) or "none"
            raise spec.error(
                "table_not_captured",
                f"the source {spec.source} captures no table {spec.table}",
                "from",
                "table",
                hint=f"captured are: {captured}",
            )
        return table

    def _source(self, name: str) -> Source:
        if name not in self._sources:
            self._sources[name] = self._settings.source(name)
            self._open.callback(self._sources[name].close)
        return self._sources[name]

    def _sink(self, name: str) -> Sink:
        if name not in self._sinks:
            self._sinks[name] = self._settings.sink(name)
            self._open.callback(self._sinks[name].close)
        return self._sinks[name]


def _change(kind: Literal["new", "changed", "text"], bundle: Bundle, spec: MappingSpec, **more: object) -> Change:
    text = msgspec.json.encode(bundle).decode()
    place = f"{bundle.file}:{bundle.line}"
    change = Change(spec.name, kind, place, spec.source, spec.target, spec.target_table, spec.owner, bundle=text)
    return msgspec.structs.replace(change, **more)


def _gone(bundle: Bundle) -> Change:
    spec = parse_spec(bundle)
    return Change(spec.name, "gone", bundle.file, spec.source, spec.target, spec.target_table, spec.owner)


def _compiled(bundle: Bundle, table: Table) -> tuple[CompiledMapping | None, tuple[str, ...]]:
    """The mapping as it was applied; None, and why, when the source's table or a secret no longer lets it be."""
    try:
        return compile_mapping(bundle, table, secrets=os.environ), ()
    except ConfigError as error:
        return None, (f"no old values: as it was applied it no longer compiles: {error.message}",)


def _moved(old: MappingSpec, new: MappingSpec) -> tuple[Finding, ...]:
    """A pipeline keeps its source table and its target: topic and offsets belong to them."""
    hint = "give the mapping another name: then it is a new one, which loads all rows"
    found = []
    if (old.source, old.table) != (new.source, new.table):
        message = f"mapping {new.name} was applied to {old.source} {old.table}, and now reads {new.source} {new.table}"
        found.append(Finding("mapping_source_changed", "error", new.node.where("from"), message, hint))
    if old.target != new.target:
        message = f"mapping {new.name} was applied to the target {old.target}, and now writes to {new.target}"
        found.append(Finding("mapping_target_changed", "error", new.node.where("to"), message, hint))
    return tuple(found)
