"""Servers that a test may stop, start and lock: other tests keep theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from connectors.local_postgres import LOGICAL, LocalPostgres
from tests.servers.postgres import running


@pytest.fixture(scope="session")
def own_server(server_folder: Path) -> Iterator[LocalPostgres]:
    """A PostgreSQL with logical decoding that asks the role `guarded` for its password, `right`."""
    with running(server_folder, "own", LOGICAL | {"max_connections": "60"}) as server:
        hba = server.data / "pg_hba.conf"
        hba.write_text("host all,replication guarded 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("create role guarded login replication password 'right'")
            connection.execute("select pg_reload_conf()")
        yield server


@pytest.fixture(scope="session")
def own_target(server_folder: Path) -> Iterator[LocalPostgres]:
    """A PostgreSQL that receives, and that a test may stop."""
    with running(server_folder, "own-target") as server:
        yield server
