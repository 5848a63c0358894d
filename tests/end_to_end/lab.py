"""A hub between databases that tests may treat badly: what every test of operation needs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from sync_hub.state_snapshots import new_id
from sync_hub.state_verifications import Report, Verification, VerificationOptions
from tests.end_to_end.hub import Hub, wait_until
from tests.end_to_end.workload import Writer

CONFIG = """\
hub: {{name: {name}, state: "sqlite:///{folder}/state.db"}}
broker: {broker}
sources:
  {name}:
    type: postgres
    dsn: "{source}"
    heartbeat_seconds: 0.5
    tables: [{tables}]
targets:
  crm: {{type: postgres, dsn: "{target}", workers: {workers}}}
  wh: {{type: sqlite, path: {folder}/wh.db}}
mappings: [{folder}/mappings]
http: {{port: {port}}}
"""


class Lab(Hub):
    """A source with tables, a PostgreSQL target `crm`, a SQLite target `wh`; hub and source have the same `name`.

    `home` is the folder of another lab whose state, topics and mappings this one shares.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        source: str,
        target: str,
        mappings: str,
        *,
        broker: str = "",
        tables: str = "public.accounts, public.orders",
        workers: int = 1,
        port: int = 0,
        home: Path | None = None,
    ) -> None:
        self.name, self.source, self.target = name, source, target
        broker = broker or f"{{type: embedded, path: {home or folder}/log.db, partitions: 3}}"
        config = CONFIG.format(
            folder=home or folder,
            name=name,
            source=source,
            target=target,
            broker=broker,
            tables=tables,
            workers=workers,
            port=port,
        )
        super().__init__(folder, config, mappings.replace("{source}", name))

    def alive(self) -> list[int]:
        """Processes of workers that are still there."""
        return [pid for pid in self.pids().values() if is_alive(pid)]

    def until(self, rows: list[Any], statement: str, dsn: str = "", timeout_seconds: float = 40) -> None:
        """Wait until the target answers a statement with these rows."""
        seen: list[Any] = []

        def same() -> bool:
            seen[:] = query(dsn or self.target, statement)
            return seen == rows

        try:
            wait_until(same, f"{statement} gives {rows}", timeout_seconds)
        except AssertionError as error:
            shown = json.dumps(self.health()["problems"], indent=1)
            raise AssertionError(f"{error}, but {seen}\n{shown}\n{self.log()[-3000:]}") from error

    def state_of(self, pipeline: str) -> str:
        """What health says that a pipeline does."""
        return str(self.health()["pipelines"][pipeline]["state"])

    def becomes(self, pipeline: str, state: str) -> dict[str, Any]:
        """Wait until a pipeline is in a state; returns what health says about it."""
        try:
            wait_until(lambda: self.state_of(pipeline) == state, f"{pipeline} is {state}", 30)
        except AssertionError as error:
            shown = json.dumps(self.health()["pipelines"], indent=1)
            raise AssertionError(f"{error}: {shown}\n{self.log()[-3000:]}") from error
        return dict(self.health()["pipelines"][pipeline])

    def problem(self, code: str, subject: str) -> dict[str, Any]:
        """Wait for a problem of health."""

        def found() -> dict[str, Any] | None:
            problems = self.health()["problems"]
            return next((one for one in problems if (one["code"], one["subject"]) == (code, subject)), None)

        try:
            return dict(wait_until(found, f"{code} of {subject}", 30))
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(self.health()['problems'], indent=1)}") from error

    def resume(self, name: str) -> str:
        """`sync-hub resume`; returns what it said."""
        done = self.cli("resume", name)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def verify(self, *pipelines: str, **options: Any) -> list[Report]:
        """Have pipelines verified, and wait for the reports."""
        finished = self.verified(*pipelines, **options)
        assert [one.state for one in finished] == ["done"] * len(finished), f"{finished}\n{self.log()[-3000:]}"
        return [one.report for one in finished]

    def verified(self, *pipelines: str, **options: Any) -> list[Verification]:
        """Have pipelines verified, and wait until that has come to an end, whichever."""
        chosen = VerificationOptions(**options)
        asked = [Verification(new_id(), name, options=chosen, asked_at=time.time()) for name in pipelines]
        self.state.verifications.ask(asked)
        names = [one.id for one in asked]

        def done() -> list[Verification]:
            found = {one.id: one for one in self.state.verifications.find(names)}
            return [found[name] for name in names] if all(one.finished_at for one in found.values()) else []

        try:
            return list(wait_until(done, "verified", 60))
        except AssertionError as error:
            found = self.state.verifications.find(names)
            raise AssertionError(f"{error}: {found}\n{self.log()[-3000:]}") from error

    def agrees(self) -> None:
        """Everything is applied, and every view is what its mapping makes of its source."""
        self.settle()
        for comparison in self.compare():
            assert comparison.agrees, comparison

    @contextlib.contextmanager
    def load(self, seed: int = 1) -> Iterator[None]:
        """An application that changes the source all the while."""
        writer = PatientWriter(self.source, seed)
        writer.start()
        try:
            yield
        finally:
            writer.stop()


class PatientWriter(Writer):
    """An application that connects again when its server comes back."""

    def run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(psycopg.OperationalError):
                super().run()
            if isinstance(self.error, psycopg.OperationalError):
                self.error = None
                self._stopping.wait(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that stands still, as on a machine that hangs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def execute(dsn: str, *statements: str) -> None:
    """Run statements, each committed by itself."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def query(dsn: str, statement: str) -> list[Any]:
    """The answer; none where the hub has not yet created the table."""
    with psycopg.connect(dsn) as connection, contextlib.suppress(psycopg.errors.UndefinedTable):
        return connection.execute(statement).fetchall()
    return []


def moment(seconds: float) -> None:
    """Let the application work a while: not a wait for something."""
    threading.Event().wait(seconds)
