"""The PostgreSQL sink on a real server: what only PostgreSQL has, and what only its catalog can show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from connectors.sinks.postgres import PostgresSink
from sync_hub.model import Offset, RowChange, SinkBatch, TableWrite

START = Offset("customers", "erp.public.customers", 0, "0" * 32, 0, "", "hash")


class Target:
    """A target database, a sink that writes to it, and the offset of one partition that moves with each write."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.sink = PostgresSink("crm", PostgresSink.Options(dsn=dsn), "test")
        self.sink.open()
        self.offset = START
        self.sink.start_offsets([START])

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def write(self, *writes: TableWrite) -> None:
        after = Offset("customers", START.topic, 0, START.topic_id, self.offset.next_offset + 1, "v", "hash")
        self.sink.write(SinkBatch([(self.offset, after)], list(writes)))
        self.offset = after


@pytest.fixture
def target(target_dsn: str) -> Iterator[Target]:
    target = Target(target_dsn)
    yield target
    target.sink.close()


def upserts(table: str, columns: tuple[str, ...], *rows: tuple[Any, ...], **options: Any) -> TableWrite:
    changes = [RowChange("upsert", row[:1], row) for row in rows]
    return TableWrite("customers", table, columns[:1], columns, changes, **options)


def test_rows_and_offset_are_written_together(target: Target) -> None:
    target.sql("create table view (id int primary key, name text, balance numeric(12,2))")
    target.write(upserts("view", ("id", "name", "balance"), (1, "Ada", "10.50"), (2, None, None)))
    assert target.sql("select id, name, balance::text from view order by id") == [(1, "Ada", "10.50"), (2, None, None)]
    assert target.sink.load_offsets(["customers"]) == [target.offset]
