"""Log messages become events: versions, keys, key changes as two events, truncations. Pure; no server is asked.

The ordinal of a version counts the messages of a relation within its transaction before anything is left out, so that
reading the same transaction again under another configuration gives every change the same version.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from connectors.sources.pgoutput import Begin, Delete, Insert, Truncate, Update
from connectors.sources.pgrows import KeyMaker, key_identity
from sync_hub.model import ChangeEvent, Transaction, version_prefix, version_suffix

CONNECTOR: Final = "postgresql"
_CONTEXT_LIMIT: Final = 512


class TableEvents:
    """What the events of one table have in common, and how far its ordinals are in the current transaction."""

    __slots__ = ("counted_in", "full_name", "key", "name", "ordinal", "schema", "to_key")

    def __init__(self, schema: str, name: str, to_key: KeyMaker) -> None:
        self.schema = schema
        self.name = name
        self.full_name = f"{schema}.{name}"
        self.to_key = to_key
        self.key = to_key.names
        self.ordinal = 0
        self.counted_in = -1


class Incomplete(Struct, frozen=True):
    """An event (its place in the list) whose row lacks columns that the log left out."""

    place: int
    table: str
    columns: tuple[str, ...]


class Touched(Protocol):
    """Who wants to know which keys a transaction touched."""

    def touch(self, xid: int, table: str, key: Hashable) -> None:
        """A key was written."""
        ...

    def truncated(self, xid: int, table: str) -> None:
        """A table was emptied."""
        ...


class EventAssembler:
    """Makes the events of one source. `events` and `incomplete` are what came since `take`."""

    def __init__(self, source: str, database: str, epoch: int) -> None:
        self._source = source
        self._database = database
        self._epoch = epoch
        self.tables: dict[int, TableEvents] = {}
        self.watcher: Touched | None = None
        self.events: list[ChangeEvent] = []
        self.incomplete: list[Incomplete] = []
        self.transaction: Begin | None = None
        self._serial = 0

    def begin(self, message: Begin) -> None:
        """A transaction starts."""
        self.transaction = message
        self._serial += 1
        self._lsn, self._xid, self._committed_at = message.lsn, message.xid, message.committed_at
        self._xid_text = str(message.xid)
        self._prefix = version_prefix(self._epoch, message.lsn)
        self._order = 0
        self._correlation_id = self._traceparent = self._actor = self._origin = ""

    def commit(self) -> None:
        """The transaction is over."""
        self.transaction = None

    def take(self) -> tuple[list[ChangeEvent], list[Incomplete]]:
        """Hand over what was made so far."""
        taken = self.events, self.incomplete
        self.events, self.incomplete = [], []
        return taken

    def context(self, said: Mapping[str, Any]) -> None:
        """What the application said about its transaction; it holds for the changes that follow in it."""
        self._correlation_id = _context_value(said, "correlation_id", self._correlation_id)
        self._traceparent = _context_value(said, "traceparent", self._traceparent)
        self._actor = _context_value(said, "actor", self._actor)

    def origin(self, name: str) -> None:
        """The transaction was replicated to this server from elsewhere."""
        self._origin = name

    def insert(self, message: Insert) -> None:
        """A new row."""
        table = self.tables[message.relation]
        row = message.new
        self._add(table, "create", table.to_key(row), None, row, f"{self._count(table):010x}00")

    def update(self, message: Update) -> None:
        """A changed row; with a changed key two events."""
        table = self.tables[message.relation]
        ordinal = self._count(table)
        new, old = message.new, message.old
        key = table.to_key(new)
        if old is not None:
            old_key = table.to_key(old)
            if old_key != key:
                self._add(table, "delete", old_key, old, None, version_suffix(ordinal), new_key=key)
                self._add(table, "create", key, None, new, version_suffix(ordinal, 1), old_key=old_key)
                self._note(table, message.unchanged)
                return
        self._add(table, "update", key, old if message.whole else None, new, version_suffix(ordinal))
        self._note(table, message.unchanged)

    def delete(self, message: Delete) -> None:
        """A removed row."""
        table = self.tables[message.relation]
        self._add(table, "delete", table.to_key(message.old), message.old, None, version_suffix(self._count(table)))

    def truncate(self, message: Truncate) -> None:
        """Emptied tables: one event each, without a key."""
        for oid in message.relations:
            table = self.tables.get(oid)
            if table is not None:
                self._add(table, "truncate", None, None, None, version_suffix(self._count(table)))
                if self.watcher is not None:
                    self.watcher.truncated(self._xid, table.full_name)

    def snapshot(self, table: TableEvents, rows: Sequence[dict[str, Any]], pipelines: tuple[str, ...]) -> None:
        """Rows of a chunk, at the mark that the current transaction carries: it holds no changes."""
        for ordinal, row in enumerate(rows, 1):
            self.events.append(
                ChangeEvent(
                    source=self._source,
                    schema=table.schema,
                    table=table.name,
                    operation="read",
                    key=table.to_key(row),
                    before=None,
                    after=row,
                    version=self._prefix + version_suffix(ordinal),
                    committed_at=self._committed_at,
                    pipelines=pipelines,
                    snapshot=True,
                    database=self._database,
                    lsn=self._lsn,
                    connector=CONNECTOR,
                )
            )

    def _count(self, table: TableEvents) -> int:
        """Count a message of this relation; gives its ordinal in the transaction."""
        if table.counted_in != self._serial:
            table.counted_in, table.ordinal = self._serial, 0
        table.ordinal += 1
        return table.ordinal

    def _note(self, table: TableEvents, unchanged: tuple[str, ...]) -> None:
        if unchanged:
            self.incomplete.append(Incomplete(len(self.events) - 1, table.full_name, unchanged))

    def _add(
        self,
        table: TableEvents,
        operation: Any,
        key: dict[str, Any] | None,
        before: dict[str, Any] | None,
        after: dict[str, Any] | None,
        place: str,
        *,
        old_key: dict[str, Any] | None = None,
        new_key: dict[str, Any] | None = None,
    ) -> None:
        self._order += 1
        self.events.append(
            ChangeEvent(
                source=self._source,
                schema=table.schema,
                table=table.name,
                operation=operation,
                key=key,
                before=before,
                after=after,
                version=self._prefix + place,
                committed_at=self._committed_at,
                transaction=Transaction(self._xid_text, self._order, table.ordinal),
                old_key=old_key,
                new_key=new_key,
                database=self._database,
                lsn=self._lsn,
                connector=CONNECTOR,
                correlation_id=self._correlation_id,
                traceparent=self._traceparent,
                actor=self._actor,
                origin=self._origin,
            )
        )
        if self.watcher is not None and key is not None:
            self.watcher.touch(self._xid, table.full_name, key_identity(key))


def _context_value(said: Mapping[str, Any], name: str, before: str) -> str:
    value = said.get(name)
    if value is None or isinstance(value, dict | list):
        return before
    return str(value)[:_CONTEXT_LIMIT]


def complete(
    events: list[ChangeEvent],
    incomplete: Sequence[Incomplete],
    fetch: Callable[[str, Sequence[dict[str, Any]], Sequence[str]], dict[Hashable, dict[str, Any]]],
    columns: Callable[[str], Sequence[str]],
) -> None:
    """Fill in what the log left out, in place: one `fetch` (table, keys, columns) a table; what is gone stays absent.

    `fetch` answers rows by key identity; `columns` gives a table's columns in their order.
    """
    for table in dict.fromkeys(entry.table for entry in incomplete):
        entries = [entry for entry in incomplete if entry.table == table]
        wanted = dict.fromkeys(name for entry in entries for name in entry.columns)
        keys = {key_identity(key): key for entry in entries if (key := events[entry.place].key) is not None}
        rows = fetch(table, list(keys.values()), list(wanted))
        order = columns(table)
        for entry in entries:
            event = events[entry.place]
            events[entry.place] = _filled(event, entry.columns, rows.get(key_identity(event.key or {})), order)


def _filled(
    event: ChangeEvent, missing: tuple[str, ...], row: dict[str, Any] | None, order: Sequence[str]
) -> ChangeEvent:
    if row is None:
        return msgspec.structs.replace(event, unchanged=missing)
    have = event.after or {}
    fetched = {name: row[name] for name in missing if name in row}
    after = {name: have[name] if name in have else fetched[name] for name in order if name in have or name in fetched}
    gone = tuple(name for name in missing if name not in row)  # a column dropped since
    return msgspec.structs.replace(event, after=after, fetched=tuple(fetched), unchanged=gone)
