"""The captured tables: (name, OID) each, checked against every Relation message of the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from connectors.pgtypes import wire_converter
from connectors.sources.pgevents import TableEvents
from connectors.sources.pgmessages import Relation, RelationColumn
from connectors.sources.pgposition import Captured, fingerprint
from connectors.sources.pgrows import key_maker
from connectors.sources.pgslot import Connection, Publication, PublishedTable, refuse_changed
from connectors.sources.pgtuple import Converter
from sync_hub.errors import Fatal
from sync_hub.model import Table

LOG = logging.getLogger(__name__)

_LOGGED: Final = """
select a.attname, a.atttypid::bigint, a.atttypmod,
       c.relreplident = 'f' or coalesce(a.attnum = any (i.indkey::int2[]), false)
from pg_catalog.pg_class c
join pg_catalog.pg_attribute a on a.attrelid = c.oid
left join pg_catalog.pg_index i on i.indrelid = c.oid
    and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident end
where c.oid = %s and a.attnum > 0 and not a.attisdropped
    and (a.attgenerated = '' or a.attgenerated = 's' and %s)
order by a.attnum
"""
TABLE_REPLACED: Final = "table_replaced"


class CapturedTable:
    """One captured table; `known` is how the position, or the catalog when the log was opened, has it."""

    def __init__(self, table: Table, excluded: frozenset[str], known: Captured) -> None:
        self.table = table
        self.name = table.full_name
        self.excluded = excluded
        self.oid = known.oid
        self.known = known
        self.events = TableEvents(table.schema, table.name, key_maker(table))
        self.order = tuple(column.name for column in table.columns)

    def learn(self, **facts: str) -> None:
        """Replace what is known of it."""
        self.known = msgspec.structs.replace(self.known, **facts)


def logged_columns(connection: Connection, table: Table, *, generated: bool) -> tuple[RelationColumn, ...]:
    """The columns that a Relation message would show now; stored `generated` ones where they are published."""
    rows = connection.execute(_LOGGED, (int(table.identity), generated)).fetchall()
    return tuple(RelationColumn(*row) for row in rows)


class CapturedTables:
    """All of them, and the publication through which they are captured."""

    def __init__(
        self,
        tables: Sequence[CapturedTable],
        publication: Publication,
        type_name: Callable[[int, int], str],
        on_change: Callable[[str], None],
        command: str,
    ) -> None:
        self.by_name = {table.name: table for table in tables}
        self.by_oid = {table.oid: table for table in tables}
        self.publication = publication
        self._type_name = type_name
        self._on_change = on_change
        self._command = command

    def remembered(self) -> dict[str, Captured]:
        """What the position stores."""
        return {name: table.known for name, table in self.by_name.items()}

    @property
    def changed(self) -> dict[str, str]:
        """Tables whose rows are to be loaded again, with the reason for people."""
        return {name: table.known.changed for name, table in self.by_name.items() if table.known.changed}

    def take_changed(self) -> dict[str, str]:
        """The same, told once: whoever takes them must see to it."""
        changed = self.changed
        for name in changed:
            self.by_name[name].learn(changed="")
        return changed

    def prepare(self, relation: Relation) -> list[tuple[bool, Converter]] | None:
        """For `pgoutput.Decoder`: how to read this relation; None when it is not captured. Raises `Fatal`."""
        captured = self._find(relation)
        if captured is None:
            return None
        layout = fingerprint(relation.columns)
        if captured.known.columns != layout:
            self._change(captured, "its columns changed in the log: rows before the change may differ")
            captured.learn(columns=layout)
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

    def compare(self, publication: Publication | None) -> None:
        """Raise `Fatal` when the publication is not as it was at the start; note changed partitions."""
        if publication is not None:
            for captured in self.by_name.values():
                self._compare(captured, publication.tables.get(captured.name))
        entries = {name: captured.known.published for name, captured in self.by_name.items()}
        refuse_changed(self.publication.name, publication, entries, self.publication.version)

    def _compare(self, captured: CapturedTable, entry: PublishedTable | None) -> None:
        if entry is None:
            raise self.replaced(captured.name, "the publication no longer holds it under this name")
        if entry.oid != captured.oid:
            raise self.replaced(captured.name, f"another table has its name (OID {entry.oid})")
        if captured.known.partitions != entry.partitions:
            self._change(captured, "its partitions changed: rows of partitions attached or detached have no events")
            captured.learn(partitions=entry.partitions)

    def _change(self, captured: CapturedTable, reason: str) -> None:
        captured.learn(changed=reason)
        LOG.warning("%s: %s", captured.name, reason, extra={"action": "relation_changed", "table": captured.name})
        self._on_change(captured.name)

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
