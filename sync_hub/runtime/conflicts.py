"""Which changes a target has refused, as far as it told: then nothing has to be cut in halves to find them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sync_hub.errors import Conflict
from sync_hub.mapping.apply import CompiledMapping
from sync_hub.model import ABSENT, RowChange


def concerned(conflict: Conflict, mapping: CompiledMapping, changes: Sequence[RowChange]) -> list[int]:
    """Places of the changes with the values that are refused.

    None where it is about other rows, or where the target spells values otherwise.
    """
    if not _same_table(conflict.table, mapping.spec.target_table):
        return []
    places = {name: place for place, name in enumerate(mapping.columns)}
    keys = {name: place for place, name in enumerate(mapping.key)}
    return [place for place, change in enumerate(changes) if _has(conflict, change, places, keys)]


def _same_table(told: str, named: str) -> bool:
    return told == named or ("." not in named and told.rpartition(".")[2] == named)


def _has(conflict: Conflict, change: RowChange, places: Mapping[str, int], keys: Mapping[str, int]) -> bool:
    row, where = (change.values, places) if change.kind in {"upsert", "update"} else (change.key, keys)
    return all(
        column in where and _text(row[where[column]]) == value.rstrip()
        for column, value in zip(conflict.columns, conflict.values, strict=True)
    )


def _text(value: Any) -> str | None:
    """A value as PostgreSQL shows it, for most types; blanks at the end are padding, or do not matter."""
    if value is None or value is ABSENT:
        return None
    return {True: "t", False: "f"}[value] if isinstance(value, bool) else str(value).rstrip()
