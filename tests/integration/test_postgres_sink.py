"""The PostgreSQL sink on a real server: what only PostgreSQL has, and what only its catalog can show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.local_postgres import LocalPostgres
from sync_hub.errors import ConfigError, Fatal, Rejected
from sync_hub.model import ABSENT, Column, RowChange, Table, TableWrite
from sync_hub.testing.sink_case import Writer
from tests.postgres_sink import sink, sql
from tests.servers.kafka import unavailable
from tests.servers.postgres import running

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def writer(target_dsn: str) -> Iterator[Writer]:
    writer = Writer(sink(target_dsn))
    yield writer
    writer.sink.close()


def upserts(table: str, columns: tuple[str, ...], *rows: tuple[Any, ...], **options: Any) -> TableWrite:
    changes = [RowChange("upsert", row[:1], row) for row in rows]
    return TableWrite("customers", table, columns[:1], columns, changes, **options)


@pytest.mark.parametrize(
    ("declared", "value", "sqlstate"),
    [
        ("varchar(5)", "123456", "22001"),
        ("char(5)", "123456", "22001"),
        ("varchar(3)[]", ["abcd"], "22001"),
        ("bit(3)", "1011", "22026"),
        ("bit varying(3)", "1011", "22001"),
        ("short_text", "123456", "22001"),
        ("numeric(4,2)", "100", "22003"),
        ("smallint", 70000, "22003"),
        ("integer", "12a", "22P02"),
        ("date", "2024-02-30", "22008"),
        ("mood", "furious", "22P02"),
        ("positive", -1, "23514"),
        ("jsonb", "{", "22P02"),
        ("jsonb", '"\\u0000"', "22P05"),
        ("integer not null", None, "23502"),
        ("integer check (value > 0)", 0, "23514"),
        ("integer unique", 7, "23505"),
        ("integer references other", 1, "23503"),
        ("text", "with \x00 inside", "22021"),
    ],
)
def test_what_does_not_fit_is_rejected_and_never_cut(
    writer: Writer, target_dsn: str, declared: str, value: Any, sqlstate: str
) -> None:
    sql(target_dsn, "create domain short_text as varchar(5); create domain positive as int check (value > 0)")
    sql(target_dsn, "create type mood as enum ('sad', 'glad'); create table other (id int primary key)")
    sql(target_dsn, f"create table t (id int primary key, value {declared})")
    if "unique" in declared:
        writer.write(upserts("t", ("id", "value"), (1, value)))
    with pytest.raises(Rejected) as caught:
        writer.write(upserts("t", ("id", "value"), (2, value)))
    assert caught.value.sqlstate == sqlstate
    assert "\n" not in str(caught.value)
    assert sql(target_dsn, "select * from t where id = 2") == []


def test_message_names_mapping_table_and_constraint_but_not_the_row(writer: Writer, target_dsn: str) -> None:
    sql(
        target_dsn,
        "create table t (id int primary key, name text constraint no_empty_name check (name <> ''), pin text)",
    )
    with pytest.raises(Rejected) as caught:
        writer.write(upserts("t", ("id", "name", "pin"), (1, "", "s3cret")))
    assert "customers into t" in caught.value.message
    assert "no_empty_name" in caught.value.message
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "value", "text"),
    [
        ("varchar(5)", "12345", "12345"),
        ("varchar(5)", "12345   ", "12345"),
        ("char(5)", "ab", "ab"),
        ("bit(3)", "101", "101"),
        ("bit(3)[]", ["101", None], "{101,NULL}"),
        ("short_text", "12345", "12345"),
        ("mood", "glad", "glad"),
        ("mood[]", ["glad", "sad"], "{glad,sad}"),
        ("good_mood", "glad", "glad"),
        ("positive", 5, "5"),
        ("positive[]", [1, 2], "{1,2}"),
        ("numeric(12,2)", "1.005", "1.01"),
        ("timestamp(0)", "2026-01-01T00:00:00.6", "2026-01-01 00:00:01"),
        ('"char"', "x", "x"),
        ("name", "n", "n"),
        ("xid8", "18446744073709551615", "18446744073709551615"),
        ("point", "(1,2)", "(1,2)"),
        ("box[]", ["(1,1),(0,0)"], "{(1,1),(0,0)}"),
        ("pair", "(1,x)", "(1,x)"),
        ("text", True, "true"),
        ("text", [1, "a"], '[1,"a"]'),
        ("text", 1.5, "1.5"),
        ("jsonb", {"a": 1}, '{"a": 1}'),
    ],
)
def test_values_reach_columns_of_any_declared_type(
    writer: Writer, target_dsn: str, declared: str, value: Any, text: str
) -> None:
    sql(target_dsn, "create domain short_text as varchar(5); create domain positive as int check (value > 0)")
    sql(target_dsn, "create type mood as enum ('sad', 'glad'); create domain good_mood as mood check (value = 'glad')")
    sql(target_dsn, "create type pair as (a int, b text)")
    sql(target_dsn, f"create table t (id int primary key, value {declared})")
    writer.write(upserts("t", ("id", "value"), (1, value)))
    assert sql(target_dsn, "select value::text from t") == [(text,)]


def test_generated_columns_are_left_to_the_server_and_identities_take_our_values(
    writer: Writer, target_dsn: str
) -> None:
    sql(
        target_dsn,
        """create table t (id int generated always as identity primary key, price numeric, number int,
           total numeric generated always as (price * number) stored)""",
    )
    columns = ("id", "total", "price", "number")
    for price in ("1.5", "2.5"):
        writer.write(upserts("t", columns, (7, "999", price, 2)))
    writer.write(TableWrite("customers", "t", ("id",), columns, [RowChange("update", (7,), (7, "999", ABSENT, 3))]))
    assert sql(target_dsn, "select id, price::text, number, total::text from t") == [(7, "2.5", 3, "7.5")]


def test_swapped_unique_values_pass_when_the_constraint_is_deferrable(writer: Writer, target_dsn: str) -> None:
    sql(target_dsn, "create table t (id int primary key, place int unique deferrable)")
    writer.write(upserts("t", ("id", "place"), (1, 10), (2, 20)))
    writer.write(upserts("t", ("id", "place"), (1, 20), (2, 10)))
    assert sql(target_dsn, "select id, place from t order by id") == [(1, 20), (2, 10)]
    with pytest.raises(Rejected) as caught:
        writer.write(upserts("t", ("id", "place"), (3, 10)))
    assert caught.value.sqlstate == "23505"
    assert writer.sink.load_offsets(["customers"]) == [writer.offset]
    writer.write(upserts("t", ("id", "place"), (3, 30)))


def test_child_may_come_before_its_parent_when_the_constraint_is_deferrable(writer: Writer, target_dsn: str) -> None:
    sql(target_dsn, "create table parent (id int primary key)")
    sql(target_dsn, "create table child (id int primary key, parent int references parent deferrable)")
    writer.write(upserts("child", ("id", "parent"), (1, 5)), upserts("parent", ("id",), (5,)))
    assert sql(target_dsn, "select parent from child") == [(5,)]


def test_column_that_changed_its_type_is_looked_up_again(writer: Writer, target_dsn: str) -> None:
    sql(target_dsn, "create table t (id int primary key, value int)")
    writer.write(upserts("t", ("id", "value"), (1, 1)))
    sql(target_dsn, "alter table t alter value type text, alter id type bigint")
    writer.write(upserts("t", ("id", "value"), (2**40, "no number")))
    assert sql(target_dsn, "select * from t order by id") == [(1, "1"), (2**40, "no number")]


def test_not_null_column_added_by_others_stops_inserts_but_not_updates(writer: Writer, target_dsn: str) -> None:
    sql(target_dsn, "create table t (id int primary key, value int)")
    writer.write(upserts("t", ("id", "value"), (1, 1)))
    sql(target_dsn, "alter table t add owner text; update t set owner = 'me'; alter table t alter owner set not null")
    writer.write(upserts("t", ("id", "value"), (1, 2)))
    assert sql(target_dsn, "select * from t") == [(1, 2, "me")]
    with pytest.raises(Rejected) as caught:
        writer.write(upserts("t", ("id", "value"), (2, 2)))
    assert caught.value.sqlstate == "23502"


def test_dropped_column_and_table_stop_the_worker(writer: Writer, target_dsn: str) -> None:
    sql(target_dsn, "create table t (id int primary key, value int)")
    writer.write(upserts("t", ("id", "value"), (1, 1)))
    sql(target_dsn, "alter table t drop value")
    with pytest.raises(Fatal) as caught:
        writer.write(upserts("t", ("id", "value"), (1, 2)))
    assert caught.value.code == "target_column_missing"
    sql(target_dsn, "drop table t")
    with pytest.raises(Fatal) as caught:
        writer.write(upserts("t", ("id", "value"), (1, 2)))
    assert caught.value.code == "target_table_missing"
    sql(target_dsn, "create table t (id int primary key, value text)")
    writer.write(upserts("t", ("id", "value"), (1, "back")))
    assert sql(target_dsn, "select * from t") == [(1, "back")]


def test_staging_grows_with_the_widest_table(writer: Writer, target_dsn: str) -> None:
    names = [f"c{number}" for number in range(700)]
    sql(target_dsn, "create table narrow (id int primary key)")
    sql(target_dsn, f"create table wide (id int primary key, {', '.join(f'{name} text' for name in names)})")
    writer.write(upserts("narrow", ("id",), (1,)))
    writer.write(upserts("wide", ("id", *names), (1, *names)), upserts("narrow", ("id",), (2,)))
    writer.write(upserts("narrow", ("id",), (3,)))
    assert sql(target_dsn, "select c0, c699, (select count(*) from narrow) from wide") == [("c0", "c699", 3)]


def test_cleared_part_of_a_shared_row_gets_defaults_where_null_is_refused(writer: Writer, target_dsn: str) -> None:
    sql(target_dsn, "create table t (id int primary key, a int not null default 7, b int default 9, c int)")
    writer.sink.share("t", ["customers", "contacts"])
    writer.write(
        upserts("t", ("id", "a", "b"), (1, 1, 1), shared=True),
        TableWrite("contacts", "t", ("id",), ("id", "c"), [RowChange("upsert", (1,), (1, 5))], shared=True),
    )
    delete = [RowChange("delete", (1,))]
    writer.write(TableWrite("customers", "t", ("id",), ("id", "a", "b"), delete, shared=True))
    assert sql(target_dsn, "select a, b, c from t") == [(7, None, 5)]


def test_settings_of_the_database_do_not_change_values(target_dsn: str) -> None:
    name = target_dsn.rpartition("/")[2]
    for setting in (
        "datestyle = 'German'",
        "timezone = 'Asia/Tokyo'",
        "intervalstyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "extra_float_digits = 0",
        "default_transaction_isolation = 'serializable'",
        "search_path = 'nowhere'",
    ):
        sql(target_dsn, f'alter database "{name}" set {setting}')
    writer = Writer(sink(target_dsn))
    types = ["date", "timestamp with time zone", "interval", "bytea", "double precision"]
    columns = [Column("id", "integer", nullable=False), *(Column(f"c{n}", name) for n, name in enumerate(types))]
    writer.sink.create(Table("", "t", tuple(columns), ("id",)))
    row = (1, "2026-03-04", "2026-11-23T02:24:33Z", "P1DT2H", "AAEC", 0.1)
    names = tuple(column.name for column in columns)
    writer.write(upserts("t", names, row))
    assert writer.rows("t", *names) == [row]
    writer.sink.close()


def test_own_tables_and_unqualified_tables_live_in_the_configured_schema(target_dsn: str) -> None:
    sql(target_dsn, 'create schema "Own Space"; create schema other')
    writer = Writer(sink(target_dsn, schema="Own Space"))
    columns = (Column("id", "integer", nullable=False),)
    writer.sink.create(Table("", "t", columns, ("id",)))
    writer.sink.create(Table("other", "t", columns, ("id",)))
    writer.write(upserts("t", ("id",), (1,)), upserts("other.t", ("id",), (2,)))
    assert sql(target_dsn, 'select * from "Own Space".t, other.t') == [(1, 2)]
    assert sql(target_dsn, 'select count(*) from "Own Space".sync_hub_offsets') == [(1,)]
    writer.sink.close()


def test_created_tables_have_types_that_this_server_knows(writer: Writer, target_dsn: str) -> None:
    types = [
        "enum",
        "enum[]",
        "numeric(12,2)",
        "timestamp(3) with time zone",
        "no_such_type",
        "citext[]",
        "xid8",
        "money",
    ]
    columns = [Column("id", "bigint", nullable=False), *(Column(f"c{n}", name) for n, name in enumerate(types))]
    ddl = writer.sink.create(Table("", "t", tuple(columns), ("id",)))
    assert "primary key" in ddl
    found = writer.sink.describe("t")
    assert found is not None
    expected = ["text", "text[]", "numeric(12,2)", "timestamp(3) with time zone", "text", "text[]", "xid8", "money"]
    assert [column.type for column in found.columns[1:]] == expected


@pytest.mark.parametrize("name", ["int); drop table t; --", "numeric(12", "int default 5"])
def test_type_that_is_none_does_not_reach_the_ddl(writer: Writer, target_dsn: str, name: str) -> None:
    columns = (Column("id", "integer", nullable=False), Column("value", name))
    with pytest.raises(ConfigError) as caught:
        writer.sink.create(Table("", "t", columns, ("id",)))
    assert name in caught.value.message
    assert writer.sink.describe("t") is None


def test_update_of_a_key_that_only_looks_different_writes_the_new_spelling(writer: Writer, target_dsn: str) -> None:
    sql(target_dsn, "create table t (key numeric primary key, value int)")
    writer.write(upserts("t", ("key", "value"), ("1.0", 1)))
    writer.write(upserts("t", ("key", "value"), ("1.00", 2)))
    assert sql(target_dsn, "select key::text, value from t") == [("1.00", 2)]


@pytest.fixture(scope="module")
def debian_server(server_folder: Path) -> Iterator[LocalPostgres]:
    if not (DEBIAN_15 / "postgres").exists():
        unavailable("needs Debian's postgresql-15, which has ICU and is a second version")
    with running(server_folder, "debian", programs=DEBIAN_15) as server:
        yield server


def test_changed_key_under_a_collation_that_ignores_case_on_postgresql_15(debian_server: LocalPostgres) -> None:
    dsn = debian_server.dsn()
    sql(dsn, "create collation no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    sql(dsn, "create table codes (code text collate no_case primary key, note xml)")
    writer = Writer(sink(dsn))
    columns = ("code", "note")
    writer.write(upserts("codes", columns, ("ab", "<a>1</a>"), ("cd", None)))
    for part in (
        [RowChange("upsert", ("AB",), ("AB", "<a>2</a>"))],
        [RowChange("delete", ("ab",), new_key=("AB",)), RowChange("delete", ("CD",), new_key=("x",))],
    ):
        writer.write(TableWrite("customers", "codes", ("code",), columns, part))
    assert writer.rows("codes", *columns) == [("AB", "<a>2</a>")]
    writer.sink.close()


@pytest.mark.parametrize("nullable", [True, False])
def test_unique_values_that_swap_in_one_batch(writer: Writer, target_dsn: str, nullable: bool) -> None:
    """Rows give up their values first where they may be NULL; what others own of the rows stays."""
    need = "" if nullable else " not null"
    sql(target_dsn, f"create table seats (id int primary key, seat text unique{need}, other text default 'theirs')")
    columns = ("id", "seat")
    writer.write(upserts("seats", columns, (1, "a"), (2, "b"), (3, "c")))
    sql(target_dsn, "update seats set other = 'kept'")
    swap = upserts("seats", columns, (1, "b"), (2, "c"), (3, "a"), (4, "d"))
    if not nullable:
        with pytest.raises(Rejected) as caught:
            writer.write(swap)
        assert caught.value.code == "unique_violated"
        return
    writer.write(swap)
    found = sql(target_dsn, "select id, seat, other from seats order by 1")
    assert found == [(1, "b", "kept"), (2, "c", "kept"), (3, "a", "kept"), (4, "d", "theirs")]
    with pytest.raises(Rejected):
        writer.write(upserts("seats", columns, (5, "d")))
    assert sql(target_dsn, "select count(*), count(seat) from seats") == [(4, 4)]


def test_a_batch_for_many_tables_is_staged_with_an_index_and_one_for_few_without(
    writer: Writer, target_dsn: str
) -> None:
    names = [f"t{number}" for number in range(12)]
    sql(target_dsn, "; ".join(f"create table {name} (id int primary key, value text)" for name in names))
    indexed = "select relhasindex from pg_class where relname = 'sync_hub_stage' and relkind = 'r'"
    for tables, found in ((names[:3], False), (names, True), (names[:1], True)):
        for round_ in range(2):
            writer.write(
                *(upserts(name, ("id", "value"), (1, f"{name} {found} {round_}"), (2, None)) for name in tables)
            )
            assert sql(target_dsn, indexed) == [(found,)]
        for name in tables:
            rows = [(1, f"{name} {found} 1"), (2, None)]
            assert sql(target_dsn, f"select * from {name} order by id") == rows
