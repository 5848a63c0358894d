"""What the embedded broker and the SQLite sink share: locks, transactions, checkpoints, errors."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from connectors.sqlite import WriteLock, classify, close, connect, read_transaction, write_transaction
from sync_hub.errors import Fatal, Rejected, SyncHubError, Unavailable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "file.db"


def opened(path: Path, timeout_seconds: float = 10) -> tuple[sqlite3.Connection, WriteLock]:
    lock = WriteLock(path, timeout_seconds=timeout_seconds)
    return connect(path, lock), lock


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"pragma {name}").fetchone()[0]


def test_connection_is_durable_and_checkpoints_only_within_write_transactions(path: Path) -> None:
    connection, lock = opened(path)
    assert pragma(connection, "journal_mode") == "wal"
    assert pragma(connection, "synchronous") == 2
    assert pragma(connection, "wal_autocheckpoint") == 0
    with write_transaction(connection, lock):
        assert pragma(connection, "wal_autocheckpoint") == 1000
    assert pragma(connection, "wal_autocheckpoint") == 0
    with pytest.raises(ZeroDivisionError), write_transaction(connection, lock):
        raise ZeroDivisionError
    assert pragma(connection, "wal_autocheckpoint") == 0
    close(connection, lock)
    close(connection, lock)
    assert not path.with_name("file.db-wal").exists(), "the last one to close checkpoints"


def test_failed_block_writes_nothing(path: Path) -> None:
    connection, lock = opened(path)
    with write_transaction(connection, lock):
        connection.execute("create table t (a integer primary key)")
    with pytest.raises(ValueError, match="on the way"), write_transaction(connection, lock):
        connection.execute("insert into t values (1)")
        raise ValueError("on the way")
    with pytest.raises(Rejected), write_transaction(connection, lock):
        connection.execute("insert into t values (2)")
        connection.execute("insert into t values (2)")
    with write_transaction(connection, lock):
        connection.execute("insert into t values (3)")
    assert connection.execute("select a from t").fetchall() == [(3,)]
    close(connection, lock)


def test_lock_that_is_never_given_back_is_unavailable(path: Path) -> None:
    connection, lock = opened(path, timeout_seconds=0.05)
    other = WriteLock(path)
    with other:
        started = time.monotonic()
        with pytest.raises(Unavailable, match="database_busy"), write_transaction(connection, lock):
            pytest.fail("it was not locked")
        assert time.monotonic() - started < 2
    with write_transaction(connection, lock):
        pass
    other.close()
    close(connection, lock)


def test_lock_keeps_other_writers_out(path: Path) -> None:
    connection, lock = opened(path)
    with write_transaction(connection, lock):
        connection.execute("create table counter (n integer)")
        connection.execute("insert into counter values (0)")
    close(connection, lock)

    def count() -> None:
        own, own_lock = opened(path)
        for _ in range(50):
            with write_transaction(own, own_lock):
                (number,) = own.execute("select n from counter").fetchone()
                own.execute("update counter set n = ?", (number + 1,))
        close(own, own_lock)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connection, lock = opened(path)
    assert connection.execute("select n from counter").fetchone() == (200,)
    close(connection, lock)


def test_log_does_not_grow_without_bound(path: Path) -> None:
    connection, lock = opened(path)
    with write_transaction(connection, lock):
        connection.execute("create table t (data blob)")
    for _ in range(150):
        with write_transaction(connection, lock):
            connection.execute("insert into t values (zeroblob(200000))")
    assert path.with_name("file.db-wal").stat().st_size < 8_000_000
    close(connection, lock)


def test_read_transaction_sees_one_moment(path: Path) -> None:
    connection, lock = opened(path)
    reader, reader_lock = opened(path)
    with write_transaction(connection, lock):
        connection.execute("create table t (a integer)")
    with read_transaction(reader, path):
        assert reader.execute("select count(*) from t").fetchone() == (0,)
        with write_transaction(connection, lock):
            connection.execute("insert into t values (1)")
        assert reader.execute("select count(*) from t").fetchone() == (0,)
    assert reader.execute("select count(*) from t").fetchone() == (1,)
    close(reader, reader_lock)
    close(connection, lock)


def test_application_that_writes_beside_us_makes_us_wait(path: Path) -> None:
    lock = WriteLock(path)
    connection = connect(path, lock, timeout_seconds=0.05)
    application = sqlite3.connect(path, isolation_level=None)
    application.execute("begin immediate")
    with pytest.raises(Unavailable, match="database_busy"), write_transaction(connection, lock):
        pytest.fail("it was not locked")
    application.execute("rollback")
    application.close()
    with write_transaction(connection, lock):
        pass
    close(connection, lock)


def test_full_disk_is_unavailable(path: Path) -> None:
    connection, lock = opened(path)
    with write_transaction(connection, lock):
        connection.execute("create table t (data blob)")
    connection.execute("pragma max_page_count = 20")
    with pytest.raises(Unavailable, match="disk_full"), write_transaction(connection, lock):
        connection.execute("insert into t values (zeroblob(1000000))")
    connection.execute("pragma max_page_count = 100000")
    with write_transaction(connection, lock):
        connection.execute("insert into t values (zeroblob(1000000))")
    assert connection.execute("select count(*) from t").fetchone() == (1,)
    close(connection, lock)


def test_path_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="database_not_accessible"):
        opened(tmp_path / "file" / "log.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(Unavailable, match="database_not_accessible"):
        opened(tmp_path / "folder.db")


def test_file_that_is_no_database_is_fatal(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("This is no database at all. " * 100)
    with pytest.raises(Fatal, match="database_damaged"):
        opened(tmp_path / "text.db")


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("SQLITE_BUSY_SNAPSHOT", Unavailable, "database_busy"),
        ("SQLITE_LOCKED", Unavailable, "database_busy"),
        ("SQLITE_FULL", Unavailable, "disk_full"),
        ("SQLITE_IOERR_FSYNC", Unavailable, "disk_error"),
        ("SQLITE_READONLY_DBMOVED", Unavailable, "database_not_accessible"),
        ("SQLITE_CANTOPEN", Unavailable, "database_not_accessible"),
        ("SQLITE_CONSTRAINT_NOTNULL", Rejected, "not_null_violated"),
        ("SQLITE_CONSTRAINT_UNIQUE", Rejected, "unique_violated"),
        ("SQLITE_CONSTRAINT_FOREIGNKEY", Rejected, "foreign_key_violated"),
        ("SQLITE_CONSTRAINT_TRIGGER", Rejected, "constraint_violated"),
        ("SQLITE_TOOBIG", Rejected, "constraint_violated"),
        ("SQLITE_CORRUPT", Fatal, "database_damaged"),
        ("SQLITE_ERROR", Fatal, "database_error"),
        ("", Fatal, "database_error"),
    ],
)
def test_errors_of_sqlite_are_classified(name: str, kind: type[SyncHubError], code: str) -> None:
    error = sqlite3.OperationalError("what happened")
    error.sqlite_errorname = name
    found = classify(error, "some.db")
    assert type(found) is kind
    assert found.code == code
    assert "some.db: " in found.message
    assert "what happened" in found.message
