"""What happens to captured tables and their publication behind the hub's back is never silent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from connectors.local_postgres import LocalPostgres
from connectors.sources.postgres import PostgresSource
from sync_hub.errors import Fatal
from sync_hub.testing.source import Collector
from tests.integration.conftest import Capture, Database

PUBLICATION = "sync_hub_test_erp"


def changed(log: Collector) -> dict[str, str]:
    altered: dict[str, str] = log.source.status()["relation_changed"]
    return altered


def take_changed(log: Collector) -> dict[str, str]:
    assert isinstance(log.source, PostgresSource)
    return log.source.take_changed()


def opened_again(log: Collector, capture: Capture, dsn: str, *tables: str) -> Collector:
    """Stop after all that was committed, store the position, and start with these tables."""
    log.settle()
    position = log.acknowledge()
    log.source.close()
    return capture(dsn, *tables, position=position)


@pytest.fixture
def tables(any_db: Database) -> None:
    any_db.execute("create table t (id int primary key, name text); create table other (id int primary key)")


@pytest.mark.usefixtures("tables")
def test_table_taken_out_and_put_back_is_reported_until_it_is_seen_to(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    log = capture(any_dsn, "t", "other")
    assert changed(log) == {}, "existing rows of a fresh source are loaded anyway"
    log = opened_again(log, capture, any_dsn, "other")
    any_db.execute("insert into t values (1)")
    log = opened_again(log, capture, any_dsn, "t", "other")
    assert log.events == []
    assert list(changed(log)) == ["public.t"]
    log = opened_again(log, capture, any_dsn, "t", "other")
    assert "not captured" in take_changed(log)["public.t"], "a crash before it is seen to does not lose it"
    assert changed(log) == take_changed(log) == {}
    log = opened_again(log, capture, any_dsn, "t", "other")
    assert changed(log) == {}


@pytest.mark.usefixtures("tables")
def test_columns_changed_before_the_first_event_of_a_table_count_as_changed(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    log = capture(any_dsn, "t", "other")
    any_db.execute("alter table t add column more int default 5")
    any_db.execute("insert into t values (1), (2)")
    log.settle()
    assert list(changed(log)) == ["public.t"]
    any_db.execute("alter table other add column more int default 5")
    again = opened_again(log, capture, any_dsn, "t", "other")
    take_changed(again)
    any_db.execute("insert into t values (3); insert into other values (1)")
    again.settle()
    assert list(changed(again)) == ["public.other"], "also when it was changed while the hub was away"


def test_columns_are_known_as_the_log_shows_them(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute("create domain positive as numeric(9,2) check (value > 0); create type mood as enum ('ok')")
    any_db.execute(
        "create table plain (id int primary key, gone int, name varchar(7), p positive, m mood[], j jsonb);"
        "alter table plain drop column gone;"
        "create table whole (id int primary key, n int); alter table whole replica identity full;"
        "create table deferred (id int primary key deferrable, n int); alter table deferred replica identity full;"
        "create table indexed (id int primary key, a text not null, b int not null, unique (b, a));"
        "alter table indexed replica identity using index indexed_b_a_key;"
        "create table made (id int primary key, twice int generated always as (id * 2) stored);"
        "create table parted (id int, n int, primary key (n, id)) partition by range (id);"
        "create table part (n int not null, extra int, id int not null); alter table part drop column extra;"
        "alter table parted attach partition part for values from (0) to (10)"
    )
    names = ["plain", "whole", "deferred", "indexed", "made", "parted"]
    log = capture(any_dsn, *names)
    seeded = json.loads(log.position or "")["tables"]
    for name in names:
        columns = {"indexed": "(id, a, b) values (1, 'a', 1)", "parted": "(id, n) values (1, 1)"}
        any_db.execute(f"insert into {name} {columns.get(name, '(id) values (1)')}")
    assert len(log.settle()) == len(names)
    assert changed(log) == {}
    assert json.loads(log.position or "")["tables"] == seeded


def test_partitions_changed_while_the_hub_was_away(any_dsn: str, any_db: Database, capture: Capture) -> None:
    any_db.execute(
        "create table t (id int primary key) partition by range (id);"
        "create table t1 partition of t for values from (0) to (10);"
        "create table t2 (id int primary key); insert into t2 values (11)"
    )
    log = opened_again(capture(any_dsn, "t"), capture, any_dsn, "t")
    assert changed(log) == {}
    log.settle()
    position = log.acknowledge()
    log.source.close()
    any_db.execute("alter table t detach partition t1; alter table t attach partition t2 for values from (10) to (20)")
    assert "partitions" in changed(capture(any_dsn, "t", position=position))["public.t"]


def options(db: Database) -> None:
    db.execute(f"alter publication {PUBLICATION} set (publish = 'insert')")


def options_and_back(db: Database) -> None:
    options(db)
    db.execute("delete from t")
    db.execute(f"alter publication {PUBLICATION} set (publish = 'insert, update, delete, truncate')")


def row_filter(db: Database) -> None:
    db.execute(f"alter publication {PUBLICATION} set table only t where (id > 5), only other")


def column_list(db: Database) -> None:
    db.execute(f"alter publication {PUBLICATION} set table only t (id), only other")


def out_and_in(db: Database) -> None:
    db.execute(f"alter publication {PUBLICATION} drop table t")
    db.execute("delete from t")
    db.execute(f"alter publication {PUBLICATION} add table only t")


def made_again(db: Database) -> None:
    db.execute(f"drop publication {PUBLICATION}")
    db.execute("delete from t")
    db.execute(f"create publication {PUBLICATION} for table only t, only other")


def gone(db: Database) -> None:
    db.execute(f"drop publication {PUBLICATION}")


HARM = [options, options_and_back, row_filter, column_list, out_and_in, made_again, gone]


@pytest.mark.parametrize("any_server", ["18", "15"], indirect=True)  # 14 has no filters; the others are as 15
@pytest.mark.parametrize("harm", HARM)
@pytest.mark.usefixtures("tables")
def test_publication_changed_by_hand_is_noticed_at_the_next_heartbeat(
    any_server: LocalPostgres, any_dsn: str, any_db: Database, capture: Capture, harm: Callable[[Database], None]
) -> None:
    any_db.execute("insert into t values (1)")
    log = capture(any_dsn, "t", "other")
    log.settle()
    harm(any_db)
    with pytest.raises(Fatal) as raised:
        log.source.heartbeat()
    assert raised.value.code == "publication_changed"


@pytest.mark.parametrize("harm", [options_and_back, out_and_in, made_again, gone])
@pytest.mark.usefixtures("tables")
def test_publication_changed_by_hand_while_the_hub_was_away_is_noticed_at_the_start(
    any_dsn: str, any_db: Database, capture: Capture, harm: Callable[[Database], Any]
) -> None:
    any_db.execute("insert into t values (1)")
    log = opened_again(capture(any_dsn, "t", "other"), capture, any_dsn, "t", "other")
    log.settle()
    position = log.acknowledge()
    log.source.close()
    harm(any_db)
    with pytest.raises(Fatal) as raised:
        log.source.open(position)
    assert raised.value.code == "publication_changed"


@pytest.mark.usefixtures("tables")
def test_table_added_to_the_publication_beside_the_captured_ones_changes_nothing(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    log = capture(any_dsn, "t")
    any_db.execute(f"alter publication {PUBLICATION} add table other")
    any_db.execute("insert into other values (1); insert into t values (1)")
    assert [event.source.table for event in log.settle()] == ["t"]
    log = opened_again(log, capture, any_dsn, "t")
    any_db.execute("insert into t values (2)")
    assert [event.key for event in log.settle()] == [{"id": 2}]


@pytest.mark.parametrize("any_server", ["18", "15"], indirect=True)  # 14 has no publications of schemas
@pytest.mark.usefixtures("tables")
def test_schema_taken_out_of_the_publication_and_added_again_is_noticed(
    any_server: LocalPostgres, any_dsn: str, any_db: Database, capture: Capture
) -> None:
    any_db.execute(
        f"create publication {PUBLICATION} for tables in schema public with (publish_via_partition_root = true)"
    )
    log = capture(any_dsn, "t", "other")
    any_db.execute("insert into t values (1)")
    assert len(log.settle()) == 1
    any_db.execute(f"alter publication {PUBLICATION} drop tables in schema public")
    any_db.execute(f"alter publication {PUBLICATION} add tables in schema public")
    with pytest.raises(Fatal) as raised:
        log.source.heartbeat()
    assert raised.value.code == "publication_changed"
