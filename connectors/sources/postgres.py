"""PostgreSQL 14 to 18 as a source: logical replication with pgoutput, existing rows in chunks beside it."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import psycopg
from pydantic import BaseModel

from connectors import pgcatalog
from connectors.postgresql import COPY_KIND, classify
from connectors.sources import pgblocks, pgpreflight, pgslot
from connectors.sources.pgcomplete import Fetched
from connectors.sources.pgcondition import is_enclosed
from connectors.sources.pglog import Log
from connectors.sources.pgopening import Opening
from connectors.sources.pgoptions import PostgresOptions
from connectors.sources.pgposition import dump, load
from connectors.sources.pgqueries import Queries
from connectors.sources.pgrows import KEYS_PER_SELECT, Page, TableReader, key_identity
from connectors.sources.pgsnapshot import Chunk, Chunks, parse_snapshot
from connectors.sources.pgtables import CapturedTables
from sync_hub.errors import ConfigError, Fatal, Rejected, Unavailable
from sync_hub.model import ChunkRead, ChunkRequest, Finding, RangeSum, RowBlock, SourceBatch, Table

CHUNK_BYTES = 8_000_000


class PostgresSource:
    """Captures tables of one PostgreSQL database. One thread; two connections while open.

    Slot and publication are named after hub and source unless the options say otherwise. The log connection belongs
    to `Log`; everything else is asked over the second connection, `Queries`.
    """

    Options: ClassVar[type[BaseModel]] = PostgresOptions
    block_kind = COPY_KIND

    def __init__(self, name: str, options: PostgresOptions, hub: str) -> None:
        options.refuse_reserved(name)
        self._name = name
        self._options = options
        self._slot = options.slot or pgslot.object_name(hub, name)
        self._publication = options.publication or pgslot.object_name(hub, name)
        self._queries = Queries(options.dsn, f"sources.{name}", f"sync-hub {hub} {name}")
        self._recover = f"sync-hub recover {name}"
        self._chunks = Chunks()
        self._nonce = uuid.uuid4().hex[:12]
        self._marks = 0
        self._fence: int | None = None
        self._epoch_above = 0
        self._readers: dict[str, TableReader] = {}
        self._log: Log | None = None
        self._opening: Opening | None = None

    def check(self) -> list[Finding]:
        """Preflight: see `Source.check`."""
        return pgpreflight.check(
            self._name, self._queries, self._options, slot=self._slot, publication=self._publication
        )

    def tables(self) -> list[str]:
        """Full names of the tables to capture; patterns (`public.*`) resolved against the catalog."""
        names: list[str] = []
        with self._queries.use() as connection:
            for entry in self._options.table_options():
                found = pgcatalog.matching(connection, entry)
                names += found or ([] if pgcatalog.is_pattern(entry) else [entry])
        return list(dict.fromkeys(names))

    def describe(self, table: str) -> Table | None:
        """The table in the catalog now, without excluded columns; None when there is none."""
        with self._queries.use() as connection:
            found = pgcatalog.describe(connection, table)
            if found is None:
                return None
            return self._options.without_excluded(self._name, self._with_carried(connection, found))

    def setup_sql(self) -> str:
        """What a database administrator runs once: role, grants, publication, slot."""
        tables = [found for name in self.tables() if (found := self.describe(name)) is not None]
        return pgpreflight.setup_sql(
            self._queries, self._options, tables, slot=self._slot, publication=self._publication
        )

    def open(self, position: str | None, *, raise_epoch: bool = False) -> str:
        """Connect to the log: see `Source.open`. The proof itself is the first transaction that `read` meets."""
        self._close_log()
        stored = None if position is None else load(position, self._recover)
        tables = {name: self._described(name) for name in self.tables()}
        opening = Opening(
            self._name,
            self._options,
            self._queries,
            slot=self._slot,
            publication=self._publication,
            recover=self._recover,
            epoch_above=self._epoch_above,
        )
        self._log = opening.open(stored, tables, self._chunks, raise_epoch=raise_epoch, fetch=self._fetch)
        self._opening = opening
        self.heartbeat()
        return dump(self._log.position)

    def read(self, timeout_seconds: float) -> SourceBatch:
        """The next events: see `Source.read`. Blocks up to the timeout."""
        self._queries.look()
        return self._opened().read(timeout_seconds)

    def acknowledge(self, position: str) -> None:
        """Let the server forget what was committed before this position's transaction, which stays as the proof."""
        stored = load(position, self._recover)
        if stored.xid:
            self._opened().stream.acknowledge(stored.lsn_number)

    def keep_alive(self) -> None:
        """Report to the server when it is due. Raises `Unavailable` when it is shutting down."""
        self._opened().stream.report()
        self._queries.look()

    def heartbeat(self) -> None:
        """Write a heartbeat; make sure that the publication still is what it was, and holds the captured tables."""
        self._queries.heartbeat(self._slot)
        if self._log is not None:
            with self._queries.use() as connection:
                publication = pgslot.find_publication(connection, self._publication)
            self._captured().compare(publication)

    def track(self, active: bool) -> None:
        """Remember recent transactions, or stop."""
        if active:
            self._chunks.track(self._queries.snapshot())
        else:
            self._chunks.forget()
            self._fence = None

    def fence(self) -> None:
        """Take the fence: see `Source.fence`."""
        if not self._chunks.tracking:
            raise Fatal("fence_without_tracking", "`track` must be on before `fence`")
        self._fence = self._queries.new_transaction_id()

    def fence_passed(self) -> str:
        """Empty when chunks may be read; else who blocks."""
        if self._fence is None:
            raise Fatal("fence_missing", "`fence` must be taken before it can be passed")
        visible = self._queries.snapshot()
        if visible.xmin >= self._fence:
            self._chunks.seen(visible)
            return ""
        with self._queries.use() as connection:
            return pgslot.blocked_by(connection) or "a transaction that has not ended"

    def request_chunk(self, request: ChunkRequest) -> ChunkRead:
        """Read rows by key and write their mark: see `Source.request_chunk`.

        Reads fewer rows than asked for where rows are wide. Raises `Unavailable` while the table is being altered.
        """
        if not self._chunks.tracking:
            raise Fatal("chunk_without_tracking", "`track` and `fence` must come before chunks")
        reader = self._reader(request.table)
        with self._queries.use() as connection:
            spelled = _spelled(connection, reader, request)
            asked = {key_identity(key): key for key in spelled if key is not None}
            try:
                page, last_key, answered = self._page(connection, reader, request, list(asked.values()))
            except (psycopg.DatabaseError, UnicodeError) as error:
                refused = _refused(request, error)
                if refused is not None:
                    raise refused from error
                if isinstance(error, psycopg.errors.UndefinedColumn):
                    raise Unavailable(
                        "table_changing", f"sources.{self._name}: {request.table} is being altered"
                    ) from error
                raise
        asked = dict(itertools.islice(asked.items(), answered))
        rows: dict[Hashable, dict[str, Any] | None] = dict.fromkeys(asked) if request.check else {}
        rows |= {key_identity(reader.to_key(row)): row for row in page.rows}
        self._marks += 1
        mark = f"{request.run}/{request.number}/{self._nonce}/{self._marks}"
        self._queries.emit(json.dumps({"mark": mark}))
        self._chunks.add(mark, Chunk(request, parse_snapshot(page.snapshot), rows, last_key, asked))
        taken = list(itertools.takewhile(lambda key: key is None or key_identity(key) in asked, spelled))
        impossible = [given for given, key in zip(request.keys, taken, strict=False) if key is None]
        return ChunkRead(len(page.rows), page.size_bytes, last_key, tuple(impossible), len(taken))

    def _page(
        self,
        connection: pgcatalog.Connection,
        reader: TableReader,
        request: ChunkRequest,
        keys: Sequence[dict[str, Any]],
    ) -> tuple[Page, tuple[str, ...] | None, int]:
        """The rows of a request; after which key more may follow; and for how many of `keys`, its own, they answer."""
        if request.keys:
            found = reader.found(connection, keys, reader.names, CHUNK_BYTES)
            return Page(found.snapshot, found.rows, [], found.size_bytes), None, found.answered
        limit = max(1, request.rows)
        if request.where:
            if not is_enclosed(request.where):
                raise _bad_where(request, "a bracket is closed that it does not open")
            page, end = reader.filtered(connection, request.after, limit, request.where, size_bytes=CHUNK_BYTES)
            return page, end, 0
        page = reader.chunk(connection, request.after, limit, size_bytes=CHUNK_BYTES)
        return page, tuple(page.last_key) if page.cut or len(page.rows) == limit else None, 0

    def read_rows(
        self, table: str, *, columns: Sequence[str] | None = None, keys: Sequence[Mapping[str, Any]] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Rows as they are now, in key order, over a connection of their own; `keys` a thousand at a time."""
        reader = self._reader(table)
        names = reader.names if columns is None else tuple(columns)
        connection = self._queries.separate()
        try:
            if keys is None:
                yield from reader.all(connection, names)
                return
            for start in range(0, len(keys), KEYS_PER_SELECT):
                for row in reader.by_keys(connection, keys[start : start + KEYS_PER_SELECT], names):
                    yield {name: row[name] for name in names}
        except psycopg.Error as error:
            raise classify(error, f"sources.{self._name}: {table}") from error
        finally:
            connection.close()

    def read_page(
        self, table: str, after: tuple[Any, ...] | None, rows: int, *, share: float = 1.0
    ) -> tuple[list[dict[str, Any]], tuple[Any, ...] | None]:
        """The next rows by key: see `Source.read_page`."""
        reader = self._kept_reader(table)
        where = f"pg_catalog.random() < {share:.9f}" if share < 1 else ""
        with self._queries.use() as connection:
            page = reader.chunk(connection, after, rows, where, size_bytes=CHUNK_BYTES)
        return page.rows, tuple(page.last_key) if page.cut or len(page.rows) == rows else None

    def read_block(self, table: str, columns: Sequence[str], after: tuple[Any, ...] | None, rows: int) -> RowBlock:
        """The next rows by key as COPY prints them: see `Source.read_block`."""
        reader = self._kept_reader(table)
        with self._queries.use() as connection:
            data, count, last_key = pgblocks.read(connection, reader, columns, after, rows)
        self._queries.wait_flushed()
        return RowBlock(COPY_KIND, data, count, last_key)

    def event_keys(self, table: str, keys: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | None]:
        """Keys as events spell them: see `Source.event_keys`."""
        with self._queries.use() as connection:
            return self._kept_reader(table).event_keys(connection, keys)

    def checksum(self, table: str, columns: Sequence[str], after: tuple[Any, ...] | None, rows: int) -> RangeSum | None:
        """The sum over the next rows by key: see `Source.checksum`."""
        with self._queries.use() as connection:
            return self._kept_reader(table).checksum(connection, columns, after, rows)

    def status(self) -> dict[str, Any]:
        """Figures for health: position, retained log, slot; and what asks for verification.

        `relation_changed` says per table what changed without events, `timeline_changed` that a standby was promoted.
        """
        figures = self._queries.retained(self._slot)
        if self._log is not None:
            figures["position"] = self._log.position.lsn
            figures["epoch"] = self._log.position.epoch
            figures["timeline"] = self._log.position.timeline
            figures["timeline_changed"] = self._log.timeline_changed
            figures["relation_changed"] = dict(self._captured().changed)
        return figures

    def take_changed(self) -> dict[str, str]:
        """Tables whose rows must be loaded again, told once: see `Source.take_changed`."""
        return self._captured().take_changed()

    def forget(self, position: str | None) -> None:
        """Drop the slot; the next position has a higher epoch than this one: see `Source.forget`."""
        self._close_log()
        self._epoch_above = self._epoch_of(position)
        with self._queries.use() as connection:
            pgslot.drop_slot(connection, self._slot)

    def _epoch_of(self, position: str | None) -> int:
        """The epoch of a position; 0 where it cannot be read: then only the clock tells that the next one is higher."""
        try:
            return 0 if position is None else load(position, self._recover).epoch
        except Fatal:
            return 0

    def drop(self) -> None:
        """Drop slot and publication: this source is no longer captured, or starts again from nothing."""
        self.close()
        with self._queries.use() as connection:
            pgslot.drop(connection, self._slot, self._publication)

    def close(self) -> None:
        """Let go of both connections; slot and publication stay. Safe to call twice."""
        self._close_log()
        self._queries.close()
        self._readers.clear()

    def _close_log(self) -> None:
        self._chunks.discard_all()
        if self._log is not None:
            self._log.stream.close()
            self._log = None

    def _opened(self) -> Log:
        if self._log is None:
            raise Unavailable("not_open", f"sources.{self._name}: the log is not open")
        return self._log

    def _captured(self) -> CapturedTables:
        return self._opened().tables

    def _described(self, name: str) -> Table:
        table = self.describe(name)
        if table is None:
            raise ConfigError(
                "table_missing",
                f"there is no table {name}",
                where=f"sources.{self._name}.tables",
                hint="create it, or remove it from `tables`",
            )
        pgpreflight.refuse_unkeyed(self._name, self._queries, table)
        return table

    def _with_carried(self, connection: pgcatalog.Connection, table: Table) -> Table:
        """Stored generated columns come only through a publication that asks for them (PostgreSQL 18)."""
        stored = connection.info.server_version >= 180000 and pgslot.publishes_generated(connection, self._publication)
        if stored or not any(column.generated and column.carried for column in table.columns):
            return table
        columns = tuple(msgspec.structs.replace(c, carried=c.carried and not c.generated) for c in table.columns)
        return msgspec.structs.replace(table, columns=columns)

    def _reader(self, name: str) -> TableReader:
        table = self._described(name)
        with self._queries.use() as connection:
            return TableReader(table, partitioned=pgcatalog.is_partitioned(connection, table))

    def _kept_reader(self, name: str) -> TableReader:
        """A reader that is kept until `close`: pages of one table follow each other."""
        reader = self._readers.get(name)
        if reader is None:
            reader = self._readers[name] = self._reader(name)
        return reader

    def _fetch(self, table: str, keys: Sequence[dict[str, Any]], columns: Sequence[str], size_bytes: int) -> Fetched:
        """Read what the log left out; hand nothing out that a crash of the server could still undo."""
        visible = self._queries.snapshot()
        if self.describe(table) is None:
            return Fetched({}, len(keys), visible)  # dropped since; the next heartbeat says so
        reader = self._reader(table)
        there = [name for name in columns if name in reader.names]
        self._opened().stream.report()
        with self._queries.use() as connection:
            found = reader.found(connection, keys, there, size_bytes)
        self._queries.wait_flushed()
        rows = {key_identity(reader.to_key(row)): row for row in found.rows}
        return Fetched(rows, found.answered, parse_snapshot(found.snapshot))


def _spelled(
    connection: pgcatalog.Connection, reader: TableReader, request: ChunkRequest
) -> list[dict[str, Any] | None]:
    """The keys that a request names, as events spell them; None for those of a probe that no row can have."""
    if request.check:
        return reader.event_keys(connection, request.keys)
    try:
        return [reader.canonical(given) for given in request.keys]
    except (ValueError, TypeError, KeyError, IndexError, Rejected) as error:
        raise _bad_keys(request, str(error)) from error


def _refused(request: ChunkRequest, error: psycopg.DatabaseError | UnicodeError) -> ConfigError | None:
    """What is wrong with the condition or the keys of a request; None where they are not to blame."""
    if isinstance(error, UnicodeError):
        return _bad_where(request, str(error)) if request.where else _bad_keys(request, str(error))
    reason = (error.diag.message_primary or str(error)).strip()
    if request.where:
        of_server = isinstance(error, psycopg.OperationalError) and not _too_much(error)
        return None if of_server else _bad_where(request, reason)
    if request.keys and isinstance(classify(error, request.table), Rejected):
        return _bad_keys(request, reason)
    return None


def _too_much(error: psycopg.Error) -> bool:
    """Whether a statement needs more than the server has or allows, or was cancelled: the server itself is well."""
    state = error.sqlstate or ""
    return state.startswith("54") or state in {"57014", "53200"}


def _bad_keys(request: ChunkRequest, reason: str) -> ConfigError:
    return ConfigError(
        "bad_key",
        f"{request.table}: a key that was asked for is none of this table: {reason}",
        hint="give every column of the key a value of its type",
    )


def _bad_where(request: ChunkRequest, reason: str) -> ConfigError:
    return ConfigError(
        "bad_where",
        f"{request.table}: `{request.where}` is no condition on this table: {reason}",
        hint="write what may stand after WHERE in the source's own SQL",
    )
