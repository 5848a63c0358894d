"""Chunks of existing rows beside the log: equal to streaming from the start, whatever happens meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from connectors.sources.postgres import CHUNK_BYTES
from sync_hub.errors import ConfigError, Fatal
from sync_hub.model import ChangeEvent, ChunkRequest
from sync_hub.testing.source import Collector
from tests.integration.conftest import Capture, Database
from tests.integration.test_postgres_source_whole import late_commit

__all__ = ["late_commit"]


def fenced(log: Collector) -> None:
    log.source.track(True)
    log.source.fence()
    log.until(lambda: not log.source.fence_passed())


def chunk(log: Collector, after: tuple[Any, ...] | None = None, rows: int = 100, number: int = 1) -> None:
    log.source.request_chunk(ChunkRequest("run", "public.t", number, ("p",), after=after, rows=rows))


def load(log: Collector, rows: int) -> None:
    """Ask for one chunk after the other, to the end of the table."""
    while not log.chunks or log.chunks[-1].last_key is not None:
        asked = len(log.chunks) + 1
        chunk(log, after=log.chunks[-1].last_key if log.chunks else None, rows=rows, number=asked)
        log.until(partial(arrived, log, asked))


def arrived(log: Collector, count: int) -> bool:
    return len(log.chunks) == count


def read_keys(log: Collector) -> list[Any]:
    return [next(iter((event.key or {}).values())) for event in log.events if event.operation == "read"]


@pytest.fixture
def log(any_dsn: str, any_db: Database, capture: Capture) -> Collector:
    any_db.execute("create table t (id int primary key, name text)")
    any_db.execute("insert into t select i, 'old' from generate_series(1, 10) i")
    return capture(any_dsn, "t")


def test_chunk_comes_with_its_mark_and_version(log: Collector, any_db: Database) -> None:
    fenced(log)
    chunk(log)
    any_db.execute("insert into t values (11, 'new')")
    log.settle()
    rows = [event for event in log.events if event.operation == "read"]
    assert [event.after for event in rows] == [{"id": number, "name": "old"} for number in range(1, 11)]
    assert {(event.source.snapshot, event.pipelines, event.transaction) for event in rows} == {(True, ("p",), None)}
    (done,) = log.chunks
    assert (done.run, done.table, done.number, done.rows, done.last_key) == ("run", "public.t", 1, 10, None)
    created = next(event for event in log.events if event.operation == "create")
    versions = [event.version for event in rows]
    assert versions == sorted(set(versions))
    assert max(versions) < created.version
    assert rows[0].source.lsn < created.source.lsn


def test_chunks_follow_one_another_by_key(log: Collector) -> None:
    fenced(log)
    chunk(log, rows=4)
    log.until(lambda: len(log.chunks) == 1)
    chunk(log, after=log.chunks[-1].last_key, rows=4, number=2)
    log.until(lambda: len(log.chunks) == 2)
    chunk(log, after=log.chunks[-1].last_key, rows=4, number=3)
    log.until(lambda: len(log.chunks) == 3)
    assert read_keys(log) == list(range(1, 11))
    assert [done.last_key for done in log.chunks] == [("4",), ("8",), None]


def test_chunk_of_an_empty_table_is_done_at_once(log: Collector, any_db: Database) -> None:
    any_db.execute("delete from t")
    fenced(log)
    chunk(log)
    log.until(lambda: bool(log.chunks))
    assert (log.chunks[0].rows, log.chunks[0].last_key, read_keys(log)) == (0, None, [])


def test_rows_touched_before_the_mark_come_from_the_log_alone(log: Collector, any_db: Database) -> None:
    fenced(log)
    with any_db.transaction():
        any_db.execute("update t set name = 'new' where id = 3")
        any_db.execute("delete from t where id = 4")
        any_db.execute("update t set id = 50 where id = 5")
        chunk(log)
    log.settle()
    # The chunk was read inside the transaction, which committed after the mark: those rows are older, and come first.
    assert set(read_keys(log)) == set(range(1, 11))
    assert log.events[-1].operation == "create"


def test_rows_touched_between_snapshot_and_mark_are_left_out(
    log: Collector, any_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit = log.source._queries.emit

    def touch_then_emit(content: str) -> None:
        any_db.execute("update t set name = 'new' where id = 3")
        any_db.execute("delete from t where id = 4")
        any_db.execute("update t set id = 50 where id = 5")
        emit(content)

    fenced(log)
    monkeypatch.setattr(log.source._queries, "emit", touch_then_emit)
    chunk(log)
    log.settle()
    assert read_keys(log) == [1, 2, 6, 7, 8, 9, 10]
    assert log.chunks[0].rows == 7


def test_mark_of_another_run_publishes_nothing(log: Collector, any_db: Database) -> None:
    for mark in ("run/1", "other/1/x/1"):
        any_db.execute(
            "select pg_logical_emit_message(true, 'sync_hub', json_build_object('mark', %s::text)::text)", (mark,)
        )
    fenced(log)
    chunk(log)
    log.settle()
    assert len(read_keys(log)) == 10


def test_truncate_before_the_mark_discards_the_chunk(
    log: Collector, any_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit = log.source._queries.emit
    fenced(log)
    monkeypatch.setattr(
        log.source._queries,
        "emit",
        lambda content: (any_db.execute("truncate t"), emit(content)),
    )
    chunk(log)
    log.settle()
    assert (log.discarded, log.chunks, read_keys(log)) == ([("run", 1)], [], [])


def test_changed_columns_before_the_mark_discard_the_chunk(
    log: Collector, any_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit = log.source._queries.emit
    any_db.execute("insert into t values (11, 'x')")
    log.settle()

    def alter_then_emit(content: str) -> None:
        any_db.execute("alter table t add column more int default 1")
        any_db.execute("insert into t values (12, 'x')")
        emit(content)

    fenced(log)
    monkeypatch.setattr(log.source._queries, "emit", alter_then_emit)
    chunk(log)
    log.settle()
    assert (log.discarded, log.chunks) == ([("run", 1)], [])


def test_lost_connection_discards_the_chunk(log: Collector) -> None:
    log.settle()
    position = log.acknowledge()
    fenced(log)
    chunk(log)
    log.source.open(position)
    log.settle()
    assert (log.discarded, read_keys(log)) == ([("run", 1)], [])


def test_chunk_without_tracking_is_refused(log: Collector) -> None:
    with pytest.raises(Fatal):
        chunk(log)
    with pytest.raises(Fatal):
        log.source.fence()


def test_fence_waits_for_older_transactions_and_names_them(log: Collector, any_dsn: str, any_db: Database) -> None:
    with psycopg.connect(any_dsn, application_name="nightly job") as blocker:
        blocker.execute("insert into t values (100, 'x')")
        log.source.track(True)
        log.source.fence()
        assert "nightly job" in log.source.fence_passed()
        any_db.execute("insert into t values (101, 'x')")
        assert log.source.fence_passed()
        blocker.commit()
    log.until(lambda: not log.source.fence_passed())


def test_fence_names_prepared_transactions(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id int primary key)")
    log = capture(source_dsn, "t")
    name = f"left behind in {db.info.dbname}"
    db.execute(f"begin; insert into t values (1); prepare transaction '{name}'")
    log.source.track(True)
    log.source.fence()
    blocked = log.source.fence_passed()
    db.execute(f"rollback prepared '{name}'")
    assert name in blocked
    log.until(lambda: not log.source.fence_passed())


def test_chunk_is_cut_where_its_rows_get_wide(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id int primary key, name text, doc jsonb)")
    db.execute("insert into t select i, 'narrow' from generate_series(1, 500) i")
    db.execute("insert into t select i, repeat('x', 400000) from generate_series(501, 560) i")
    db.execute("insert into t values (561, repeat('x', 9000000)), (562, 'narrow')")
    db.execute("insert into t select i, 'narrow' from generate_series(563, 600) i")
    log = capture(source_dsn, "t")
    fenced(log)
    load(log, rows=1000)
    assert read_keys(log) == list(range(1, 601))
    assert [done.rows for done in log.chunks] == [520, 20, 20, 1, 39]
    sizes = [sum(len(str((event.after or {})["name"])) for event in batch.events) for batch in log.batches]
    assert max(sizes) <= CHUNK_BYTES + 9_000_000


def test_rows_asked_for_by_key_are_cut_where_they_get_wide(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id int primary key, name text, doc jsonb)")
    db.execute("insert into t select i, repeat('x', 400000) from generate_series(1, 50) i")
    log = capture(source_dsn, "t")
    fenced(log)
    keys: list[dict[str, Any]] = [{"id": i} for i in (*range(50, 0, -1), 999, "none", 998)]
    left, answered, impossible = keys, [], []
    while left:
        number = len(answered) + 1
        read = log.source.request_chunk(ChunkRequest("run", "public.t", number, ("p",), keys=tuple(left), check="v"))
        log.until(partial(arrived, log, number))
        answered.append(read.answered)
        impossible += read.impossible
        left = left[read.answered :]
    assert (answered, impossible) == ([20, 20, 13], [{"id": "none"}])
    told = [event.key for event in log.events if event.check == "v"]
    assert sorted(one["id"] for one in told if one) == [*range(1, 51), 998, 999]
    sizes = [sum(len(str((event.after or {}).get("name"))) for event in batch.events) for batch in log.batches]
    assert max(sizes) <= CHUNK_BYTES + 400_000


def test_a_condition_that_few_rows_fulfil_looks_at_no_more_rows_than_a_chunk_has(
    log: Collector, any_db: Database
) -> None:
    any_db.execute(
        "create sequence looked; create function look() returns boolean volatile return nextval('looked') > 0"
    )
    fenced(log)
    after, read, looked = None, [], []
    while not read or after is not None:
        before = any_db.execute("select last_value from looked").fetchall()[0][0]
        asked = ChunkRequest("run", "public.t", 1, ("p",), after=after, rows=4, where="look() and id in (4, 9)")
        found = log.source.request_chunk(asked)
        after = found.last_key
        read.append((found.rows, found.last_key))
        looked.append(any_db.execute("select last_value from looked").fetchall()[0][0] - before)
    assert read == [(1, ("4",)), (0, ("8",)), (1, None)]
    assert max(looked) <= 4
    log.until(lambda: len(log.chunks) == 3)
    assert read_keys(log) == [4, 9]


def test_keys_of_several_columns_page_in_order(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute(
        "create type mood as enum ('z', 'a'); create domain code as char(3);"
        "create table t (m mood, c code, n numeric, primary key (m, c, n));"
        "insert into t select (array['z','a'])[1 + i % 2]::mood, 'x' || i % 3, i from generate_series(1, 50) i"
    )
    log = capture(source_dsn, "t")
    fenced(log)
    load(log, rows=7)
    expected = db.execute("select m::text, trim(c), n::text from t order by t.m, t.c, t.n").fetchall()
    assert [tuple((event.key or {}).values()) for event in log.events] == expected


def test_a_key_that_the_keys_domain_refuses_is_no_key(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute(
        "create domain positive as int check (value > 0); create table t (id positive primary key);"
        "insert into t values (1)"
    )
    log = capture(source_dsn, "t")
    fenced(log)
    assert log.source.event_keys("public.t", [{"id": 1}, {"id": -5}]) == [{"id": 1}, None]
    for key in ({"id": -5}, {"id": "\ud800"}):
        with pytest.raises(ConfigError, match="bad_key"):
            log.source.request_chunk(ChunkRequest("run", "public.t", 1, ("p",), keys=(key,)))
    chunk(log)
    log.until(partial(arrived, log, 1))
    assert read_keys(log) == [1]


def test_commit_that_is_streamed_but_not_yet_visible_is_not_undone(
    source_dsn: str, db: Database, capture: Capture, late_commit: Callable[[str], threading.Thread]
) -> None:
    """The interleaving that positions in the log alone get wrong."""
    db.execute("create table t (id int primary key, name text)")
    db.execute("insert into t select i, 'old' from generate_series(1, 10) i")
    db.execute("set synchronous_commit = local")
    log = capture(source_dsn, "t")
    fenced(log)
    late_commit("update t set name = 'new' where id = 3; delete from t where id = 4")
    log.until(lambda: len(log.events) == 2)
    log.acknowledge()
    assert db.execute("select name from t where id = 3").fetchall() == [("old",)], "not visible yet"
    chunk(log)
    log.settle()
    assert read_keys(log) == [1, 2, 5, 6, 7, 8, 9, 10]


def applied(events: list[ChangeEvent]) -> dict[int, dict[str, Any]]:
    """A target: events in the order of the log, duplicates and older versions skipped."""
    rows: dict[int, dict[str, Any]] = {}
    newest = ""
    for event in events:
        assert event.version > newest
        newest = event.version
        if event.operation == "truncate":
            rows.clear()
        elif event.after is None:
            rows.pop((event.key or {})["id"], None)
        else:
            rows[(event.key or {})["id"]] = event.after
    return rows


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_loading_beside_random_writers_ends_like_streaming_from_the_start(
    source_dsn: str, db: Database, capture: Capture, seed: int
) -> None:
    db.execute("create table t (id int primary key, n int)")
    db.execute("insert into t select i, 0 from generate_series(1, 300) i")
    log = capture(source_dsn, "t")
    stop = threading.Event()

    def write(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        with psycopg.connect(source_dsn, autocommit=True) as writer:
            while not stop.is_set():
                one, other = chance.randint(1, 400), chance.randint(1, 400)
                statements = [
                    f"insert into t values ({one}, {chance.randint(1, 9)}) on conflict do nothing",
                    f"update t set n = n + 1 where id = {one}",
                    f"delete from t where id = {one}",
                    f"update t set id = {other} where id = {one} and not exists (select from t where id = {other})",
                ]
                end = "commit" if chance.random() < 0.9 else "rollback"
                try:
                    writer.execute(f"begin; {'; '.join(chance.sample(statements, 2))}; {end}")
                except psycopg.Error:
                    writer.execute("rollback")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    try:
        fenced(log)
        load(log, rows=4)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    log.settle()
    assert applied(log.events) == {key: {"id": key, "n": n} for key, n in db.execute("select id, n from t").fetchall()}


def test_rows_by_key_and_all_rows_stream_in_key_order(log: Collector) -> None:
    assert [row["id"] for row in log.source.read_rows("public.t")] == list(range(1, 11))
    keys = [{"id": number} for number in (7, 3, 999)]
    assert list(log.source.read_rows("public.t", keys=keys)) == [{"id": 3, "name": "old"}, {"id": 7, "name": "old"}]
    assert list(log.source.read_rows("public.t", columns=["name"], keys=keys[:1])) == [{"name": "old"}]
    assert next(iter(log.source.read_rows("public.t"))) == {"id": 1, "name": "old"}, "and may be left early"
