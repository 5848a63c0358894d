"""Fixtures that start real servers, once for each test process (Kafka: once for all)."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connectors.local_postgres import LOGICAL, LocalPostgres
from tests.servers.kafka import SharedKafka
from tests.servers.postgres import database, running

REPEATED_LINES = 40


def pytest_configure() -> None:
    """Take interrupts, and have those who are started take them: a shell has its background jobs ignore them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell why a test had to be repeated, also when it passed in the end: that may be a defect that is seldom seen."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"repeated: {report.nodeid}", sep="-")
        terminalreporter.write_line("\n".join(report.longreprtext.splitlines()[-REPEATED_LINES:]))


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder that an unprivileged server process can reach."""
    folder = Path(tempfile.mkdtemp(prefix="sync-hub-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def source_server(server_folder: Path) -> Iterator[LocalPostgres]:
    """A PostgreSQL 18 with logical decoding."""
    with running(server_folder, "source", LOGICAL | {"max_prepared_transactions": "5"}) as server:
        yield server


@pytest.fixture(scope="session")
def target_server(server_folder: Path) -> Iterator[LocalPostgres]:
    """A PostgreSQL 18 that receives."""
    with running(server_folder, "target") as server:
        yield server


@pytest.fixture
def source_dsn(source_server: LocalPostgres) -> Iterator[str]:
    """A fresh database for one test, on the server with logical decoding."""
    with database(source_server) as dsn:
        yield dsn


@pytest.fixture
def target_dsn(target_server: LocalPostgres) -> Iterator[str]:
    """A fresh database for one test."""
    with database(target_server) as dsn:
        yield dsn


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
