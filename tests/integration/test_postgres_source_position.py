"""Where reading stopped, and the proof that the log continues exactly there."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from connectors.local_postgres import BINARIES, LocalPostgres
from sync_hub.envelope import Encoder
from sync_hub.errors import Fatal, SyncHubError, Unavailable
from sync_hub.testing.source import Collector
from tests.integration.conftest import Capture, Database, drop_slots

SLOT = "sync_hub_test_erp"


def forged(position: str, **changes: Any) -> str:
    return json.dumps(json.loads(position) | changes)


def confirmed(db: Database) -> str:
    row = db.execute(
        "select confirmed_flush_lsn::text from pg_replication_slots where database = current_database()"
    ).fetchone()
    assert row
    return str(row[0])


def read_until_error(log: Collector, seconds: float = 10) -> SyncHubError:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            log.read()
        except SyncHubError as error:
            return error
    raise TimeoutError("no error came")


@pytest.fixture
def table(any_db: Database) -> None:
    any_db.execute("create table t (id int primary key, name text)")


@pytest.mark.usefixtures("table")
def test_reading_resumes_exactly_where_it_stopped(any_dsn: str, any_db: Database, capture: Capture) -> None:
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1), (2)")
    log.settle()
    any_db.execute("insert into t values (3)")
    log.until(lambda: len(log.events) == 3)
    position = log.acknowledge()
    log.source.close()
    any_db.execute("insert into t values (4)")
    again = capture(any_dsn, "t", position=position)
    any_db.execute("insert into t values (5)")
    assert [event.key for event in again.settle()] == [{"id": 4}, {"id": 5}]


@pytest.mark.usefixtures("table")
def test_commit_lsn_is_acknowledged_so_the_transaction_comes_again_as_proof(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1)")
    log.settle()
    position = json.loads(log.acknowledge())
    log.until(lambda: confirmed(any_db) == position["lsn"])
    assert json.loads(log.position or "")["lsn"] == position["lsn"]


@pytest.mark.usefixtures("table")
def test_what_was_not_acknowledged_comes_again_byte_for_byte(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute("create table other (id int primary key)")
    log = capture(any_dsn, "t", "other")
    start = log.position
    with any_db.transaction():
        any_db.execute("insert into t values (1, 'a')")
        any_db.execute("insert into other values (1)")
        any_db.execute("update t set name = 'b'")
        any_db.execute("update t set id = 2")
    first = log.settle()
    log.source.close()
    again = capture(any_dsn, "t", "other", position=start)
    second = again.settle()
    assert Encoder().encode(second) == Encoder().encode(first)
    assert len({event.version for event in first if event.source.table == "t"}) == 4


@pytest.mark.usefixtures("table")
def test_another_configuration_gives_the_same_versions(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute("create table other (id int primary key)")
    log = capture(any_dsn, "t", "other")
    start = log.position
    with any_db.transaction():
        any_db.execute("insert into other values (1)")
        any_db.execute("insert into t values (1, 'a')")
        any_db.execute("insert into other values (2)")
        any_db.execute("insert into t values (2, 'a')")
    versions = [event.version for event in log.settle() if event.source.table == "t"]
    log.source.close()
    again = capture(any_dsn, tables={"t": {"exclude": ["name"]}}, position=start)
    assert [event.version for event in again.settle()] == versions


@pytest.mark.usefixtures("table")
def test_epoch_stays_when_nothing_was_lost_and_rises_when_asked(any_dsn: str, capture: Capture) -> None:
    log = capture(any_dsn, "t")
    log.settle()
    position = log.acknowledge()
    epochs = []
    for raise_epoch in (False, True, True):
        position = log.source.open(position, raise_epoch=raise_epoch)
        epochs.append(json.loads(position)["epoch"])
    stored = json.loads(log.position or "")["epoch"]
    assert epochs[0] == stored
    assert stored < epochs[1] < epochs[2]
    assert abs(stored - time.time() * 1000) < 60_000


@pytest.mark.usefixtures("table")
def test_epoch_rises_with_the_timeline_once_the_log_has_proven_itself(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1)")
    log.settle()
    position = forged(log.acknowledge(), timeline=0)
    opened = json.loads(log.source.open(position))
    any_db.execute("insert into t values (2)")
    events = log.settle()
    assert opened["timeline"] == 1
    assert opened["epoch"] > json.loads(position)["epoch"]
    assert [event.key for event in events] == [{"id": 2}]
    assert events[0].version.startswith(f"{opened['epoch']:012x}-")


def drop(db: Database) -> None:
    drop_slots(db, db.info.dbname)


def make_again(db: Database) -> None:
    drop(db)
    db.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (SLOT,))


def advance(db: Database) -> None:
    db.execute("insert into t values (1000)")
    while db.execute("select active from pg_replication_slots where slot_name = %s", (SLOT,)).fetchall() == [(True,)]:
        db.execute("select pg_sleep(0.01)")
    db.execute("select pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", (SLOT,))


@pytest.mark.parametrize("harm", [drop, make_again, advance])
@pytest.mark.usefixtures("table")
def test_slot_that_is_not_where_it_was_left_is_fatal(
    any_dsn: str, any_db: Database, capture: Capture, harm: Callable[[Database], None]
) -> None:
    log = capture(any_dsn, "t")
    start = log.position
    any_db.execute("insert into t values (1)")
    log.settle()
    position = log.acknowledge()
    log.until(lambda: confirmed(any_db) == json.loads(position)["lsn"])
    log.source.close()
    any_db.execute("insert into t values (2)")
    harm(any_db)
    for stored in (position, start):
        with pytest.raises(Fatal) as raised:
            log.source.open(stored)
        assert raised.value.code == "position_unproven"
        assert raised.value.command == "sync-hub recover erp"
        log.source.close()


@pytest.mark.parametrize(
    "changes", [{"xid": 5}, {"committed_at": 1}, {"lsn": "0/1"}], ids=["transaction", "time", "place"]
)
@pytest.mark.usefixtures("table")
def test_log_that_continues_with_another_transaction_is_fatal(
    any_dsn: str, any_db: Database, capture: Capture, changes: dict[str, Any]
) -> None:
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1)")
    log.settle()
    position = forged(log.position or "", **changes)
    if "lsn" in changes:  # as if the slot had been advanced to where the position never was
        log.acknowledge()
        log.until(lambda: confirmed(any_db) == json.loads(log.position or "")["lsn"])
    any_db.execute("insert into t values (2)")
    known = len(log.events)
    with pytest.raises(Fatal) as raised:
        log.source.open(position)
        log.until(lambda: False)
    assert raised.value.code == "position_unproven"
    assert len(log.events) == known


@pytest.mark.usefixtures("table")
def test_another_server_or_an_unreadable_position_is_fatal(any_dsn: str, capture: Capture) -> None:
    log = capture(any_dsn, "t")
    for position, code in (
        (forged(log.position or "", system="7"), "position_unproven"),
        (forged(log.position or "", timeline=9), "position_unproven"),
        ("mysql-bin.000004:77", "position_unreadable"),
        (forged(log.position or "", lsn="x"), "position_unreadable"),
    ):
        with pytest.raises(Fatal) as raised:
            log.source.open(position)
        assert raised.value.code == code
    log.source.forget("mysql-bin.000004:77")  # recovery begins anew all the same
    assert json.loads(log.source.open(None))["epoch"] > json.loads(log.position or "")["epoch"]


@pytest.mark.usefixtures("table")
def test_unused_slot_without_a_stored_position_is_read_from_where_it_stands(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    script = capture(any_dsn, "t", opened=False).source.setup_sql()
    psql = [str(BINARIES / "psql"), "-v", "ON_ERROR_STOP=1", "-q", any_dsn]
    subprocess.run(psql, input=script, text=True, check=True, capture_output=True)
    any_db.execute("insert into t values (1)")
    log = capture(any_dsn, "t")
    assert [event.key for event in log.settle()] == [{"id": 1}]


@pytest.mark.usefixtures("table")
def test_slot_made_for_something_else_is_refused(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", (SLOT,))
    with pytest.raises(Fatal) as raised:
        capture(any_dsn, "t")
    assert raised.value.code == "slot_unusable"


@pytest.mark.usefixtures("table")
def test_second_reader_of_the_slot_is_told_who_has_it(
    any_dsn: str, capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.sources.pgopening.ACTIVE_SECONDS", 0.3)
    first = capture(any_dsn, "t")
    with pytest.raises(Unavailable) as raised:
        capture(any_dsn, "t")
    assert raised.value.code == "slot_active"
    first.settle()  # and the first is not disturbed


@pytest.mark.usefixtures("table")
def test_slots_follow_a_failover_where_the_server_can(any_dsn: str, any_db: Database, capture: Capture) -> None:
    capture(any_dsn, "t")
    row = any_db.execute("select to_jsonb(s) from pg_replication_slots s where slot_name = %s", (SLOT,)).fetchone()
    assert row
    assert row[0].get("failover", False) == (any_db.info.server_version >= 170000)
    assert row[0]["two_phase"] is False


def test_slot_creation_names_the_transaction_it_waits_for(
    source_dsn: str, db: Database, capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.execute("create table t (id int primary key, name text)")
    monkeypatch.setattr("connectors.sources.pgslot.SLOT_WAIT_SECONDS", 0)
    with psycopg.connect(source_dsn, application_name="nightly job") as blocker:
        blocker.execute("insert into t values (1)")
        with pytest.raises(Unavailable) as raised:
            capture(source_dsn, "t")
        assert raised.value.code == "slot_waits"
        assert "nightly job" in raised.value.message
        blocker.rollback()
    capture(source_dsn, "t").settle()


@pytest.mark.usefixtures("table")
def test_prepared_transactions_come_when_they_commit(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table p (id int primary key)")
    log = capture(source_dsn, "p")
    name = db.info.dbname
    db.execute(f"begin; insert into p values (1); prepare transaction '{name}'")
    assert log.settle() == []
    db.execute(f"commit prepared '{name}'")
    assert [event.key for event in log.settle()] == [{"id": 1}]


@pytest.mark.usefixtures("table")
def test_table_replaced_while_away_is_fatal(any_dsn: str, any_db: Database, capture: Capture) -> None:
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1)")
    log.settle()
    position = log.acknowledge()
    log.source.close()
    any_db.execute("drop table t; create table t (id int primary key, name text); insert into t values (7)")
    with pytest.raises(Fatal) as raised:
        log.source.open(position)
    assert raised.value.code == "table_replaced"


@pytest.mark.parametrize(
    "change",
    [
        "alter table t rename to old; create table t (id int primary key, name text)",
        "drop table t; create table t (id int primary key, name text)",
        "alter table t set schema elsewhere",
        "alter publication sync_hub_test_erp drop table t",
    ],
)
@pytest.mark.usefixtures("table")
def test_table_replaced_while_running_is_noticed_at_the_next_heartbeat(
    any_dsn: str, any_db: Database, capture: Capture, change: str
) -> None:
    any_db.execute("create schema elsewhere")
    log = capture(any_dsn, "t")
    any_db.execute(change)
    with pytest.raises(Fatal) as raised:
        log.source.heartbeat()
    assert raised.value.code == "table_replaced"


@pytest.mark.usefixtures("table")
def test_renamed_table_is_fatal_before_any_of_its_changes_is_published(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1)")
    log.settle()
    any_db.execute("alter table t rename to t2")
    any_db.execute("insert into t2 values (2)")
    error = read_until_error(log)
    assert error.code == "table_replaced"
    assert [event.key for event in log.events] == [{"id": 1}]


@pytest.mark.usefixtures("table")
def test_added_and_dropped_columns_go_on_and_are_reported(any_dsn: str, any_db: Database, capture: Capture) -> None:
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1, 'a')")
    log.settle()
    position = log.acknowledge()
    assert log.source.status()["relation_changed"] == {}
    log.source.close()
    any_db.execute("alter table t add column more int default 5")
    again = capture(any_dsn, "t", position=position)
    any_db.execute("insert into t values (2, 'b')")
    any_db.execute("alter table t drop column name")
    any_db.execute("insert into t values (3)")
    assert [event.after for event in again.settle()] == [{"id": 2, "name": "b", "more": 5}, {"id": 3, "more": 5}]
    assert "columns changed" in again.source.status()["relation_changed"]["public.t"]


@pytest.mark.usefixtures("table")
def test_changed_key_stops_before_events_get_other_keys(any_dsn: str, any_db: Database, capture: Capture) -> None:
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1, 'a')")
    log.settle()
    any_db.execute("alter table t drop constraint t_pkey; alter table t add primary key (name)")
    any_db.execute("insert into t values (2, 'b')")
    assert read_until_error(log).code == "key_changed"


@pytest.mark.parametrize(
    ("ddl", "code"),
    [
        ("create table k (id int)", "no_key"),
        ("create table k (id int); alter table k replica identity full", "no_key"),
        ("create table k (id int primary key); alter table k replica identity nothing", "replica_identity_nothing"),
        ("create table k (id int primary key deferrable)", "key_deferrable"),
    ],
)
def test_table_without_a_usable_key_is_refused(
    any_dsn: str, any_db: Database, capture: Capture, ddl: str, code: str
) -> None:
    any_db.execute(ddl)
    with pytest.raises(Fatal) as raised:
        capture(any_dsn, "k")
    assert raised.value.code == code
    assert [
        finding.code for finding in capture(any_dsn, "k", opened=False).source.check() if finding.severity == "error"
    ] == [code]
    assert any_db.execute("select count(*) from pg_publication").fetchall() == [(0,)], "the application is not touched"


def test_key_under_a_nondeterministic_collation_is_refused(debian_server: LocalPostgres, capture: Capture) -> None:
    """Only Debian's build has ICU, without which there are no such collations."""
    with psycopg.connect(debian_server.dsn(), autocommit=True) as db:
        db.execute("create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
        db.execute("create table k (id text collate ci primary key)")
        try:
            with pytest.raises(Fatal) as raised:
                capture(debian_server.dsn(), "k")
        finally:
            db.execute("drop table k; drop collation ci")
    assert raised.value.code == "key_collation"


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("any_server", ["18", "17", "16", "15"], indirect=True)  # 14 has no filters
def test_publication_with_a_filter_is_refused(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute("create publication sync_hub_test_erp for table t where (id > 5)")
    with pytest.raises(Fatal) as raised:
        capture(any_dsn, "t")
    assert raised.value.code == "publication_filtered"


@pytest.mark.usefixtures("table")
def test_table_added_later_joins_the_publication(any_dsn: str, any_db: Database, capture: Capture) -> None:
    log = capture(any_dsn, "t")
    log.settle()
    position = log.acknowledge()
    log.source.close()
    any_db.execute("create table later (id int primary key)")
    again = capture(any_dsn, "t", "later", position=position)
    any_db.execute("insert into later values (1)")
    assert [event.source.table for event in again.settle()] == ["later"]


@pytest.mark.usefixtures("table")
def test_crashed_server_is_unavailable_and_nothing_is_lost(
    any_server: LocalPostgres, any_dsn: str, any_db: Database, capture: Capture
) -> None:
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1)")
    log.settle()
    position = log.acknowledge()
    any_server.stop("immediate")
    assert isinstance(read_until_error(log), Unavailable)
    with pytest.raises(Unavailable):
        log.source.open(position)
    any_server.start()
    with psycopg.connect(any_dsn, autocommit=True) as db:
        db.execute("insert into t values (2)")
    log.source.open(position)
    assert [event.key for event in log.settle()] == [{"id": 2}]


@pytest.mark.parametrize("busy", [False, True], ids=["reading", "publishing"])
@pytest.mark.usefixtures("table")
def test_fast_shutdown_of_the_server_does_not_wait_for_the_hub(
    any_server: LocalPostgres, any_dsn: str, any_db: Database, capture: Capture, busy: bool
) -> None:
    log = capture(any_dsn, "t")
    any_db.execute("insert into t select i, repeat('x', 500) from generate_series(1, 20000) i")
    if not busy:
        log.settle()
        log.acknowledge()
    stopping = threading.Thread(target=any_server.stop)
    started = time.monotonic()
    stopping.start()
    error: SyncHubError | None = None
    while stopping.is_alive() and time.monotonic() - started < 20:
        try:
            log.source.keep_alive() if busy else log.read()
        except SyncHubError as caught:
            error = error or caught
            log.source.close()  # what a worker does before it tries again
        stopping.join(0.05)
    stopping.join()
    took = time.monotonic() - started
    any_server.start()
    assert isinstance(error, Unavailable)
    assert took < 10


def test_long_publishing_does_not_cost_the_connection(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id int primary key, name text)")
    db.execute(f"alter role postgres in database {db.info.dbname} set wal_sender_timeout = '900ms'")
    log = capture(source_dsn, "t")
    db.execute("insert into t select i, repeat('x', 1000) from generate_series(1, 20000) i")
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        log.source.keep_alive()
        db.execute("select pg_sleep(0.02)")
    assert len(log.settle()) == 20000


def test_silent_client_would_be_cut_off(source_dsn: str, db: Database, capture: Capture) -> None:
    """Shows that the test before this one can fail."""
    db.execute("create table t (id int primary key, name text)")
    db.execute(f"alter role postgres in database {db.info.dbname} set wal_sender_timeout = '900ms'")
    log = capture(source_dsn, "t")
    db.execute("insert into t select i, repeat('x', 1000) from generate_series(1, 20000) i")
    end = time.monotonic() + 10
    while (
        time.monotonic() < end
        and db.execute("select 1 from pg_stat_replication where application_name = %s", (SLOT,)).fetchall()
    ):
        db.execute("select pg_sleep(0.1)")
    assert isinstance(read_until_error(log), Unavailable)


@pytest.mark.usefixtures("table")
def test_slot_that_a_hub_has_read_is_not_taken_over_without_its_position(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1)")
    log.settle()
    position = log.acknowledge()
    log.until(lambda: confirmed(any_db) == json.loads(position)["lsn"])
    log.source.close()
    any_db.execute("insert into t values (2)")
    other = capture(any_dsn, "t")
    for _ in range(2):  # also once a position of the refused start was stored
        assert read_until_error(other).code == "slot_without_state"
        assert (other.events, [batch for batch in other.batches if batch.position]) == ([], [])
        other.source.open(other.position)
    other.source.close()
    log.source.open(position)
    assert [event.key for event in log.settle()] == [{"id": 2}]


@pytest.mark.usefixtures("table")
def test_slot_whose_hub_never_stored_anything_is_taken_over_without_loss(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1)")
    log.settle()
    log.source.close()  # a crash before the first position was stored
    any_db.execute("insert into t values (2)")
    assert [event.key for event in capture(any_dsn, "t").settle()] == [{"id": 1}, {"id": 2}]
