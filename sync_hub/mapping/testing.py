"""The tests in a mapping's file: given rows, expected rows, only differences shown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from sync_hub.errors import Rejected
from sync_hub.mapping.apply import CompiledMapping, compile_mapping
from sync_hub.mapping.fields import Field
from sync_hub.mapping.loader import Bundle
from sync_hub.mapping.scope import FACTS
from sync_hub.mapping.spec import MappingSpec, TestSpec, parse_spec
from sync_hub.mapping.types import SqlType, parse_type
from sync_hub.mapping.values import comparable, from_text, from_wire, to_wire
from sync_hub.model import ABSENT, ChangeEvent, Column, RowChange, SourceInfo, Table, version_prefix, version_suffix

_DATE = re.compile(r"^\d{4}-\d\d-\d\d$")
_TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
_DECIMAL = re.compile(r"^-?\d+\.\d+$")
_WORD = re.compile(r'"((?:[^"]|"")+)"|\b([A-Za-z_]\w*)\b(?!\s*\()|\'(?:[^\']|\'\')*\'')


class TestResult(Struct, frozen=True):
    """How one test ended. `differences` are lines for people; `where` is `file:line:column` of the test."""

    __test__ = False

    mapping: str
    name: str
    ok: bool
    differences: tuple[str, ...]
    where: str


def run_tests(bundle: Bundle, source_table: Table | None, secrets: Mapping[str, str]) -> list[TestResult]:
    """Run a mapping's tests. Without a table, types are those that the given values look like.

    Raises `ConfigError` when the mapping or a test cannot be read.
    """
    spec = parse_spec(bundle)
    table = source_table or _guessed_table(spec)
    compiled = compile_mapping(bundle, table, secrets=secrets)
    results = []
    for test in spec.tests:
        differences = _differences(compiled, table, test)
        results.append(TestResult(spec.name, test.name, not differences, differences, spec.node.where(*test.path)))
    return results


def _differences(compiled: CompiledMapping, table: Table, test: TestSpec) -> tuple[str, ...]:
    mapped = compiled.apply([_event(compiled.spec, table, test)])
    if mapped.rejected:
        error = mapped.rejected[0][1]
        if test.error:
            same = test.error in {error.code, error.sqlstate}
            return () if same else (f"expected error {test.error}, got {_described(error)}",)
        return (f"rejected: {_described(error)}",)
    change = mapped.changes[0] if mapped.changes else None
    if test.error:
        return (f"expected error {test.error}, got {'no row' if change is None else change.kind}",)
    return _compare(compiled, test, change)


def _described(error: Rejected) -> str:
    return f"{error.code} ({error.sqlstate or 'no SQLSTATE'}): {error.message}"


def _compare(compiled: CompiledMapping, test: TestSpec, change: RowChange | None) -> tuple[str, ...]:
    if change is None and compiled.condition is not None and compiled.condition.reads - test.given.keys():
        missing = ", ".join(sorted(compiled.condition.reads - test.given.keys()))
        return (f"where reads {missing}, which is not given",)
    if change is None or change.kind == "delete":
        return () if test.expect is None else ("no row, but one was expected",)
    if test.expect is None:
        return (f"no row was expected, got a row to {'mark' if change.kind == 'mark' else 'write'}",)
    fields = compiled.mark_fields if change.kind == "mark" else compiled.fields
    known = {field.name: (field, value) for field, value in zip(fields, change.values, strict=True)}
    if change.kind == "mark":
        known |= {
            field.name: (field, value) for field, value in zip(compiled.key_fields, change.key, strict=True)
        } | known
    lines = []
    for name, expected in test.expect.items():
        if name not in known:
            lines.append(f"{name}: the mapping writes no such column")
            continue
        field, value = known[name]
        line = _difference(compiled.spec, test, field, value, expected)
        if line:
            lines.append(line)
    return tuple(lines)


def _difference(spec: MappingSpec, test: TestSpec, field: Field, value: Any, expected: Any) -> str:
    if value is ABSENT:
        missing = ", ".join(sorted(field.expression.reads - test.given.keys()))
        return f"{field.name}: reads {missing}, which is not given"
    wanted = _wire(spec, field.type, expected, (*test.path, "expect", field.name))
    convert = comparable(field.type_name)
    if convert(value) == convert(wanted):
        return ""
    return f"{field.name}: expected {_shown(wanted)}, got {_shown(value)}"


def _shown(value: Any) -> str:
    return (
        "null"
        if value is None
        else value
        if isinstance(value, str) and value
        else json.dumps(value, ensure_ascii=False)
    )


def _wire(spec: MappingSpec, type_: SqlType, value: Any, path: Sequence[str | int]) -> Any:
    """A value as written in a test → wire value of a type; numbers, dates and JSON by what they mean."""
    if value is None:
        return None
    if type_.element is not None:
        if not isinstance(value, list):
            raise spec.error("bad_test_value", f"a list is expected for {type_}", *path)
        return [_wire(spec, type_.element, item, (*path, index)) for index, item in enumerate(value)]
    if type_.kind in {"json", "jsonb"} and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict | list):
        raise spec.error("bad_test_value", f"a single value is expected for {type_}", *path)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    read, convert, show = from_text(type_), from_wire(type_), to_wire(type_)
    try:
        if type_.kind == "bytea" and convert is not None:
            convert(text)
            return text
        computed = read(text) if read else text
        return show(computed) if show else computed
    except Rejected as error:
        raise spec.error("bad_test_value", f"{text!r} is not a valid {type_}: {error.message}", *path) from error


def _event(spec: MappingSpec, table: Table, test: TestSpec) -> ChangeEvent:
    types = {column.name: parse_type(column.type) for column in table.columns}
    for name in test.given:
        if name not in types:
            hint = f"columns are: {', '.join(types)}"
            raise spec.error(
                "unknown_column", f"{table.full_name} has no column {name}", *test.path, "given", name, hint=hint
            )
    row = {name: _wire(spec, types[name], value, (*test.path, "given", name)) for name, value in test.given.items()}
    for name in test.event:
        if name not in FACTS:
            hint = f"there are: {', '.join(FACTS)}"
            raise spec.error("unknown_key", f"{name!r} is no fact of an event", *test.path, "event", name, hint=hint)
    facts = {name: _wire(spec, FACTS[name], value, (*test.path, "event", name)) for name, value in test.event.items()}
    key = {name: row[name] for name in table.key if name in row}
    moment = from_text(FACTS["_committed_at"])
    committed_at = moment(facts["_committed_at"]) if moment and facts.get("_committed_at") else 0
    return ChangeEvent(
        source=SourceInfo(name=spec.source, schema=table.schema, table=table.name, committed_at=committed_at),
        operation="delete" if test.delete else facts.get("_operation") or "create",
        key=key,
        before=None,
        after=None if test.delete else row,
        unchanged=tuple(name for name in types if name not in row),
        version=version_prefix(1, 1) + version_suffix(1),
        actor=facts.get("_actor") or "",
        correlation_id=facts.get("_correlation_id") or "",
    )


def _guessed_table(spec: MappingSpec) -> Table:
    """A table of the columns that tests give and expressions name, with the types their values look like."""
    types: dict[str, str] = {}
    for test in spec.tests:
        for name, value in test.given.items():
            if value is not None and types.get(name, "text") == "text":
                types[name] = _looks_like(value)
            types.setdefault(name, "text")
    texts = [field.expression for field in (*spec.fields, *spec.on_delete_set)] + [spec.where or ""]
    for text in texts:
        for quoted, bare in _WORD.findall(text):
            name = quoted.replace('""', '"') or bare.lower()
            if name and name not in FACTS:
                types.setdefault(name, "text")
    for name in spec.copy or ():
        types.setdefault(name, "text")
    schema, _, table = spec.table.rpartition(".")
    columns = tuple(Column(name, type_) for name, type_ in types.items())
    key = tuple({name for field in spec.fields if field.name in spec.key for name in types if name in field.expression})
    copied = tuple(name for name in spec.key if name in types and name not in {field.name for field in spec.fields})
    return Table(schema, table, columns, key=key + copied)


def _looks_like(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "bigint"
    if isinstance(value, list):
        return "text[]"
    if isinstance(value, dict) or value.lstrip()[:1] in {"{", "["}:
        return "jsonb"
    for pattern, name in ((_DECIMAL, "numeric"), (_DATE, "date"), (_TIMESTAMP, "timestamp with time zone")):
        if pattern.match(value):
            return name
    return "text"
