"""What bounds everybody: PostgreSQL's own logical replication, pg_recvlogical to nowhere, and COPY | COPY."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

from psycopg import Connection

from benchmarks.databases import Databases, copy_over
from benchmarks.processes import Usage, usage
from benchmarks.waiting import Failed
from benchmarks.workloads import Events
from connectors.local_postgres import BINARIES


class _Idle:
    """A session that has nothing to do at most steps."""

    readers = 1
    unproven = ""

    def __init__(self, databases: Databases) -> None:
        self.databases = databases

    def prepare(self, leg: str) -> Events:
        """Nothing."""
        return {}

    def start(self, *parts: str) -> None:
        """Nothing."""

    def wait_delivering(self) -> None:
        """It delivers while it reads."""

    def stop(self, *parts: str) -> None:
        """Nothing."""

    def captured(self, events: Events) -> bool:
        """Never asked."""
        raise Failed("it has no topics")

    def difference(self, events: Events) -> str:
        """Never asked."""
        raise Failed("it has no topics")

    def load(self) -> float:
        """Nothing that could be loaded."""
        raise Failed("it loads nothing")

    def usage(self, parts: Sequence[str]) -> Usage:
        """Its work is done by the servers."""
        return Usage()

    def check(self) -> None:
        """It cannot fail by itself."""

    def close(self) -> None:
        """Nothing is left."""


class _Subject:
    def warm_up(self) -> bool:
        """Nothing outlives a session."""
        return False

    def close(self) -> None:
        """Nothing outlives a session."""


class ReplicationSubject(_Subject):
    """CREATE PUBLICATION and CREATE SUBSCRIPTION, with their defaults: large transactions are applied in parallel."""

    name = "postgres"
    legs = frozenset({"end-to-end", "snapshot", "latency"})

    def session(self, databases: Databases) -> _Replication:
        """Subscriptions of its own."""
        return _Replication(databases)


class _Replication(_Idle):
    def __init__(self, databases: Databases) -> None:
        super().__init__(databases)
        self.readers = len(databases.targets)

    def prepare(self, leg: str) -> Events:
        """Slots, and subscriptions that wait."""
        self._subscribe("copy_data = false, enabled = false, create_slot = false")
        return {}

    def _subscribe(self, options: str) -> None:
        made = self.databases
        names = ", ".join(table.name for table in made.tables)
        made.source.execute(f"create publication bench for table {names}".encode())
        for target, name in zip(made.targets, made.target_names, strict=True):
            made.source.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
            target.execute(
                f"create subscription {name} connection '{made.source_dsn}' publication bench "
                f"with ({options}, slot_name = {name})".encode()
            )

    def start(self, *parts: str) -> None:
        """Enable the subscriptions: both parts are one."""
        if "capture" in parts:
            self._alter("enable")

    def stop(self, *parts: str) -> None:
        """Disable them."""
        if "capture" in parts:
            self._alter("disable")

    def load(self) -> float:
        """From the command on."""
        started = time.monotonic()
        self._subscribe("copy_data = true, create_slot = false")
        return started

    def close(self) -> None:
        """Drop the subscriptions; their slots go with the database."""
        for target, name in self._subscriptions():
            target.execute(f"alter subscription {name} disable".encode())
            target.execute(f"alter subscription {name} set (slot_name = none)".encode())
            target.execute(f"drop subscription {name}".encode())

    def _alter(self, how: str) -> None:
        for target, name in self._subscriptions():
            target.execute(f"alter subscription {name} {how}".encode())

    def _subscriptions(self) -> list[tuple[Connection[tuple[object, ...]], str]]:
        sql = (
            "select subname from pg_subscription s join pg_database d on d.oid = s.subdbid "
            "where datname = current_database()"
        )
        return [(target, str(name)) for target in self.databases.targets for (name,) in target.execute(sql)]


class ReceiverSubject(_Subject):
    """pg_recvlogical with pgoutput, to nowhere: what the server gives."""

    name = "pg_recvlogical"
    legs = frozenset({"capture"})

    def session(self, databases: Databases) -> _Receiver:
        """A slot of its own."""
        return _Receiver(databases)


class _Receiver(_Idle):
    unproven = "it keeps no rows; it read the log up to its end"

    def __init__(self, databases: Databases) -> None:
        super().__init__(databases)
        self._process: subprocess.Popen[bytes] | None = None
        self._used = Usage()
        self._command = [str(BINARIES / "pg_recvlogical"), "-d", databases.source_dsn, "-S", databases.name]

    def prepare(self, leg: str) -> Events:
        """A publication and a slot."""
        names = ", ".join(table.name for table in self.databases.tables)
        self.databases.source.execute(f"create publication bench for table {names}".encode())
        subprocess.run([*self._command, "--create-slot", "-P", "pgoutput"], check=True, capture_output=True)
        return {}

    def start(self, *parts: str) -> None:
        """Read up to the log's end as it is now."""
        row = self.databases.source.execute("select pg_current_wal_flush_lsn()::text").fetchone()
        assert row
        options = ["--start", "--no-loop", "-o", "proto_version=1", "-o", "publication_names=bench", "-f", "/dev/null"]
        self._process = subprocess.Popen([*self._command, *options, f"--endpos={row[0]}"], stderr=subprocess.PIPE)

    def captured(self, events: Events) -> bool:
        """When it has ended."""
        assert self._process
        self._used = max(self._used, usage([self._process.pid]))
        if self._process.poll():
            assert self._process.stderr
            raise Failed(self._process.stderr.read().decode()[-300:])
        return self._process.returncode == 0

    def usage(self, parts: Sequence[str]) -> Usage:
        """As it was when last looked at."""
        return self._used

    def close(self) -> None:
        """End it, if it has not."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class CopySubject(_Subject):
    """COPY (select) at the source, COPY into the target: what loading costs at least."""

    name = "copy"
    legs = frozenset({"snapshot"})

    def session(self, databases: Databases) -> _Copy:
        """Two processes of psql."""
        return _Copy(databases)


class _Copy(_Idle):
    def load(self) -> float:
        """All of it, table by table."""
        started = time.monotonic()
        for dsn in self.databases.target_dsns:
            for table in self.databases.tables:
                copy_over(table, self.databases.source_dsn, dsn)
        return started
