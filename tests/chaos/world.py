"""Everything that a chaos run may treat badly: servers behind proxies, a disk of the hub's own, and the hub."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Literal

import psycopg

from connectors.local_postgres import LOGICAL, LocalPostgres
from sync_hub import settings as configuration
from sync_hub.errors import Unavailable
from sync_hub.web.reader import HealthReader
from tests.chaos.application import ROWS, SCHEMA, TRIGGERS
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, is_alive
from tests.servers.kafka import Kafka
from tests.servers.proxy import Proxy

Broker = Literal["embedded", "kafka"]
DISK_BYTES = 160_000_000
LOCK_SECONDS = 1.5
QUICK_HEARTBEAT_SECONDS = 0.5
"""What labs have; users have two seconds where they say nothing else."""
TABLES = ("parents", "children", "items")
MAPPINGS = """
mapping: parents
from: {source: {source}, table: public.parents}
to: {target: crm, table: parent_view}
key: [id]
copy: [id, code, name, balance, big, active]
fields: {event: _event_id}
---
mapping: children
from: {source: {source}, table: public.children}
to: {target: crm, table: child_view}
key: [id]
copy: [id, parent, slot, note]
fields: {event: _event_id}
---
mapping: items
from: {source: {source}, table: public.items}
to: {target: crm, table: item_view}
key: [shop, number]
copy: [shop, number, total, note]
fields: {event: _event_id}
---
mapping: items_copy
from: {source: {source}, table: public.items}
to: {target: crm, table: item_copy, create: true}
key: [shop, number]
copy: all
---
mapping: parents_wh
from: {source: {source}, table: public.parents}
to: {target: wh, table: parent_wh}
key: [number]
fields: {number: id, title: "upper(name) || '!'", big: big, event: _event_id}
where: active
---
mapping: items_wh
from: {source: {source}, table: public.items}
to: {target: wh, table: item_wh, create: true}
key: [shop, number]
copy: all
"""
TARGET = """
create table parent_view (id bigint primary key, code text, name text, balance numeric(14,4), big text, active boolean,
    event text, unique (code) deferrable);
create table child_view (id bigint primary key, parent bigint references parent_view deferrable, slot integer,
    note text, event text);
create table item_view (shop integer, number text, total numeric, note text check (note <> 'bad'), event text,
    primary key (shop, number));
create table writes (at bigserial primary key, tbl text, op text, key text, event text);
create function audit() returns trigger language plpgsql as $$
declare r jsonb := to_jsonb(case when tg_op = 'DELETE' then old else new end);
begin
    insert into writes (tbl, op, key, event)
        values (tg_table_name, tg_op, coalesce(r ->> 'id', (r ->> 'shop') || '/' || (r ->> 'number')), r ->> 'event');
    return null;
end $$;
""" + "".join(
    f"create trigger audit after insert or update or delete on {view} for each row execute function audit();"
    for view in ("parent_view", "child_view", "item_view")
)
WAREHOUSE = """
create table parent_wh (number integer primary key, title text, big text, event text);
create table writes (at integer primary key autoincrement, key integer, event text);
create trigger inserted after insert on parent_wh begin
    insert into writes (key, event) values (new.number, new.event); end;
create trigger updated after update on parent_wh begin
    insert into writes (key, event) values (new.number, new.event); end;
"""
SETTINGS = """
retry: {first: 0.5s, factor: 1, attempts: 100000}
limits: {parked: {warn: 5000, fail: 6000, stop: 10000}, parked_share: {stop: 90%}}
"""
BROKERS = {
    "embedded": "{{type: embedded, path: {disk}/log.db, partitions: 3}}",
    "kafka": "{{type: kafka, bootstrap_servers: ['127.0.0.1:{port}'], partitions: 3, replication_factor: 1}}",
}
SERVER = {"deadlock_timeout": "100ms", "fsync": "off"}


class Server(LocalPostgres):
    """A PostgreSQL that may die at once, behind a proxy."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        folder.mkdir()
        super().__init__(folder, settings=SERVER | settings)
        self.proxy = Proxy(self.port)

    @property
    def through_proxy(self) -> str:
        """The address for the hub."""
        return self.dsn().replace(f":{self.port}/", f":{self.proxy.port}/") + "?sslmode=disable&gssencmode=disable"

    def kill(self) -> None:
        """SIGKILL to the postmaster: its children notice and go."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not is_alive(pid), "the server is gone", 10)
            (self.data / "postmaster.pid").unlink()  # the dead process may not be collected yet, and then looks alive

    def revive(self) -> None:
        """Start again where it is not there; what the last one left behind may still be in the way."""

        def started() -> bool:
            if is_up(self.dsn()):
                return True
            with contextlib.suppress(Unavailable):
                self.start()
            return is_up(self.dsn())

        wait_until(started, "the server starts again", 40)


CHECKPOINT_SECONDS = 10.0


class Disk:
    """A small disk for the hub's own files, where this machine lets us mount one; else a folder that never is full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
        self.mounted = os.geteuid() == 0 and not subprocess.run(command, check=False, capture_output=True).returncode

    def fill(self) -> None:
        """Take all that is free, and what SQLite keeps for later: else writing goes on until that is used up."""
        for path in self.folder.glob("*.db"):
            with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as database:
                end = time.monotonic() + CHECKPOINT_SECONDS
                while database.execute("pragma wal_checkpoint(truncate)").fetchone()[0] and time.monotonic() < end:
                    pass  # somebody reads or writes just now: SQLite has waited, and says so
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount, even while somebody still has a file open there."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


class WatchedLab(Lab):
    """A lab that is asked for its health again and again: it reads it as the console does, once a second."""

    reader: HealthReader | None = None

    def health(self) -> dict[str, Any]:
        """The health document, up to a second old."""
        if self.reader is None or self.reader.settings is not self.settings:
            self.reader = HealthReader(self.settings, self.state)
        return self.reader.document()


class World:
    """Servers, proxies, a disk and a hub, in one folder. `start` them; `heal` ends every fault; `close` stops all."""

    def __init__(
        self,
        broker: Broker,
        kafka: Kafka | None = None,
        kafka_proxy: Proxy | None = None,
        *,
        heartbeat_seconds: float = QUICK_HEARTBEAT_SECONDS,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sync-hub-chaos-"))
        self.folder.chmod(0o755)
        self.broker = broker
        self._heartbeat_seconds = heartbeat_seconds
        self.kafka, self.kafka_proxy = kafka, kafka_proxy
        self.source = Server(self.folder / "source", LOGICAL | {"wal_sender_timeout": "5s"})
        self.target = Server(self.folder / "target", {})
        self.disk = Disk(self.folder / "disk")
        self.name = f"c{uuid.uuid4().hex[:8]}"
        self._others: list[Lab] = []
        self.lab: Lab

    @property
    def proxies(self) -> dict[str, Proxy]:
        """What lies between the hub and each server."""
        found = {"source": self.source.proxy, "target": self.target.proxy}
        return found | {"kafka": self.kafka_proxy} if self.kafka_proxy else found

    @property
    def workers(self) -> list[str]:
        """The hub's worker processes, by name."""
        return [f"capture:{self.name}", "deliver:crm", "deliver:wh", "verify"]

    def start(self) -> None:
        """Start everything, with some rows; returns when the hub has caught up."""
        self.source.start()
        self.target.start()
        execute(self.source.dsn(), SCHEMA, TRIGGERS, ROWS)
        execute(self.target.dsn(), TARGET)
        with contextlib.closing(sqlite3.connect(self.disk.folder / "wh.db")) as warehouse:
            warehouse.executescript(WAREHOUSE)
        (self.folder / "hub").mkdir()
        (self.disk.folder / "mappings").symlink_to(self.folder / "hub" / "mappings")
        self.lab = self._lab(self.folder / "hub")
        self.lab.start()
        self.lab.settle()

    def _lab(self, folder: Path) -> Lab:
        """A hub over the same state, topics and targets; its log is outside of the disk that may be full."""
        folder.mkdir(exist_ok=True)
        port = self.kafka_proxy.port if self.kafka_proxy else 0
        lab = WatchedLab(
            folder,
            self.name,
            self.source.through_proxy,
            self.target.through_proxy,
            MAPPINGS,
            broker=BROKERS[self.broker].format(disk=self.disk.folder, port=port),
            tables=", ".join(f"public.{table}" for table in TABLES),
            home=self.disk.folder,
        )
        text = lab.config.read_text().replace(
            f"heartbeat_seconds: {QUICK_HEARTBEAT_SECONDS}", f"heartbeat_seconds: {self._heartbeat_seconds}"
        )
        text = text.replace("workers: 1}", f"workers: 1, lock_timeout_seconds: {LOCK_SECONDS}}}")
        lab.config.write_text(text + SETTINGS)
        lab.settings = configuration.load(lab.config, lab.environment)
        return lab

    def start_second_hub(self) -> None:
        """By mistake, the same configuration once more."""
        other = self._lab(self.folder / f"hub{len(self._others) + 2}")
        self._others.append(other)
        with contextlib.suppress(AssertionError):  # it may find a disk that is full, say
            other.start()

    def stop_second_hubs(self) -> None:
        """Somebody noticed."""
        for other in self._others:
            if other.process is not None and other.process.poll() is None:
                other.stop()

    def pid(self, worker: str) -> int | None:
        """The process that beat last under a name, if it is there."""
        pid = self.lab.pids().get(worker)
        return pid if pid and is_alive(pid) else None

    def kill_hub(self) -> None:
        """SIGKILL to the supervisor."""
        if self.lab.process is not None:
            self.lab.process.kill()
            self.lab.process.wait()

    def revive_hub(self) -> None:
        """Start the hub, as its init system would: until it stays."""

        def started() -> bool:
            if self.lab.process is not None and self.lab.process.poll() is None:
                return True
            with contextlib.suppress(AssertionError):
                self.lab.start()
            return self.lab.process is not None and self.lab.process.poll() is None

        wait_until(started, "the hub starts again", 40)

    def heal(self) -> None:
        """No fault is left after this."""
        for proxy in self.proxies.values():
            proxy.set("pass")
        self.disk.free()
        for server in (self.source, self.target):
            server.revive()
        if self.kafka is not None and self.kafka.process is None:
            self.kafka.start()
        self.stop_second_hubs()
        self.revive_hub()

    def close(self, *, keep: bool = False) -> None:
        """Stop everything; the folder stays where `keep` says so."""
        if keep and self.disk.mounted:
            shutil.copytree(self.disk.folder, self.folder / "disk-kept", symlinks=True, ignore_dangling_symlinks=True)
        for lab in [*self._others, *([self.lab] if hasattr(self, "lab") else [])]:
            self._end(lab)
        for server in (self.source, self.target):
            server.stop("immediate")
            server.proxy.close()
        self.disk.close()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, lab: Lab) -> None:
        """Kill a hub; its workers notice and go."""
        pids: dict[str, Any] = {}
        with contextlib.suppress(Exception):
            pids = lab.pids()
        lab.close()
        for pid in pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)


def is_up(dsn: str) -> bool:
    """Whether the server takes connections."""
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def rows(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    """The answer of a server that is healthy."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(statement.encode()).fetchall()
