"""Where the hub keeps its own tables: one SQLite file, or a PostgreSQL database."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from sync_hub.errors import ConfigError, Unavailable

CHECKPOINT_EVERY_WRITES = 100
POSTGRES_DEFAULTS = {"connect_timeout": "10", "keepalives_idle": "10", "tcp_user_timeout": "15000"}
"""What libpq does not do by itself: notice that a server, or the way to it, is gone. The address may say otherwise."""

metadata = sa.MetaData()


class Store:
    """One store. Construction does not connect; the first use creates missing tables and columns.

    Safe to use from several processes, and from several threads. Raises `Unavailable` when it does not answer.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
            self._file = Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None
            if parsed.get_backend_name() == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg", query={**POSTGRES_DEFAULTS, **parsed.query})
            self._engine = sa.create_engine(parsed, pool_pre_ping=self._file is None)
        except (ArgumentError, NoSuchModuleError, ValueError) as error:
            raise ConfigError(
                "bad_state_url",
                f"hub.state: {error}",
                hint="write sqlite:///.sync-hub/state.db or postgresql://user@host/database",
            ) from error
        if self._file:
            sa.event.listen(self._engine, "connect", _sqlite_session)
            sa.event.listen(self._engine, "begin", _sqlite_begin)
        self._ready = False
        self._identity = (0, 0)
        self._writes = 0

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[sa.Connection]:
        """One transaction; a writing one begins as such. Blocks while another process writes the same file."""
        try:
            if not self._ready:
                self._prepare()
            self._refuse_replaced()
            with self._lock(write), self._connect(write) as connection:
                yield connection
        except (DBAPIError, OSError) as error:
            raise _unavailable(self._engine.url, error) from error

    @contextmanager
    def _connect(self, write: bool) -> Iterator[sa.Connection]:
        with self._engine.connect().execution_options(sync_hub_write=write) as connection, connection.begin():
            yield connection
        if self._file and write:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Copy the write-ahead log back now and then, under the writer's lock: SQLite was told not to."""
        self._writes += 1
        if self._writes % CHECKPOINT_EVERY_WRITES == 0:
            connection = self._engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.close()

    @contextmanager
    def _lock(self, write: bool) -> Iterator[None]:
        """One writer at a time in a SQLite file: its own waiting is unfair, and checkpoints must not race writes."""
        if not (self._file and write):
            yield
            return
        with self._file.with_name(self._file.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _prepare(self) -> None:
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(True), self._connect(True) as connection:
            if not self._file:
                connection.exec_driver_sql("select pg_advisory_xact_lock(hashtext('sync_hub_state'))")
            metadata.create_all(connection)
            _add_missing_columns(connection)
            if self._file:
                self._identity = _identity(self._file)
        self._ready = True

    def _refuse_replaced(self) -> None:
        """What is written into a file that was unlinked is lost without a word."""
        if self._file and _identity(self._file) != self._identity:
            raise FileNotFoundError("it was moved, deleted or replaced while it was in use: put it back, or restart")

    def close(self) -> None:
        """Let go of connections."""
        self._engine.dispose()


def _identity(file: Path) -> tuple[int, int]:
    """Which file the path leads to; zeros where there is none."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def _add_missing_columns(connection: sa.Connection) -> None:
    """A store that an older release made lacks columns; every new one may be NULL or has a default."""
    inspector = sa.inspect(connection)
    for table in metadata.sorted_tables:
        known = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                spelled = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"alter table {table.name} add column {spelled}")


def upsert(connection: sa.Connection, table: sa.Table, key: Sequence[str], values: Mapping[str, Any]) -> None:
    """Insert a row, or update the one with this key."""
    insert: Any
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert
    others = {name: value for name, value in values.items() if name not in key}
    connection.execute(insert(table).values(**values).on_conflict_do_update(index_elements=list(key), set_=others))


def _sqlite_session(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_sqlite_begin` says
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "wal_autocheckpoint=0"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("sync_hub_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _unavailable(url: sa.URL, error: Exception) -> Unavailable:
    address = url.difference_update_query(POSTGRES_DEFAULTS).render_as_string(hide_password=True)
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    return Unavailable(
        "state_unavailable",
        f"the hub's state at {address} cannot be used: {reason}",
        hint="check that it is reachable and writable, and that the disk has room",
    )
