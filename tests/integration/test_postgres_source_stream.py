"""When a batch ends, when the server counts as gone, and how it is let go."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from connectors.local_postgres import LocalPostgres
from connectors.sources.pglog import MANY_TABLES
from sync_hub.errors import SyncHubError, Unavailable
from sync_hub.testing.source import Collector
from tests.integration.conftest import Capture, Database

SLOT = "sync_hub_test_erp"
LONG_SECONDS = 60.0
PROMPT_SECONDS = 20.0


@pytest.fixture
def log(source_dsn: str, db: Database, capture: Capture) -> Collector:
    db.execute("create table t (id int primary key, name text)")
    log = capture(source_dsn, "t")
    log.settle()
    return log


def keys(log: Collector) -> list[object]:
    return [next(iter((event.key or {}).values())) for event in log.events]


def wait(db: Database, seconds: float) -> None:
    """Let the server's own clock pass."""
    db.execute("select pg_sleep(%s)", (seconds,))


def test_batch_ends_at_a_fresh_commit_when_nothing_more_is_behind_it(
    log: Collector, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.sources.pglog.BATCH_SECONDS", LONG_SECONDS)
    monkeypatch.setattr("connectors.sources.pglog.CAUGHT_UP_MICROSECONDS", PROMPT_SECONDS * 1e6)
    for number in range(3):
        db.execute("insert into t values (%s)", (number,))
        started = time.monotonic()
        batch = log.read(LONG_SECONDS)
        assert time.monotonic() - started < PROMPT_SECONDS
        assert (len(batch.events), batch.position is not None) == (1, True)


@pytest.mark.parametrize("place", ["sent", "not yet sent"])
def test_batch_gathers_a_backlog_of_small_transactions(
    log: Collector, db: Database, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    for number in range(300):
        db.execute("insert into t values (%s)", (number,))
    wait(db, 0.1)
    if place == "not yet sent":
        log.source.open(log.position)
    monkeypatch.setattr("connectors.sources.pglog.BATCH_SECONDS", LONG_SECONDS)
    assert len(log.read(LONG_SECONDS).events) == 300


def test_batch_of_a_backlog_ends_when_its_time_is_over(
    log: Collector, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.sources.pglog.CAUGHT_UP_MICROSECONDS", -1e15)
    db.execute("insert into t values (1)")
    started = time.monotonic()
    assert len(log.read(LONG_SECONDS).events) == 1
    assert time.monotonic() - started < PROMPT_SECONDS


def test_batch_ends_at_the_commit_that_fills_it(log: Collector, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(0, 120, 20):
        db.execute("insert into t select generate_series(%s::int, %s::int)", (number, number + 19))
    wait(db, 0.1)
    monkeypatch.setattr("connectors.sources.pglog.BATCH_SECONDS", LONG_SECONDS)
    monkeypatch.setattr("connectors.sources.pglog.BATCH_EVENTS", 50)
    assert [len(log.read(LONG_SECONDS).events) for _ in range(2)] == [60, 60]


def test_batch_over_many_tables_holds_more(
    source_dsn: str, db: Database, capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"t{number:02}" for number in range(2 * MANY_TABLES)]
    for name in names:
        db.execute(f"create table {name} (id int primary key)")
    log = capture(source_dsn, *names)
    log.settle()
    for number in range(10):
        db.execute("; ".join(f"insert into {name} values ({number})" for name in names))
    wait(db, 0.1)
    monkeypatch.setattr("connectors.sources.pglog.BATCH_SECONDS", LONG_SECONDS)
    monkeypatch.setattr("connectors.sources.pglog.BATCH_EVENTS", len(names) + 1)
    assert [len(log.read(LONG_SECONDS).events) for _ in range(2)] == [4 * len(names)] * 2


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that hangs: its connections stay open, and nobody answers."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def short_silence(source_dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.sources.pgstream.MINIMUM_SILENCE_SECONDS", 0.5)
    db.execute(f"alter role postgres in database {db.info.dbname} set wal_sender_timeout = '600ms'")


@pytest.mark.usefixtures("short_silence")
def test_server_that_hangs_is_unavailable_after_its_time(log: Collector, db: Database) -> None:
    pid = db.execute("select active_pid from pg_replication_slots where slot_name = %s", (SLOT,)).fetchall()[0][0]
    end = time.monotonic() + PROMPT_SECONDS
    with stopped(pid), pytest.raises(Unavailable) as raised:
        while time.monotonic() < end:
            log.read()
    assert raised.value.code == "log_silent"
    position = log.position
    log.source.close()
    db.execute("insert into t values (1)")
    log.source.open(position)
    log.settle()
    assert keys(log) == [1]


@pytest.mark.usefixtures("short_silence")
def test_server_with_nothing_to_say_still_answers(log: Collector) -> None:
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert log.read(0.1).events == []


@pytest.mark.parametrize("any_server", ["18", "14"], indirect=True)
def test_fast_stop_of_the_server_forgets_nothing_and_keeps_nothing_too_long(
    any_server: LocalPostgres, any_dsn: str, any_db: Database, capture: Capture
) -> None:
    """What was acknowledged stays so; what was read and not acknowledged, or not even sent, comes after the restart."""
    any_db.execute("create table t (id int primary key, name text)")
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1)")
    log.settle()
    position = log.acknowledge()
    any_db.execute("insert into t values (2)")
    log.until(lambda: len(log.events) == 2)
    any_db.execute("insert into t select i, repeat('x', 500) from generate_series(3, 20000) i")
    stopping = threading.Thread(target=any_server.stop)
    started = time.monotonic()
    stopping.start()
    error = until_error(log)
    log.source.close()
    stopping.join()
    took = time.monotonic() - started
    any_server.start()
    assert isinstance(error, Unavailable)
    assert took < 10, "the walsender waited for the hub"
    with psycopg.connect(any_dsn, autocommit=True) as db:
        slot = "select confirmed_flush_lsn::text, active from pg_replication_slots where database = current_database()"
        confirmed, active = db.execute(slot).fetchall()[0]
        assert not active
        if db.info.server_version >= 170000:  # older ones remember it only when something else is remembered
            assert confirmed == json.loads(position)["lsn"]
        db.execute("insert into t values (20001)")
    again = capture(any_dsn, "t", position=position)
    again.settle(30)
    assert keys(again) == list(range(2, 20002))


def until_error(log: Collector) -> SyncHubError:
    end = time.monotonic() + PROMPT_SECONDS
    while time.monotonic() < end:
        try:
            log.read()
        except SyncHubError as error:
            return error
    raise TimeoutError("the server did not end the log")
