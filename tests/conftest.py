"""Fixtures that start real servers, once for each test process (Kafka: once for all)."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from connectors.local_postgres import LOGICAL, LocalPostgres
from tests.servers.kafka import SharedKafka


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder that an unprivileged server process can reach."""
    folder = Path(tempfile.mkdtemp(prefix="sync-hub-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _server(folder: Path, name: str, settings: dict[str, str]) -> Iterator[LocalPostgres]:
    server = LocalPostgres(folder / name, settings={"fsync": "off"} | settings)
    (folder / name).mkdir()
    server.start()
    yield server
    server.stop("immediate")


@pytest.fixture(scope="session")
def source_server(server_folder: Path) -> Iterator[LocalPostgres]:
    """A PostgreSQL 18 with logical decoding."""
    yield from _server(server_folder, "source", LOGICAL | {"max_prepared_transactions": "5"})


@pytest.fixture(scope="session")
def target_server(server_folder: Path) -> Iterator[LocalPostgres]:
    """A PostgreSQL 18 that receives."""
    yield from _server(server_folder, "target", {})


def _database(server: LocalPostgres) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
    yield server.dsn(name)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where database = %s and active", (name,)
        )
        for (slot,) in connection.execute("select slot_name from pg_replication_slots where database = %s", (name,)):
            _drop_slot(connection, slot)
        connection.execute(f'drop database if exists "{name}" with (force)')


def _drop_slot(connection: psycopg.Connection[tuple[object, ...]], slot: str) -> None:
    """Drop a slot whose walsender may still be going down."""
    for _ in range(200):
        try:
            connection.execute("select pg_drop_replication_slot(%s)", (slot,))
        except psycopg.errors.ObjectInUse:
            connection.execute("select pg_sleep(0.05)")
        else:
            return


@pytest.fixture
def source_dsn(source_server: LocalPostgres) -> Iterator[str]:
    """A fresh database for one test, on the server with logical decoding."""
    yield from _database(source_server)


@pytest.fixture
def target_dsn(target_server: LocalPostgres) -> Iterator[str]:
    """A fresh database for one test."""
    yield from _database(target_server)


@pytest.fixture(scope="session")
def kafka_address(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[str]:
    """`host:port` of a real Apache Kafka: SYNC_HUB_TEST_KAFKA, or one that the tests start."""
    given = os.environ.get("SYNC_HUB_TEST_KAFKA")
    if given:
        yield given
        return
    folder = tmp_path_factory.getbasetemp()
    shared = SharedKafka(folder if worker_id == "master" else folder.parent)
    address = shared.acquire()
    yield address
    shared.release()


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Make names that no other test uses: `unique("customers")` → `customers_3f2a…`."""
    return lambda name: f"{name}_{uuid.uuid4().hex[:10]}"
