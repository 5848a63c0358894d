"""SQLite files that several processes write: one way to open, lock, write and checkpoint them, and to read errors.

Every writer takes an operating system lock on `<file>-lock`, then `BEGIN IMMEDIATE` (a deferred BEGIN can fail with
BUSY_SNAPSHOT, which no timeout cures). Checkpoints run under the same lock and nowhere else: SQLite 3.7.0 to 3.51.2
can corrupt the file when a checkpoint and a writer that resets the log meet, and with SQLite's own busy handler alone
three writers saw pauses of 140 ms and a log of 129 MB.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from sync_hub.errors import Fatal, Rejected, SyncHubError, Unavailable

CHECKPOINT_PAGES = 1000
"""The write-ahead log is copied into the file when it has grown beyond this many pages (4 MB)."""

_RETRY_SECONDS = 0.0005
_RETRY_AT_MOST_SECONDS = 0.01


class WriteLock:
    """The lock of one file between processes and between connections of one process; not re-entrant.

    Entering blocks up to `timeout_seconds`, then raises `Unavailable`. A process that dies lets go of it.
    """

    def __init__(self, path: Path, *, timeout_seconds: float = 10.0) -> None:
        self.path = Path(path)
        self._lock_path = self.path.with_name(self.path.name + "-lock")
        self._timeout_seconds = timeout_seconds
        self._file: int | None = None

    def __enter__(self) -> WriteLock:
        if self._file is None:
            self._file = self._open()
        end = time.monotonic() + self._timeout_seconds
        pause = _RETRY_SECONDS
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise Unavailable(
                        "database_busy",
                        f"{self.path} has been locked by another process for {self._timeout_seconds:g} seconds",
                        hint="another worker writes slowly or hangs; it is tried again",
                    ) from None
                time.sleep(pause)
                pause = min(pause * 1.3, _RETRY_AT_MOST_SECONDS)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def exists(self) -> bool:
        """Whether the lock's file is there: somebody has written to the database through it."""
        return self._lock_path.exists()

    def close(self) -> None:
        """Let go of the lock file. Safe to call twice."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        try:
            return os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _cannot_open(self.path, error) from error


def connect(path: Path, lock: WriteLock, *, timeout_seconds: float = 10.0) -> sqlite3.Connection:
    """Open a file for reading and writing, creating it and its folder; transactions are begun explicitly.

    WAL mode, synchronous=FULL, automatic checkpoints only within `write_transaction`. Close it with `close`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_open(path, error) from error
    with lock, translated(path):
        connection = sqlite3.connect(path, timeout=timeout_seconds, isolation_level=None, cached_statements=512)
        try:
            connection.execute("pragma wal_autocheckpoint = 0")
            if connection.execute("pragma journal_mode").fetchone()[0] != "wal":
                connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
            connection.execute("pragma foreign_keys = on")
        except sqlite3.Error:
            connection.close()
            raise
    return connection


def refuse_uncreatable(path: Path) -> None:
    """Raise `Unavailable` when a file that is not there could not be made; nothing is left behind by asking."""
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _cannot_open(path, error) from error


def look(path: Path) -> sqlite3.Connection:
    """Open an existing file that nobody writes through a `WriteLock`, to read it: it stays as it is."""
    with translated(path):
        return sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)


def identity(path: Path) -> tuple[int, int]:
    """Which file the path leads to now; zeros where there is none. It differs after the file was moved or replaced."""
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def close(connection: sqlite3.Connection, lock: WriteLock) -> None:
    """Close a connection under the lock: the last one to close checkpoints. Safe to call twice."""
    with lock:
        connection.close()
    lock.close()


@contextmanager
def write_transaction(connection: sqlite3.Connection, lock: WriteLock) -> Iterator[sqlite3.Connection]:
    """One transaction under the lock, committed durably at the end of the block, rolled back on any exception.

    Errors of SQLite come out as `classify` has them. When this raises, nothing of the block may be taken as written.
    """
    with lock, translated(lock.path):
        connection.execute(f"pragma wal_autocheckpoint = {CHECKPOINT_PAGES}")
        try:
            connection.execute("begin immediate")
            yield connection
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        finally:
            connection.execute("pragma wal_autocheckpoint = 0")


@contextmanager
def read_transaction(connection: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """One snapshot for several statements. Keep it short: an open one keeps the write-ahead log from shrinking."""
    with translated(path):
        connection.execute("begin")
        try:
            yield connection
        finally:
            if connection.in_transaction:
                connection.execute("rollback")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors within the block into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise classify(error, path) from error


def classify(error: sqlite3.Error, path: Path | str = "") -> SyncHubError:
    """What an error of SQLite means to the hub.

    Busy, full disk, I/O and not accessible: `Unavailable`. A value the schema refuses: `Rejected` (`sqlstate` holds
    SQLite's name, `SQLITE_CONSTRAINT_UNIQUE` for example). A damaged file, or SQL that does not fit: `Fatal`.
    """
    name = getattr(error, "sqlite_errorname", "") or ""
    file = f"{path}: " if path else ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Unavailable("database_busy", f"{file}{error}", hint="another process writes; it is tried again")
    if name == "SQLITE_FULL":
        return Unavailable(
            "disk_full", f"{file}no space left: {error}", hint="free space on this disk; nothing is lost meanwhile"
        )
    if name.startswith("SQLITE_IOERR"):
        return Unavailable("disk_error", f"{file}{error} ({name})", hint="look at the disk, its space and its quota")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return Unavailable(
            "database_not_accessible", f"{file}{error}", hint="the file and its folder must be writable for this user"
        )
    if name.startswith(("SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_TOOBIG")):
        return _refused(name, f"{file}{error}")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")):
        return Fatal("database_damaged", f"{file}{error}", hint="restore it from a backup, or move it away and reload")
    return Fatal("database_error", f"{file}{error}{f' ({name})' if name else ''}")


def _refused(name: str, message: str) -> Rejected:
    """What refuses a row: the names of codes are those of other targets."""
    if name in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"):
        return Rejected("unique_violated", message, sqlstate=name)
    if name == "SQLITE_CONSTRAINT_FOREIGNKEY":
        return Rejected("foreign_key_violated", message, sqlstate=name)
    if name == "SQLITE_CONSTRAINT_CHECK":
        return Rejected("check_violated", message, sqlstate=name)
    if name == "SQLITE_CONSTRAINT_NOTNULL":
        return Rejected("not_null_violated", message, sqlstate=name)
    return Rejected("constraint_violated", message, sqlstate=name)


def _cannot_open(path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        "database_not_accessible",
        f"{path}: {error.strerror or error}",
        hint="the file and its folder must be writable for this user",
    )
