"""An SQLite target: one file, written by one worker at a time under a lock of the operating system."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec.structs import astuple
from pydantic import BaseModel, ConfigDict, Field

from connectors.sinks import parked
from connectors.sinks.changes import Present, by_kind, flag_column
from connectors.sinks.sqlitecatalog import Described, describe, quote
from connectors.sinks.sqlitestatements import SqliteStatements
from connectors.sinks.sqlitetypes import Kind, created_type, to_column, to_key, to_wire
from connectors.sqlite import (
    WriteLock,
    classify,
    close,
    connect,
    identity,
    look,
    read_transaction,
    refuse_uncreatable,
    translated,
    write_transaction,
)
from sync_hub.errors import Fatal, OffsetsMoved, Rejected, SyncHubError
from sync_hub.failpoints import failpoint
from sync_hub.model import Column, Finding, Offset, Parked, SinkBatch, Table, TableWrite

FETCH_ROWS: Final = 2000

_CREATE_OFFSETS: Final = """create table if not exists sync_hub_offsets (
    pipeline text not null,
    topic text not null,
    partition integer not null,
    topic_id text not null,
    next_offset integer not null,
    last_version text not null,
    mapping_hash text not null,
    parked_seq integer not null default 0,
    barrier text not null default '',
    primary key (pipeline, topic, partition)
) without rowid"""

_CREATE_PARKED: Final = """create table if not exists sync_hub_parked (
    pipeline text not null,
    topic text not null,
    partition integer not null,
    seq integer not null,
    record_offset integer not null,
    source_key text not null,
    version text not null,
    state text not null,
    code text not null,
    message text not null,
    sqlstate text not null,
    hint text not null,
    attempts integer not null,
    first_at real not null,
    last_at real not null,
    next_at real,
    correlation_id text not null,
    reason text not null,
    closed_at real,
    record_key blob,
    record_value blob,
    record_headers text not null,
    primary key (pipeline, topic, partition, seq)
) without rowid"""
_PARK: Final = (
    f"insert into {parked.TABLE} ({', '.join(parked.COLUMNS)}) "
    f"values ({', '.join('?' * len(parked.COLUMNS))}) {parked.UPSERT}"
)

_COLUMNS: Final = "pipeline, topic, partition, topic_id, next_offset, last_version, mapping_hash, parked_seq, barrier"
_START: Final = f"insert into sync_hub_offsets ({_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict do nothing"
_ADVANCE: Final = """update sync_hub_offsets
set topic_id = ?, next_offset = ?, last_version = ?, mapping_hash = ?, parked_seq = ?, barrier = ?
where pipeline = ? and topic = ? and partition = ?
    and topic_id = ? and next_offset = ? and mapping_hash = ? and parked_seq = ? and barrier = ?"""


class SqliteSink:
    """Writes to an SQLite file. Several workers may write to one file: they take turns."""

    class Options(BaseModel):
        """Options of a target with `type: sqlite`. The hub's own tables have the prefix `sync_hub_`."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        path: Path
        lock_timeout_seconds: float = Field(default=10.0, gt=0)

    def __init__(self, name: str, options: Options, hub: str) -> None:
        self.name = name
        self._who = f"target {name}"
        self._path = options.path
        self._timeout_seconds = options.lock_timeout_seconds
        self._lock = WriteLock(options.path, timeout_seconds=options.lock_timeout_seconds)
        self._opened: sqlite3.Connection | None = None
        self._identity = (0, 0)
        self._writes = False
        self._schema_version = -1
        self._statements: dict[tuple[Any, ...], SqliteStatements] = {}

    def check(self, tables: Sequence[str] = ()) -> list[Finding]:
        """The file is one of SQLite's and can be written, or created; decimals of `tables` keep their digits."""
        path = f"targets.{self.name}"
        try:
            if not self._path.exists():
                refuse_uncreatable(self._path)
                return []
            with translated(self._path):
                self._looking().execute("select count(*) from sqlite_schema").fetchone()
                described = [describe(self._looking(), table) for table in tables]
        except SyncHubError as error:
            return [Finding(error.code, "error", path, error.message, error.hint, error.command)]
        found = []
        if not os.access(self._path, os.W_OK):
            found.append(_not_writable(path, self._path))
        return found + [
            Finding(
                "decimals_lose_digits",
                "warning",
                path,
                f"{table.table.name}.{column} is declared NUMERIC: SQLite keeps 15 digits of a decimal",
                "declare the column TEXT",
            )
            for table in described
            if table is not None
            for column, kind in table.kinds.items()
            if kind == "numeric"
        ]

    def describe(self, table: str) -> Table | None:
        """The table in the file now; types are the nearest of PostgreSQL's to those declared."""
        if not (self._writes or self._path.exists()):
            refuse_uncreatable(self._path)
            return None
        with translated(self._path):
            found = describe(self._looking(), table)
        return found.table if found else None

    def open(self) -> None:
        """Open or create the file, and create `sync_hub_offsets` and `sync_hub_parked` where they are missing."""
        connection = self._connection()
        with write_transaction(connection, self._lock):
            connection.execute(_CREATE_OFFSETS)
            connection.execute(_CREATE_PARKED)

    def create(self, table: Table) -> str:
        """Create a missing table; return the DDL. See `sqlitetypes` for the types."""
        lines = [
            f"    {quote(column.name)} {created_type(column.type)}"
            + ("" if column.nullable and column.name not in table.key else " not null")
            for column in table.columns
        ]
        if table.key:
            lines.append(f"    primary key ({', '.join(map(quote, table.key))})")
        ddl = f"create table if not exists {quote(table.full_name)} (\n" + ",\n".join(lines) + "\n)"
        connection = self._connection()
        with write_transaction(connection, self._lock):
            connection.execute(ddl)
        return ddl

    def add_columns(self, table: str, columns: Sequence[Column]) -> str:
        """Add missing columns in one transaction; return the DDL. See `sqlitetypes` for the types."""
        connection = self._connection()
        with write_transaction(connection, self._lock):
            there = self._described(table).kinds
            missing = [column for column in columns if column.name not in there]
            start = f"alter table {quote(table)} add column"
            ddl = [f"{start} {quote(column.name)} {created_type(column.type)}" for column in missing]
            for statement in ddl:
                connection.execute(statement)
        return ";\n".join(ddl)

    def share(self, table: str, mappings: Sequence[str]) -> None:
        """Add missing presence flags: boolean columns `sync_hub_<mapping>`."""
        connection = self._connection()
        with write_transaction(connection, self._lock):
            there = self._described(table).kinds
            for name in map(flag_column, mappings):
                if name not in there:
                    connection.execute(f"alter table {quote(table)} add column {quote(name)} BOOLEAN")

    def load_offsets(self, pipelines: Sequence[str]) -> list[Offset]:
        """The offsets of these pipelines, in the order of their primary key."""
        connection = self._looking()
        marks = ", ".join("?" * len(pipelines))
        query = f"select {_COLUMNS} from sync_hub_offsets where pipeline in ({marks}) order by 1, 2, 3"
        with read_transaction(connection, self._path):
            return [Offset(*row) for row in connection.execute(query, tuple(pipelines))]

    def find_parked(
        self, pipelines: Sequence[str], *, closed: bool = False, records: bool = False, seqs: Sequence[int] = ()
    ) -> list[Parked]:
        """Parked records: see `Sink.find_parked`."""
        connection = self._looking()
        marks, numbers = (", ".join("?" * len(some)) for some in (pipelines, seqs))
        chosen = (f" and seq in ({numbers})" if seqs else "") + ("" if closed else " and closed_at is null")
        query = f"select {parked.selected(records=records)} from {parked.TABLE} where pipeline in ({marks}){chosen}"
        with read_transaction(connection, self._path):
            rows = connection.execute(f"{query} order by first_at, {', '.join(parked.KEY)}", (*pipelines, *seqs))
            return [parked.parked(row) for row in rows]

    def start_offsets(self, offsets: Sequence[Offset]) -> None:
        """Insert rows for partitions that have none yet."""
        connection = self._connection()
        with write_transaction(connection, self._lock):
            connection.executemany(_START, [astuple(offset) for offset in offsets])

    def write(self, batch: SinkBatch) -> None:
        """Apply one batch in one transaction."""
        if not batch.offsets:
            if batch.writes or batch.parked:
                raise ValueError("a batch that writes rows must move offsets: nothing else fences it")
            return
        try:
            self._transact(batch, vacate=False)
        except Rejected as error:
            if error.code != "unique_violated" or not any(self._prepared(write).vacated for write in batch.writes):
                raise
            self._transact(batch, vacate=True)
        failpoint("after_commit")

    def _transact(self, batch: SinkBatch, *, vacate: bool) -> None:
        """One transaction; with `vacate` whole rows first give up unique values that they are to lose."""
        connection = self._connection()
        with write_transaction(connection, self._lock):
            self._advance(connection, batch.offsets)
            if batch.writes:
                connection.execute("pragma defer_foreign_keys = on")
                self._look_for_ddl(connection)
            connection.executemany(_PARK, [parked.values(row) for row in batch.parked])
            for write in batch.writes:
                try:
                    self._apply(connection, write, vacate=vacate)
                except sqlite3.Error as error:
                    raise classify(error, self._where(write)) from error
                except (OverflowError, UnicodeEncodeError) as error:
                    raise Rejected(
                        "invalid_value",
                        f"{self._where(write)}: a value does not fit: {error}",
                        sqlstate="22003" if isinstance(error, OverflowError) else "22021",
                        hint="mend the row at the source, or cast the value in the mapping",
                    ) from error
            failpoint("before_commit")

    def read_rows(
        self,
        table: str,
        columns: Sequence[str],
        *,
        mapping: str = "",
    ) -> Iterator[tuple[Any, ...]]:
        """Rows as wire values. Holds a snapshot until the end, so that the file's log grows."""
        described, select = self._select(table, columns, mapping)
        kinds = [_kind(described, name) for name in columns]
        lock = WriteLock(self._path, timeout_seconds=self._timeout_seconds)
        reader = connect(self._path, lock, timeout_seconds=self._timeout_seconds)
        try:
            with translated(self._path):
                cursor = reader.execute(select)
                while rows := cursor.fetchmany(FETCH_ROWS):
                    yield from _wire(rows, kinds)
        finally:
            close(reader, lock)

    def find_rows(
        self,
        table: str,
        columns: Sequence[str],
        key: Sequence[str],
        keys: Sequence[Sequence[Any]],
        *,
        mapping: str = "",
    ) -> list[tuple[Any, ...] | None]:
        """The row of each key: see `Sink.find_rows`."""
        described, select = self._select(table, columns, mapping)
        where = " and ".join(f"{quote(name)} = ?" for name in key)
        stored = _rows(keys, [_kind(described, name) for name in key], convert=to_key) if keys else []
        with read_transaction(self._connection(), self._path) as connection:
            read = [connection.execute(f"{select} and {where}", values).fetchone() for values in stored]
        found = iter(_wire([row for row in read if row], [_kind(described, name) for name in columns]))
        return [next(found) if row else None for row in read]

    def checksum(
        self,
        table: str,
        key: Sequence[str],
        columns: Sequence[str],
        between: tuple[tuple[Any, ...] | None, tuple[Any, ...] | None],
        *,
        mapping: str = "",
    ) -> None:
        """SQLite makes no checksums that a source makes too."""

    def rows_between(
        self,
        table: str,
        columns: Sequence[str],
        key: Sequence[str],
        between: tuple[tuple[Any, ...] | None, tuple[Any, ...] | None],
        limit: int,
        *,
        mapping: str = "",
    ) -> None:
        """SQLite has an order of its own."""

    def as_stored(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """The values themselves: SQLite rounds, pads and folds nothing."""
        return [tuple(row) for row in rows]

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._opened is not None and self._writes:
            close(self._opened, self._lock)
        elif self._opened is not None:
            self._opened.close()
        self._opened, self._writes = None, False

    def _looking(self) -> sqlite3.Connection:
        """A connection to look with: before anything is to be written it leaves neither files nor settings behind."""
        if self._opened is None and not self._lock.exists():
            self._opened, self._identity = look(self._path), identity(self._path)
        return self._opened if self._opened is not None and not self._writes else self._connection()

    def _connection(self) -> sqlite3.Connection:
        """The connection to write with. Raises `Fatal` when the path no longer leads to the file that was opened."""
        if self._opened is not None and not self._writes:
            self._opened.close()
            self._opened = None
        if self._opened is None:
            self._opened = connect(self._path, self._lock, timeout_seconds=self._timeout_seconds)
            self._identity, self._writes = identity(self._path), True
            self._schema_version = -1
        elif self._identity != identity(self._path):
            raise Fatal(
                "target_replaced",
                f"{self._who}: {self._path} was moved, deleted or replaced while the hub had it open",
                hint="put the file back, then resume; if it is lost, load its pipelines again",
                command=f"sync-hub resume {self.name}",
            )
        return self._opened

    def _described(self, table: str) -> Described:
        found = describe(self._connection(), table)
        if found is None:
            raise Fatal(
                "target_table_missing",
                f"{self._who}: there is no table {table}",
                hint="create it, or set `create: true` in the mapping",
            )
        return found

    def _select(self, table: str, columns: Sequence[str], mapping: str) -> tuple[Described, str]:
        """The table, and a query for these columns of the rows that are there for the mapping."""
        with translated(self._path):
            described = self._described(table)
        flag = flag_column(mapping) if mapping else ""
        present = quote(flag) if any(column.name == flag for column in described.table.columns) else "true"
        return described, f"select {', '.join(map(quote, columns))} from {quote(described.table.name)} where {present}"

    def _look_for_ddl(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("pragma schema_version").fetchone()[0]
        if version != self._schema_version:
            self._statements.clear()
            self._schema_version = version

    def _prepared(self, write: TableWrite) -> SqliteStatements:
        name = (write.pipeline, write.table, write.key, write.columns, write.mark_columns, write.shared)
        found = self._statements.get(name)
        if found is None:
            found = self._statements[name] = SqliteStatements(self._described(write.table), write)
        return found

    def _advance(self, connection: sqlite3.Connection, offsets: list[tuple[Offset, Offset]]) -> None:
        for old, new in offsets:
            key = (old.pipeline, old.topic, old.partition)
            read = (old.topic_id, old.next_offset, old.mapping_hash, old.parked_seq, old.barrier)
            to = (new.topic_id, new.next_offset, new.last_version, new.mapping_hash, new.parked_seq, new.barrier)
            if connection.execute(_ADVANCE, to + key + read).rowcount != 1:
                raise OffsetsMoved(
                    "offsets_moved",
                    f"{self._who}: another worker has moved the offsets of {old.pipeline}",
                    hint="they are loaded again; nothing was written",
                )

    def _apply(self, connection: sqlite3.Connection, write: TableWrite, *, vacate: bool) -> None:
        sql = self._prepared(write)
        if write.truncate == "delete":
            for statement in sql.truncate_delete:
                connection.execute(statement)
        elif write.truncate == "mark":
            connection.execute(sql.truncate_mark, next(iter(_rows([write.mark_values], sql.marks))))
        changes = by_kind(write)
        if changes.deletes:
            _run(connection, sql.delete, _rows(changes.deletes, sql.deleted, convert=to_key))
        if changes.marks:
            _run(connection, [sql.mark], _rows(changes.marks, sql.deleted + sql.marks))
        for present, rows in changes.updates.items():
            places = sql.written(present)
            _run(connection, [sql.update(places)], _rows(rows, sql.kinds(places), places))
        if changes.upserts and vacate and sql.vacated:
            _run(connection, [sql.vacate], _rows(changes.upserts, sql.kinds(sql.vacated), sql.vacated))
        if changes.upserts:
            _run(connection, sql.upsert, _rows(changes.upserts, sql.kinds(sql.whole), sql.whole))

    def _where(self, write: TableWrite) -> str:
        return f"{self._who}, {write.pipeline} into {write.table}"


def _run(connection: sqlite3.Connection, statements: Iterable[str], rows: list[tuple[Any, ...]]) -> None:
    for statement in statements:
        if statement:
            connection.executemany(statement, rows)


def _rows(
    rows: Sequence[Sequence[Any]],
    kinds: Sequence[Kind],
    places: Present | None = None,
    *,
    convert: Callable[[Sequence[Any], Kind], Sequence[Any]] = to_column,
) -> list[tuple[Any, ...]]:
    """Rows as they are bound: converted by kind, and cut to these places."""
    columns = list(zip(*rows, strict=True))
    if places is not None:
        columns = [columns[place] for place in places]
    return list(zip(*map(convert, columns, kinds), strict=True))


def _wire(rows: Sequence[tuple[Any, ...]], kinds: Sequence[Kind]) -> Iterator[tuple[Any, ...]]:
    if not rows:
        return iter(())
    columns = (to_wire(values, kind) for values, kind in zip(zip(*rows, strict=True), kinds, strict=True))
    return zip(*columns, strict=True)


def _kind(described: Described, name: str) -> Kind:
    kind = described.kinds.get(name)
    if kind is None:
        raise Fatal("target_column_missing", f"{described.table.full_name} has no column {name}", hint="add the column")
    return kind


def _not_writable(path: str, place: Path) -> Finding:
    return Finding(
        "database_not_accessible", "error", path, f"{place} is not writable", "give this user the right to write there"
    )
