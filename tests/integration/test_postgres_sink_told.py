"""Relying on what events say about their rows: quicker, and never another outcome than looking for each row."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from connectors.local_postgres import LocalPostgres
from connectors.sinks import pgwork, postgres
from connectors.sinks.postgres import PostgresSink
from sync_hub.errors import OffsetsMoved, Rejected, SyncHubError, Unavailable
from sync_hub.model import ABSENT, Operation, RowChange, TableWrite
from sync_hub.runtime.batch import coalesce
from sync_hub.testing.sink_case import Writer, first_offset
from tests.postgres_sink import sink, sql

COLUMNS = ("id", "name", "seat")
MANY = max(pgwork.FEWEST_NEW, pgwork.FEWEST_KNOWN)


def rows(operation: Operation | str, *keys: int, name: str = "new") -> list[RowChange]:
    return [RowChange("upsert", (key,), (key, name, None), operation=operation) for key in keys]  # type: ignore[arg-type]


def views(*changes: RowChange, table: str = "views", pipeline: str = "views") -> TableWrite:
    return TableWrite(pipeline, table, ("id",), COLUMNS, list(changes))


def relied(writer: Writer) -> bool:
    """Whether what was told has held so far."""
    assert isinstance(writer.sink, PostgresSink)
    return not writer.sink._doubted


@pytest.fixture
def writer(target_dsn: str) -> Iterator[Writer]:
    """Into `views`, which remembers each statement that inserts or updates its rows."""
    sql(
        target_dsn,
        """create table views (id int primary key, name text check (name <> 'bad'), seat int unique);
           create table statements (number int generated always as identity, text text);
           create function remember() returns trigger language plpgsql security definer set search_path = public as
             $$ begin insert into statements (text) values (current_query()); return null; end $$;
           create trigger remember before insert or update on views for each statement execute function remember()""",
    )
    writer = Writer(sink(target_dsn), first_offset("views"))
    yield writer
    writer.sink.close()


@pytest.fixture
def ways(target_dsn: str) -> Callable[[], list[str]]:
    """The ways that rows of `views` took since it was asked last, also those that were rolled back and done again."""
    seen = 0

    def ways() -> list[str]:
        nonlocal seen
        found = sql(target_dsn, f"select number, text from statements where number > {seen} order by number")
        seen = max((number for number, _ in found), default=seen)
        return list(dict.fromkeys(text.split()[0] for _, text in found))

    return ways


def test_many_new_rows_are_copied_and_many_known_ones_updated(writer: Writer, ways: Callable[[], list[str]]) -> None:
    writer.write(views(*rows("create", *range(MANY))))
    assert ways() == ["copy"]
    writer.write(views(*rows("update", *range(MANY), name="changed")))
    assert ways() == ["update"]
    writer.write(views(*rows("create", *range(MANY, 2 * MANY)), *rows("update", *range(MANY), name="again")))
    assert ways() == ["update", "copy"]
    writer.write(views(*rows("read", *range(2 * MANY, 3 * MANY)), *rows("", *range(MANY), name="end")))
    assert ways() == ["insert", "copy"]
    names = ["end"] * MANY + ["new"] * 2 * MANY
    assert writer.rows("views", "id", "name") == sorted(enumerate(names), key=repr)


def test_few_rows_are_looked_for(writer: Writer, ways: Callable[[], list[str]]) -> None:
    writer.write(views(*rows("create", *range(pgwork.FEWEST_NEW - 1))))
    writer.write(views(*rows("update", *range(pgwork.FEWEST_KNOWN - 1), name="changed")))
    assert ways() == ["insert"]
    assert len(writer.rows("views", "id")) == max(pgwork.FEWEST_NEW, pgwork.FEWEST_KNOWN) - 1


@pytest.mark.parametrize("seconds", [60.0, 0.0])
@pytest.mark.parametrize(
    ("there", "told"),
    [(range(1), "create"), (range(MANY), "create"), (range(MANY - 1), "update"), (range(0), "update")],
)
def test_what_does_not_hold_is_done_again_and_the_pipeline_doubted_for_a_while(
    writer: Writer,
    ways: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    there: range,
    told: Operation,
) -> None:
    monkeypatch.setattr(postgres, "DOUBT_SECONDS", seconds)
    keys = range(MANY)
    writer.write(views(*rows("", *there, name="old")))
    ways()
    writer.write(views(*rows(told, *keys, name="first")))
    assert writer.rows("views", "id", "name") == sorted(((key, "first") for key in keys), key=repr)
    assert ways() == ["insert"]  # what was rolled back is not remembered
    writer.write(views(*rows("update", *keys, name="second")))
    assert ways() == ["insert" if seconds else "update"]
    assert writer.rows("views", "id", "name") == sorted(((key, "second") for key in keys), key=repr)


def test_a_pipeline_is_doubted_and_not_the_others(
    writer: Writer, target_dsn: str, ways: Callable[[], list[str]]
) -> None:
    sql(target_dsn, "create table others (like views including all); insert into others (id) values (1)")
    other = Writer(writer.sink, first_offset("others"))
    other.write(views(*rows("create", *range(MANY)), table="others", pipeline="others"))
    writer.write(views(*rows("create", *range(MANY))))
    assert ways() == ["copy"]
    assert [len(writer.rows(name, "id")) for name in ("views", "others")] == [MANY, MANY]


def test_a_bad_row_among_new_ones_is_told_as_among_any(writer: Writer) -> None:
    told = []
    for operation in ("create", ""):
        bad = RowChange("upsert", (7,), (7, "bad", None), operation=operation)
        with pytest.raises(Rejected) as caught:
            writer.write(views(*rows(operation, *range(100, 100 + MANY)), bad))
        told.append((caught.value.code, caught.value.sqlstate, caught.value.message, caught.value.conflict))
    assert told[0] == told[1]
    assert told[0][:2] == ("check_violated", "23514")
    assert writer.rows("views", "id") == []
    assert writer.sink.load_offsets(["views"]) == [writer.offset]


def test_rows_of_a_table_that_needs_more_are_looked_for(
    writer: Writer, target_dsn: str, ways: Callable[[], list[str]]
) -> None:
    """Another application has inserted them, with what only it knows."""
    sql(target_dsn, f"insert into views (id) select generate_series(0, {MANY - 1})")
    sql(target_dsn, "alter table views add owner text; update views set owner = 'me'")
    sql(target_dsn, "alter table views alter owner set not null")
    ways()
    writer.write(views(*rows("create", *range(MANY))))
    assert ways() == ["update", "insert"]
    assert relied(writer)
    assert sql(target_dsn, "select name, owner, count(*) from views group by 1, 2") == [("new", "me", MANY)]


def test_rows_of_a_shared_table_are_looked_for(writer: Writer, target_dsn: str, ways: Callable[[], list[str]]) -> None:
    """Another mapping may have inserted the row that is new to this one."""
    sql(target_dsn, "alter table views add owner text not null default 'nobody'")
    writer.sink.share("views", ["views", "owners"])
    owners = [RowChange("upsert", (key,), (key, "me"), operation="create") for key in range(MANY)]
    owner = Writer(writer.sink, first_offset("owners"))
    owner.write(TableWrite("owners", "views", ("id",), ("id", "owner"), owners, shared=True))
    writer.write(TableWrite("views", "views", ("id",), COLUMNS, rows("create", *range(MANY)), shared=True))
    writer.write(TableWrite("views", "views", ("id",), COLUMNS, rows("update", *range(MANY)), shared=True))
    assert ways() == ["insert"]
    assert relied(writer)
    found = "select name, owner, sync_hub_views, sync_hub_owners, count(*) from views group by 1, 2, 3, 4"
    assert sql(target_dsn, found) == [("new", "me", True, True, MANY)]


def test_a_table_whose_rows_have_policies_cannot_be_copied_into(
    target_server: LocalPostgres, target_dsn: str, writer: Writer, unique: Callable[[str], str]
) -> None:
    """PostgreSQL refuses COPY FROM under row-level security with 0A000."""
    role, database = unique("limited"), target_dsn.rpartition("/")[2]
    sql(
        target_dsn,
        f"""create role {role} login; grant create, usage on schema public to {role};
            grant all on all tables in schema public to {role};
            alter table views enable row level security;
            create policy mine on views using (true) with check (id < 1000)""",
    )
    limited = Writer(sink(target_server.dsn(database, role)), writer.offset)
    limited.write(views(*rows("create", *range(900))))
    assert not relied(limited)
    assert len(writer.rows("views", "id")) == 900
    limited.sink.close()
    sql(target_dsn, f"drop owned by {role} cascade; drop role {role}")


def test_generated_columns_identities_and_triggers_are_served_by_a_copy(target_dsn: str) -> None:
    sql(
        target_dsn,
        """create table t (id int generated always as identity primary key, price numeric(9,1), code varchar(3),
           total numeric generated always as (price * 2) stored, at text default 'here');
           create function shout() returns trigger language plpgsql as
             $$ begin new.code := upper(new.code); return new; end $$;
           create trigger shout before insert on t for each row execute function shout()""",
    )
    columns = ("id", "total", "price", "code")
    changes = [
        RowChange("upsert", (key,), (key, "9", "1.25", "a\t\\" if key else None), operation="create")
        for key in range(MANY)
    ]
    writer = Writer(sink(target_dsn))
    writer.write(TableWrite("customers", "t", ("id",), columns, changes))
    values = "select price::text, total::text, code, at, count(*) from t group by 1, 2, 3, 4 order by count(*)"
    assert relied(writer)
    assert sql(target_dsn, values) == [("1.3", "2.6", None, "here", 1), ("1.3", "2.6", "A\t\\", "here", MANY - 1)]
    writer.sink.close()


@pytest.mark.parametrize(("table", "on"), [("views", "views"), ("parts", "parts"), ("parts", "part_1")])
def test_what_a_trigger_makes_of_rows_to_insert_is_written_to_known_rows_too(
    writer: Writer, target_dsn: str, table: str, on: str
) -> None:
    """An upsert assigns it, so that many rows must not differ from few."""
    sql(
        target_dsn,
        f"""create table parts (id int primary key, name text, seat int) partition by range (id);
           create table part_1 partition of parts for values from (0) to (5);
           create table part_2 partition of parts for values from (5) to (1000);
           create function shout() returns trigger language plpgsql as
             $$ begin new.name := upper(new.name); return new; end $$;
           create trigger shout before insert on {on} for each row execute function shout()""",
    )
    for operation, name in (("create", "first"), ("update", "second"), ("", "third"), ("update", "fourth")):
        writer.sink._doubted.clear()  # type: ignore[attr-defined]
        writer.write(views(*rows(operation, *range(MANY), name=name), table=table))
        loud = 5 if on == "part_1" else MANY
        found = sql(target_dsn, f"select name, count(*)::int from {table} group by 1 order by 1")
        assert dict(found) == {name.upper(): loud} | ({name: MANY - loud} if loud < MANY else {})


def test_rows_of_an_inheriting_table_are_not_counted_for_those_that_are_missing(
    writer: Writer, target_dsn: str, ways: Callable[[], list[str]]
) -> None:
    sql(target_dsn, f"create table heirs () inherits (views); insert into heirs values (0), ({MANY})")
    writer.write(views(*rows("create", *range(MANY - 1))))
    ways()
    writer.write(views(*rows("update", *range(MANY), name="changed")))
    assert ways() == ["insert"]
    assert sql(target_dsn, "select name, count(*) from only views group by 1") == [("changed", MANY)]


def test_a_constraint_that_is_checked_at_the_end_refuses_copied_rows_there(writer: Writer, target_dsn: str) -> None:
    sql(
        target_dsn, "create table seats (id int primary key); alter table views add foreign key (seat) references seats"
    )
    sql(target_dsn, "alter table views alter constraint views_seat_fkey deferrable")
    guest = RowChange("upsert", (MANY,), (MANY, "guest", 5), operation="create")
    with pytest.raises(Rejected) as caught:
        writer.write(views(*rows("create", *range(MANY)), guest))
    assert caught.value.code == "foreign_key_violated"
    seats = TableWrite("views", "seats", ("id",), ("id",), [RowChange("upsert", (5,), (5,), operation="create")])
    writer.sink._doubted.clear()  # type: ignore[attr-defined]
    writer.write(views(*rows("create", *range(MANY)), guest), seats)
    assert relied(writer)
    assert len(writer.rows("views", "id")) == MANY + 1


def test_what_is_refused_at_the_end_only_because_it_was_told_is_done_again(writer: Writer, target_dsn: str) -> None:
    """A trigger that an upsert fires and COPY fires, too, but that refuses what is copied, at the commit."""
    sql(
        target_dsn,
        """create function refuse() returns trigger language plpgsql as $$ begin
             if exists (select from statements where text like 'copy%') then raise 'copied'; end if;
             return null; end $$;
           create constraint trigger refuse after insert on views deferrable initially deferred
             for each row execute function refuse()""",
    )
    writer.write(views(*rows("create", *range(MANY))))
    assert not relied(writer)
    assert len(writer.rows("views", "id")) == MANY


def test_layers_of_one_pipeline_are_written_one_after_the_other(writer: Writer, target_dsn: str) -> None:
    """New rows of the first are there when the second marks some of them, and the third changes parts of others."""
    created = rows("create", *range(MANY))
    marked = TableWrite("views", "views", ("id",), COLUMNS, [RowChange("mark", (7,), (70,))], mark_columns=("seat",))
    part = views(RowChange("update", (8,), (8, "late", ABSENT)))
    writer.write(views(*created), marked, part)
    assert relied(writer)
    assert sql(target_dsn, "select id, name, seat from views where name <> 'new' or seat is not null order by id") == [
        (7, "new", 70),
        (8, "late", None),
    ]


def test_children_may_be_copied_behind_their_parents(writer: Writer, target_dsn: str) -> None:
    sql(target_dsn, "create table children (like views including all, foreign key (seat) references views)")
    children = [RowChange("upsert", (key,), (key, "child", key), operation="create") for key in range(MANY)]
    writer.write(views(*rows("create", *range(MANY))), views(*children, table="children"))
    assert relied(writer)
    assert sql(target_dsn, "select count(*) from children") == [(MANY,)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("alter table views drop constraint views_pkey", "target_key_not_unique"),
        ("alter table views drop constraint views_pkey; create unique index on views (id) where id > 5", "target"),
        ("alter table views drop constraint views_pkey; create unique index on views (seat) include (id)", "target"),
        ("alter table views drop constraint views_pkey; alter table views add primary key (id) deferrable", ""),
        ("create rule also as on insert to views do also insert into statements (text) values ('rule')", "0A000"),
        ("create rule also as on update to views do also insert into statements (text) values ('rule')", "0A000"),
    ],
)
@pytest.mark.parametrize("operation", ["read", "update"])
def test_a_table_that_has_become_another_is_neither_copied_into_nor_updated_unseen(
    writer: Writer, target_dsn: str, operation: Operation, change: str, told: str
) -> None:
    """What an upsert refuses is refused: without its key, rows would be there twice."""
    if operation == "update":
        writer.write(views(*rows("", *range(MANY), name="old")))
    else:
        writer.write(views(*rows("", MANY + 1)))
    before = sql(target_dsn, "select * from views order by id")
    sql(target_dsn, change)
    with pytest.raises(SyncHubError) as caught:
        writer.write(views(*rows(operation, *range(MANY))))
    assert told in f"{caught.value.code} {caught.value.sqlstate if isinstance(caught.value, Rejected) else ''} target"
    assert sql(target_dsn, "select * from views order by id") == before


@pytest.mark.parametrize("declared", ["interval hour", "interval minute to second", "regclass", "citext_like"])
def test_types_that_copy_may_read_otherwise_are_cast(writer: Writer, target_dsn: str, declared: str) -> None:
    sql(target_dsn, "create type citext_like as (word text)")
    results = []
    for operation in ("create", ""):
        sql(target_dsn, f"drop table if exists t; create table t (id int primary key, value {declared})")
        value = {"regclass": "pg_class", "citext_like": "(a)"}.get(declared, "1:30")
        changes = [RowChange("upsert", (key,), (key, value), operation=operation) for key in range(MANY)]  # type: ignore[arg-type]
        writer.write(TableWrite("views", "t", ("id",), ("id", "value"), changes))
        results.append(sql(target_dsn, "select value::text, count(*) from t group by 1"))
    assert relied(writer)
    assert results[0] == results[1]
    assert results[0][0][1] == MANY


def test_a_zombie_that_copies_finds_the_offsets_moved(writer: Writer, target_dsn: str) -> None:
    zombie = Writer(sink(target_dsn), writer.offset)
    writer.write(views(*rows("create", 1)))
    with pytest.raises(OffsetsMoved):
        zombie.write(views(*rows("create", *range(MANY), name="ghost")))
    assert writer.rows("views", "id", "name") == [(1, "new")]
    zombie.sink.close()


BLOCKED = """select pid from pg_stat_activity
    where wait_event_type = 'Lock' and query like 'copy%' and datname = current_database()"""


@contextmanager
def blocking(dsn: str) -> Iterator[None]:
    """Another transaction has a key that a copy is about to insert: the copy waits to see what becomes of it."""
    with psycopg.connect(dsn) as other:
        other.execute(f"insert into views (id) values ({MANY - 1})")
        yield
        other.rollback()


def test_a_copy_that_waits_for_a_lock_is_given_up_and_what_was_told_not_doubted(
    target_dsn: str, writer: Writer, ways: Callable[[], list[str]]
) -> None:
    hasty = Writer(sink(target_dsn, lock_timeout_seconds=0.1), writer.offset)
    with blocking(target_dsn):
        with pytest.raises(Unavailable) as caught:
            hasty.write(views(*rows("create", *range(MANY))))
        assert caught.value.code == "lock_timeout"
    ways()
    hasty.write(views(*rows("create", *range(MANY))))
    assert ways() == ["copy"]
    assert len(writer.rows("views", "id")) == MANY
    hasty.sink.close()


def test_a_server_process_killed_in_a_copy_leaves_nothing(target_dsn: str, writer: Writer) -> None:
    def kill() -> bool:
        pause = threading.Event()
        for _ in range(2000):
            if sql(target_dsn, f"select pg_terminate_backend(pid) from ({BLOCKED}) b"):
                return True
            pause.wait(0.01)
        return False

    with blocking(target_dsn), ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        with pytest.raises(Unavailable):
            writer.write(views(*rows("create", *range(MANY))))
        assert killed.result()
    assert writer.sink.load_offsets(["views"]) == [writer.offset]
    writer.write(views(*rows("create", *range(MANY))))
    assert len(writer.rows("views", "id")) == MANY


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_told_the_outcome_is_as_if_nothing_were(
    target_dsn: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """True and false hints at random, against unique and checked values: the same rows, the same refusals."""
    monkeypatch.setattr(pgwork, "FEWEST_NEW", 1)
    monkeypatch.setattr(pgwork, "FEWEST_KNOWN", 1)
    monkeypatch.setattr(postgres, "DOUBT_SECONDS", 0.0)
    dice = random.Random(seed)
    writers = {}
    for name in ("plain", "told"):
        sql(target_dsn, f"create table {name} (id int primary key, name text check (name <> 'bad'), seat int unique)")
        writers[name] = Writer(sink(target_dsn), first_offset(name))
    taken = refused = 0
    for number in range(60):
        changes = []
        for key in dice.sample(range(20), dice.randint(1, 8)):
            values = (key, "bad" if dice.random() < 0.02 else f"{number}", dice.choice([None, dice.randrange(100)]))
            kind = dice.choices(("upsert", "update", "delete"), (8, 1, 1))[0]
            hint = dice.choice(("create", "update", "read", ""))
            changes.append(_change(kind, values, hint))
        outcomes = []
        for name, writer in writers.items():
            mine = changes if name == "told" else [_change(one.kind, one.values or one.key, "") for one in changes]
            try:
                writer.write(views(*mine, table=name, pipeline=name))
                outcomes.append("taken")
            except Rejected as error:
                outcomes.append(f"{error.code} {error.sqlstate} {error.conflict.values if error.conflict else ''}")
        assert outcomes[0] == outcomes[1], changes
        taken, refused = taken + (outcomes[0] == "taken"), refused + (outcomes[0] != "taken")
        assert writers["plain"].rows("plain", *COLUMNS) == writers["told"].rows("told", *COLUMNS), changes
    assert taken > 20
    assert refused > 0
    for writer in writers.values():
        writer.sink.close()


@pytest.mark.parametrize("seed", range(3))
def test_layers_of_true_hints_end_as_without_them(
    writer: Writer, target_dsn: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Events as a source has them, with marks and parts of rows, coalesced: all of them relied on."""
    monkeypatch.setattr(pgwork, "FEWEST_NEW", 1)
    monkeypatch.setattr(pgwork, "FEWEST_KNOWN", 1)
    dice = random.Random(seed)
    sql(target_dsn, "create table plain (like views including all); create table told (like views including all)")
    alive: set[int] = set()
    for number in range(40):
        events = []
        for _ in range(dice.randint(1, 12)):
            key = dice.randrange(12)
            if key not in alive:
                events.append(RowChange("upsert", (key,), (key, f"{number}", None), operation="create"))
                alive.add(key)
                continue
            kind = dice.choice(("upsert", "update", "mark"))
            values = {"upsert": (key, f"{number}", None), "update": (key, ABSENT, None), "mark": (number,)}[kind]
            events.append(RowChange(kind, (key,), values, operation="update" if kind == "upsert" else ""))  # type: ignore[arg-type]
        for table in ("plain", "told"):
            known = [_change(one.kind, one.values, "") if one.kind == "upsert" else one for one in events]
            writer.write(
                *(
                    TableWrite(table, table, ("id",), COLUMNS, layer, mark_columns=("name",))
                    for layer in coalesce(events if table == "told" else known)
                )
            )
        assert relied(writer)
        assert writer.rows("plain", *COLUMNS) == writer.rows("told", *COLUMNS), events


def _change(kind: str, values: tuple[Any, ...], operation: str) -> RowChange:
    if kind == "delete":
        return RowChange("delete", values[:1])
    return RowChange(kind, values[:1], values, operation=operation if kind == "upsert" else "")  # type: ignore[arg-type]
