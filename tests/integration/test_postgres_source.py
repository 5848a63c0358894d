from __future__ import annotations

import json
from itertools import dropwhile, takewhile
from typing import Any

import psycopg
import pytest

from connectors.sources.pglog import CUT_EVENTS
from connectors.sources.pgstream import TAKE_MESSAGES
from connectors.sources.postgres import PostgresSource
from sync_hub.errors import ConfigError, Unavailable
from sync_hub.model import ChangeEvent, ChunkRequest
from sync_hub.ports import Source
from tests.integration.conftest import Capture, Database


def brief(events: list[ChangeEvent]) -> list[tuple[Any, ...]]:
    return [(e.operation, e.key, e.after) for e in events]


def test_is_a_source() -> None:
    source: Source = PostgresSource("erp", PostgresSource.Options(dsn="", tables=["t"]), "test")
    source.close()


def test_changes_come_in_commit_order_with_whole_rows(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute("create table t (id int primary key, name text, n numeric(8,2))")
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1, 'a', 1.50)")
    with any_db.transaction():
        any_db.execute("update t set name = 'b' where id = 1")
        any_db.execute("savepoint s")
        any_db.execute("insert into t values (9, 'never', 0)")
        any_db.execute("rollback to s")
        any_db.execute("insert into t values (2, 'é', null)")
    with any_db.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
        copy.write("3\tcopied\t0\n4\tcopied\t0\n")
    any_db.execute("delete from t where id = 1")
    events = log.settle()
    assert brief(events) == [
        ("create", {"id": 1}, {"id": 1, "name": "a", "n": "1.50"}),
        ("update", {"id": 1}, {"id": 1, "name": "b", "n": "1.50"}),
        ("create", {"id": 2}, {"id": 2, "name": "é", "n": None}),
        ("create", {"id": 3}, {"id": 3, "name": "copied", "n": "0.00"}),
        ("create", {"id": 4}, {"id": 4, "name": "copied", "n": "0.00"}),
        ("delete", {"id": 1}, None),
    ]
    assert events[-1].before == {"id": 1}
    versions = [event.version for event in events]
    assert versions == sorted(set(versions))
    blocks = [event.source for event in events]
    assert {(b.name, b.schema, b.table, b.connector) for b in blocks} == {("erp", "public", "t", "postgresql")}
    orders = [(e.transaction.total_order, e.transaction.table_order) for e in events if e.transaction]
    assert orders == [(1, 1), (1, 1), (2, 2), (1, 1), (2, 2), (1, 1)]


def test_commit_time_and_database_are_the_servers(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id int primary key)")
    log = capture(source_dsn, "t")
    db.execute("insert into t values (1)")
    event = log.settle()[0]
    seconds, database = db.execute("select extract(epoch from now()), current_database()").fetchall()[0]
    assert abs(float(seconds) - event.source.committed_at / 1e6) < 5
    assert event.source.database == database


def test_a_changed_key_is_two_whole_events(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute("create table t (id int primary key, name text)")
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1, 'a')")
    any_db.execute("update t set id = 2 where id = 1")
    _, gone, came = log.settle()
    assert (gone.operation, gone.key, gone.new_key, gone.after) == ("delete", {"id": 1}, {"id": 2}, None)
    assert (came.operation, came.key, came.old_key, came.after) == (
        "create",
        {"id": 2},
        {"id": 1},
        {"id": 2, "name": "a"},
    )
    assert gone.version[:-2] == came.version[:-2]
    assert (gone.version[-2:], came.version[-2:]) == ("00", "01")


def test_an_old_row_with_the_same_key_is_no_key_change(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id numeric primary key, name text); alter table t replica identity full")
    log = capture(source_dsn, "t")
    db.execute("insert into t values (1.0, 'a')")
    db.execute("update t set id = 1.00, name = 'b'")
    _, event = log.settle()
    assert (event.operation, event.key) == ("update", {"id": "1"})
    assert (event.before, event.after) == ({"id": "1.0", "name": "a"}, {"id": "1.00", "name": "b"})


def test_key_is_the_replica_identity_index(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute(
        "create table t (id int primary key, a text not null, b int not null, unique (b, a));"
        "alter table t replica identity using index t_b_a_key"
    )
    log = capture(source_dsn, "t")
    db.execute("insert into t values (1, 'x', 5)")
    db.execute("update t set id = 2")
    db.execute("update t set b = 6")
    events = log.settle()
    assert [(e.operation, e.key) for e in events] == [
        ("create", {"b": 5, "a": "x"}),
        ("update", {"b": 5, "a": "x"}),
        ("delete", {"b": 5, "a": "x"}),
        ("create", {"b": 6, "a": "x"}),
    ]


def test_truncate_is_one_event_a_table_without_key(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute("create table a (id int primary key); create table b (id int primary key references a)")
    log = capture(any_dsn, "a", "b")
    any_db.execute("insert into a values (1)")
    any_db.execute("truncate a cascade")
    _, one, other = log.settle()
    assert {(e.source.table, e.operation, e.key, e.after) for e in (one, other)} == {
        ("a", "truncate", None, None),
        ("b", "truncate", None, None),
    }


def test_what_the_application_says_holds_for_the_rest_of_its_transaction(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    any_db.execute("create table t (id int primary key)")
    log = capture(any_dsn, "t")
    said = {"correlation_id": "order-7", "actor": "ada", "traceparent": "00-1-2-01"}
    with any_db.transaction():
        any_db.execute("insert into t values (1)")
        any_db.execute("select pg_logical_emit_message(true, 'sync_hub', %s)", (json.dumps(said),))
        any_db.execute("insert into t values (2)")
        any_db.execute("select pg_logical_emit_message(true, 'sync_hub', %s)", ('{"actor": "bob"}',))
        any_db.execute("insert into t values (3)")
    for nonsense in ("[1]", "not json", '{"actor": {"a": 1}}', '{"mark": 5}', '{"heartbeat": []}'):
        any_db.execute("select pg_logical_emit_message(true, 'sync_hub', %s)", (nonsense,))
    any_db.execute("insert into t values (4)")
    events = log.settle()
    assert [(e.correlation_id, e.actor, e.traceparent) for e in events] == [
        ("", "", ""),
        ("order-7", "ada", "00-1-2-01"),
        ("order-7", "bob", "00-1-2-01"),
        ("", "", ""),
    ]


def test_partitions_come_under_the_name_of_their_root(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute(
        "create table t (id int primary key, name text) partition by range (id);"
        "create table t1 partition of t for values from (0) to (10);"
        "create table t2 partition of t for values from (10) to (20)"
    )
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1, 'a')")
    any_db.execute("update t set id = 11")
    events = log.settle()
    assert [(e.source.table, e.operation, e.key) for e in events] == [
        ("t", "create", {"id": 1}),
        ("t", "delete", {"id": 1}),
        ("t", "create", {"id": 11}),
    ]
    any_db.execute("alter table t detach partition t1")
    log.settle()
    assert "partitions" in log.source.status()["relation_changed"]["public.t"]
    assert list(log.source.read_rows("public.t")) == [{"id": 11, "name": "a"}]


def test_origin_of_replicated_transactions_is_carried(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id int primary key)")
    log = capture(source_dsn, "t")
    origin = f"crm_{db.info.dbname}"
    db.execute("select pg_replication_origin_create(%s)", (origin,))
    db.execute("select pg_replication_origin_session_setup(%s)", (origin,))
    db.execute("insert into t values (1)")
    db.execute("select pg_replication_origin_session_reset()")
    db.execute("insert into t values (2)")
    events = log.settle()
    db.execute("select pg_replication_origin_drop(%s)", (origin,))
    assert [event.source.origin for event in events] == [origin, ""]


def test_excluded_columns_leave_the_database_in_no_form(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id int primary key, name text, secret text); alter table t replica identity full")
    db.execute("insert into t values (1, 'a', 'canary')")
    log = capture(source_dsn, tables={"public.t": {"exclude": ["secret"]}})
    db.execute("update t set name = 'b'")
    db.execute("delete from t")
    db.execute("insert into t values (2, 'a', 'canary')")
    log.source.track(True)
    log.source.fence()
    log.until(lambda: not log.source.fence_passed())
    log.source.request_chunk(ChunkRequest("r", "public.t", 1, (), after=None, rows=10))
    log.until(lambda: bool(log.chunks))
    rows = list(log.source.read_rows("public.t"))
    table = log.source.describe("public.t")
    assert len(log.events) == 4
    assert "canary" not in repr(log.events) + repr(rows)
    assert table
    assert [column.name for column in table.columns] == ["id", "name"]


@pytest.mark.parametrize(
    ("options", "code"),
    [({"exclude": ["id"]}, "key_excluded"), ({"exclude": ["nope"]}, "unknown_column")],
)
def test_exclude_that_cannot_be_is_refused(
    source_dsn: str, db: Database, capture: Capture, options: dict[str, Any], code: str
) -> None:
    db.execute("create table t (id int primary key)")
    with pytest.raises(ConfigError) as raised:
        capture(source_dsn, tables={"t": options})
    assert raised.value.code == code


def test_mask_is_refused_because_it_would_do_nothing() -> None:
    options = PostgresSource.Options(dsn="", tables={"t": {"mask": {"ssn": "sha256(ssn)"}}})
    with pytest.raises(ConfigError) as raised:
        PostgresSource("erp", options, "test")
    assert raised.value.code == "mask_reserved"


def test_odd_names_and_unknown_messages_do_not_matter(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute('create schema "We%ird"; create table "We%ird"."Tä""ble" ("Ключ%s" int primary key, "a b" text)')
    log = capture(source_dsn, 'We%ird.Tä"ble')
    db.execute('insert into "We%ird"."Tä""ble" values (1, \'x\')')
    db.execute("select pg_logical_emit_message(true, 'other', 'x')")
    db.execute("select pg_logical_emit_message(false, 'sync_hub', '{\"heartbeat\":\"x\"}')")
    row = {"Ключ%s": 1, "a b": "x"}
    assert brief(log.settle()) == [("create", {"Ключ%s": 1}, row)]
    assert list(log.source.read_rows('We%ird.Tä"ble', keys=[{"Ключ%s": 1}])) == [row]
    assert list(log.source.read_rows('We%ird.Tä"ble')) == [row]


def test_patterns_take_all_tables_but_the_hubs_own(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table b (id int primary key); create table a (id int primary key); create table sync_hub_x ()")
    db.execute("create schema other; create table other.a (id int primary key)")
    log = capture(source_dsn, "public.*")
    assert log.source.tables() == ["public.a", "public.b"]


@pytest.mark.parametrize("name", ["a*b", "a?b", "[ab]", "100%s", "a.b", "x'y", "a b", "a\\b", "Ä"])
def test_table_is_named_exactly_whatever_signs_its_name_has(
    source_dsn: str, db: Database, capture: Capture, name: str
) -> None:
    db.execute(
        psycopg.sql.SQL("create table {} (id int primary key, secret text)").format(psycopg.sql.Identifier(name))
    )
    db.execute("create table a (id int primary key, secret text); create table axb (id int primary key, secret text)")
    log = capture(source_dsn, tables={f"public.{name}": {"exclude": ["secret"]}})
    assert log.source.tables() == [f"public.{name}"]
    assert [finding for finding in log.source.check() if finding.severity == "error"] == []
    db.execute("insert into axb values (1); insert into a values (1)")
    db.execute(psycopg.sql.SQL("insert into {} values (1, 'canary')").format(psycopg.sql.Identifier(name)))
    assert [(event.source.table, event.after) for event in log.settle()] == [(name, {"id": 1})]
    assert list(log.source.read_rows(f"public.{name}")) == [{"id": 1}]


def test_large_transaction_is_cut_without_a_position_inside(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute("create table t (id int primary key, name text)")
    log = capture(any_dsn, "t")
    log.settle()
    rows = CUT_EVENTS * 2 + 100
    any_db.execute("insert into t select i, 'x' from generate_series(1, %s) i", (rows,))
    before = len(log.batches)
    events = log.settle()
    assert [event.key for event in events] == [{"id": number} for number in range(1, rows + 1)]
    parts = list(dropwhile(lambda batch: not batch.events, log.batches[before:]))
    inside = list(takewhile(lambda batch: batch.position is None, parts))
    assert inside
    assert max(len(batch.events) for batch in parts) < CUT_EVENTS + TAKE_MESSAGES
    assert sum(len(batch.events) for batch in parts[: len(inside) + 1]) == rows, "no position before the last event"


def test_idle_source_lets_the_log_go_through_heartbeats(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id int primary key); create table busy (id int)")
    log = capture(source_dsn, "t")
    confirmed = "select confirmed_flush_lsn from pg_replication_slots where database = current_database()"
    first = db.execute(confirmed).fetchall()
    db.execute("insert into busy select generate_series(1, 1000)")
    log.read(0.2)
    assert db.execute(confirmed).fetchall() == first
    log.settle()
    assert db.execute(confirmed).fetchall() == first, "nothing may be acknowledged by itself"
    log.acknowledge()

    def moved() -> bool:
        return db.execute(confirmed).fetchall() != first

    log.until(moved)


def test_heartbeat_has_the_servers_time_and_a_position(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id int primary key)")
    log = capture(source_dsn, "t")
    db.execute("insert into t values (1)")
    log.settle()
    heartbeat = log.heartbeats[-1]
    assert abs(heartbeat.source_time - db.execute("select extract(epoch from now())::float8").fetchall()[0][0]) < 5
    assert json.loads(heartbeat.position)["xid"] > 0
    assert log.batches[-1].position == heartbeat.position


def test_heartbeats_of_another_hub_are_not_ours(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id int primary key)")
    log, other = capture(source_dsn, "t"), capture(source_dsn, "t", slot="another", publication="another")
    log.settle()
    beats = len(log.heartbeats)
    other.settle()
    db.execute("insert into t values (1)")
    log.until(lambda: bool(log.events))
    assert len(log.heartbeats) == beats


def test_status_says_what_the_slot_holds_back(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id int primary key, name text)")
    log = capture(source_dsn, "t")
    db.execute("insert into t select i, repeat('x', 100) from generate_series(1, 5000) i")
    log.settle()
    status = log.source.status()
    assert status["retained_log_bytes"] > 500_000
    assert status["retained_log_limit_bytes"] is None
    assert status["slot_status"] == "reserved"
    assert status["position"].count("/") == 1


def test_closed_source_says_so_and_closes_twice(source_dsn: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id int primary key)")
    log = capture(source_dsn, "t")
    log.source.close()
    log.source.close()
    with pytest.raises(Unavailable) as raised:
        log.read()
    assert raised.value.code == "not_open"


def test_dropped_source_leaves_nothing_behind(source_dsn: str, db: Database) -> None:
    db.execute("create table t (id int primary key)")
    source = PostgresSource("erp", PostgresSource.Options(dsn=source_dsn, tables=["t"]), "test")
    source.open(None)
    source.drop()
    assert db.execute("select count(*) from pg_publication").fetchall() == [(0,)]
    left = "select count(*) from pg_replication_slots where database = current_database()"
    assert db.execute(left).fetchall() == [(0,)]


def test_unknown_server_and_database_are_unavailable(source_dsn: str) -> None:
    for dsn, code in (("host=127.0.0.1 port=1", "connection_failed"), (source_dsn + "x", "database_missing")):
        source = PostgresSource("erp", PostgresSource.Options(dsn=dsn, tables=["t"]), "test")
        with pytest.raises(Unavailable) as raised:
            source.open(None)
        assert raised.value.code == code


def test_application_sees_no_new_errors(source_dsn: str, db: Database, capture: Capture) -> None:
    """Every kind of table that can be captured may still be updated and deleted from."""
    db.execute(
        "create table plain (id int primary key, n int);"
        "create table whole (id int primary key, n int); alter table whole replica identity full;"
        "create table made (id int primary key, n int, twice int generated always as (n * 2) stored)"
    )
    log = capture(source_dsn, "plain", "whole", "made")
    for table in ("plain", "whole", "made"):
        db.execute(f"insert into {table} values (1, 1)")
        db.execute(f"update {table} set n = 2")
        db.execute(f"delete from {table}")
    assert len(log.settle()) == 9


def test_stored_generated_columns_are_carried_where_the_server_can(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    any_db.execute("create table t (id int primary key, n int, twice int generated always as (n * 2) stored)")
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (1, 4)")
    after = log.settle()[0].after
    table = log.source.describe("public.t")
    assert table
    carried = {column.name for column in table.columns if column.carried}
    assert after is not None
    assert set(after) == carried
    assert ("twice" in carried) == (any_db.info.server_version >= 180000)
    assert list(log.source.read_rows("public.t")) == [after]


def test_broken_address_is_not_printed(source_dsn: str) -> None:
    with pytest.raises(ConfigError) as raised:
        PostgresSource("erp", PostgresSource.Options(dsn="postgresql//u:canary@h", tables=["t"]), "test").tables()
    assert "canary" not in str(raised.value)
    with pytest.raises(psycopg.ProgrammingError):
        psycopg.connect("postgresql//u:canary@h")
