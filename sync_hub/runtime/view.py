"""One view as it is verified: what its mapping makes of source rows, and how keys of both ends belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sync_hub.errors import Rejected
from sync_hub.mapping.apply import CompiledMapping
from sync_hub.model import ChangeEvent, SourceInfo, Table, version_prefix, version_suffix
from sync_hub.ports import Source
from sync_hub.runtime.compare import Comparer, Expected, expectations

_VERSION: Final = version_prefix(0, 0) + version_suffix(0)


class View:
    """One view and what is needed to compare it: mapping, source table, comparer."""

    def __init__(self, mapping: CompiledMapping, table: Table, target: Table, comparer: Comparer) -> None:
        self.mapping = mapping
        self.name = mapping.spec.name
        self.table = table
        self._source = SourceInfo(name=mapping.spec.source, schema=table.schema, table=table.name, committed_at=0)
        self._target = target
        self.comparer = comparer
        self.target = mapping.spec.target_table
        self.keeps = mapping.spec.on_delete != "delete"
        self.undone = {field.column for field in mapping.key_fields} >= set(table.key)

    def summable(self) -> dict[str, str]:
        """Source columns by target column where the view is nothing but a copy, of the same types; else nothing."""
        if self.keeps or not self.undone:
            return {}
        return self.mapping.copied(self.comparer.columns, self._target)

    def identity(self, key: Mapping[str, Any]) -> tuple[str, ...]:
        """An event key as something that is equal for equal keys, however their values are spelled in JSON."""
        return tuple([str(key[name]) for name in self.table.key])

    def event_key(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The key that the row's events have, as far as its values show it."""
        return {name: row[name] for name in self.table.key}

    def event_keys(self, rows: Sequence[Mapping[str, Any]], source: Source) -> list[dict[str, Any]]:
        """The keys that the rows' events have; the source is asked for their spelling only if the view has it."""
        keys = [self.event_key(row) for row in rows]
        if not self.mapping.respells:
            return keys
        spelled = source.event_keys(self.table.full_name, keys)
        return [key if known is None else known for key, known in zip(keys, spelled, strict=True)]

    def ordered(self) -> bool:
        """Whether the view's key is the source's, column by column of the same types: both may have the same order."""
        fields = self.mapping.key_fields
        types = {column.name: column.declared or column.type for column in self.table.columns}
        taken = {column.name: column.declared or column.type for column in self._target.columns}
        same = all(types.get(field.column) == taken[field.name] for field in fields)
        same = same and not self.mapping.respells
        return same and tuple(field.column for field in fields) == self.table.key

    def values(self, row: dict[str, Any], key: dict[str, Any] | None = None) -> tuple[Any, ...] | None:
        """The compared values that the target should have for a source row; None: none, or the row is rejected.

        `key` is the row's of `event_keys`; a view that is `ordered` does not need it.
        """
        try:
            values = self.mapping.map_row(row, key)
        except Rejected:
            return None
        return None if values is None else self.comparer.compared(values)

    def expected(self, rows: Sequence[dict[str, Any]], keys: Sequence[dict[str, Any]]) -> list[Expected]:
        """What the target should have for these source rows."""
        return expectations(self.mapping, [self._event(key, row) for row, key in zip(rows, keys, strict=True)])

    def gone(self, keys: Sequence[dict[str, Any]]) -> list[Expected]:
        """What the target should have for source rows that are not there any more."""
        return expectations(self.mapping, [self._event(key, None) for key in keys])

    def _event(self, key: dict[str, Any], row: dict[str, Any] | None) -> ChangeEvent:
        return ChangeEvent(
            source=self._source,
            operation="delete" if row is None else "read",
            key=key,
            before=None,
            after=row,
            version=_VERSION,
        )

    def source_key(self, key: Sequence[Any]) -> dict[str, Any]:
        """The source's key of a target key, where `undone` says that it can be told."""
        found = {field.column: value for field, value in zip(self.mapping.key_fields, key, strict=True)}
        return {name: found[name] for name in self.table.key}
