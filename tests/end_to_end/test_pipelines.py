"""Pipelines of a running hub: shared partitions, TRUNCATE, shared tables, rows that are refused, changed mappings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from connectors.local_postgres import LocalPostgres
from sync_hub.model import Parked
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, query
from tests.servers.postgres import database

SCHEMA = """
create table accounts (id bigint primary key, name text, balance numeric(14,4), owner text);
create table orders (shop integer, number text, total numeric, note text, primary key (shop, number));
"""
FULL = """
mapping: t_delete
from: {source: {source}, table: public.orders}
to: {target: crm, table: t_delete, create: true}
key: [shop, number]
copy: [shop, number]
---
mapping: t_keep
from: {source: {source}, table: public.orders}
to: {target: crm, table: t_keep, create: true}
key: [shop, number]
copy: [shop, number]
on_delete: keep
---
mapping: t_set
from: {source: {source}, table: public.orders}
to: {target: crm, table: t_set}
key: [shop, number]
copy: [shop, number]
on_delete: {set: {gone: {value: true}}}
---
mapping: person_name
from: {source: {source}, table: public.accounts}
to: {target: crm, table: person}
key: [id]
copy: [id, name]
where: name is not null
---
mapping: person_owner
from: {source: {source}, table: public.accounts}
to: {target: crm, table: person}
key: [id]
copy: [id, owner]
where: owner is not null
---
mapping: ratio
from: {source: {source}, table: public.accounts}
to: {target: crm, table: ratio}
key: [id]
fields:
  id: id
  share: round(100 / balance, 2)
"""
TARGET = """
create table t_set (shop integer, number text, gone boolean, primary key (shop, number));
create table person (id bigint primary key, name text, owner text);
create table ratio (id bigint primary key, share numeric, constraint small check (share < 1000));
"""
LIMIT_BYTES = 20_000


@pytest.fixture(
    scope="module",
    params=["embedded", "kafka"],
)
def lab(
    request: pytest.FixtureRequest,
    source_server: LocalPostgres,
    target_server: LocalPostgres,
    tmp_path_factory: pytest.TempPathFactory,
    unique_name: str,
) -> Iterator[Lab]:
    """A hub with two deliver workers for one target."""
    folder = tmp_path_factory.mktemp("pipelines")
    broker = f"{{type: embedded, path: {folder}/log.db, partitions: 4, max_record_bytes: {LIMIT_BYTES}}}"
    if request.param == "kafka":
        address = request.getfixturevalue("kafka_address")
        broker = f"{{type: kafka, bootstrap_servers: ['{address}'], partitions: 4, replication_factor: 1, "
        broker += f"topic_settings: {{max.message.bytes: '{LIMIT_BYTES}'}}}}"
    with database(source_server) as source, database(target_server) as target:
        execute(source, SCHEMA)
        execute(target, TARGET)
        lab = Lab(folder, unique_name, source, target, FULL, broker=broker, workers=2)
        lab.start()
        yield lab
        lab.close()


@pytest.fixture(scope="module")
def unique_name() -> str:
    """A name that no other topics on a shared Kafka begin with."""
    import uuid

    return f"p{uuid.uuid4().hex[:8]}"


SHARES = [[["0", "1"], ["2", "3"]], [["0", "2"], ["1", "3"]], [["0", "3"], ["1", "2"]]]
"""Half of the partitions each."""


def _read(lab: Lab, pipeline: str) -> list[list[str]]:
    """Which partitions each worker reads."""
    workers = [worker for worker in lab.state.workers() if worker.name.startswith("deliver:crm:")]
    return [list(worker.detail["pipelines"].get(pipeline, {}).get("offsets", ())) for worker in workers]


def test_two_workers_share_the_partitions_and_pass_a_truncate_together(lab: Lab) -> None:
    counts = "select (select count(*) from t_delete), (select count(*) from t_keep), count(*), count(gone) from t_set"
    execute(lab.source, "insert into orders select 1, n, n, null from generate_series(1, 400) n")
    lab.until([(400, 400, 400, 0)], counts)
    wait_until(lambda: sorted(map(sorted, _read(lab, "t_delete"))) in SHARES, f"shares {_read(lab, 't_delete')}", 20)
    for turn in range(2, 5):
        execute(
            lab.source, "truncate orders", f"insert into orders select {turn}, n, n, null from generate_series(1, 50) n"
        )
    with psycopg.connect(lab.source) as connection:  # all in one transaction
        connection.execute("insert into orders values (9, 'before', 1, null)")
        connection.execute("truncate orders")
        connection.execute("insert into orders select 10, n, n, null from generate_series(1, 70) n")
    lab.until([(70, 621, 621, 551)], counts)
    assert query(lab.target, "select distinct shop from t_delete") == [(10,)]
    assert query(lab.target, "select distinct shop from t_set where gone is null") == [(10,)]
    assert query(lab.target, "select count(*) from sync_hub_offsets where barrier <> ''") == [(0,)]


def test_many_rows_created_and_some_of_them_deleted_in_one_transaction_end_as_each_mapping_says(lab: Lab) -> None:
    """So many that they are copied straight into the views, where the deletes find them."""
    counts = (
        "select (select count(*) from t_delete where shop = 20), (select count(*) from t_keep where shop = 20), "
        "count(*), count(gone) from t_set where shop = 20"
    )
    lab.settle()
    with psycopg.connect(lab.source) as connection:
        connection.execute("insert into orders select 20, n, n, null from generate_series(1, 3000) n")
        connection.execute("delete from orders where shop = 20 and number::int % 50 = 0")
    lab.until([(2940, 3000, 3000, 60)], counts)


def test_two_mappings_write_one_table_and_own_their_columns(lab: Lab) -> None:
    people = "select id, name, owner from person order by id"
    execute(lab.source, "insert into accounts values (1, 'Ada', 1, 'x'), (2, 'Alan', 1, null), (3, null, 1, 'y')")
    lab.until([(1, "Ada", "x"), (2, "Alan", None), (3, None, "y")], people)
    execute(lab.source, "update accounts set owner = null where id = 1", "update accounts set name = null where id = 3")
    execute(lab.source, "update accounts set owner = 'z' where id = 2", "update accounts set owner = null where id = 3")
    lab.until([(1, "Ada", None), (2, "Alan", "z")], people)
    execute(lab.source, "delete from accounts where id = 2", "update accounts set id = 4 where id = 1")
    lab.until([(4, "Ada", None)], people)
    execute(lab.source, "truncate accounts", "insert into accounts values (5, 'Bea', 1, 'w')")
    lab.until([(5, "Bea", "w")], people)


def parked(lab: Lab, pipeline: str, target: str = "crm") -> list[Parked]:
    """What a pipeline holds."""
    sink = lab.settings.sink(target)
    try:
        sink.open()  # the workers may not have come to it yet
        return list(sink.find_parked([pipeline]))
    finally:
        sink.close()


def test_a_row_that_the_mapping_cannot_map_holds_up_nothing_but_itself(lab: Lab) -> None:
    execute(
        lab.source,
        "delete from accounts where id between 20 and 29",
        "insert into accounts values (20, 'before', 2, null)",
        "insert into accounts values (21, 'x', 0, null)",
    )
    execute(lab.source, "insert into accounts values (22, 'after', 4, null)")
    (row,) = wait_until(lambda: parked(lab, "ratio"), "it is parked")
    assert row.code == "division_by_zero"
    for part in ("ratio", "share", "21"):
        assert part in row.message
    lab.until([(50,), (25,)], "select share from ratio where id in (20, 22) order by id")
    lab.until(
        [(20, "before"), (21, "x"), (22, "after")], "select id, name from person where id between 20 and 22 order by id"
    )
    assert lab.problem("parked", "pipeline:ratio")["affects"] == ["ratio"]


def test_a_row_that_the_target_refuses_is_told_with_its_key_and_its_constraint(lab: Lab) -> None:
    execute(
        lab.target,
        "alter table person drop constraint if exists short",
        "alter table person add constraint short check (length(name) < 10)",
    )
    execute(lab.source, "delete from accounts where id between 30 and 40")
    execute(lab.source, "insert into accounts values (30, 'much too long', 1, null)")
    execute(lab.source, "insert into accounts select n, 'fits', 1, null from generate_series(31, 40) n")
    (row,) = wait_until(lambda: parked(lab, "person_name"), "it is parked")
    for part in ("public.accounts {'id': 30}", "person_name into person", "short", "SQLSTATE 23514"):
        assert part in row.message
    assert (row.code, row.sqlstate, bool(row.hint)) == ("check_violated", "23514", True)
    lab.until([(10,)], "select count(name) from person where id between 30 and 40")
    execute(lab.target, "alter table person drop constraint short")
    assert lab.cli("parked", "retry", "--pipeline", "person_name").returncode == 0
    lab.until([(11,)], "select count(name) from person where id between 30 and 40")


def test_a_row_too_large_for_its_topic_is_never_an_empty_row(lab: Lab) -> None:
    execute(
        lab.source, "insert into accounts values (50, 'small', 1, null) on conflict (id) do update set name = 'small'"
    )
    lab.until([("small",)], "select name from person where id = 50")
    long = f"select string_agg(md5(n::text), '') from generate_series(1, {LIMIT_BYTES // 16}) n"
    execute(lab.source, f"update accounts set name = ({long}) where id = 50")
    (row,) = wait_until(lambda: [one for one in parked(lab, "person_name") if one.key == '{"id":50}'], "it is parked")
    assert row.code == "row_too_large"
    for part in ("public.accounts {'id': 50}", "bytes"):
        assert part in row.message
    assert "limit" in row.hint
    assert query(lab.target, "select id, name from person where id = 50") == [(50, "small")]
    assert query(lab.target, "select 1 from person where name is null and owner is null") == []


# Mappings that change

FIRST = """
mapping: first
from: {source: {source}, table: public.orders}
to: {target: crm, table: first}
key: [shop, number]
copy: [shop, number]
"""
SECOND = """---
mapping: second
from: {source: {source}, table: public.orders}
to: {target: crm, table: second, create: true}
key: [shop, number]
copy: [shop, number, note]
"""
FIRST_TABLE = """
create table first (shop integer, number text, total numeric, primary key (shop, number));
create table writes (at bigserial);
create function audit() returns trigger language plpgsql as
    'begin insert into writes default values; return new; end';
create trigger audit after insert or update on first for each row execute function audit();
"""


@pytest.fixture
def small(tmp_path: Path, source_dsn: str, target_dsn: str) -> Iterator[Lab]:
    """A hub of one mapping that has loaded a hundred rows."""
    execute(source_dsn, SCHEMA, "insert into orders select 1, n, n, 'note' from generate_series(1, 100) n")
    execute(target_dsn, FIRST_TABLE)
    lab = Lab(tmp_path, "small", source_dsn, target_dsn, FIRST)
    lab.start()
    lab.until([(100,)], "select count(*) from first")
    yield lab
    lab.close()


def test_a_mapping_that_comes_later_loads_alone(small: Lab) -> None:
    _write(small, FIRST + SECOND)
    assert small.stop() == 0
    small.start()
    small.until([(100,)], "select count(*) from second")
    execute(small.source, "insert into orders values (2, 'new', 1, 'note')")
    small.until([(101,)], "select count(*) from second")
    small.until([(101,)], "select count(*) from first")
    assert query(small.target, "select count(*) from writes") == [(101,)], "the first was not loaded again"
    small.agrees()


def test_a_changed_mapping_is_pending_and_runs_on_as_applied(small: Lab) -> None:
    _write(small, FIRST.replace("copy: [shop, number]", "copy: [shop, number, total]"))
    wait_until(lambda: small.health()["pipelines"]["first"]["mapping"]["pending"], "pending is seen while it runs")
    assert small.stop() == 0
    small.start()
    execute(small.source, "insert into orders values (2, 'new', 7, 'note')")
    small.until([(2, None)], "select shop, total from first where number = 'new'")
    assert small.health()["pipelines"]["first"]["mapping"]["pending"] is True
    assert "mapping first has changed" in small.log()
    small.becomes("first", "running")
    _write(small, FIRST.replace("key: [", "key: [["))
    problem = small.problem("mapping_unreadable", "hub")
    assert "mappings/all.yaml:" in problem["message"]
    execute(small.source, "insert into orders values (3, 'while broken', 7, 'note')")
    small.until([(3,)], "select shop from first where number = 'while broken'")
    assert small.stop() == 0
    done = small.cli("run")
    assert done.returncode == 2
    assert "mappings/all.yaml:" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_removed_mapping_stops_and_is_not_taken_up_again_where_it_was(small: Lab) -> None:
    _write(small, SECOND.removeprefix("---"))
    assert small.stop() == 0
    small.start()
    small.until([(100,)], "select count(*) from second")
    execute(small.source, "insert into orders values (2, 'missed', 1, 'note')")
    small.until([(101,)], "select count(*) from second")
    assert "has changed" not in small.log()
    assert list(small.health()["pipelines"]) == ["second"]
    assert query(small.target, "select count(*) from first") == [(100,)]
    _write(small, FIRST + SECOND)
    assert small.stop() == 0
    small.start()
    error = small.becomes("first", "failed")["error"]
    assert error["code"] == "offsets_without_state"
    assert error["command"] == "sync-hub snapshot first --reload"
    small.becomes("second", "running")
    assert small.cli("snapshot", "first", "--reload").returncode == 0
    small.until([(101,)], "select count(*) from first")
    small.becomes("first", "running")
    small.agrees()


def _write(lab: Lab, mappings: str) -> None:
    (lab.mappings / "all.yaml").write_text(mappings.replace("{source}", lab.name))


def test_both_workers_go_on_after_offsets_were_lost_and_the_view_loaded_again(lab: Lab) -> None:
    for turn in range(3):
        execute(lab.target, "delete from sync_hub_offsets where pipeline = 't_delete'")
        execute(lab.source, f"insert into orders select {50 + turn}, n, n, null from generate_series(1, 60) n")
        lab.becomes("t_delete", "failed")
        lab.state.reload(["t_delete"], "a reload was asked for")

        def proven() -> bool:
            return all(one.phase == "loaded" and not one.unproven for one in lab.state.pipelines())

        wait_until(proven, "loaded and verified", 60)
        shop = 100 + turn
        execute(lab.source, f"insert into orders select {shop}, n, n, null from generate_series(1, 60) n")
        lab.until([(60,)], f"select count(*) from t_delete where shop = {shop}")
