"""Compares a view with its source through the mapping, by value. The comparison is pure; reading is at the edge.

Holds one view's rows in memory, and tells the truth only while nothing changes: it is what a quiet hub is checked with.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from sync_hub.mapping.apply import CompiledMapping, compile_mapping
from sync_hub.mapping.values import comparable
from sync_hub.ports import Source
from sync_hub.runtime.pipelines import stored_bundle
from sync_hub.settings import Settings
from sync_hub.state import Pipeline, State

EXAMPLES = 5
PAGE_ROWS = 2000


class Comparison(Struct, frozen=True):
    """What a comparison found. `different` rows have other values, `missing` and `extra` ones are on one side only.

    `kept` rows are gone at the source and stay in the target because the mapping says so. `examples` names some of what
    does not agree.
    """

    pipeline: str
    matched: int
    different: int
    missing: int
    extra: int
    kept: int
    examples: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether the view is what the mapping makes of its source."""
        return not (self.different or self.missing or self.extra)


def compare_view(settings: Settings, state: State, pipeline: Pipeline) -> Comparison:
    """Read all rows of both ends and compare. Raises what the connectors raise."""
    source, sink = settings.source(pipeline.source), settings.sink(pipeline.target)
    try:
        table = state.tables(pipeline.source)[pipeline.table]
        mapping = compile_mapping(stored_bundle(pipeline), table, secrets=os.environ)
        sink.open()
        target = sink.describe(mapping.spec.target_table)
        compared = [name for name in mapping.columns if name not in mapping.event_columns()]
        mapping.fit(target)
        types = {column.name: column.type for column in target.columns}
        expected = _mapped(mapping, source, compared)
        actual = sink.read_rows(mapping.spec.target_table, compared)
        return compare(
            pipeline.name,
            compared,
            mapping.key,
            [comparable(types[name]) for name in compared],
            expected,
            actual,
            keeps=mapping.spec.on_delete != "delete",
        )
    finally:
        source.close()
        sink.close()


def compare(
    name: str,
    columns: Sequence[str],
    key: Sequence[str],
    convert: Sequence[Callable[[Any], Any]],
    expected: Iterable[Sequence[Any]],
    actual: Iterable[Sequence[Any]],
    *,
    keeps: bool = False,
) -> Comparison:
    """Compare rows of wire values; `convert` makes each column's values comparable. `keeps`: extra rows are wanted."""
    places = [columns.index(column) for column in key]
    target = {}
    for row in actual:
        values = _converted(convert, row)
        target[tuple(values[place] for place in places)] = values
    matched = different = missing = 0
    examples: list[str] = []
    for row in expected:
        values = _converted(convert, row)
        identity = tuple(values[place] for place in places)
        found = target.pop(identity, None)
        if found is None:
            missing += 1
            examples.append(f"{name} {identity}: missing in the target")
        elif found != values:
            different += 1
            wrong = [column for column, ours, theirs in zip(columns, values, found, strict=True) if ours != theirs]
            examples.append(f"{name} {identity}: differs in {', '.join(wrong)}")
        else:
            matched += 1
        del examples[EXAMPLES:]
    extra = 0 if keeps else len(target)
    examples += [f"{name} {identity}: not in the source" for identity in list(target)[:extra]]
    return Comparison(name, matched, different, missing, extra, len(target) - extra, tuple(examples[:EXAMPLES]))


def _mapped(mapping: CompiledMapping, source: Source, compared: Sequence[str]) -> Iterator[list[Any]]:
    places = [mapping.columns.index(column) for column in compared]
    for row, key in _keyed(mapping, source):
        values = mapping.map_row(row, key)
        if values is not None:
            yield [values[place] for place in places]


def _keyed(mapping: CompiledMapping, source: Source) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """All rows, with the keys that their events have where the target has them spelled so."""
    table = mapping.source_table
    rows = source.read_rows(table.full_name)
    while page := list(itertools.islice(rows, PAGE_ROWS)):
        if mapping.respells:
            keys = [{name: row[name] for name in table.key} for row in page]
            yield from zip(page, source.event_keys(table.full_name, keys), strict=True)
        else:
            yield from ((row, None) for row in page)


def _converted(convert: Sequence[Callable[[Any], Any]], row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(None if value is None else one(value) for one, value in zip(convert, row, strict=True))
