"""Checksums of key ranges: a source's and a target's are equal for equal values, and differ when one value does."""

from __future__ import annotations

import psycopg
import pytest
from pydantic import SecretStr

from connectors.sinks.postgres import PostgresSink
from connectors.sources.postgres import PostgresSource

TYPES = {
    "smallint": ("1", "2"),
    "bigint": ("-5", "6"),
    "numeric(12,4)": ("1.5000", "1.5001"),
    "double precision": ("0.1", "0.2"),
    "boolean": ("true", "false"),
    "text": ("a", "A"),
    "varchar(20)": ("Grüße", "Gruesse"),
    "char(4)": ("ab", "ac"),
    "uuid": ("00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"),
    "date": ("2026-02-28", "2026-03-01"),
    "timestamp": ("2026-01-01 10:00:00", "2026-01-01 10:00:00.000001"),
    "timestamptz": ("2026-01-01 10:00:00+02", "2026-01-01 10:00:00+01"),
    "bytea": ("\\x00ff", "\\x00fe"),
    "jsonb": ('{"a": 1}', '{"a": 2}'),
}
COLUMNS = [f"c{place}" for place in range(len(TYPES))]


def ends(any_dsn: str, target_dsn: str, key: str) -> tuple[PostgresSource, PostgresSink]:
    """The same table with the same rows at both ends; the key has one or two columns."""
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(COLUMNS, TYPES, strict=True))
    first = ", ".join(f"'{values[0]}'" for values in TYPES.values())
    for dsn in (any_dsn, target_dsn):
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"create table t (a integer, b uuid, {columns}, primary key ({key}))".encode())
            rows = f"select n, md5(n::text)::uuid, {first} from generate_series(-20, 20) n"
            connection.execute(f"insert into t {rows}".encode())
    source = PostgresSource("erp", PostgresSource.Options(dsn=SecretStr(any_dsn), tables=("public.t",)), "hub")
    return source, PostgresSink("crm", PostgresSink.Options(dsn=SecretStr(target_dsn)), "hub")


@pytest.mark.parametrize("key", ["a", "b", "b, a", "c5, a"], ids=["integer", "uuid", "two columns", "collated text"])
def test_ranges_of_equal_rows_have_equal_sums_on_every_version(any_dsn: str, target_dsn: str, key: str) -> None:
    source, sink = ends(any_dsn, target_dsn, key)
    names, columns = key.split(", "), ["a", "b", *COLUMNS]
    try:
        sink.open()
        after, rows = None, []
        while True:
            ours = source.checksum("public.t", columns, after, 7)
            if "c5" in names:
                assert ours is None, "keys under a collation have no order that both ends share"
                return
            assert ours is not None
            theirs = sink.checksum("t", names, columns, (after, ours.last_key))
            assert theirs is not None
            assert (theirs.kind, theirs.rows, theirs.digest) == (ours.kind, ours.rows, ours.digest)
            rows.append(ours.rows)
            after = ours.last_key
            if after is None:
                break
        assert rows == [7, 7, 7, 7, 7, 6]
    finally:
        source.close()
        sink.close()


def test_one_value_of_any_type_makes_a_difference(source_dsn: str, target_dsn: str) -> None:
    source, sink = ends(source_dsn, target_dsn, "a")
    columns = ["a", "b", *COLUMNS]
    try:
        sink.open()
        ours = source.checksum("public.t", columns, None, 100)
        assert ours is not None
        for name, (kind, (first, second)) in zip(COLUMNS, TYPES.items(), strict=True):
            for value, same in ((second, False), (None, False), (first, True)):
                with psycopg.connect(target_dsn, autocommit=True) as connection:
                    connection.execute(f"update t set {name} = %s where a = 3".encode(), (value,))
                theirs = sink.checksum("t", ["a"], columns, (None, None))
                assert theirs is not None
                assert (theirs.digest == ours.digest) is same, (kind, value)
        empty = source.checksum("public.t", columns, ("1000",), 10)
        assert empty == sink.checksum("t", ["a"], columns, (("1000",), None))
    finally:
        source.close()
        sink.close()


def test_types_without_a_hash_are_not_summed(source_dsn: str, target_dsn: str) -> None:
    for dsn in (source_dsn, target_dsn):
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("create table t (id integer primary key, document json, many text[])")
    source = PostgresSource("erp", PostgresSource.Options(dsn=SecretStr(source_dsn), tables=("public.t",)), "hub")
    sink = PostgresSink("crm", PostgresSink.Options(dsn=SecretStr(target_dsn)), "hub")
    try:
        sink.open()
        for column in ("document", "many"):
            assert source.checksum("public.t", ["id", column], None, 10) is None
            assert sink.checksum("t", ["id"], ["id", column], (None, None)) is None
    finally:
        source.close()
        sink.close()
