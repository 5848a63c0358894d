"""Events are whole: what the log leaves out is taken from the old row, from the batch, or read by key."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

from connectors.local_postgres import LocalPostgres
from connectors.sources.pgcomplete import PART_BYTES
from sync_hub.model import ChangeEvent
from sync_hub.testing.source import Collector
from tests.integration.conftest import Capture, Database

BIG = "x" * 5000
OTHER = "y" * 5000
TABLE = "create table t (id int primary key, a text, big text, b text);alter table t alter big set storage external"


@pytest.fixture
def late_commit(source_server: LocalPostgres, source_dsn: str) -> Iterator[Callable[[str], threading.Thread]]:
    """Run SQL whose commit is in the log but waits for a standby that is not there: streamed, yet not visible."""
    sessions: list[psycopg.Connection[tuple[object, ...]]] = []
    threads: list[threading.Thread] = []
    with psycopg.connect(source_server.dsn(), autocommit=True) as administrator:

        def reload(names: str) -> None:
            administrator.execute(f"alter system set synchronous_standby_names = '{names}'")
            administrator.execute("select pg_reload_conf()")

        def commit(statements: str) -> threading.Thread:
            reload("nobody")
            session = psycopg.connect(source_dsn, autocommit=True)
            session.execute("set synchronous_commit = on")
            sessions.append(session)
            thread = threading.Thread(target=session.execute, args=(f"begin; {statements}; commit",))
            threads.append(thread)
            while session.execute("show synchronous_standby_names").fetchall() != [("nobody",)]:
                administrator.execute("select pg_sleep(0.01)")
            thread.start()
            waiting = "select 1 from pg_stat_activity where pid = %s and wait_event = 'SyncRep'"
            for _ in range(1000):
                if administrator.execute(waiting, (session.info.backend_pid,)).fetchall():
                    return thread
                administrator.execute("select pg_sleep(0.01)")
            raise TimeoutError("the commit does not wait for a standby")

        yield commit
        reload("")
        for thread in threads:
            thread.join(10)
        for session in sessions:
            session.close()


def wholes(events: list[ChangeEvent]) -> list[tuple[str, object, tuple[str, ...], tuple[str, ...]]]:
    return [(e.operation, (e.after or {}).get("big", "absent"), e.fetched, e.unchanged) for e in events]


def test_unchanged_value_is_read_by_key_in_the_order_of_the_columns(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    any_db.execute(TABLE)
    any_db.execute("insert into t values (1, 'a', %s, 'b')", (BIG,))
    log = capture(any_dsn, "t")
    any_db.execute("update t set a = 'c'")
    (event,) = log.settle()
    assert event.after == {"id": 1, "a": "c", "big": BIG, "b": "b"}
    assert list(event.after) == ["id", "a", "big", "b"]
    assert (event.fetched, event.unchanged) == (("big",), ())


def test_unchanged_value_comes_from_the_old_row_when_it_is_logged_whole(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    any_db.execute(TABLE + "; alter table t replica identity full")
    any_db.execute("insert into t values (1, 'a', %s, 'b')", (BIG,))
    log = capture(any_dsn, "t")
    any_db.execute("update t set a = 'c'")
    any_db.execute("delete from t")
    update, delete = log.settle()
    assert (update.after, update.fetched) == ({"id": 1, "a": "c", "big": BIG, "b": "b"}, ())
    assert delete.before == update.after


def test_changed_key_moves_the_whole_row(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute(TABLE)
    any_db.execute("insert into t values (1, 'a', %s, 'b')", (BIG,))
    log = capture(any_dsn, "t")
    any_db.execute("update t set id = 2")
    _, came = log.settle()
    assert (came.operation, came.key, came.after) == ("create", {"id": 2}, {"id": 2, "a": "a", "big": BIG, "b": "b"})


def test_value_known_from_the_batch_is_not_read(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute(TABLE)
    log = capture(source_dsn, "t")
    with db.transaction():
        db.execute("insert into t values (1, 'a', %s, 'b')", (BIG,))
        db.execute("update t set a = 'c'")
        db.execute("update t set id = 2")
        db.execute("update t set a = 'd'")
        db.execute("delete from t")
    assert wholes(log.settle()) == [
        ("create", BIG, (), ()),
        ("update", BIG, (), ()),
        ("delete", "absent", (), ()),
        ("create", BIG, (), ()),
        ("update", BIG, (), ()),
        ("delete", "absent", (), ()),
    ]


def test_row_that_is_gone_is_absent_never_null(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute(TABLE)
    any_db.execute("insert into t values (1, 'a', %s, 'b')", (BIG,))
    log = capture(any_dsn, "t")
    any_db.execute("update t set a = 'c'")
    any_db.execute("delete from t")
    update, delete = log.settle()
    assert update.after == {"id": 1, "a": "c", "b": "b"}
    assert (update.unchanged, update.fetched) == (("big",), ())
    assert delete.operation == "delete"


def test_column_dropped_since_is_absent(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute(TABLE)
    db.execute("insert into t values (1, 'a', %s, 'b')", (BIG,))
    log = capture(source_dsn, "t")
    db.execute("update t set a = 'c'")
    db.execute("alter table t drop column big")
    (event,) = log.settle()
    assert (event.after, event.unchanged) == ({"id": 1, "a": "c", "b": "b"}, ("big",))


def test_column_dropped_later_in_the_transaction_stays_in_the_events_before(
    source_dsn: str, db: Database, capture: Capture
) -> None:
    db.execute(TABLE)
    db.execute("insert into t values (1, 'a', %s, 'b'), (2, 'a', 'small', 'b')", (BIG,))
    log = capture(source_dsn, "t")
    with db.transaction():
        db.execute("update t set a = 'c'")
        db.execute("alter table t drop column b")
        db.execute("update t set a = 'd' where id = 2")
    large, small, later = log.settle()
    assert (large.after, large.unchanged) == ({"id": 1, "a": "c", "big": BIG, "b": "b"}, ())
    assert small.after == {"id": 2, "a": "c", "big": "small", "b": "b"}
    assert later.after == {"id": 2, "a": "d", "big": "small"}


def test_keys_of_several_columns_are_read_too(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute(
        "create type mood as enum ('ok', 'bad');"
        "create table t (m mood, n numeric(8,2), c char(4), i int[], big text, a text, primary key (c, m, n, i));"
        "alter table t alter big set storage external"
    )
    db.execute(
        "insert into t select 'ok', n + 0.5, 'k' || n, array[n, 0], repeat('x', 5000), 'a' from generate_series(1, 5) n"
    )
    log = capture(source_dsn, "t")
    db.execute("update t set a = 'b'")
    events = log.settle()
    assert events[0].key == {"c": "k1", "m": "ok", "n": "1.5", "i": [1, 0]}
    assert all(event.after and event.after["big"] == BIG for event in events)


def test_large_key_kept_out_of_line_is_known_all_the_same(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute("create table t (id text primary key, a text); alter table t alter id set storage external")
    key = "k" * 2500
    any_db.execute("insert into t values (%s, 'a')", (key,))
    log = capture(any_dsn, "t")
    any_db.execute("update t set a = 'b'")
    (event,) = log.settle()
    assert (event.operation, event.key, event.after) == ("update", {"id": key}, {"id": key, "a": "b"})
    assert list(event.after or {}) == ["id", "a"]


def test_table_dropped_while_its_events_wait(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute(TABLE)
    db.execute("insert into t values (1, 'a', %s, 'b')", (BIG,))
    log = capture(source_dsn, "t")
    db.execute("update t set a = 'c'")
    db.execute("drop table t")
    log.until(lambda: bool(log.events))
    assert (log.events[0].after, log.events[0].unchanged) == ({"id": 1, "a": "c", "b": "b"}, ("big",))


def test_many_rows_need_few_selects(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute(TABLE)
    db.execute("insert into t select i, 'a', %s, 'b' from generate_series(1, 3000) i", (BIG,))
    log = capture(source_dsn, "t")
    calls = "select idx_scan + seq_scan from pg_stat_user_tables where relname = 't'"
    db.execute("update t set a = 'c'")
    db.execute("select pg_stat_clear_snapshot()")
    before = db.execute(calls).fetchall()[0][0]
    events = log.settle()
    assert len(events) == 3000
    assert all(event.after and event.after["big"] == BIG for event in events)
    assert db.execute(calls).fetchall()[0][0] - before <= 40


def test_fetched_value_is_on_the_servers_disk_before_it_is_published(
    source_server: LocalPostgres, source_dsn: str, db: Database, capture: Capture
) -> None:
    db.execute(TABLE)
    db.execute("insert into t values (1, 'a', %s, 'b')", (BIG,))
    log = capture(source_dsn, "t")
    with psycopg.connect(source_server.dsn(), autocommit=True) as administrator:
        administrator.execute("alter system set wal_writer_delay = '10s'")
        administrator.execute("select pg_reload_conf()")
        try:
            db.execute("set synchronous_commit = on")
            db.execute("update t set a = 'c'")
            db.execute("set synchronous_commit = off")
            db.execute("update t set big = %s", (OTHER,))
            written = db.execute("select pg_current_wal_insert_lsn()::text").fetchall()[0][0]
            flushed = "select pg_current_wal_flush_lsn() >= %s::pg_lsn"
            log.until(lambda: bool(log.events))
            assert log.events[0].after
            assert log.events[0].after["big"] == OTHER, "newer than its event, which is allowed"
            assert db.execute(flushed, (written,)).fetchall() == [(True,)]
        finally:
            administrator.execute("alter system reset wal_writer_delay")
            administrator.execute("select pg_reload_conf()")


def test_value_is_never_older_than_its_event(
    source_dsn: str, db: Database, capture: Capture, late_commit: Callable[[str], threading.Thread]
) -> None:
    """A transaction is streamed before a select sees it: reading would bring back the value it has replaced."""
    db.execute(TABLE)
    db.execute("insert into t values (1, 'a', %s, 'b')", (BIG,))
    log = capture(source_dsn, "t")
    log.settle()
    db.execute("set synchronous_commit = local")
    filler = "insert into t select i, 'f', 'f', 'f' from generate_series(100, 12000) i"
    late_commit(f"update t set big = '{OTHER}' where id = 1; {filler}; update t set a = 'c' where id = 1")
    log.until(lambda: len(log.events) == 11903)
    first, last = log.events[0], log.events[-1]
    assert db.execute("select big from t where id = 1").fetchall() == [(BIG,)], "not visible yet"
    assert first.after
    assert first.after["big"] == OTHER
    assert last.after == {"id": 1, "a": "c", "b": "b"}
    assert last.unchanged == ("big",)


def end_waits(db: Database) -> None:
    """Let commits that wait for the standby become visible."""
    db.execute("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'")


@pytest.fixture
def waiting(
    source_dsn: str, db: Database, capture: Capture, late_commit: Callable[[str], threading.Thread]
) -> Callable[[str], Collector]:
    """Two rows with large values; the statements given are in the log, and no select sees their effects."""

    def commit(statements: str) -> Collector:
        db.execute(TABLE)
        db.execute("insert into t values (1, 'a', %s, 'b'), (2, 'a', %s, 'b')", (BIG, OTHER))
        log = capture(source_dsn, "t")
        log.settle()
        db.execute("set synchronous_commit = local")
        late_commit(statements)
        return log

    return commit


@pytest.mark.parametrize(
    ("statements", "created"),
    [
        ("update t set id = 3 where id = 1", {3: BIG}),
        ("update t set id = 3 where id = 1; update t set id = 4 where id = 3", {3: BIG, 4: BIG}),
        ("update t set id = 3 where id = 1; update t set id = 1 where id = 3", {3: BIG, 1: BIG}),
        (
            "update t set id = 3 where id = 1; update t set id = 1 where id = 2; update t set id = 2 where id = 3",
            {3: BIG, 1: OTHER, 2: BIG},
        ),
        ("delete from t where id = 1; update t set id = 1 where id = 2", {1: OTHER}),
        ("update t set a = 'c' where id = 2; update t set id = 3 where id = 2", {3: OTHER}),
    ],
    ids=["moved", "chain", "back", "swap", "into a freed key", "after an update"],
)
def test_key_change_that_no_select_sees_yet_carries_the_whole_row(
    waiting: Callable[[str], Collector], db: Database, statements: str, created: dict[int, str]
) -> None:
    log = waiting(statements)
    log.until(lambda: [event.operation for event in log.events].count("create") == len(created))
    assert db.execute("select id, big from t order by id").fetchall() == [(1, BIG), (2, OTHER)], "not visible yet"
    came = {
        event.after["id"]: event.after["big"] for event in log.events if event.operation == "create" and event.after
    }
    assert came == created
    assert all(not event.unchanged for event in log.events)


def test_key_change_late_in_a_large_transaction_waits_until_it_is_visible(
    waiting: Callable[[str], Collector], db: Database
) -> None:
    """What the transaction did to the row in an earlier batch is not known, so the visible row may be too old."""
    filler = "insert into t select i, 'f', 'f', 'f' from generate_series(100, 12000) i"
    log = waiting(f"update t set big = repeat('z', 5000) where id = 1; {filler}; update t set id = 3 where id = 1")
    log.until(lambda: len(log.events) == 11903)
    handed = len(log.batches)
    log.until(lambda: len(log.batches) >= handed + 3)
    assert log.events[-1].operation == "delete"
    assert log.batches[-1].position is None
    end_waits(db)
    log.until(lambda: len(log.events) == 11904)
    assert log.events[-1].after == {"id": 3, "a": "a", "big": "z" * 5000, "b": "b"}
    assert log.batches[-1].position is not None


def test_moved_row_that_is_gone_is_absent_never_null(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute(TABLE)
    db.execute("insert into t values (1, 'a', %s, 'b')", (BIG,))
    log = capture(source_dsn, "t")
    db.execute("update t set id = 2")
    db.execute("delete from t")
    _, came, gone = log.settle()
    assert (came.operation, came.after, came.unchanged) == ("create", {"id": 2, "a": "a", "b": "b"}, ("big",))
    assert gone.operation == "delete"


def test_wide_values_are_read_and_handed_out_in_parts(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute(TABLE)
    db.execute("insert into t select i, 'a', repeat('x', 400000), 'b' from generate_series(1, 30) i")
    db.execute("insert into t values (31, 'a', repeat('x', 9000000), 'b')")
    log = capture(source_dsn, "t")
    log.settle()
    known = len(log.batches)
    with db.transaction():
        db.execute("update t set a = 'c' where id <= 31")
        db.execute("insert into t values (32, 'a', %s, 'b')", ("y" * 400000,))
        for number in range(20):
            db.execute("update t set a = %s where id = 32", (str(number),))
    events = log.settle()
    assert [len(str((event.after or {})["big"])) for event in events] == [400000] * 30 + [9000000] + [400000] * 21
    parts = [batch for batch in log.batches[known:] if batch.events]
    sizes = [sum(len(str((event.after or {})["big"])) for event in batch.events) for batch in parts]
    assert max(size for size in sizes if size < 9_000_000) <= PART_BYTES + 400_000
    assert max(sizes) < PART_BYTES + 9_000_000
    assert [batch.position is None for batch in parts] == [True] * (len(parts) - 1) + [False]
