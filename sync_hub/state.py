"""The hub's own store: positions, pipelines, snapshots, workers' beats, requests, pauses. The only user of SQLAlchemy.

Every method is one transaction. Safe to use from several processes, and from several threads. Raises `Unavailable` when
the store does not answer.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from sync_hub.errors import ConfigError, Unavailable
from sync_hub.model import Table

PROGRESS_KEPT = 500
"""Progress records kept in full for each source; older ones are thinned to one a minute."""

CHECKPOINT_EVERY_WRITES = 100

_metadata = sa.MetaData()

_positions = sa.Table(
    "sync_hub_positions",
    _metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("position", sa.Text, nullable=False),
    sa.Column("saved_at", sa.Float, nullable=False),
)
_progress = sa.Table(
    "sync_hub_progress",
    _metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("source", sa.Text, nullable=False, index=True),
    sa.Column("position", sa.Text, nullable=False),
    sa.Column("source_time", sa.Float, nullable=False),
    sa.Column("stored_at", sa.Float, nullable=False),
    sa.Column("offsets", sa.Text, nullable=False),
)
_tables = sa.Table(
    "sync_hub_tables",
    _metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("table_name", sa.Text, primary_key=True),
    sa.Column("description", sa.Text, nullable=False),
)
_pipelines = sa.Table(
    "sync_hub_pipelines",
    _metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("table_name", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("bundle", sa.Text, nullable=False),
    sa.Column("applied_at", sa.Float, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("loaded_at", sa.Float),
)
_snapshots = sa.Table(
    "sync_hub_snapshots",
    _metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("table_name", sa.Text, primary_key=True),
    sa.Column("pipelines", sa.Text, nullable=False),
    sa.Column("last_key", sa.Text),
    sa.Column("rows_done", sa.BigInteger, nullable=False),
    sa.Column("rows_estimated", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
)
_workers = sa.Table(
    "sync_hub_workers",
    _metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("host", sa.Text, primary_key=True),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("beat_at", sa.Float, nullable=False),
)
_requests = sa.Table(
    "sync_hub_requests",
    _metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("worker", sa.Text, nullable=False, index=True),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("arguments", sa.Text, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("done_at", sa.Float),
    sa.Column("result", sa.Text),
)
_pauses = sa.Table(
    "sync_hub_pauses",
    _metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("until", sa.Float),
)


class Progress(Struct, frozen=True):
    """Everything committed at the source before `source_time` lies below `offsets` (topic → one a partition)."""

    source: str
    position: str
    source_time: float
    stored_at: float
    offsets: dict[str, list[int]]


class Pipeline(Struct, frozen=True):
    """A mapping that was applied. `bundle` is what it was compiled from.

    `phase`: `new` (no offsets in the target yet), `ready` (offsets written; existing rows may be loaded), `loading`,
    `loaded`. `loaded_at`: when all its existing rows were in the topic; only progress stored later proves anything.
    """

    name: str
    source: str
    table: str
    target: str
    bundle: str
    applied_at: float
    phase: str
    loaded_at: float | None = None


class Snapshot(Struct, frozen=True):
    """The loading of one table's existing rows for some pipelines; `last_key` is None before the first chunk."""

    source: str
    table: str
    pipelines: tuple[str, ...]
    last_key: tuple[Any, ...] | None
    rows_done: int
    rows_estimated: int
    started_at: float


class Worker(Struct, frozen=True):
    """The last beat of a worker. `since` is when its state last changed, in seconds since 1970, as `beat_at` is."""

    name: str
    host: str
    pid: int
    state: str
    detail: dict[str, Any]
    since: float
    beat_at: float


class Request(Struct, frozen=True):
    """Something a worker is asked to do."""

    id: int
    worker: str
    action: str
    arguments: dict[str, Any]


class Pause(Struct, frozen=True):
    """`subject` is `source:erp`, `target:crm` or `pipeline:customer_to_crm`; `until` None means until resumed."""

    subject: str
    reason: str
    since: float
    until: float | None


class State:
    """One store. Construction does not connect; the first use creates missing tables."""

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
            self._file = Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None
            if parsed.get_backend_name() == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            self._engine = sa.create_engine(parsed, pool_pre_ping=self._file is None)
        except (ArgumentError, NoSuchModuleError) as error:
            raise ConfigError(
                "bad_state_url",
                f"hub.state: {error}",
                hint="write sqlite:///.sync-hub/state.db or postgresql://user@host/database",
            ) from error
        if self._file:
            sa.event.listen(self._engine, "connect", _sqlite_session)
            sa.event.listen(self._engine, "begin", _sqlite_begin)
        self._ready = False
        self._writes = 0

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[sa.Connection]:
        try:
            if not self._ready:
                self._prepare()
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
            _metadata.create_all(connection)
        self._ready = True

    def check(self) -> None:
        """Raise `Unavailable` when the store cannot be written."""
        with self._transaction(write=True) as connection:
            connection.execute(sa.select(sa.func.count()).select_from(_positions))

    # Positions and progress

    def position(self, source: str) -> str | None:
        """The stored position of a source."""
        with self._transaction(write=False) as connection:
            return connection.execute(sa.select(_positions.c.position).where(_positions.c.source == source)).scalar()

    def save_position(
        self,
        source: str,
        position: str,
        *,
        progress: Progress | None = None,
        snapshots: Sequence[Snapshot] = (),
    ) -> None:
        """Store the position, and with it what is proven by it, in one transaction."""
        with self._transaction(write=True) as connection:
            _upsert(
                connection, _positions, ("source",), {"source": source, "position": position, "saved_at": time.time()}
            )
            if progress:
                values = {
                    "position": progress.position,
                    "source_time": progress.source_time,
                    "stored_at": progress.stored_at,
                }
                values |= {"source": progress.source, "offsets": json.dumps(progress.offsets)}
                connection.execute(sa.insert(_progress).values(**values))
            for snapshot in snapshots:
                _upsert(connection, _snapshots, ("source", "table_name"), _snapshot_values(snapshot))

    def progress(self, source: str, *, limit: int | None = None) -> list[Progress]:
        """The kept progress of a source, newest first; `limit` leaves out what is older."""
        query = sa.select(_progress).where(_progress.c.source == source).order_by(_progress.c.id.desc()).limit(limit)
        with self._transaction(write=False) as connection:
            rows = connection.execute(query).all()
        return [
            Progress(row.source, row.position, row.source_time, row.stored_at, json.loads(row.offsets)) for row in rows
        ]

    def thin_progress(self, source: str) -> None:
        """Keep the newest `PROGRESS_KEPT` records; of older ones one a minute, and after a day one an hour."""
        query = sa.select(_progress.c.id, _progress.c.source_time).where(_progress.c.source == source)
        with self._transaction(write=True) as connection:
            rows = connection.execute(query.order_by(_progress.c.id.desc()).offset(PROGRESS_KEPT)).all()
            spans: set[tuple[int, int]] = set()
            surplus = []
            for row in rows:
                width = 60 if rows[0].source_time - row.source_time < 86400 else 3600
                span = (width, int(row.source_time // width))
                if span in spans:
                    surplus.append(row.id)
                spans.add(span)
            if surplus:
                connection.execute(sa.delete(_progress).where(_progress.c.id.in_(surplus)))

    # Tables of sources

    def save_tables(self, source: str, tables: Sequence[Table]) -> None:
        """Store the catalog of a source's captured tables, replacing what was stored."""
        with self._transaction(write=True) as connection:
            connection.execute(sa.delete(_tables).where(_tables.c.source == source))
            for table in tables:
                description = msgspec.json.encode(table).decode()
                connection.execute(
                    sa.insert(_tables).values(source=source, table_name=table.full_name, description=description)
                )

    def tables(self, source: str) -> dict[str, Table]:
        """The stored catalog of a source's captured tables, by full name; empty before capture has looked."""
        with self._transaction(write=False) as connection:
            rows = connection.execute(sa.select(_tables).where(_tables.c.source == source)).all()
        return {row.table_name: msgspec.json.decode(row.description, type=Table) for row in rows}

    # Pipelines and their snapshots

    def add_pipeline(self, pipeline: Pipeline) -> bool:
        """Store a pipeline that was never applied; False when there is one of that name, which stays as it is."""
        with self._transaction(write=True) as connection:
            known = connection.execute(sa.select(_pipelines.c.name).where(_pipelines.c.name == pipeline.name)).scalar()
            if known is None:
                values = msgspec.structs.asdict(pipeline)
                values["table_name"] = values.pop("table")
                connection.execute(sa.insert(_pipelines).values(**values))
            return known is None

    def pipelines(self) -> list[Pipeline]:
        """All applied pipelines, by name."""
        with self._transaction(write=False) as connection:
            rows = connection.execute(sa.select(_pipelines).order_by(_pipelines.c.name)).all()
        return [
            Pipeline(
                row.name, row.source, row.table_name, row.target, row.bundle, row.applied_at, row.phase, row.loaded_at
            )
            for row in rows
        ]

    def remove_pipeline(self, name: str) -> None:
        """Forget a pipeline whose mapping is gone, and what was begun to load for it."""
        with self._transaction(write=True) as connection:
            for row in connection.execute(sa.select(_snapshots)).all():
                left = [one for one in json.loads(row.pipelines) if one != name]
                where = (_snapshots.c.source == row.source) & (_snapshots.c.table_name == row.table_name)
                if not left:
                    connection.execute(sa.delete(_snapshots).where(where))
                else:
                    connection.execute(sa.update(_snapshots).where(where).values(pipelines=json.dumps(left)))
            connection.execute(sa.delete(_pipelines).where(_pipelines.c.name == name))

    def advance_phase(self, names: Sequence[str], phase: str, *, only_from: Sequence[str]) -> None:
        """Move pipelines to a phase if they are in one of `only_from`."""
        where = _pipelines.c.name.in_(names) & _pipelines.c.phase.in_(only_from)
        with self._transaction(write=True) as connection:
            connection.execute(sa.update(_pipelines).where(where).values(phase=phase))

    def start_snapshot(self, snapshot: Snapshot) -> None:
        """Store a snapshot that begins, and set its pipelines' phase to `loading`."""
        with self._transaction(write=True) as connection:
            _upsert(connection, _snapshots, ("source", "table_name"), _snapshot_values(snapshot))
            where = _pipelines.c.name.in_(snapshot.pipelines)
            connection.execute(sa.update(_pipelines).where(where).values(phase="loading", loaded_at=None))

    def finish_snapshot(self, snapshot: Snapshot) -> None:
        """Remove a finished snapshot, and set its pipelines' phase to `loaded`."""
        with self._transaction(write=True) as connection:
            where = (_snapshots.c.source == snapshot.source) & (_snapshots.c.table_name == snapshot.table)
            connection.execute(sa.delete(_snapshots).where(where))
            connection.execute(
                sa.update(_pipelines)
                .where(_pipelines.c.name.in_(snapshot.pipelines))
                .values(phase="loaded", loaded_at=time.time())
            )

    def snapshots(self, source: str) -> list[Snapshot]:
        """Unfinished snapshots of a source, oldest first."""
        query = (
            sa.select(_snapshots)
            .where(_snapshots.c.source == source)
            .order_by(_snapshots.c.started_at, _snapshots.c.table_name)
        )
        with self._transaction(write=False) as connection:
            rows = connection.execute(query).all()
        return [_snapshot(row) for row in rows]

    # Workers, requests, pauses

    def beat(self, name: str, state: str, detail: Mapping[str, Any]) -> None:
        """Store a worker's beat: its state and figures, now."""
        now = time.time()
        with self._transaction(write=True) as connection:
            host = socket.gethostname()
            mine = (_workers.c.name == name) & (_workers.c.host == host)
            query = sa.select(_workers.c.since, _workers.c.state, _workers.c.pid).where(mine)
            known = connection.execute(query).first()
            same = known is not None and known.state == state and known.pid == os.getpid()
            values = {"name": name, "host": host, "pid": os.getpid(), "state": state, "beat_at": now}
            values |= {"detail": json.dumps(detail), "since": known.since if known is not None and same else now}
            _upsert(connection, _workers, ("name", "host"), values)

    def workers(self) -> list[Worker]:
        """The last beat of every worker, by name and host."""
        with self._transaction(write=False) as connection:
            rows = connection.execute(sa.select(_workers).order_by(_workers.c.name)).all()
        return [
            Worker(row.name, row.host, row.pid, row.state, json.loads(row.detail), row.since, row.beat_at)
            for row in rows
        ]

    def forget_workers(self, names: Sequence[str]) -> None:
        """Remove workers that are no longer configured."""
        with self._transaction(write=True) as connection:
            connection.execute(sa.delete(_workers).where(_workers.c.name.in_(names)))

    def ask(self, worker: str, action: str, arguments: Mapping[str, Any]) -> int:
        """Ask a worker to do something; returns the request's id."""
        values = {"worker": worker, "action": action, "arguments": json.dumps(arguments), "asked_at": time.time()}
        with self._transaction(write=True) as connection:
            return int(connection.execute(sa.insert(_requests).values(**values).returning(_requests.c.id)).scalar_one())

    def wishes(self, worker: str) -> tuple[list[Pause], list[Request]]:
        """What people want: pauses in force, and what a worker is asked and has not done, oldest first."""
        query = (
            sa.select(_requests)
            .where((_requests.c.worker == worker) & _requests.c.done_at.is_(None))
            .order_by(_requests.c.id)
        )
        with self._transaction(write=False) as connection:
            pauses, rows = _pauses_in_force(connection), connection.execute(query).all()
        return pauses, [Request(row.id, row.worker, row.action, json.loads(row.arguments)) for row in rows]

    def finish_request(self, number: int, result: Mapping[str, Any]) -> None:
        """Store what came of a request."""
        with self._transaction(write=True) as connection:
            where = _requests.c.id == number
            connection.execute(sa.update(_requests).where(where).values(done_at=time.time(), result=json.dumps(result)))

    def result(self, number: int) -> dict[str, Any] | None:
        """What came of a request; None while it is open."""
        with self._transaction(write=False) as connection:
            text = connection.execute(sa.select(_requests.c.result).where(_requests.c.id == number)).scalar()
        return None if text is None else json.loads(text)

    def pause(self, subject: str, *, reason: str = "", until: float | None = None) -> None:
        """Pause a source, target or pipeline; `until` in seconds since 1970."""
        with self._transaction(write=True) as connection:
            values = {"subject": subject, "reason": reason, "since": time.time(), "until": until}
            _upsert(connection, _pauses, ("subject",), values)

    def resume(self, subject: str) -> bool:
        """Take back a pause; False when there was none."""
        with self._transaction(write=True) as connection:
            return connection.execute(sa.delete(_pauses).where(_pauses.c.subject == subject)).rowcount > 0

    def pauses(self) -> list[Pause]:
        """Pauses in force now."""
        with self._transaction(write=False) as connection:
            return _pauses_in_force(connection)

    def close(self) -> None:
        """Let go of connections."""
        self._engine.dispose()


def _pauses_in_force(connection: sa.Connection) -> list[Pause]:
    rows = connection.execute(sa.select(_pauses).order_by(_pauses.c.subject)).all()
    now = time.time()
    return [
        Pause(row.subject, row.reason, row.since, row.until) for row in rows if row.until is None or row.until > now
    ]


def _upsert(connection: sa.Connection, table: sa.Table, key: Sequence[str], values: Mapping[str, Any]) -> None:
    insert: Any
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert
    others = {name: value for name, value in values.items() if name not in key}
    connection.execute(insert(table).values(**values).on_conflict_do_update(index_elements=list(key), set_=others))


def _snapshot_values(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "source": snapshot.source,
        "table_name": snapshot.table,
        "pipelines": json.dumps(snapshot.pipelines),
        "last_key": None if snapshot.last_key is None else json.dumps(snapshot.last_key),
        "rows_done": snapshot.rows_done,
        "rows_estimated": snapshot.rows_estimated,
        "started_at": snapshot.started_at,
    }


def _snapshot(row: Any) -> Snapshot:
    last_key = None if row.last_key is None else tuple(json.loads(row.last_key))
    pipelines = tuple(json.loads(row.pipelines))
    return Snapshot(row.source, row.table_name, pipelines, last_key, row.rows_done, row.rows_estimated, row.started_at)


def _sqlite_session(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_sqlite_begin` says
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "wal_autocheckpoint=0"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("sync_hub_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _unavailable(url: sa.URL, error: Exception) -> Unavailable:
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    return Unavailable(
        "state_unavailable",
        f"the hub's state at {url.render_as_string(hide_password=True)} cannot be used: {reason}",
        hint="check that it is reachable and writable, and that the disk has room",
    )
