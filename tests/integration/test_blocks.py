"""Blocks of rows: what a source prints goes into a target as it is, together with the row that says how far it came."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from msgspec.structs import replace
from pydantic import SecretStr

from connectors.sinks.postgres import PostgresSink
from connectors.sources import pgblocks
from connectors.sources.pgqueries import Queries
from connectors.sources.postgres import PostgresSource
from sync_hub.errors import OffsetsMoved, Rejected, Unavailable
from sync_hub.model import Offset, RowBlock
from tests.end_to_end.hub import wait_until

DDL = """create table t (n integer, k text collate "C", v numeric, d timestamptz, b bytea, a text[], j jsonb, m money,
    f double precision, i interval, x text, primary key (k, n))"""
COLUMNS = ["n", "k", "v", "d", "b", "a", "j", "m", "f", "i", "x"]
ROWS = r"""
insert into t select n,
    case n % 6 when 0 then E'tab\there' when 1 then E'line\nbreak' when 2 then E'back\\slash \\N \\.'
        when 3 then '' when 4 then E'\r\b\f\v' else 'Grüße, "中"''' end,
    case n % 3 when 0 then null when 1 then n / 7.0 else 'NaN' end,
    '2026-01-01 12:00+05'::timestamptz + n * interval '1.000001 s',
    decode(lpad(to_hex(n), 8, '0'), 'hex'),
    array[null, E'\\', 'a,b', '"'], jsonb_build_object('n', n, 't', E'\t'), n, n / 3.0,
    n * interval '1 month 3.5 s',
    case n % 4 when 0 then '\N' when 1 then null else repeat('x', n) end
from generate_series(1, 60) n
"""
SCANS = "select seq_scan, idx_scan from pg_stat_user_tables where relname = 't'"
START = Offset("p", "topic#copied", 0, "token", 0, "", "hash")


@contextmanager
def ends(source_dsn: str, target_dsn: str, ddl: str = DDL) -> Iterator[tuple[PostgresSource, PostgresSink]]:
    """The same table at both ends; it has rows at the source."""
    for dsn in (source_dsn, target_dsn):
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(ddl.encode())
            if dsn is source_dsn and ddl == DDL:
                connection.execute(ROWS.encode())
    source = PostgresSource("erp", PostgresSource.Options(dsn=SecretStr(source_dsn), tables=("public.t",)), "hub")
    sink = PostgresSink("crm", PostgresSink.Options(dsn=SecretStr(target_dsn)), "hub")
    try:
        sink.open()
        sink.start_offsets([START])
        yield source, sink
    finally:
        source.close()
        sink.close()


def moved(row: Offset, block: RowBlock) -> Offset:
    return replace(row, next_offset=row.next_offset + block.rows)


@pytest.mark.parametrize("rows", [1, 7, 60, 100])
def test_every_value_and_key_arrives_on_every_version(rows: int, any_dsn: str, target_dsn: str) -> None:
    with ends(any_dsn, target_dsn) as (source, sink):
        row, after, sizes = START, None, []
        while True:
            block = source.read_block("public.t", COLUMNS, after, rows)
            sink.write_block((row, moved(row, block)), "t", COLUMNS, block)
            row, after = moved(row, block), block.last_key
            sizes.append(block.rows)
            if after is None:
                break
        assert sum(sizes) == 60
        assert max(sizes) <= rows
        assert sink.load_offsets(["p"]) == [row]
    digest = "select count(*), sum(hashtextextended(t::text, 0)) from t"
    with psycopg.connect(any_dsn) as at_source, psycopg.connect(target_dsn) as at_target:
        for connection in (at_source, at_target):
            connection.execute("set timezone = 'UTC'")
            connection.execute("set lc_monetary = 'C'")
        assert at_source.execute(digest).fetchall() == at_target.execute(digest).fetchall()


def test_a_block_of_wide_rows_is_cut_and_the_connection_goes_on(source_dsn: str, target_dsn: str) -> None:
    with ends(source_dsn, target_dsn, "create table t (k integer primary key, w text)") as (source, _):
        with psycopg.connect(source_dsn, autocommit=True) as connection:
            connection.execute("insert into t select n, repeat('w', 1000000) from generate_series(1, 30) n")
            connection.execute("insert into t values (31, repeat('w', 20000000)), (32, 'narrow')")
        found, after = [], None
        while True:
            block = source.read_block("public.t", ["w", "k"], after, 1000)
            found.append((block.rows, sum(map(len, block.data))))
            after = block.last_key
            if after is None:
                break
        assert sum(rows for rows, _ in found) == 32
        assert [size for rows, size in found if size > pgblocks.BLOCK_BYTES + 1_100_000 and rows > 7] == []
        assert len(found) >= 4


def test_a_block_of_an_empty_table_and_one_that_ends_exactly(source_dsn: str, target_dsn: str) -> None:
    with ends(source_dsn, target_dsn, "create table t (k integer primary key)") as (source, sink):
        empty = source.read_block("public.t", ["k"], None, 10)
        assert (empty.rows, empty.data, empty.last_key) == (0, [], None)
        sink.write_block((START, replace(START, topic_id="")), "t", ["k"], empty)
        with psycopg.connect(source_dsn, autocommit=True) as connection:
            connection.execute("insert into t select generate_series(1, 10)")
        full = source.read_block("public.t", ["k"], None, 10)
        assert (full.rows, full.last_key) == (10, ("10",))
        assert source.read_block("public.t", ["k"], full.last_key, 10).rows == 0


def test_who_is_late_or_meets_a_row_that_is_there_writes_nothing(source_dsn: str, target_dsn: str) -> None:
    with ends(source_dsn, target_dsn, "create table t (k integer primary key)") as (source, sink):
        with psycopg.connect(source_dsn, autocommit=True) as connection:
            connection.execute("insert into t select generate_series(1, 10)")
        block = source.read_block("public.t", ["k"], None, 10)
        for stale in (replace(START, topic_id="other"), replace(START, next_offset=3), replace(START, mapping_hash="")):
            with pytest.raises(OffsetsMoved):
                sink.write_block((stale, moved(stale, block)), "t", ["k"], block)
        with psycopg.connect(target_dsn, autocommit=True) as connection:
            assert connection.execute("select count(*) from t").fetchall() == [(0,)]
            connection.execute("insert into t values (7)")
        with pytest.raises(Rejected) as caught:
            sink.write_block((START, moved(START, block)), "t", ["k"], block)
        assert caught.value.code == "unique_violated"
        assert list(sink.read_rows("t", ["k"])) == [(7,)]
        assert sink.load_offsets(["p"]) == [START]


def test_a_session_that_the_server_ended_is_unavailable_and_made_again(source_dsn: str, target_dsn: str) -> None:
    with ends(source_dsn, target_dsn, "create table t (k integer primary key)") as (source, _):
        with psycopg.connect(source_dsn, autocommit=True) as connection:
            connection.execute("insert into t select generate_series(1, 1000)")
            source.read_block("public.t", ["k"], None, 1)
            mine = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database()"
            connection.execute(mine + " and application_name like 'sync-hub%'")
        with pytest.raises(Unavailable):
            source.read_block("public.t", ["k"], None, 10)
        assert source.read_block("public.t", ["k"], None, 10).rows == 10


@pytest.mark.parametrize("key", ["n", "md5(n::text)"])
def test_a_block_is_read_by_the_index_although_the_server_knows_nothing_of_the_table(
    key: str, source_dsn: str, target_dsn: str
) -> None:
    ddl = f"create table t as select {key} as k, n from generate_series(1, 100000) n"
    ddl += "; alter table t add primary key (k)"
    with psycopg.connect(source_dsn, autocommit=True) as connection, ends(source_dsn, target_dsn, ddl) as (source, _):
        ((whole, by_index),) = connection.execute(SCANS).fetchall()
        block = source.read_block("public.t", ["k", "n"], ("0" if key == "n" else "",), 50_000)
        assert block.rows == 50_000
        source.close()
        now = wait_until(lambda: [row for row in connection.execute(SCANS) if row != (whole, by_index)], "counted")
    assert now == [(whole, by_index + 1)]


def test_statements_that_read_small_parts_are_not_compiled(any_dsn: str) -> None:
    queries = Queries(any_dsn, "erp", "test")
    with queries.use() as connection:
        connection.execute("set jit_above_cost = 0")
        plan = connection.execute("explain (analyze) select sum(n) from generate_series(1, 10) n").fetchall()
    queries.close()
    assert "JIT" not in str(plan)
