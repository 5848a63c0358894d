"""Views under keys that are spelled in more than one way, or of other types than their sources' keys."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest

from connectors.local_postgres import LocalPostgres
from sync_hub.envelope import topic_name
from tests.end_to_end.lab import Lab, execute, query
from tests.servers.postgres import database

TABLES = """
create extension if not exists citext;
create table tags (words text[] primary key, note text);
create table prices (price numeric(8,3), shop numeric, note text, primary key (price, shop));
create table codes (code char(6) primary key, note text);
create table spans (span interval primary key, note text);
create table names (name citext primary key, note text);
create table amounts (amount numeric(6,2) primary key, note text);
create table counted (id integer primary key, note text);
create table wide (id integer primary key, note text);
alter table wide alter note set storage external;
create domain positive as integer check (value > 0);
create table ranks (id positive primary key, note text);
create table eras (era interval primary key, note text);
"""
ROWS = """
insert into tags values ('{}', 'none'), ('{a}', 'one'), ('{a,NULL}', 'half'), ('{a,b}', 'two');
insert into prices select n / 2.0, n + 0.50, 'note' from generate_series(-5, 20) n;
insert into codes select 'c' || n, 'note' from generate_series(1, 20) n;
insert into spans select n * interval '1 month 3 days 01:30:00.5', 'note' from generate_series(1, 20) n;
insert into names select 'Name ' || n, 'note' from generate_series(1, 20) n;
insert into wide select n, repeat('x', 700000) from generate_series(1, 30) n;
insert into amounts values (1.5, 'a'), (2.5, 'b');
insert into ranks select n, 'note' from generate_series(1, 5) n;
insert into eras values ('1 month', 'note'), ('-178000000 years', 'note');
insert into counted select n, 'note' from generate_series(-5, 20) n;
"""
RESPELLED = {
    # table: its key column, of a type, with six values in SQL, and the keys of its views
    "rates": ("rate", "numeric(6,2)", "1.50, 2.50, 3.50, 4.50, 5.50, 6.50", "1.5, 2.5, 3.5, 4.5, 5.5, 6.5"),
    "labels": ("label", "char(6)", "'c1', 'c2', 'c3', 'c4', 'c5', 'c6'", "c1, c2, c3, c4, c5, c6"),
    "terms": (
        "term",
        "interval",
        "'1 month', '2 days', '1 day 02:00', '1.5 hours', '-1 day', '1 year'",
        "PT2592000S, PT172800S, PT93600S, PT5400S, PT-86400S, PT31104000S",
    ),
    "logins": ("login", "citext", "'Ada', 'Bo', 'Cy', 'Di', 'Ed', 'Flo'", "ada, bo, cy, di, ed, flo"),
    "bills": (
        "bill",
        "numeric(6,2)",
        "1.50, 2.50, 3.50, 4, 5.50, 6.50",
        "nz/1.5, nz/2.5, nz/3.5, nz/4, nz/5.5, nz/6.5",
    ),
}
"""Views of these have text for a key, made of two columns in `bills`; there is one in PostgreSQL and one in SQLite."""
COPIES = {
    "tags": "words",
    "prices": "price, shop",
    "codes": "code",
    "spans": "span",
    "names": "name",
    "wide": "id",
    "amounts": "amount",
    "ranks": "id",
    "eras": "era",
}
MAPPINGS = """
mapping: counted
from: {source: {source}, table: public.counted}
to: {target: crm, table: counted}
key: [id]
copy: all
""" + "".join(
    f"""---
mapping: {name}
from: {{source: {{source}}, table: public.{name}}}
to: {{target: crm, table: {name}, create: true}}
key: [{key}]
copy: all
"""
    for name, key in COPIES.items()
)
MAPPINGS += "".join(
    f"""---
mapping: {mapping}
from: {{source: {{source}}, table: public.{name}}}
to: {{target: {target}, table: {name}, create: true}}
key: [{key}]
fields: {{{key}: {"shop || '/' || bill" if name == "bills" else key}, note: note}}
"""
    for name, (key, *_) in RESPELLED.items()
    for target, mapping in (("crm", name), ("wh", f"{name}_wh"))
)


@pytest.fixture(scope="module")
def lab(
    source_server: LocalPostgres, target_server: LocalPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """A hub with rows in all its views."""
    with database(source_server) as source, database(target_server) as target:
        execute(source, TABLES, ROWS)
        for table, (key, type_name, values, _) in RESPELLED.items():
            columns, places = ("shop text default 'nz',", f"shop, {key}") if table == "bills" else ("", key)
            rows = ", ".join(f"({value}, 'first')" for value in values.split(", ")[:4])
            execute(
                source,
                f"create table {table} ({columns} {key} {type_name}, note text, primary key ({places}))",
                f"insert into {table} ({key}, note) values {rows}",
            )
            execute(target, f"create table {table} ({key} text primary key, note text)")
        execute(
            target,
            "create extension if not exists citext; create table names (name citext primary key, note text);",
            "create table counted (id text primary key, note text)",
            "create table amounts (amount text primary key, note text)",
        )
        tables = ", ".join(f"public.{one}" for one in ("counted", *COPIES, *RESPELLED))
        name = f"k{uuid.uuid4().hex[:8]}"
        lab = Lab(tmp_path_factory.mktemp("keys"), name, source, target, MAPPINGS, tables=tables)
        with closing(sqlite3.connect(lab.folder / "wh.db")) as file:
            file.execute("create table terms (term interval primary key, note text)")
        lab.start()
        try:
            lab.settle()
            yield lab
        finally:
            lab.close()


def test_rows_are_keyed_by_arrays(lab: Lab) -> None:
    execute(
        lab.source,
        "update tags set note = 'changed' where words = '{a,NULL}'",
        "update tags set words = '{c,d}' where words = '{a,b}'",
        "delete from tags where words = '{a}'",
    )
    lab.settle()
    assert query(lab.target, "select words, note from tags order by words") == [
        ([], "none"),
        (["a", None], "changed"),
        (["c", "d"], "two"),
    ]
    (report,) = lab.verify("tags")
    assert (report.agrees, report.matched) == (True, 3)


@pytest.mark.parametrize(
    ("name", "different", "gone", "extra"),
    [
        ("prices", "price = 1.5", "price = 2.5", "(77.5, 1.50, 'extra')"),
        ("codes", "code = 'c2'", "code = 'c3'", "('x', 'extra')"),
        ("spans", "span = '2 months 6 days 03:00:01'", "span = '99 days 04:30:01.5'", "('1 year', 'extra')"),
        ("names", "name = 'name 2'", "name = 'name 3'", "('NAME 100', 'extra')"),
        ("counted", "id = '2'", "id = '-3'", "('100', 'extra')"),
        ("counted", "id = '4'", "id = '-4'", "('no number', 'extra')"),
    ],
)
def test_what_differs_under_a_key_is_found_and_repaired_however_the_key_is_spelled(
    lab: Lab, name: str, different: str, gone: str, extra: str
) -> None:
    (equal,) = lab.verify(name)
    assert (equal.agrees, equal.matched, equal.busy) == (True, equal.rows_done, 0)
    execute(
        lab.target,
        f"update {name} set note = 'broken' where {different}",
        f"delete from {name} where {gone}",
        f"insert into {name} values {extra}",
    )
    (found,) = lab.verify(name)
    assert (found.different, found.missing, found.extra, found.busy) == (1, 1, 1, 0)
    (repaired,) = lab.verify(name, repair=True)
    assert (repaired.repaired, repaired.agrees, repaired.matched) == (3, True, equal.matched)


def test_an_extra_row_whose_key_the_source_refuses_is_found_and_removed(lab: Lab) -> None:
    execute(lab.target, "insert into ranks values (-5, 'extra'), (6, 'extra')", "delete from ranks where id = 2")
    (found,) = lab.verify("ranks")
    assert (found.matched, found.extra, found.missing, found.busy) == (4, 2, 1, 0)
    (repaired,) = lab.verify("ranks", repair=True)
    assert (repaired.agrees, repaired.repaired) == (True, 3)
    assert query(lab.target, "select id from ranks order by 1") == [(1,), (2,), (3,), (4,), (5,)]


def test_a_row_whose_key_the_source_does_not_take_back_leaves_the_others_verified(lab: Lab) -> None:
    execute(lab.target, "update eras set note = 'broken'")
    (found,) = lab.verify("eras", repair=True)
    assert (found.agrees, found.repaired, found.busy) == (True, 1, 1)


def test_rows_that_are_together_too_wide_are_asked_for_one_part_after_the_other(lab: Lab) -> None:
    execute(lab.target, "update wide set note = 'broken' where id > 1", "insert into wide values (31, 'extra')")
    (repaired,) = lab.verify("wide", repair=True)
    assert (repaired.repaired, repaired.agrees, repaired.matched, repaired.busy) == (30, True, 30, 0)


def test_an_extra_row_is_found_and_removed_where_its_key_is_text_that_no_event_spells_so(lab: Lab) -> None:
    (equal,) = lab.verify("amounts")
    assert (equal.agrees, equal.matched) == (True, 2)
    execute(lab.target, "insert into amounts values ('1.50', 'extra'), ('7.50', 'extra'), ('8', 'extra')")
    (found,) = lab.verify("amounts")
    assert (found.matched, found.extra, found.missing, found.different) == (2, 3, 0, 0)
    (repaired,) = lab.verify("amounts", repair=True)
    assert (repaired.repaired, repaired.agrees) == (3, True)
    assert query(lab.target, "select amount from amounts order by 1") == [("1.5",), ("2.5",)]


def test_rows_are_found_again_under_keys_that_the_target_keeps_as_text_or_that_are_computed(lab: Lab) -> None:
    wanted = {}
    for table, (key, _, values, spelled) in RESPELLED.items():
        _, changed, moved, gone, added, moved_to = values.split(", ")
        execute(
            lab.source,
            f"insert into {table} ({key}, note) values ({added}, 'added')",
            f"update {table} set note = 'changed' where {key} = {changed}",
            f"update {table} set {key} = {moved_to}, note = 'moved' where {key} = {moved}",
            f"delete from {table} where {key} = {gone}",
        )
        notes = zip(spelled.split(", "), ("first", "changed", None, None, "added", "moved"), strict=True)
        wanted[table] = {one: note for one, note in notes if note}
    lab.settle()
    assert {table: dict(query(lab.target, f"select * from {table}")) for table in RESPELLED} == wanted
    with closing(sqlite3.connect(lab.folder / "wh.db")) as file:
        assert {table: dict(file.execute(f"select * from {table}").fetchall()) for table in RESPELLED} == wanted
    assert_equal_at_first_sight(lab)
    execute(lab.source, *(f"delete from {table}" for table in RESPELLED))
    lab.settle()
    assert not any(query(lab.target, f"select * from {table}") for table in RESPELLED)
    with closing(sqlite3.connect(lab.folder / "wh.db")) as file:
        assert not any(file.execute(f"select * from {table}").fetchall() for table in RESPELLED)


def assert_equal_at_first_sight(lab: Lab) -> None:
    """Every such view agrees, and verification had to ask nothing: no probe went through the topics."""
    views = [one for one in lab.compare() if one.pipeline.removesuffix("_wh") in RESPELLED]
    assert [(one.agrees, one.matched) for one in views] == [(True, 4)] * 2 * len(RESPELLED), views
    topics = [topic_name(lab.name, f"public.{table}") for table in RESPELLED]
    broker = lab.settings.new_broker()
    try:
        before = broker.end_offsets(topics)
        reports = lab.verify(*RESPELLED, *(f"{table}_wh" for table in RESPELLED))
        assert [(one.agrees, one.matched, one.rows_done) for one in reports] == [(True, 4, 4)] * len(reports)
        assert broker.end_offsets(topics) == before
    finally:
        broker.close()
