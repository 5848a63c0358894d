"""Captured databases for the tests of the PostgreSQL source: on the newest server, and on Debian's PostgreSQL 15."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from connectors.local_postgres import LOGICAL, LocalPostgres
from connectors.sources.postgres import PostgresSource
from sync_hub.testing.source import Collector
from tests.servers.kafka import unavailable

Database = psycopg.Connection[tuple[Any, ...]]
Capture = Callable[..., Collector]

DEBIAN_BINARIES = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="session")
def debian_server(server_folder: Path) -> Iterator[LocalPostgres]:
    """A PostgreSQL 15 with logical decoding; skips where it is not installed, fails where CI is set."""
    if not (DEBIAN_BINARIES / "postgres").exists():
        unavailable("PostgreSQL 15 is not installed: apt-get install postgresql-15")
    folder = server_folder / "debian"
    folder.mkdir()
    server = LocalPostgres(folder, settings={"fsync": "off"} | LOGICAL, binaries=DEBIAN_BINARIES)
    server.start()
    yield server
    server.stop("immediate")


@pytest.fixture(params=["18", "15"])
def any_server(request: pytest.FixtureRequest) -> LocalPostgres:
    """One after the other, each version of the server."""
    name = "source_server" if request.param == "18" else "debian_server"
    server: LocalPostgres = request.getfixturevalue(name)
    return server


@pytest.fixture
def any_dsn(any_server: LocalPostgres) -> Iterator[str]:
    """A fresh database on each version of the server."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(any_server.dsn(), autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
    yield any_server.dsn(name)
    with psycopg.connect(any_server.dsn(), autocommit=True) as connection:
        drop_slots(connection, name)
        connection.execute(f'drop database if exists "{name}" with (force)')


def drop_slots(connection: Database, database: str) -> None:
    """Drop a database's slots, ending whoever still reads them."""
    for _ in range(200):
        rows = connection.execute(
            "select slot_name, active_pid, pg_terminate_backend(active_pid)"
            " from pg_replication_slots where database = %s",
            (database,),
        ).fetchall()
        if not rows:
            return
        for slot, pid, _ in rows:
            if pid is None:
                connection.execute("select pg_drop_replication_slot(%s)", (slot,))
        connection.execute("select pg_sleep(0.02)")


@pytest.fixture
def capture() -> Iterator[Capture]:
    """Make an opened source: `capture(dsn, "public.t", position=None, **options)`; all are closed at the end."""
    sources: list[PostgresSource] = []

    def make(dsn: str, *tables: str, position: str | None = None, opened: bool = True, **options: Any) -> Collector:
        options.setdefault("tables", list(tables))
        source = PostgresSource("erp", PostgresSource.Options(dsn=dsn, **options), "test")
        sources.append(source)
        collector = Collector(source)
        if opened:
            collector.position = source.open(position)
        return collector

    yield make
    for source in sources:
        source.close()


@pytest.fixture
def db(source_dsn: str) -> Iterator[Database]:
    """A connection of the application to the newest server's fresh database."""
    with psycopg.connect(source_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def any_db(any_dsn: str) -> Iterator[Database]:
    """A connection of the application to a fresh database on each version of the server."""
    with psycopg.connect(any_dsn, autocommit=True) as connection:
        yield connection
