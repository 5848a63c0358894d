"""Captured databases for the tests of the PostgreSQL source: on every version of the server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from connectors.local_postgres import LOGICAL, LocalPostgres
from connectors.sources.postgres import PostgresSource
from sync_hub.testing.source import Collector
from tests.servers.postgres import binaries, running

Database = psycopg.Connection[tuple[Any, ...]]
Capture = Callable[..., Collector]


@pytest.fixture(scope="session")
def older_servers(server_folder: Path) -> Iterator[Callable[[str], LocalPostgres]]:
    """Start a server of an older major version when it is first asked for; all stop at the end."""
    servers: dict[str, LocalPostgres] = {}
    with ExitStack() as stack:

        def server(version: str) -> LocalPostgres:
            if version not in servers:
                programs = binaries(version, server_folder)
                started = running(server_folder, f"older-{version}", LOGICAL, programs)
                servers[version] = stack.enter_context(started)
            return servers[version]

        yield server


@pytest.fixture(scope="session")
def debian_server(older_servers: Callable[[str], LocalPostgres]) -> LocalPostgres:
    """Debian's PostgreSQL 15, which has libxml."""
    return older_servers("15")


@pytest.fixture(params=["18", "17", "16", "15", "14"])
def any_server(request: pytest.FixtureRequest) -> LocalPostgres:
    """One after the other, each version of the server."""
    if request.param == "18":
        newest: LocalPostgres = request.getfixturevalue("source_server")
        return newest
    older: Callable[[str], LocalPostgres] = request.getfixturevalue("older_servers")
    return older(request.param)


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
