"""Servers, configuration and workers of one benchmark; the workers are those that `run` starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from connectors.local_postgres import BINARIES, LOGICAL, LocalPostgres
from sync_hub import settings as configuration
from sync_hub.runtime.pipelines import register
from sync_hub.runtime.supervise import Child, stop_all
from sync_hub.state import State

CUSTOMERS = """
create table customers (
    id bigint primary key, first_name text, last_name text, email text, phone text, balance numeric(12,2),
    country_code char(2), active boolean, notes text, created_at timestamptz, updated_at timestamptz)
"""
VIEW = """
create table customer_view (
    id bigint primary key, first_name text, last_name text, email text, phone text, balance numeric(12,2),
    country_code char(2), active boolean, notes text, created_at timestamptz, updated_at timestamptz,
    arrived_at timestamptz default clock_timestamp())
"""
INSERT = """
insert into customers
select n, 'First' || n, 'Last' || n, 'first.last' || n || '@example.com', '+64 21 ' || n, n %% 100000 + 0.25, 'NZ',
       n %% 7 > 0, 'Some notes about customer number ' || n, clock_timestamp(), clock_timestamp()
from generate_series(%s::bigint, %s::bigint) n
"""
MAPPING = """
mapping: customers
from: {source: SOURCE, table: public.customers}
to: {target: target, table: customer_view}
key: [id]
copy: all
"""
APPLIED = """
select coalesce(sum(next_offset), 0)::bigint from sync_hub_offsets where topic not like '%#copied'
"""
PSQL = f"{BINARIES}/psql -q -X"
SERVER = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min", "fsync": "on"}


class Rig:
    """Two PostgreSQL servers that stay for all legs; databases, topics and state are new for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = LocalPostgres(folder / "source", settings=SERVER | LOGICAL)
        self.target = LocalPostgres(folder / "target", settings=SERVER)
        for server in (self.source, self.target):
            server.folder.mkdir()
            server.start()

    def close(self) -> None:
        """Stop both servers."""
        for server in (self.source, self.target):
            server.stop("immediate")

    @contextmanager
    def run(self, broker: str) -> Iterator[Run]:
        """A fresh hub on fresh databases."""
        run = Run(self, broker)
        try:
            yield run
        finally:
            run.close()


class Run:
    """One hub: its source and target databases and its workers."""

    def __init__(self, rig: Rig, broker: str) -> None:
        self.name = f"b{uuid.uuid4().hex[:8]}"
        self.folder = Path(tempfile.mkdtemp(dir=rig.folder))
        self._rig = rig
        for server, ddl in ((rig.source, CUSTOMERS), (rig.target, VIEW)):
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute(f"create database {self.name}")
            with psycopg.connect(server.dsn(self.name), autocommit=True) as connection:
                connection.execute(ddl)
        self.source_dsn, self.target_dsn = rig.source.dsn(self.name), rig.target.dsn(self.name)
        (self.folder / "mappings").mkdir()
        (self.folder / "mappings" / "customers.yaml").write_text(MAPPING.replace("SOURCE", self.name))
        config = self.folder / "hub.yaml"
        config.write_text(
            f"hub: {{name: {self.name}, state: 'sqlite:///{self.folder}/state.db'}}\n"
            f"broker: {broker.replace('FOLDER', str(self.folder))}\n"
            f"sources: {{{self.name}: {{type: postgres, dsn: '{self.source_dsn}', tables: [public.customers]}}}}\n"
            f"targets: {{target: {{type: postgres, dsn: '{self.target_dsn}'}}}}\n"
            f"mappings: ['{self.folder}/mappings']\n"
            "verify: {every: 1s}\n"
        )
        self.settings = configuration.load(config)
        self.state = State(self.settings.hub.state)
        register(self.settings, self.state)
        self._children: dict[str, Child] = {}
        self.peak_bytes: dict[str, int] = {}

    def start(self, *kinds: str) -> None:
        """Start workers: `capture`, `deliver`, `verify`."""
        names = {"capture": f"capture:{self.name}", "deliver": "deliver:target", "verify": "verify"}
        for kind in kinds:
            self._children[kind] = Child(names[kind], self.settings.file)
            self._children[kind].start()

    def stop(self, *kinds: str) -> None:
        """Stop workers and note the most memory they took (VmHWM)."""
        for kind in kinds:
            child = self._children.pop(kind)
            self.peak_bytes[kind] = _peak_bytes(child.pid)
            stop_all([child], threading.Event())

    def wait_loaded(self) -> None:
        """Wait until the pipeline streams: its existing rows, none, are loaded."""
        wait_until(lambda: all(pipeline.phase == "loaded" for pipeline in self.state.pipelines()))

    def insert(self, first: int, last: int, per_transaction: int = 1000) -> None:
        """Insert customers in transactions of 1,000."""
        with psycopg.connect(self.source_dsn, autocommit=True) as connection:
            for start in range(first, last + 1, per_transaction):
                connection.execute(INSERT, (start, min(last, start + per_transaction - 1)))

    def copy_both(self) -> float:
        """Seconds that it takes to COPY source table and view to nowhere, one after the other."""
        started = time.monotonic()
        for dsn, table in ((self.source_dsn, "customers"), (self.target_dsn, "customer_view")):
            _shell(f"{PSQL} {dsn} -c 'copy {table} to stdout' > /dev/null")
        return time.monotonic() - started

    def copy_over(self) -> float:
        """Seconds that `COPY (select) | COPY` takes between the two servers, into a table like the view."""
        with psycopg.connect(self.target_dsn, autocommit=True) as connection:
            connection.execute("create table copied (like customer_view including all)")
        columns = (
            "id, first_name, last_name, email, phone, balance, country_code, active, notes, created_at, updated_at"
        )
        started = time.monotonic()
        _shell(
            f"{PSQL} {self.source_dsn} -c 'copy (select {columns} from customers) to stdout'"
            f" | {PSQL} {self.target_dsn} -c 'copy copied ({columns}) from stdin'"
        )
        return time.monotonic() - started

    def published(self) -> int:
        """Records in the topic."""
        broker = self.settings.new_broker()
        try:
            topic = f"{self.name}.public.customers"
            starts = broker.start_offsets(topic)
            return sum(end - starts[partition] for partition, end in broker.end_offsets(topic).items())
        finally:
            broker.close()

    def applied(self) -> int:
        """Rows that the offsets in the target have passed."""
        with psycopg.connect(self.target_dsn) as connection:
            row = connection.execute(APPLIED).fetchone()
            return int(row[0]) if row else 0

    def rows(self) -> int:
        """Rows in the view."""
        with psycopg.connect(self.target_dsn) as connection:
            row = connection.execute("select count(*) from customer_view").fetchone()
            return int(row[0]) if row else 0

    def equal(self) -> bool:
        """Whether source and view hold the same values, by checksum of their text."""
        sql = "select count(*), sum(hashtextextended(concat_ws('|', id, first_name, last_name, email, phone, balance, "
        sql += "country_code, active, notes, created_at, updated_at), 0)) from "
        with psycopg.connect(self.source_dsn) as source, psycopg.connect(self.target_dsn) as target:
            return source.execute(sql + "customers").fetchone() == target.execute(sql + "customer_view").fetchone()

    def close(self) -> None:
        """Stop workers; drop slot, databases and files."""
        self.stop(*list(self._children))
        self.state.close()
        with psycopg.connect(self._rig.source.dsn(), autocommit=True) as connection:
            connection.execute(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s",
                (self.name,),
            )
        for server in (self._rig.source, self._rig.target):
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute(f"drop database {self.name} with (force)")
        shutil.rmtree(self.folder)


def _shell(command: str) -> None:
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True, stdout=subprocess.DEVNULL)


def wait_until(condition: object, timeout_seconds: float = 300) -> None:
    """Poll every 10 ms until the condition holds."""
    assert callable(condition)
    end = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the benchmark did not get where it should")
        time.sleep(0.01)


def _peak_bytes(pid: int | None) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines() if pid and os.path.exists(f"/proc/{pid}") else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
