"""A PostgreSQL target: rows pass through one staging table, or go straight into theirs, in one transaction a batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import RawCursor
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from connectors import pgcatalog
from connectors.postgresql import COPY_KIND, classify, connect, quote, quote_table
from connectors.sinks import parked, pgcheck, pgcreate, pgread
from connectors.sinks.changes import flag_column
from connectors.sinks.pgoffsets import TABLE, Offsets
from connectors.sinks.pgparked import ParkedRows
from connectors.sinks.pgrun import NotAsTold, StepFailed, run
from connectors.sinks.pgstage import Stage, copy_stage
from connectors.sinks.pgwork import Mapped, Step, Work, plan
from sync_hub.errors import Fatal, Rejected, SyncHubError, Unavailable
from sync_hub.failpoints import failpoint
from sync_hub.model import Column, Finding, Offset, Parked, RangeSum, RowBlock, SinkBatch, Table, TableWrite

Connection = psycopg.Connection[tuple[Any, ...]]

DOUBT_SECONDS = 60.0
"""How long a pipeline's rows are looked for, after a batch in which its events were relied on had to be done again."""
_UNIQUE = "23505"
_CHANGED_TABLE = ("22", "23502", "428C9", "42")
"""SQLSTATEs that a changed target table may cause: it is looked up again before the row is blamed."""


class PostgresSink:
    """Writes to a PostgreSQL database, version 14 or newer. After `Unavailable` the next call connects again."""

    block_kind = COPY_KIND

    class Options(BaseModel):
        """Options of a target with `type: postgres`.

        The hub's own tables are `sync_hub_…` in `schema`, where a mapping's table without a schema is looked for too.
        """

        model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

        dsn: SecretStr
        own_schema: str = Field(default="public", alias="schema")
        lock_timeout_seconds: float = Field(default=10.0, gt=0)

    def __init__(self, name: str, options: Options, hub: str) -> None:
        self.name = name
        self._options = options
        self._who = f"target {name}"
        self._application = f"sync-hub {hub}: {self._who}"
        self._offsets = Offsets(options.own_schema)
        self._parked = ParkedRows(options.own_schema)
        self._open_connection: Connection | None = None
        self._stage = Stage()
        self._tables: dict[str, Table] = {}
        self._mapped: dict[tuple[Any, ...], Mapped] = {}
        self._doubted: dict[str, float] = {}

    def check(self, tables: Sequence[str] = ()) -> list[Finding]:
        """Reachable, not read-only, all privileges that writing needs; `tables` are those that mappings write to."""
        try:
            connection = self._connection()
            with self._translated():
                return pgcheck.check(connection, self.name, self._options.own_schema, [*map(self._full, tables)])
        except SyncHubError as error:
            return [pgcheck.finding(self.name, error)]

    def describe(self, table: str) -> Table | None:
        """The table in the catalog now; a name without a schema is looked for in the schema of the options.

        The first description is kept for writing, until the hub or a refused statement shows that it no longer holds.
        """
        connection = self._connection()
        with self._translated():
            found = pgcatalog.describe(connection, self._full(table), target=True)
        if found is not None:
            self._tables.setdefault(table, found)
        return found

    def open(self) -> None:
        """Connect, and create `sync_hub_offsets` and `sync_hub_parked` where they are missing."""
        cursor = self._cursor()
        with self._translated():
            for table, create in ((TABLE, self._offsets.create), (parked.TABLE, self._parked.create)):
                name = quote_table(self._options.own_schema, table)
                if cursor.execute("select to_regclass($1)", (name,)).fetchone() == (None,):
                    cursor.execute(f"begin; select pg_advisory_xact_lock({_LOCK_CREATE}); {create}; commit")

    def create(self, table: Table) -> str:
        """Create a missing table; return the DDL. Types that this server does not know become text."""
        cursor = self._cursor()
        schema = table.schema or self._options.own_schema
        with self._translated():
            ddl = pgcreate.create_table(cursor, quote_table(schema, table.name), table)
            self._alone(ddl)
        self._forget()
        return ddl

    def add_columns(self, table: str, columns: Sequence[Column]) -> str:
        """Add missing columns in one statement; return the DDL. Types that this server does not know become text."""
        self._forget()
        found = self._described(table)
        there = {column.name for column in found.columns}
        missing = [column for column in columns if column.name not in there]
        if not missing:
            return ""
        cursor = self._cursor()
        with self._translated():
            ddl = pgcreate.add_columns(cursor, quote_table(found.schema, found.name), missing)
            self._alone(ddl)
        self._forget()
        return ddl

    def _alone(self, ddl: str) -> None:
        """Run DDL while no other worker does: `if not exists` fails when two make the same thing at once."""
        cursor = self._cursor()
        cursor.execute(f"select pg_advisory_lock({_LOCK_CREATE})")
        try:
            cursor.execute(ddl)
        finally:
            cursor.execute(f"select pg_advisory_unlock({_LOCK_CREATE})")

    def share(self, table: str, mappings: Sequence[str]) -> None:
        """Add missing presence flags: boolean columns `sync_hub_<mapping>`."""
        found = self._described(table)
        there = {column.name for column in found.columns}
        missing = [name for name in map(flag_column, mappings) if name not in there]
        if missing:
            columns = ", ".join(f"add column if not exists {quote(name)} boolean" for name in missing)
            with self._translated():
                self._cursor().execute(f"alter table {quote_table(found.schema, found.name)} {columns}")
        self._forget()

    def load_offsets(self, pipelines: Sequence[str]) -> list[Offset]:
        """The offsets of these pipelines, in the order of their primary key."""
        cursor = self._cursor()
        with self._translated():
            return self._offsets.load(cursor, pipelines)

    def start_offsets(self, offsets: Sequence[Offset]) -> None:
        """Insert rows for partitions that have none yet."""
        if offsets:
            cursor = self._cursor()
            with self._translated():
                self._offsets.start(cursor, offsets)

    def write(self, batch: SinkBatch) -> None:
        """Apply one batch in one transaction. After `Unavailable` the batch may have been committed: load offsets."""
        if not batch.offsets:
            if batch.writes or batch.parked:
                raise ValueError("a batch that writes rows must move offsets: nothing else fences it")
            return
        try:
            self._attempt(batch)
        except StepFailed as failed:
            vacate = failed.error.sqlstate == _UNIQUE and any(
                self._way(write).statements.vacate for write in batch.writes
            )
            if not (vacate or self._has_changed(failed)):
                raise classify(failed.error, self._where(failed.step), of_row=True) from failed.error
            try:
                self._transact(batch, plan(batch.writes, self._way, vacate=vacate))
            except StepFailed as again:
                raise classify(again.error, self._where(again.step), of_row=True) from again.error

    def _attempt(self, batch: SinkBatch) -> None:
        """Rely on what events say about their rows; where that does not hold, or anything fails, look for each row."""
        work = plan(batch.writes, self._way, tells=self._tells)
        try:
            self._transact(batch, work)
        except StepFailed as failed:
            if not work.told or isinstance(classify(failed.error, self._who, of_row=True), Unavailable):
                raise
        except Rejected:  # at the commit
            if not work.told:
                raise
        except NotAsTold:
            pass
        else:
            return
        self._doubted |= dict.fromkeys(work.told, time.monotonic() + DOUBT_SECONDS)
        self._transact(batch, plan(batch.writes, self._way))

    def _tells(self, write: TableWrite) -> bool:
        return self._doubted.get(write.pipeline, 0.0) <= time.monotonic()

    def find_parked(
        self, pipelines: Sequence[str], *, closed: bool = False, records: bool = False, seqs: Sequence[int] = ()
    ) -> list[Parked]:
        """Parked records: see `Sink.find_parked`."""
        cursor = self._cursor()
        with self._translated():
            return self._parked.find(cursor, pipelines, closed=closed, records=records, seqs=seqs)

    def write_block(self, moved: tuple[Offset, Offset], table: str, columns: Sequence[str], block: RowBlock) -> None:
        """Move the offset, then COPY the rows, in one transaction: see `Sink.write_block`."""
        found = self._described(table)
        listed = ", ".join(map(quote, columns))
        statement = f"copy {quote_table(found.schema, found.name)} ({listed}) from stdin"
        connection, cursor = self._connection(), self._cursor()
        try:
            cursor.execute("begin isolation level read committed read write")
            run(connection, self._who, self._offsets.advance, [moved], [])
            with cursor.copy(statement) as copy:
                for data in block.data:
                    copy.write(data)
            failpoint("before_block_commit")
            cursor.execute("commit")
        except psycopg.Error as error:
            self._roll_back()
            raise classify(error, f"{self._who}, {moved[0].pipeline} into {table}") from error
        except BaseException:
            self._roll_back()
            raise

    def read_rows(
        self,
        table: str,
        columns: Sequence[str],
        *,
        mapping: str = "",
    ) -> Iterator[tuple[Any, ...]]:
        """Rows as wire values. Holds a connection and a snapshot of its own until the end."""
        found, flag = self._described(table), flag_column(mapping) if mapping else ""
        connection = self._connect()
        try:
            yield from pgread.everything(connection, found, columns, flag)
        except psycopg.Error as error:
            raise classify(error, self._who) from error
        finally:
            connection.close()

    def find_rows(
        self,
        table: str,
        columns: Sequence[str],
        key: Sequence[str],
        keys: Sequence[Sequence[Any]],
        *,
        mapping: str = "",
    ) -> list[tuple[Any, ...] | None]:
        """The row of each key: see `Sink.find_rows`. By halves, where one of them is none that a row can have."""
        try:
            with self._translated():
                flag = flag_column(mapping) if mapping else ""
                return pgread.find(self._cursor(), self._described(table), columns, key, keys, flag)
        except Rejected:
            if len(keys) == 1:
                return [None]
            middle = len(keys) // 2
            parts = (keys[:middle], keys[middle:])
            return [row for part in parts for row in self.find_rows(table, columns, key, part, mapping=mapping)]

    def checksum(
        self,
        table: str,
        key: Sequence[str],
        columns: Sequence[str],
        between: pgread.Between,
        *,
        mapping: str = "",
    ) -> RangeSum | None:
        """The sum over the rows in a key range: see `Sink.checksum`."""
        with self._translated():
            flag = flag_column(mapping) if mapping else ""
            return pgread.checksum(self._cursor(), self._described(table), key, columns, between, flag)

    def rows_between(
        self,
        table: str,
        columns: Sequence[str],
        key: Sequence[str],
        between: pgread.Between,
        limit: int,
        *,
        mapping: str = "",
    ) -> list[tuple[Any, ...]] | None:
        """Rows in a key range: see `Sink.rows_between`."""
        with self._translated():
            flag = flag_column(mapping) if mapping else ""
            return pgread.rows_between(self._cursor(), self._described(table), columns, key, between, flag, limit)

    def as_stored(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """The values as the table's types would keep them: see `Sink.as_stored`."""
        with self._translated():
            return pgread.as_stored(self._cursor(), self._described(table), columns, rows) if rows else []

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        if self._open_connection is not None:
            self._open_connection.close()
            self._open_connection = None

    def _connect(self) -> Connection:
        connection = connect(self._options.dsn.get_secret_value(), application_name=self._application)
        try:
            timeout = round(self._options.lock_timeout_seconds * 1000)
            connection.execute(f"set lock_timeout = {timeout}")
        except psycopg.Error as error:
            connection.close()
            raise classify(error, self._who) from error
        return connection

    def _connection(self) -> Connection:
        if self._open_connection is None or self._open_connection.closed:
            self._open_connection = self._connect()
            self._stage = Stage()
        return self._open_connection

    def _cursor(self) -> RawCursor[tuple[Any, ...]]:
        return RawCursor(self._connection())

    def _full(self, table: str) -> str:
        return table if "." in table else f"{self._options.own_schema}.{table}"

    def _described(self, table: str) -> Table:
        found = self._tables.get(table) or self.describe(table)
        if found is None:
            raise Fatal(
                "target_table_missing",
                f"{self._who}: there is no table {self._full(table)}",
                hint="create it, or set `create: true` in the mapping",
            )
        return found

    def _forget(self) -> None:
        self._tables.clear()
        self._mapped.clear()

    def _way(self, write: TableWrite) -> Mapped:
        name = (write.pipeline, write.table, write.key, write.columns, write.mark_columns, write.shared)
        way = self._mapped.get(name)
        if way is None:
            try:
                way = self._mapped[name] = Mapped(self._described(write.table), write)
            except Fatal:  # a person mends the table: the next attempt must look at it again
                self._tables.pop(write.table, None)
                raise
        return way

    def _transact(self, batch: SinkBatch, work: Work) -> None:
        connection = self._connection()
        cursor = self._cursor()
        with self._translated():
            stage = self._stage.fitted(work.width, len(work.steps))
            if work.data and stage != self._stage:
                cursor.execute(stage.ddl)
                self._stage = stage
        try:
            cursor.execute("begin isolation level read committed read write")
            if work.data:
                with cursor.copy(copy_stage(work.width)) as copy:
                    copy.write(work.data)
            run(connection, self._who, self._offsets.advance, batch.offsets, work.steps)
            if batch.parked:
                self._parked.store(cursor, batch.parked)
            failpoint("before_commit")
            self._commit(cursor)
            failpoint("after_commit")
        except psycopg.Error as error:
            self._roll_back()
            raise classify(error, self._who) from error
        except BaseException:
            self._roll_back()
            raise

    def _commit(self, cursor: RawCursor[tuple[Any, ...]]) -> None:
        """Deferred constraints and triggers refuse rows here."""
        try:
            cursor.execute("commit")
        except psycopg.Error as error:
            raise classify(error, self._who, of_row=True) from error

    def _roll_back(self) -> None:
        connection = self._open_connection
        if connection is None:
            return
        try:
            connection.rollback()
        except psycopg.Error:
            connection.close()

    def _has_changed(self, failed: StepFailed) -> bool:
        """Whether the table differs from what the statement was made for; it is then described anew."""
        if not (failed.error.sqlstate or "").startswith(_CHANGED_TABLE):
            return False
        table = failed.step.write.table
        known = self._tables.get(table)
        now = self.describe(table)
        if known is None or now is None or _shape(now) == _shape(known):
            return False
        self._forget()
        return True

    def _where(self, step: Step) -> str:
        return f"{self._who}, {step.write.pipeline} into {step.write.table}"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            self._roll_back()
            raise classify(error, self._who) from error


_LOCK_CREATE = 0x73796E63
"""Advisory lock under which own tables are created: two workers that create one at once would both fail."""


def _shape(table: Table) -> tuple[Any, ...]:
    return table.columns, table.key, table.unique, table.identity
