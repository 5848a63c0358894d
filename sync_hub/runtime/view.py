"""One view as it is verified: what its mapping makes of source rows, and how keys of both ends belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sync_hub.mapping.apply import CompiledMapping
from sync_hub.model import ChangeEvent, Table
from sync_hub.runtime.compare import Comparer, Expected, expectations


class View:
    """One view and what is needed to compare it: mapping, source table, comparer."""

    def __init__(self, mapping: CompiledMapping, table: Table, target: Table, comparer: Comparer) -> None:
        self.mapping = mapping
        self.name = mapping.spec.name
        self.table = table
        self._target_types = {column.name: column.declared or column.type for column in target.columns}
        self.comparer = comparer
        self.target = mapping.spec.target_table
        self.keeps = mapping.spec.on_delete != "delete"
        self.undone = {field.column for field in mapping.key_fields} >= set(table.key)

    def summable(self) -> dict[str, str]:
        """Source columns by target column where the view is nothing but a copy, of the same types; else nothing."""
        if self.mapping.condition is not None or self.keeps or not self.undone:
            return {}
        fields = [field for field in self.mapping.fields if field.name in self.comparer.columns]
        types = {column.name: column.declared or column.type for column in self.table.columns}
        alike = all(types.get(field.column) == self._target_types[field.name] for field in fields)
        in_order = tuple(field.column for field in self.mapping.key_fields) == self.table.key
        return {field.name: field.column for field in fields} if alike and in_order else {}

    def identity(self, key: Mapping[str, Any]) -> tuple[str, ...]:
        """An event key as something that is equal for equal keys, however their values are spelled in JSON."""
        return tuple([str(key[name]) for name in self.table.key])

    def event_key(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The key that the row's events have, as far as its values show it."""
        return {name: row[name] for name in self.table.key}

    def expected(self, rows: Sequence[dict[str, Any]], keys: Sequence[dict[str, Any]]) -> list[Expected]:
        """What the target should have for these source rows."""
        events = [
            ChangeEvent(
                source=self.mapping.spec.source,
                schema=self.table.schema,
                table=self.table.name,
                operation="read",
                key=key,
                before=None,
                after=row,
                version="-",
                committed_at=0,
            )
            for row, key in zip(rows, keys, strict=True)
        ]
        return expectations(self.mapping, events)

    def source_key(self, key: Sequence[Any]) -> dict[str, Any]:
        """The source's key of a target key, where `undone` says that it can be told."""
        found = {field.column: value for field, value in zip(self.mapping.key_fields, key, strict=True)}
        return {name: found[name] for name in self.table.key}
