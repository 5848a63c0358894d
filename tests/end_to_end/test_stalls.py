"""What does not take rows is told all the while, and no longer; what could hold up a batch for ever does not."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from connectors.local_postgres import LocalPostgres
from connectors.sqlite import WriteLock
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, query
from tests.end_to_end.workload import SCHEMA
from tests.servers.postgres import database

MAPPINGS = """
mapping: accounts
from: {source: {source}, table: public.accounts}
to: {target: crm, table: account_view}
key: [id]
fields: {id: id, name: name}
---
mapping: orders
from: {source: {source}, table: public.orders}
to: {target: crm, table: order_view}
key: [shop, number]
copy: [shop, number, total]
"""
TARGET = (
    "create table account_view (id bigint primary key, name text)",
    "create table order_view (shop int, number text, total numeric, primary key (shop, number))",
)
READERS = "select count(active_pid) from pg_replication_slots where database = current_database()"
LOCKED_SECONDS = 15.0
LOOK_SECONDS = 0.3
RED_SECONDS = 5.0
GREEN_SECONDS = 10.0
SLOW = """
create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.001); return new; end';
create trigger slow before insert or update on order_view for each row execute function slow()
"""


@contextmanager
def a_lab(folder: Path, source: str, target: str) -> Iterator[Lab]:
    """A hub that waits for a lock for a second only."""
    lab = Lab(folder, f"s{uuid.uuid4().hex[:8]}", source, target, MAPPINGS)
    text = lab.config.read_text()
    lab.config.write_text(text.replace("workers: 1}", "workers: 1, lock_timeout_seconds: 1}"))
    try:
        lab.start()
        lab.settle()
        wait_until(lambda: lab.health()["status"] == "ok", "all is well")
        yield lab
    finally:
        lab.close()


@pytest.fixture
def lab(source_server: LocalPostgres, target_server: LocalPostgres, tmp_path: Path) -> Iterator[Lab]:
    """A hub with two views in one target; a statement of any other session in that target may last a second."""
    with database(source_server) as source, database(target_server) as target:
        execute(source, SCHEMA)
        execute(target, *TARGET, f"alter database \"{target.rpartition('/')[2]}\" set statement_timeout = '1s'")
        with a_lab(tmp_path, source, target) as lab:
            yield lab


@contextmanager
def sampled(lab: Lab) -> Iterator[list[str]]:
    """The status of health, from when it is not ok for the first time, a few times a second."""
    seen: list[str] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(LOOK_SECONDS):
            status = str(lab.health()["status"])
            if seen or status != "ok":
                seen.append(status)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield seen
    finally:
        done.set()
        sampler.join()


@contextmanager
def trickle(lab: Lab) -> Iterator[None]:
    """A few rows of the other view a second."""
    done = threading.Event()

    def write() -> None:
        with psycopg.connect(lab.source, autocommit=True) as connection:
            while not done.wait(0.1):
                connection.execute(
                    "insert into accounts select coalesce(max(id), 0) + 1, 'x', 1, null, true from accounts"
                )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


def test_a_table_that_is_locked_is_told_until_its_rows_are_written(lab: Lab) -> None:
    """Also while rows of another view in the same target come all the time."""
    with sampled(lab) as seen, trickle(lab):
        with psycopg.connect(lab.target) as locker:
            locker.execute("lock table order_view")
            began = time.monotonic()
            execute(lab.source, "insert into orders values (1, 'held', 1, null)")
            problem = lab.problem("worker_backing_off", "target:crm")
            wait_until(lambda: "lock_timeout" in lab.log(), "the lock is noticed")
            wait_until(lambda: time.monotonic() - began > LOCKED_SECONDS, "it lasts")
            held = list(seen)
        over = time.monotonic()
        wait_until(lambda: seen[-1:] == ["ok"], "health is green again", GREEN_SECONDS)
        assert time.monotonic() - over < GREEN_SECONDS
    assert problem["message"]
    assert len(held) > 20
    assert "ok" not in held
    lab.until([("held",)], "select number from order_view where shop = 1")


def test_topics_that_are_locked_do_not_keep_the_log_of_the_source_from_the_next_attempt(lab: Lab) -> None:
    """A worker that could not even close them left the source's log open behind it, in its own way."""
    with WriteLock(lab.folder / "log.db"):
        execute(lab.source, "insert into orders values (3, 'held', 1, null)")
        lab.problem("worker_backing_off", f"source:{lab.name}")
        wait_until(lambda: query(lab.source, READERS) == [(0,)], "the log is let go", 40)
    over = time.monotonic()
    lab.until([("held",)], "select number from order_view where shop = 3", timeout_seconds=GREEN_SECONDS)
    wait_until(lambda: lab.health()["status"] == "ok", "health is green again", GREEN_SECONDS)
    assert time.monotonic() - over < GREEN_SECONDS
    assert "slot_active" not in lab.log()


def test_an_idle_target_that_goes_is_noticed_and_is_well_when_it_comes_back(
    source_dsn: str, own_target: LocalPostgres, tmp_path: Path
) -> None:
    with database(own_target) as target:
        execute(source_dsn, SCHEMA)
        execute(target, *TARGET)
        with a_lab(tmp_path, source_dsn, target) as lab, sampled(lab) as seen:
            own_target.stop("fast")
            gone = time.monotonic()
            try:
                lab.problem("worker_backing_off", "target:crm")
                assert time.monotonic() - gone < RED_SECONDS
            finally:
                own_target.start()
            back = time.monotonic()
            wait_until(lambda: seen[-1:] == ["ok"], "health is green again", GREEN_SECONDS)
            assert time.monotonic() - back < GREEN_SECONDS


def test_a_time_out_that_the_target_has_for_applications_does_not_end_a_slow_batch_for_ever(lab: Lab) -> None:
    execute(lab.target, SLOW)
    assert query(lab.target, "show statement_timeout") == [("1s",)]
    execute(lab.source, "insert into orders select 2, n, 1, null from generate_series(1, 3000) n")
    lab.until([(3000,)], "select count(*) from order_view where shop = 2")
    assert "statement_cancelled" not in lab.log()
