"""The captured tables: (name, OID) each, checked against every Relation message of the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from connectors.pgtypes import wire_converter
from connectors.sources.pgevents import TableEvents
from connectors.sources.pgoutput import Converter, Relation
from connectors.sources.pgposition import Captured, fingerprint
from connectors.sources.pgrows import key_maker
from connectors.sources.pgslot import PublishedTable
from sync_hub.errors import Fatal
from sync_hub.model import Table

LOG = logging.getLogger(__name__)
TABLE_REPLACED: Final = "table_replaced"


class CapturedTable:
    """One captured table. `layout` is the fingerprint of its columns in the log, empty until the log has shown them."""

    def __init__(self, table: Table, excluded: frozenset[str], layout: str) -> None:
        self.table = table
        self.name = table.full_name
        self.oid = int(table.identity)
        self.excluded = excluded
        self.layout = layout
        self.partitions: int | None = None
        self.events = TableEvents(table.schema, table.name, key_maker(table))
        self.order = tuple(column.name for column in table.columns)


class CapturedTables:
    """All of them. `changed` names tables whose columns changed, with the moment's description for people."""

    def __init__(
        self,
        tables: Sequence[CapturedTable],
        type_name: Callable[[int, int], str],
        on_change: Callable[[str], None],
        command: str,
    ) -> None:
        self.by_name = {table.name: table for table in tables}
        self.by_oid = {table.oid: table for table in tables}
        self.changed: dict[str, str] = {}
        self._type_name = type_name
        self._on_change = on_change
        self._command = command

    def remembered(self) -> dict[str, Captured]:
        """What the position stores."""
        return {name: Captured(table.oid, table.layout) for name, table in self.by_name.items()}

    def prepare(self, relation: Relation) -> list[tuple[bool, Converter]] | None:
        """For `pgoutput.Decoder`: how to read this relation; None when it is not captured. Raises `Fatal`."""
        captured = self._find(relation)
        if captured is None:
            return None
        layout = fingerprint(relation.columns)
        if captured.layout and captured.layout != layout:
            self.changed[captured.name] = "its columns changed in the log: rows before the change may differ"
            LOG.warning(
                "the columns of %s changed", captured.name, extra={"action": "relation_changed", "table": captured.name}
            )
            self._on_change(captured.name)
        captured.layout = layout
        self._check_key(relation, captured)
        captured.order = tuple(column.name for column in relation.columns)
        return [
            (
                column.name not in captured.excluded,
                wire_converter(self._type_name(column.type_oid, column.modifier)),
            )
            for column in relation.columns
        ]

    def replaced(self, name: str, reason: str) -> Fatal:
        """The error for a table that is no longer the one that was captured."""
        return Fatal(
            TABLE_REPLACED,
            f"the captured table {name} was replaced: {reason}",
            hint="its changes since then are not in the log: take it out of `tables`, start, add it again and reload",
            command=self._command,
        )

    def compare(self, published: Mapping[str, PublishedTable]) -> None:
        """Raise `Fatal` when the publication no longer holds a captured table itself; note changed partitions."""
        for name, captured in self.by_name.items():
            entry = published.get(name)
            if entry is None:
                raise self.replaced(name, "the publication no longer holds it under this name")
            if entry.oid != captured.oid:
                raise self.replaced(name, f"another table has its name (OID {entry.oid})")
            if captured.partitions not in (None, entry.partitions):
                self.changed[name] = "its partitions changed: rows of partitions attached or detached have no events"
                LOG.warning("the partitions of %s changed", name, extra={"action": "relation_changed", "table": name})
                self._on_change(name)
            captured.partitions = entry.partitions

    def _find(self, relation: Relation) -> CapturedTable | None:
        name = f"{relation.schema}.{relation.name}"
        captured = self.by_oid.get(relation.oid)
        if captured is not None and captured.name != name:
            raise self.replaced(captured.name, f"it is now called {name}")
        if captured is None and name in self.by_name:
            raise self.replaced(name, f"another table has its name (OID {relation.oid})")
        return captured

    def _check_key(self, relation: Relation, captured: CapturedTable) -> None:
        names = {column.name for column in relation.columns if column.key or relation.identity == "f"}
        key = set(captured.table.key)
        if not key <= names or (relation.identity != "f" and key != names):
            raise Fatal(
                "key_changed",
                f"the key of {captured.name} changed from ({', '.join(captured.table.key)})"
                f" to ({', '.join(sorted(names))})",
                hint="events of one row must keep their key: recovery loads everything again under the new one",
                command=self._command,
            )
