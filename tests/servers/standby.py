"""A primary and a standby that follows it, with failover slots: what recovery and failover are tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from connectors.local_postgres import LOGICAL, LocalPostgres

SLOT = "standby"
_SETTINGS = {
    "fsync": "off",
    "hot_standby_feedback": "on",
    "primary_slot_name": SLOT,
    "sync_replication_slots": "on",
} | LOGICAL
_WAIT_SECONDS = 20


class Standby(LocalPostgres):
    """A server that starts as a copy of another one and follows it."""

    def __init__(self, folder: Path, primary: LocalPostgres) -> None:
        super().__init__(folder, settings=_SETTINGS)
        self._primary = primary

    def _create(self) -> None:
        self._prepare_folders()
        follow = f"{self._primary.dsn()}?application_name={SLOT}"
        self._run("pg_basebackup", "-D", str(self.data), "-d", follow, "-R", "-c", "fast", "-N")


class Pair:
    """Both servers. The primary commits without waiting for the standby; `catch_up` waits."""

    def __init__(self, folder: Path) -> None:
        for name in ("primary", "standby"):
            (folder / name).mkdir(parents=True)
        self.primary = LocalPostgres(folder / "primary", settings={"fsync": "off"} | LOGICAL)
        self.standby = Standby(folder / "standby", self.primary)

    def start(self) -> None:
        """Start the primary, then the standby as its copy. Blocks until both take connections."""
        self.primary.start()
        with _administrator(self.primary) as primary:
            primary.execute("select pg_create_physical_replication_slot(%s, true)", (SLOT,))
        self.standby.start()

    def stop(self) -> None:
        """Stop both at once."""
        for server in (self.standby, self.primary):
            server.stop("immediate")

    def catch_up(self) -> None:
        """Wait until the standby has everything that is in the primary's log now."""
        with _administrator(self.primary) as primary, _administrator(self.standby) as standby:
            end = primary.execute("select pg_current_wal_insert_lsn()::text").fetchall()[0][0]
            _until(standby, f"select pg_last_wal_replay_lsn() >= '{end}'::pg_lsn")

    def sync_slots(self, use: Callable[[], object]) -> None:
        """Wait until the failover slots are on the standby too.

        A slot goes over once it needs no log that the standby cannot keep any more: `use` reads and acknowledges.
        """
        synced = "select bool_and(synced and not temporary) from pg_replication_slots"
        with _administrator(self.primary) as primary, _administrator(self.standby) as standby:
            for _ in range(_WAIT_SECONDS * 10):
                if standby.execute(synced).fetchall() == [(True,)]:
                    return
                primary.execute("select pg_log_standby_snapshot()")
                use()
                standby.execute("select pg_sleep(0.1)")
        raise TimeoutError("the slots were not synchronised")

    def part(self) -> None:
        """Cut the standby off: what the primary commits from now on it does not get."""
        with _administrator(self.standby) as standby:
            standby.execute("alter system set primary_conninfo = ''")
            standby.execute("select pg_reload_conf()")
            _until(standby, "select not exists (select from pg_stat_wal_receiver)")

    def fail_over(self) -> LocalPostgres:
        """The primary is gone at once; the standby is promoted and returned."""
        self.primary.stop("immediate")
        with _administrator(self.standby) as standby:
            standby.execute("select pg_promote()")
            _until(standby, "select not pg_is_in_recovery()")
        return self.standby


@contextmanager
def pair(folder: Path) -> Iterator[Pair]:
    """A running pair in this folder (within reach of an unprivileged user), stopped at the end."""
    servers = Pair(folder)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


@contextmanager
def _administrator(server: LocalPostgres) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        yield connection


def _until(connection: psycopg.Connection[tuple[Any, ...]], question: str) -> None:
    for _ in range(_WAIT_SECONDS * 50):
        if connection.execute(question.encode()).fetchall() == [(True,)]:
            return
        connection.execute("select pg_sleep(0.02)")
    raise TimeoutError(question)
