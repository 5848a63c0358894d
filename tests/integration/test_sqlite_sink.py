"""The SQLite sink on real files: affinities, constraints, DDL by others, locks, damage, killed writers."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.sinks.sqlite import SqliteSink
from connectors.sqlite import WriteLock
from sync_hub.errors import Fatal, Rejected, SyncHubError, Unavailable
from sync_hub.model import ABSENT, Column, RowChange, Table, TableWrite
from sync_hub.testing.sink_case import CUSTOMERS, Writer, upserts


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "warehouse.db"


def sink(file: Path, **options: Any) -> SqliteSink:
    return SqliteSink("warehouse", SqliteSink.Options(path=file, **options), "test")


@pytest.fixture
def writer(file: Path) -> Iterator[Writer]:
    writer = Writer(sink(file))
    yield writer
    writer.sink.close()


def sql(file: Path, *statements: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(file, isolation_level=None)
    for statement in statements:
        rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


def write(table: str, columns: tuple[str, ...], *rows: tuple[Any, ...], **options: Any) -> TableWrite:
    changes = [RowChange("upsert", row[:1], row) for row in rows]
    return TableWrite("customers", table, columns[:1], columns, changes, **options)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_moved_or_replaced_is_written_no_further(writer: Writer, file: Path, replaced: bool) -> None:
    sql(file, "create table t (id integer primary key, name text)")
    writer.write(write("t", ("id", "name"), (1, "Ada")))
    elsewhere = file.rename(file.with_name("elsewhere.db"))
    if replaced:
        sql(file, "create table t (id integer primary key, name text)")
    with pytest.raises(Fatal, match="target_replaced"):
        writer.write(write("t", ("id", "name"), (2, "Bob")))
    with pytest.raises(Fatal, match="target_replaced"):
        writer.sink.create(Table("", "new", (Column("id", "integer"),), ("id",)))
    if not replaced:
        elsewhere.rename(file)
        writer.write(write("t", ("id", "name"), (2, "Bob")))
        assert sql(file, "select name from t order by id") == [("Ada",), ("Bob",)]


def test_who_only_looks_leaves_nothing_behind(file: Path) -> None:
    looking = sink(file)
    assert looking.check(["t"]) == []
    assert looking.describe("t") is None
    looking.close()
    assert list(file.parent.iterdir()) == []
    sql(file, "create table t (id integer primary key)")
    before = file.read_bytes()
    assert looking.check(["t"]) == []
    assert looking.describe("t") is not None
    looking.close()
    assert (list(file.parent.iterdir()), file.read_bytes()) == ([file], before)


def test_numbers_are_numbers_and_decimals_keep_their_digits(writer: Writer, file: Path) -> None:
    types = ["bigint", "boolean", "double precision", "numeric(40,20)", "bytea", "text[]", "integer[]", "jsonb", "date"]
    columns = [Column("id", "integer", nullable=False), *(Column(f"c{n}", name) for n, name in enumerate(types))]
    ddl = writer.sink.create(Table("", "t", tuple(columns), ("id",)))
    declared = [line.split(maxsplit=1)[1].rstrip(",") for line in ddl.splitlines()[2:-2]]
    assert declared == [
        *("INTEGER", "BOOLEAN", "REAL", "TEXT", "BLOB", "TEXT ARRAY", "INTEGER ARRAY", "TEXT", "TEXT"),
    ]
    digits = "12345678901234567890.12345678901234567890"
    row = (1, 5, True, 2.5, digits, "AAEC", ["a", None], [1, [2]], '{"a": 1}', "2024-02-29")
    writer.write(write("t", tuple(column.name for column in columns), row))
    assert sql(file, "select * from t") == [
        (1, 5, 1, 2.5, digits, b"\x00\x01\x02", '["a",null]', "[1,[2]]", '{"a": 1}', "2024-02-29")
    ]
    found = writer.sink.describe("t")
    assert found is not None
    assert [column.type for column in found.columns[1:]] == [
        *("bigint", "boolean", "double precision", "text", "bytea", "text[]", "bigint[]", "text", "text"),
    ]


@pytest.mark.parametrize(
    ("declared", "value", "stored", "read"),
    [
        ("varchar(5)", "longer than five", "longer than five", "longer than five"),
        ("text", True, "true", "true"),
        ("text", 7, "7", "7"),
        ("text", [1, "a"], '[1,"a"]', '[1,"a"]'),
        ("int", "42", 42, 42),
        ("int", 5.0, 5, 5),
        ("int", True, 1, 1),
        ("bool", "false", 0, False),
        ("real", "1.5", 1.5, 1.5),
        ("real", "NaN", "NaN", "NaN"),
        ("decimal(12,2)", "10.50", 10.5, "10.5"),
        ("timestamp", "2026-01-01T00:00:00", "2026-01-01T00:00:00", "2026-01-01T00:00:00"),
        ("json", "5", 5, "5"),
        ("interval", "P1D", "P1D", "P1D"),
        ("", 5, 5, 5),
        ("", True, "true", "true"),
        ("", "5", "5", "5"),
    ],
)
def test_columns_made_by_others_take_and_give_wire_values(
    writer: Writer, file: Path, declared: str, value: Any, stored: Any, read: Any
) -> None:
    sql(file, f"create table t (id integer primary key, value {declared})")
    writer.write(write("t", ("id", "value"), (1, value)))
    [(found,)] = sql(file, "select value from t")
    assert (found, type(found)) == (stored, type(stored))
    assert list(writer.sink.read_rows("t", ["value"])) == [(read,)]


@pytest.mark.parametrize(
    ("declared", "value", "sqlstate"),
    [
        ("integer not null", None, "SQLITE_CONSTRAINT_NOTNULL"),
        ("integer unique", 7, "SQLITE_CONSTRAINT_UNIQUE"),
        ("integer check (value > 0)", 0, "SQLITE_CONSTRAINT_CHECK"),
        ("integer references other (id)", 1, "SQLITE_CONSTRAINT_FOREIGNKEY"),
        ("integer", "12a", "22P02"),
        ("boolean", "maybe", "22P02"),
        ("real", True, "22P02"),
        ("integer", 2**64, "22003"),
    ],
)
def test_what_the_table_refuses_is_rejected(
    writer: Writer, file: Path, declared: str, value: Any, sqlstate: str
) -> None:
    sql(
        file,
        "create table other (id integer primary key)",
        f"create table t (id integer primary key, value {declared})",
    )
    if "unique" in declared:
        writer.write(write("t", ("id", "value"), (1, value)))
    with pytest.raises(Rejected) as caught:
        writer.write(write("t", ("id", "value"), (2, value)))
    assert caught.value.sqlstate == sqlstate
    assert "\n" not in str(caught.value)
    assert sql(file, "select * from t where id = 2") == []
    assert writer.sink.load_offsets(["customers"]) == [writer.offset]


def test_child_may_come_before_its_parent(writer: Writer, file: Path) -> None:
    sql(file, "create table parent (id integer primary key)")
    sql(file, "create table child (id integer primary key, parent integer references parent (id))")
    writer.write(write("child", ("id", "parent"), (1, 5)), write("parent", ("id",), (5,)))
    assert sql(file, "select parent from child") == [(5,)]


def test_unique_values_that_swap_in_one_batch(writer: Writer, file: Path) -> None:
    sql(file, "create table seats (id integer primary key, seat text unique, other text default 'theirs')")
    columns = ("id", "seat")
    writer.write(write("seats", columns, (1, "a"), (2, "b"), (3, "c")))
    sql(file, "update seats set other = 'kept'")
    writer.write(write("seats", columns, (1, "b"), (2, "c"), (3, "a"), (4, "d")))
    found = sql(file, "select id, seat, other from seats order by 1")
    assert found == [(1, "b", "kept"), (2, "c", "kept"), (3, "a", "kept"), (4, "d", "theirs")]
    with pytest.raises(Rejected) as caught:
        writer.write(write("seats", columns, (5, "d")))
    assert caught.value.code == "unique_violated"
    assert sql(file, "select count(*), count(seat) from seats") == [(4, 4)]


def test_generated_columns_are_left_to_sqlite(writer: Writer, file: Path) -> None:
    sql(file, "create table t (id integer primary key, price int, total int generated always as (price * 2) stored)")
    columns = ("id", "price", "total")
    for price in (1, 2):
        writer.write(write("t", columns, (7, price, 99)))
    writer.write(TableWrite("customers", "t", ("id",), columns, [RowChange("update", (7,), (7, 3, ABSENT))]))
    assert sql(file, "select * from t") == [(7, 3, 6)]


def test_cleared_part_of_a_shared_row_gets_defaults_where_null_is_refused(writer: Writer, file: Path) -> None:
    sql(file, "create table t (id integer primary key, a text not null default 'none', b int default 9, c int)")
    writer.sink.share("t", ["customers", "contacts"])
    writer.write(
        write("t", ("id", "a", "b"), (1, "x", 1), shared=True),
        TableWrite("contacts", "t", ("id",), ("id", "c"), [RowChange("upsert", (1,), (1, 5))], shared=True),
    )
    delete = [RowChange("delete", (1,))]
    writer.write(TableWrite("customers", "t", ("id",), ("id", "a", "b"), delete, shared=True))
    assert sql(file, "select a, b, c from t") == [("none", None, 5)]


def test_table_name_with_a_point_is_one_name(writer: Writer) -> None:
    writer.sink.create(Table("public", "t", CUSTOMERS.columns, ("id",)))
    writer.write(upserts((1, "Ada"), table="public.t"))
    found = writer.sink.describe("public.t")
    assert found is not None
    assert found.full_name == "public.t"


def test_ddl_by_others_between_two_batches_is_seen(writer: Writer, file: Path) -> None:
    sql(file, "create table t (id integer primary key, value integer)")
    writer.write(write("t", ("id", "value"), (1, 1)))
    sql(file, "alter table t rename column value to old", "alter table t add column value text")
    writer.write(write("t", ("id", "value"), (1, "007")))
    assert sql(file, "select old, value from t") == [(1, "007")]
    sql(file, "alter table t drop column value")
    with pytest.raises(Fatal) as caught:
        writer.write(write("t", ("id", "value"), (1, "008")))
    assert caught.value.code == "target_column_missing"
    assert writer.sink.load_offsets(["customers"]) == [writer.offset]


def test_decimal_columns_that_lose_digits_are_a_finding(writer: Writer, file: Path) -> None:
    sql(file, "create table t (id integer primary key, price numeric(12,2), name text)")
    [finding] = writer.sink.check(["t", "no_such_table"])
    assert (finding.code, finding.severity) == ("decimals_lose_digits", "warning")
    assert "t.price" in finding.message


def test_check_of_a_missing_file_does_not_make_it(tmp_path: Path) -> None:
    target = sink(tmp_path / "new folder" / "target.db")
    assert target.check() == []
    assert list(tmp_path.iterdir()) == []


def test_path_that_cannot_be_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = sink(tmp_path / "file" / "target.db")
    with pytest.raises(Unavailable) as caught:
        target.open()
    assert caught.value.code == "database_not_accessible"
    assert [finding.code for finding in target.check()] == ["database_not_accessible"]


def test_file_of_another_kind_stops_the_worker(file: Path) -> None:
    file.write_bytes(b"no database" * 1000)
    target = sink(file)
    with pytest.raises(SyncHubError) as caught:
        target.open()
    assert (type(caught.value), caught.value.code) == (Fatal, "database_damaged")
    assert [finding.code for finding in target.check()] == ["database_damaged"]
    assert file.read_bytes() == b"no database" * 1000


def test_file_locked_by_another_worker_is_unavailable(file: Path) -> None:
    writer = Writer(sink(file, lock_timeout_seconds=0.05))
    writer.sink.create(CUSTOMERS)
    with WriteLock(file), pytest.raises(Unavailable) as caught:
        writer.write(upserts((1, "Ada")))
    assert caught.value.code == "database_busy"
    writer.write(upserts((1, "Ada")))
    writer.sink.close()


def test_file_written_by_a_stranger_is_unavailable(file: Path) -> None:
    writer = Writer(sink(file, lock_timeout_seconds=0.05))
    writer.sink.create(CUSTOMERS)
    stranger = sqlite3.connect(file, isolation_level=None)
    stranger.execute("begin immediate")
    with pytest.raises(Unavailable) as caught:
        writer.write(upserts((1, "Ada")))
    assert caught.value.code == "database_busy"
    stranger.execute("rollback")
    stranger.close()
    writer.write(upserts((1, "Ada")))
    writer.sink.close()


KILLED = """
import sys
from pathlib import Path
from connectors.sinks.sqlite import SqliteSink
from sync_hub.testing.sink_case import CUSTOMERS, Writer, upserts
writer = Writer(SqliteSink("warehouse", SqliteSink.Options(path=Path(sys.argv[1])), "test"))
writer.offset = writer.sink.load_offsets(["customers"])[0]
writer.sink.create(CUSTOMERS)
while True:
    writer.write(upserts(*((row, str(writer.offset.next_offset + 1)) for row in range(500))))
    print(writer.offset.next_offset, flush=True)
"""


def test_killed_writer_leaves_whole_batches_only(file: Path) -> None:
    for batches in range(1, 6):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(file)], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        seen = 0
        for _ in range(batches):
            seen = int(process.stdout.readline())
        process.kill()
        process.wait()
        process.stdout.close()
        target = sink(file)
        target.open()
        applied = target.load_offsets(["customers"])[0].next_offset
        assert applied >= seen > 0
        assert set(target.read_rows("customers", ["name"])) == {(str(applied),)}
        target.close()
