"""Every built-in type: the same bytes by snapshot and by log, whatever the database's settings, and back again."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import psycopg
import pytest

from connectors import pgcatalog
from connectors.pgtypes import from_wire
from sync_hub.model import ChunkRequest
from sync_hub.testing.source import Collector
from tests.end_to_end.hub import wait_until
from tests.integration.conftest import Capture, Database

# type → values as SQL literals
VALUES: dict[str, list[str]] = {
    "bool": ["t", "f"],
    "int2": ["-32768", "32767"],
    "int4": ["-2147483648", "0"],
    "int8": ["9223372036854775807", "-9223372036854775808"],
    "oid": ["4294967295"],
    "float4": ["1.1", "-0", "NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e+38", "100000000"],
    "float8": ["0.1", "-0", "NaN", "Infinity", "-Infinity", "5e-324", "1.7976931348623157e308", "1e15", "123456789"],
    "numeric": ["12345678901234567890.123456789000", "NaN", "Infinity", "-Infinity", "0.00", "1e100", "-1e-50"],
    "numeric(8,2)": ["1.5", "NaN"],
    "money": ["-12345.60", "0"],
    "text": ["", "Grüße 😀", "NULL", "a\\b\tc\nd\r\"e'"],
    "varchar": ["x "],
    "varchar(5)": ["abc"],
    "bpchar": ["a  "],
    "char(5)": ["ab"],
    '"char"': ["x"],
    "name": ["a name"],
    "bytea": ["\\x", "\\x00ff5c27"],
    "date": ["2024-02-29", "infinity", "-infinity", "0044-03-15 BC", "12024-01-01"],
    "time": ["24:00:00", "23:59:59.999999", "00:00"],
    "time(0)": ["12:00:00.6"],
    "timetz": ["24:00:00+00", "12:00:00.5+05:30", "00:00:00-15:59:59"],
    "timestamp": ["2026-11-23 02:24:33.1", "infinity", "-infinity", "0044-03-15 12:00:00 BC", "294276-12-31 23:59:59"],
    "timestamptz": ["2026-11-23 02:24:33.151664+09", "infinity", "-infinity", "0044-03-15 12:00:00+00 BC"],
    "timestamptz(0)": ["2026-11-23 02:24:33.6+00", "20000-01-01 00:00:00+00"],
    "interval": ["1 year -2 mons 3 days -04:05:06.789", "0", "-0.000001 sec", "178000000 years"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "json": ['{"b": 1, "a": [1, 2.50, null], "b": 2}', '"x"', "null"],
    "jsonb": ['{"b": 1, "a": [1, 2.50, null], "b": 2}', "1e400"],
    "jsonpath": ["$.a[*] ? (@ > 1)"],
    "bit(4)": ["1010"],
    "varbit": ["", "10101"],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "point": ["(1.5,-0)"],
    "line": ["{1,2,3}"],
    "lseg": ["[(1,2),(3,4)]"],
    "box": ["(3,4),(1,2)"],
    "path": ["[(1,2),(3,4)]", "((1,2),(3,4))"],
    "polygon": ["((1,2),(3,4),(5,0))"],
    "circle": ["<(1,2),3>"],
    "tsvector": ["'a':1A 'b''c':2"],
    "tsquery": ["'a' & !'b'"],
    "int4range": ["[1,5)", "empty", "(,5)"],
    "int8range": ["[1,)"],
    "numrange": ["[1.0,2.50]"],
    "daterange": ["[2024-01-01,infinity)"],
    "tsrange": ["[2024-01-01 00:00:00,2024-01-02 12:00:00)"],
    "tstzrange": ["[2024-01-01 00:00:00+00,2024-01-02 12:00:00+00)"],
    "int4multirange": ["{[1,3),[5,7)}"],
    "int8multirange": ["{}"],
    "nummultirange": ["{[1.5,2)}"],
    "datemultirange": ["{[2024-01-01,2024-01-02)}"],
    "tsmultirange": ["{[2024-01-01 00:00:00,2024-01-02 00:00:00)}"],
    "tstzmultirange": ["{[2024-01-01 00:00:00+00,2024-01-02 00:00:00+00)}"],
    "pg_lsn": ["16/B374D848"],
    "xid": ["42"],
    "xid8": ["18446744073709551615"],
    "cid": ["7"],
    "tid": ["(1,2)"],
    "pg_snapshot": ["10:20:10,14"],
    "txid_snapshot": ["10:20:10,14"],
    "int2vector": ["1 2 3"],
    "oidvector": ["1 2"],
    "aclitem": ["postgres=r/postgres"],
    "refcursor": ["c"],
    "regclass": ["pg_class"],
    "regproc": ["pg_sleep"],
    "regprocedure": ["pg_sleep(double precision)"],
    "regoper": ["pg_catalog.||/"],
    "regoperator": ["+(integer,integer)"],
    "regtype": ["integer"],
    "regrole": ["postgres"],
    "regnamespace": ["public"],
    "regconfig": ["english"],
    "regdictionary": ["simple"],
    "regcollation": ['"C"'],
    "int4[]": ["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:1]={1,2}", "[2:2][1:2]={{1,2}}"],
    "bool[]": ["{t,NULL,f}"],
    "float8[]": ["{1.5,-0,NaN,Infinity}"],
    "text[]": ['{a,"b\\"c",NULL,"NULL","","x\\\\y","{,}"," ",é}', "{{a},{b}}"],
    "bytea[]": ['{"\\\\x00ff",NULL}'],
    "timestamptz[]": ['{"2026-11-23 02:24:33+00",infinity}'],
    "numeric(8,2)[]": ["{1.5,NaN}"],
    "money[]": ["{-1234.50}"],
    "json[]": ['{"{\\"a\\": [1, 2]}",NULL}'],
    "jsonb[]": ['{"{\\"a\\": [1, 2]}"}'],
    "box[]": ["{(1,2),(0,0);(3,4),(2,2)}"],
    "interval[]": ['{"1 day","-01:00:00"}'],
    "int4range[]": ['{"[1,5)"}'],
    "date[]": ["{2024-02-29,-infinity}"],
    "mood": ["ok", "it's bad"],
    "mood[]": ['{ok,"it\'s bad"}'],
    "positive": ["1.50"],
    "positive[]": ["{1.5,2}"],
    "several": ["{1.5,2}"],
    "pair": ['(1,"a,b")'],
    "pair[]": ['{"(1,a)"}'],
    "hstore": ['"a"=>"1", "b"=>NULL'],
    "citext": ["MiXed"],
}

# Types of the catalogs themselves: no value of theirs can be written.
NOT_FOR_USERS = {
    "gtsvector",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
}

BUILT_IN = """
select typname from pg_type where typnamespace = 'pg_catalog'::regnamespace and typtype in ('b', 'r', 'm')
and not exists (select from pg_type e where e.typarray = pg_type.oid) and typname not like 'pg\\_toast%'
"""

SETTINGS = {
    "DateStyle": "German, DMY",
    "TimeZone": "Asia/Tokyo",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-3",
}


def with_xml(db: Database) -> dict[str, list[str]]:
    """The values, xml among them where the server was built with it."""
    try:
        db.execute("select '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        return VALUES
    return VALUES | {"xml": ["<a>é &amp; b</a>"], "xml[]": ['{"<a x=\\"1\\"/>"}']}


@pytest.fixture
def values(any_db: Database) -> dict[str, list[str]]:
    return with_xml(any_db)


@pytest.fixture
def log(any_dsn: str, any_db: Database, capture: Capture, values: dict[str, list[str]]) -> Collector:
    """A table with a column of each type, on a database whose own settings print everything differently."""
    any_db.execute(
        "create extension hstore; create extension citext; create type mood as enum ('ok', 'it''s bad');"
        "create domain positive as numeric(8,2) check (value > 0); create domain several as positive[];"
        "create type pair as (a int, b text)"
    )
    for name, value in SETTINGS.items():
        any_db.execute(f"alter database {any_db.info.dbname} set {name} = '{value}'")
    columns = ", ".join(f"c{number} {kind}" for number, kind in enumerate(values))
    any_db.execute(f"create table t (id int primary key, {columns})")
    return capture(any_dsn, "t")


def insert(db: Database, values: dict[str, list[str]]) -> int:
    rows = max(len(samples) for samples in values.values())
    for row in range(rows):
        chosen = [samples[row] if row < len(samples) else None for samples in values.values()]
        places = ", ".join(f"%s::text::{kind}" for kind in values)
        db.execute(f"insert into t values (%s, {places})", (row, *chosen))
    return rows


def test_every_built_in_type_has_a_value_here(any_db: Database) -> None:
    known = {name for (name,) in any_db.execute(BUILT_IN)} - NOT_FOR_USERS
    tested = {
        name
        for kind in {*VALUES, "xml"}
        for (name,) in any_db.execute("select typname from pg_type where oid = to_regtype(%s)", (kind,))
    }
    assert known - tested == set()


def test_same_bytes_by_log_by_chunk_and_by_key(log: Collector, any_db: Database, values: dict[str, list[str]]) -> None:
    rows = insert(any_db, values)
    streamed = log.settle()
    log.source.track(True)
    log.source.fence()
    log.until(lambda: not log.source.fence_passed())
    log.source.request_chunk(ChunkRequest("r", "public.t", 1, (), after=None, rows=100))
    log.until(lambda: bool(log.chunks))
    chunked = [event for event in log.events if event.operation == "read"]
    everything = list(log.source.read_rows("public.t"))
    by_key = list(log.source.read_rows("public.t", keys=[{"id": number} for number in range(rows)]))
    assert len(streamed) == rows
    for number, event in enumerate(streamed):
        expected = msgspec.json.encode(event.after)
        assert msgspec.json.encode(chunked[number].after) == expected
        assert msgspec.json.encode(everything[number]) == expected
        assert msgspec.json.encode(by_key[number]) == expected


def test_same_bytes_in_the_old_row_and_by_fetching(
    log: Collector, any_db: Database, values: dict[str, list[str]]
) -> None:
    any_db.execute("alter table t replica identity full")
    insert(any_db, values)
    any_db.execute("update t set id = id + 1000")
    any_db.execute("delete from t")
    events = log.settle()
    created = {(event.key or {})["id"]: event.after for event in events if event.operation == "create"}
    for event in events:
        if event.operation == "delete":
            assert msgspec.json.encode(event.before) == msgspec.json.encode(created[(event.key or {})["id"]])


def test_wire_values_go_back_into_the_server_unchanged(
    log: Collector, any_dsn: str, any_db: Database, values: dict[str, list[str]]
) -> None:
    insert(any_db, values)
    any_db.execute("create table back (like t including all)")
    table = pgcatalog.describe(any_db, "public.t")
    assert table
    for event in log.settle():
        row = json.loads(msgspec.json.encode(event.after))
        texts = [
            None if row[column.name] is None else from_wire(column.type)(row[column.name]) for column in table.columns
        ]
        places = ", ".join(f"%s::text::{column.declared}" for column in table.columns)
        any_db.execute(f"insert into back values ({places})", texts)
    for column in table.columns:
        differing = any_db.execute(
            f"select t.{column.name}::text, back.{column.name}::text from t join back using (id)"
            f" where t.{column.name}::text is distinct from back.{column.name}::text"
        ).fetchall()
        assert differing == [], column.declared


DOCUMENTED: dict[str, tuple[str, Any]] = {
    "timestamptz": ("2026-11-23 02:24:33.151664+00", "2026-11-23T02:24:33.151664Z"),
    "timestamp": ("2026-11-23 02:24:33", "2026-11-23T02:24:33"),
    "date": ("2026-11-23", "2026-11-23"),
    "interval": ("1 year 2 days 03:00", "P1Y2DT3H"),
    "bytea": ("\\x00ff", "AP8="),
    "float8": ("0.1", 0.1),
    "money": ("1234.5", "1234.50"),
    "numeric": ("10.50", "10.50"),
    "json": ('{"a":  1}', '{"a":  1}'),
    "int4[]": ("{1,2}", [1, 2]),
    "bool": ("t", True),
}


def test_values_have_their_documented_form(log: Collector, any_db: Database, values: dict[str, list[str]]) -> None:
    for number, (kind, (value, _)) in enumerate(DOCUMENTED.items()):
        column = f"c{list(values).index(kind)}"
        any_db.execute(f"insert into t (id, {column}) values (%s, %s::text::{kind})", (number, value))
    events = log.settle()
    assert len(events) == len(DOCUMENTED)
    for event, (kind, (_, wire)) in zip(events, DOCUMENTED.items(), strict=True):
        assert event.after
        assert event.after[f"c{list(values).index(kind)}"] == wire


def test_rows_of_a_table_that_was_never_analysed_are_those_that_the_server_counted(any_db: Database) -> None:
    any_db.execute(
        "create table t (id int primary key, name text) with (autovacuum_enabled = off);"
        "create table parted (id int primary key, name text) partition by range (id);"
        "create table part partition of parted for values from (0) to (20000) with (autovacuum_enabled = off)"
    )

    def counted(name: str) -> int:
        table = pgcatalog.describe(any_db, f"public.{name}")
        assert table is not None
        return table.rows_estimated

    assert counted("t") == 0
    for name in ("t", "parted"):
        any_db.execute(f"insert into {name} select n, 'a name of usual length ' || n from generate_series(1, 10000) n")
    wait_until(lambda: counted("t") == 10000 == counted("parted"), "the server counts the rows")
