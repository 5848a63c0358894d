"""Log messages become events: versions, keys, key changes as two events, truncations. Pure; no server is asked.

The ordinal of a version counts the messages of a relation within its transaction before anything is left out, so that
reading the same transaction again under another configuration gives every change the same version.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from itertools import repeat
from typing import Any, Final, Protocol

import msgspec

from connectors.sources.pgcomplete import Incomplete
from connectors.sources.pgmessages import Begin, Delete, Insert, Rows, Truncate, Update
from connectors.sources.pgrows import KeyMaker, key_identity
from sync_hub.errors import Fatal
from sync_hub.model import ChangeEvent, ChunkRequest, Operation, SourceInfo, Transaction, version_prefix, version_suffix

CONNECTOR: Final = "postgresql"
_CONTEXT_LIMIT: Final = 512
_BLOCK: Final = 4096
_SUFFIXES: Final = [version_suffix(ordinal) for ordinal in range(_BLOCK)]
"""Suffixes of versions made beforehand: formatting them is a tenth of what an event costs."""
_ENDS: Final = [suffix[-5:] for suffix in _SUFFIXES]
"""What comes again in them after every `_BLOCK` ordinals: the last three digits of the ordinal, and the sub-ordinal."""


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


class Touched(Protocol):
    """Who wants to know, while `tracking`, which keys a transaction touched."""

    tracking: bool

    def touch(self, xid: int, table: str, key: Hashable) -> None:
        """A key was written."""
        ...

    def truncated(self, xid: int, table: str) -> None:
        """A table was emptied."""
        ...


class EventAssembler:
    """Makes the events of one source. `events`, `incomplete` and `tables_met` are what came since `take`."""

    def __init__(self, source: str, database: str, epoch: int, watcher: Touched) -> None:
        self._source = source
        self._database = database
        self._epoch = epoch
        self.tables: dict[int, TableEvents] = {}
        self.watcher = watcher
        self.events: list[ChangeEvent] = []
        self.incomplete: list[Incomplete] = []
        self.transaction: Begin | None = None
        self._cut = False
        self._serial = 0
        self._context: dict[str, str] | None = None
        self._origin = ""
        self._infos: dict[TableEvents, SourceInfo] = {}
        self.tables_met: set[TableEvents] = set()

    def begin(self, message: Begin) -> None:
        """A transaction starts."""
        self.transaction = message
        self._cut = False
        self._serial += 1
        self._lsn, self._xid, self._committed_at = message.lsn, message.xid, message.committed_at
        self._xid_text = str(message.xid)
        self._prefix = version_prefix(self._epoch, message.lsn)
        self._order = 0
        self._context = None
        self._origin = ""
        self._infos = {}

    def commit(self) -> None:
        """The transaction is over."""
        self.transaction = None

    def take(self) -> tuple[list[ChangeEvent], list[Incomplete]]:
        """Hand over what was made so far."""
        taken = self.events, self.incomplete
        self.events, self.incomplete, self.tables_met = [], [], set()
        self._infos = {}  # a transaction that goes on meets its tables again
        self._cut = self.transaction is not None
        return taken

    def context(self, said: Mapping[str, Any]) -> None:
        """What the application said about its transaction; it holds for the changes that follow in it."""
        context = dict(self._context or {})
        for name in ("correlation_id", "traceparent", "actor"):
            value = said.get(name)
            if value is not None and not isinstance(value, dict | list):
                context[name] = str(value)[:_CONTEXT_LIMIT]
        self._context = context or None

    def origin(self, name: str) -> None:
        """The transaction was replicated to this server from elsewhere."""
        self._origin = name
        self._infos = {}

    def insert(self, message: Insert) -> None:
        """A new row."""
        table = self.tables[message.relation]
        row = message.new
        self._add(table, "create", table.to_key(row), None, row, self._count(table))

    def rows(self, message: Rows) -> None:
        """Rows of one table whose keys did not change: as `insert`, `update` and `delete` one by one."""
        table, rows, operations = self.tables[message.relation], message.rows, message.operations
        for place in message.unchanged:
            _require_key(table, rows[place])
        begin = len(self.events)
        count, info = len(rows), self._info_of(table)
        first = self._counted(table) + 1
        keys = table.to_key.all(rows)
        before: Iterable[dict[str, Any] | None] = repeat(None)
        after: Iterable[dict[str, Any] | None] = rows
        if "delete" in operations:
            before = [row if one == "delete" else None for one, row in zip(operations, rows, strict=True)]
            after = [None if one == "delete" else row for one, row in zip(operations, rows, strict=True)]
        total_orders, ordinals = range(self._order + 1, self._order + count + 1), range(first, first + count)
        transactions = map(Transaction, repeat(self._xid_text), total_orders, ordinals)
        versions = self._versions(first, count)
        events: Iterable[ChangeEvent] = map(
            ChangeEvent, repeat(info), operations, keys, before, after, versions, transactions
        )
        self._order += count
        table.ordinal += count
        if self._context is not None:
            events = [msgspec.structs.replace(event, **self._context) for event in events]
        self.events += events
        for place, unchanged in message.unchanged.items():
            self._note(table, unchanged, begin + place)
        if self.watcher.tracking:
            for key in keys:
                self.watcher.touch(self._xid, table.full_name, key_identity(key))

    def update(self, message: Update) -> None:
        """A changed row; with a changed key two events."""
        table = self.tables[message.relation]
        place = self._count(table)
        new, old = message.new, message.old
        if message.unchanged:
            _require_key(table, new)
        key = table.to_key(new)
        if old is not None:
            old_key = table.to_key(old)
            if old_key != key:
                self._add(table, "delete", old_key, old, None, place, new_key=key)
                self._add(table, "create", key, None, new, version_suffix(table.ordinal, 1), old_key=old_key)
                self._note(table, message.unchanged, len(self.events) - 1)
                return
        self._add(table, "update", key, old if message.whole else None, new, place)
        self._note(table, message.unchanged, len(self.events) - 1)

    def delete(self, message: Delete) -> None:
        """A removed row."""
        table = self.tables[message.relation]
        self._add(table, "delete", table.to_key(message.old), message.old, None, self._count(table))

    def truncate(self, message: Truncate) -> None:
        """Emptied tables: one event each, without a key."""
        for oid in message.relations:
            table = self.tables.get(oid)
            if table is not None:
                self._add(table, "truncate", None, None, None, self._count(table))
                if self.watcher.tracking:
                    self.watcher.truncated(self._xid, table.full_name)

    def snapshot(
        self,
        table: TableEvents,
        rows: Mapping[Hashable, dict[str, Any] | None],
        asked: Mapping[Hashable, dict[str, Any]],
        request: ChunkRequest,
    ) -> None:
        """Rows of a chunk, at the mark that the current transaction carries: it holds no changes.

        A key that was asked for and has no row is a delete.
        """
        info = self._info(table, snapshot=True)
        for ordinal, (identity, row) in enumerate(rows.items(), 1):
            self.events.append(
                ChangeEvent(
                    source=info,
                    operation="delete" if row is None else "read",
                    key=asked[identity] if row is None else table.to_key(row),
                    before=None,
                    after=row,
                    version=self._prefix + version_suffix(ordinal),
                    pipelines=request.pipelines,
                    check=request.check,
                    repair=request.repair,
                )
            )

    def _info(self, table: TableEvents, *, snapshot: bool = False) -> SourceInfo:
        return SourceInfo(
            name=self._source,
            schema=table.schema,
            table=table.name,
            committed_at=self._committed_at,
            snapshot=snapshot,
            database=self._database,
            lsn=self._lsn,
            connector=CONNECTOR,
            origin=self._origin,
        )

    def _info_of(self, table: TableEvents) -> SourceInfo:
        """What its events in this transaction have in common."""
        info = self._infos.get(table)
        if info is None:
            info = self._infos[table] = self._info(table)
            self.tables_met.add(table)
        return info

    def _counted(self, table: TableEvents) -> int:
        """How many messages of this relation the transaction has had."""
        if table.counted_in != self._serial:
            table.counted_in, table.ordinal = self._serial, 0
        return table.ordinal

    def _count(self, table: TableEvents) -> str:
        """Count a message of this relation; gives the suffix of its version."""
        ordinal = table.ordinal = self._counted(table) + 1
        return _SUFFIXES[ordinal] if ordinal < _BLOCK else version_suffix(ordinal)

    def _versions(self, first: int, count: int) -> list[str]:
        """The versions of so many messages, from the ordinal of the first on."""
        versions: list[str] = []
        while len(versions) < count:
            block, place = divmod(first + len(versions), _BLOCK)
            beginning = f"{self._prefix}{block:07x}"
            versions += [beginning + end for end in _ENDS[place : place + count - len(versions)]]
        return versions

    def _note(self, table: TableEvents, unchanged: tuple[str, ...], place: int) -> None:
        if unchanged:
            self.incomplete.append(Incomplete(place, table.full_name, self._xid, unchanged, self._cut))

    def _add(
        self,
        table: TableEvents,
        operation: Operation,
        key: dict[str, Any] | None,
        before: dict[str, Any] | None,
        after: dict[str, Any] | None,
        place: str,
        *,
        old_key: dict[str, Any] | None = None,
        new_key: dict[str, Any] | None = None,
    ) -> None:
        self._order += 1
        event = ChangeEvent(
            source=self._info_of(table),
            operation=operation,
            key=key,
            before=before,
            after=after,
            version=self._prefix + place,
            transaction=Transaction(self._xid_text, self._order, table.ordinal),
            old_key=old_key,
            new_key=new_key,
        )
        if self._context is not None:
            event = msgspec.structs.replace(event, **self._context)
        self.events.append(event)
        if self.watcher.tracking and key is not None:
            self.watcher.touch(self._xid, table.full_name, key_identity(key))


def _require_key(table: TableEvents, row: Mapping[str, Any]) -> None:
    """A row that lacks columns must have those of its key. Raises `Fatal`."""
    if not row.keys() >= set(table.key):
        raise Fatal(
            "key_not_logged",
            f"the log left out the unchanged key of a row of {table.full_name}",
            hint="update the server to its newest minor release, or make the key's columns small",
        )
