"""The PostgreSQL servers, and the databases of one measurement: one source, some targets."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.waiting import Failed, wait_until
from benchmarks.workloads import LAST_KEY, Connection, Events, Table, Workload
from connectors.local_postgres import BINARIES, LOGICAL, LocalPostgres

SERVER = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "logical_decoding_work_mem": "256MB",
    "checkpoint_timeout": "30min",
    "fsync": "on",
    "autovacuum": "off",
    "max_connections": "200",
}
"""Of both servers. Nothing runs on a clock of its own: it would hit the slow more often than the fast."""
ARRIVED = "arrived_at timestamptz default clock_timestamp()"
PSQL = f"{BINARIES}/psql -q -X"
FIRST_BYTES = 64 * 1024
"""So much log of the target is more than connecting and keeping books writes: rows have come."""


class Servers:
    """Two servers that stay for all measurements; databases are new for each, from templates with the rows before."""

    def __init__(self, folder: Path) -> None:
        self.source = LocalPostgres(folder / "source", settings=SERVER | LOGICAL)
        self.target = LocalPostgres(folder / "target", settings=SERVER)
        self._templates: dict[tuple[str, int], str] = {}
        for server in (self.source, self.target):
            server.folder.mkdir()
            server.start()

    def close(self) -> None:
        """Stop both servers."""
        for server in (self.source, self.target):
            server.stop("immediate")

    @contextmanager
    def databases(self, workload: Workload, rows: int) -> Iterator[Databases]:
        """A source with the rows that are there before, and targets with the same rows."""
        if (workload.name, rows) not in self._templates:
            self._forget()
            self._templates[workload.name, rows] = self._template(workload, rows)
        made = Databases(self, workload, rows, self._templates[workload.name, rows])
        try:
            yield made
        finally:
            made.close()

    def _template(self, workload: Workload, rows: int) -> str:
        name = f"t{uuid.uuid4().hex[:8]}"
        for server, extra in ((self.source, ""), (self.target, ARRIVED)):
            _administer(server, f"create database {name}")
            with psycopg.connect(server.dsn(name), autocommit=True) as connection:
                for table in workload.tables if server is self.source else workload.captured:
                    connection.execute(table.ddl(extra).encode())
        with psycopg.connect(self.source.dsn(name), autocommit=True) as connection:
            for procedure in workload.procedures:
                connection.execute(procedure.encode())
            workload.existing(connection, rows)
        for table in workload.captured:
            copy_over(table, self.source.dsn(name), self.target.dsn(name))
        for server in (self.source, self.target):
            with psycopg.connect(server.dsn(name), autocommit=True) as connection:
                connection.execute("vacuum analyze")
                connection.execute("checkpoint")
        return name

    def _forget(self) -> None:
        for name in self._templates.values():
            for server in (self.source, self.target):
                _administer(server, f"drop database {name} with (force)")
        self._templates.clear()


class Databases:
    """One source and its targets, and what is known about them from outside."""

    def __init__(self, servers: Servers, workload: Workload, rows: int, template: str) -> None:
        self.name = f"b{uuid.uuid4().hex[:8]}"
        self.workload, self.rows = workload, rows
        self.tables = workload.captured
        self._servers, self._template = servers, template
        self.target_names = [f"{self.name}_{number}" for number in range(1, workload.targets + 1)]
        _administer(servers.source, f"create database {self.name} template {template} strategy file_copy")
        for name in self.target_names:
            _administer(servers.target, f"create database {name} template {template} strategy file_copy")
        self.source_port, self.target_port = servers.source.port, servers.target.port
        self.source_dsn = servers.source.dsn(self.name)
        self.target_dsns = [servers.target.dsn(name) for name in self.target_names]
        self.source: Connection = psycopg.connect(self.source_dsn, autocommit=True)
        self.targets: list[Connection] = [psycopg.connect(dsn, autocommit=True) for dsn in self.target_dsns]
        self._first_transaction = _number(self.source, "select pg_snapshot_xmax(pg_current_snapshot())::text")
        """Rows of the template were written by older ones."""

    def change(self) -> Events:
        """Make the workload's changes; how many events they are, the last rows included."""
        events = self.workload.change(self.source, self.rows)
        return self.finish(events)

    def finish(self, events: Events) -> Events:
        """Write the last rows."""
        with self.source.transaction():
            for table in self.tables:
                self.source.execute(table.last().encode())
        return {table.name: events[table.name] + table.last_rows for table in self.tables}

    def greet(self) -> Events:
        """Write one row, for readers who have to have read something; how many events that is."""
        table = self.tables[0]
        self.source.execute(f"insert into {table.name} ({table.key}) values ({LAST_KEY - 1})".encode())
        return {table.name: 1}

    def greeted(self) -> bool:
        """Whether that row is in all targets."""
        table = self.tables[0]
        sql = f"select count(*) from {table.name} where {table.key} = {LAST_KEY - 1}"
        return all(_number(target, sql) for target in self.targets)

    def readers(self) -> int:
        """How many read this source's log now: `START_REPLICATION` was answered."""
        sql = "select count(*) from pg_replication_slots where database = current_database() and active"
        return _number(self.source, sql)

    def written_bytes(self) -> int:
        """How much log the target server has written."""
        return _number(self.targets[0], "select pg_current_wal_insert_lsn() - '0/0'")

    def arrival(self) -> Arrival:
        """What tells when all is there."""
        return Arrival(self)

    def changed_keys(self, table: Table) -> set[Any]:
        """Keys of the source's rows that were written since it was made, and of those from before that are gone."""
        there: dict[Any, bool] = dict(
            self.source.execute(
                f"select {table.key}, xmin::text::bigint >= {self._first_transaction} from {table.name}".encode()
            )
        )
        with psycopg.connect(self._servers.source.dsn(self._template)) as before:
            gone = {key for (key,) in before.execute(f"select {table.key} from {table.name}".encode())} - there.keys()
        return gone | {key for key, written in there.items() if written}

    def count(self) -> int:
        """Rows in all tables of all targets."""
        return sum(
            _number(target, f"select count(*) from {table.name}") for target in self.targets for table in self.tables
        )

    def difference(self) -> str:
        """What differs between source and targets, by row counts and checksums of their text; empty: nothing."""
        for table in self.tables:
            total = "select count(*), coalesce(sum(hashtextextended(r::text, 0)), 0)::text from "
            there = self.source.execute(f"{total} (select {table.view} from {table.name}) r".encode()).fetchone()
            for number, target in enumerate(self.targets, 1):
                here = target.execute(f"{total} (select {table.names} from {table.name}) r".encode()).fetchone()
                if here != there:
                    return f"{table.name} in target {number}: {here}, at the source: {there} (rows, checksum)"
        return ""

    def latencies_ms(self, skip: int) -> list[float]:
        """Milliseconds between the clock values of inserts at both ends, sorted, without those of the first rows."""
        sql = (
            "select extract(epoch from arrived_at - created_at) * 1000 from customers "
            f"where id > {skip} and id < {LAST_KEY - 1}"
        )
        return sorted(float(value) for (value,) in self.targets[0].execute(sql.encode()))

    def close(self) -> None:
        """Drop slots and databases."""
        for connection in (self.source, *self.targets):
            connection.close()
        for name in self.target_names:
            _administer(self._servers.target, f"drop database {name} with (force)")
        self._drop_slots()
        _administer(self._servers.source, f"drop database {self.name} with (force)")

    def _drop_slots(self) -> None:
        where = f"from pg_replication_slots where database = '{self.name}'"
        with psycopg.connect(self._servers.source.dsn(), autocommit=True) as connection:
            connection.execute(f"select pg_terminate_backend(active_pid) {where} and active".encode())

            def gone() -> bool:
                with contextlib.suppress(psycopg.errors.ObjectInUse):
                    connection.execute(f"select pg_drop_replication_slot(slot_name) {where}".encode())
                return not _number(connection, f"select count(*) {where}")

            wait_until(gone, "the replication slot dropped", timeout_seconds=30)


class Arrival:
    """Whether the last rows are in all targets. A table that has them is not asked again.

    The key's range and a plan made each time let the server take the index: a plan that was made while the table was
    empty reads all of it, and each time.
    """

    def __init__(self, databases: Databases) -> None:
        self._left = [(target, table) for target in databases.targets for table in databases.tables]

    def __call__(self) -> bool:
        """Ask those that are left, until one is not there."""
        while self._left:
            target, table = self._left[-1]
            last = LAST_KEY + table.last_rows
            sql = f"select count(*) from {table.name} where {table.key} between {LAST_KEY + 1} and {last}"
            if _number(target, sql, prepare=False) < table.last_rows:
                return False
            self._left.pop()
        return True


def copy_over(table: Table, source_dsn: str, target_dsn: str) -> None:
    """`COPY (select) | COPY` between two servers."""
    read = shlex.quote(f"copy (select {table.view} from {table.name}) to stdout")
    write = shlex.quote(f"copy {table.name} ({table.names}) from stdin")
    shell(f"{PSQL} {source_dsn} -c {read} | {PSQL} {target_dsn} -c {write}")


def shell(command: str) -> None:
    """Run a pipe of commands. Raises `Failed` with what it said."""
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], check=False, capture_output=True, text=True)
    if done.returncode:
        raise Failed(done.stderr.strip()[-300:])


def _number(connection: Connection, sql: str, *, prepare: bool | None = None) -> int:
    row = connection.execute(sql.encode(), prepare=prepare).fetchone()
    return int(row[0]) if row else 0


def _administer(server: LocalPostgres, sql: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(sql.encode())
