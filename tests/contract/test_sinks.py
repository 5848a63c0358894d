"""The contract of sinks, on PostgreSQL and on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from connectors.sinks.postgres import PostgresSink
from connectors.sinks.sqlite import SqliteSink
from sync_hub.ports import Sink
from sync_hub.testing.sink import SinkContract


class TestPostgresSink(SinkContract):
    @pytest.fixture
    def make_sink(self, target_dsn: str) -> Callable[[], Sink]:
        return lambda: PostgresSink("crm", PostgresSink.Options(dsn=target_dsn), "test")

    @pytest.fixture
    def case_insensitive_table(self, target_dsn: str) -> Callable[[str], None]:
        def create(name: str) -> None:
            with psycopg.connect(target_dsn, autocommit=True) as connection:
                connection.execute("create extension citext")
                connection.execute(f"create table {name} (code citext primary key, note text)")

        return create

    @pytest.fixture
    def demanding_table(self, target_dsn: str) -> Callable[[str], None]:
        def create(name: str) -> None:
            with psycopg.connect(target_dsn, autocommit=True) as connection:
                connection.execute(f"create table {name} (id integer primary key, name text, owner text not null)")

        return create


class TestSqliteSink(SinkContract):
    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> Callable[[], Sink]:
        return lambda: SqliteSink("warehouse", SqliteSink.Options(path=tmp_path / "target.db"), "test")

    @pytest.fixture
    def case_insensitive_table(self, tmp_path: Path) -> Callable[[str], None]:
        def create(name: str) -> None:
            with sqlite3.connect(tmp_path / "target.db") as connection:
                connection.execute(f"create table {name} (code text collate nocase primary key, note text)")

        return create

    @pytest.fixture
    def demanding_table(self, tmp_path: Path) -> Callable[[str], None]:
        def create(name: str) -> None:
            with sqlite3.connect(tmp_path / "target.db") as connection:
                connection.execute(f"create table {name} (id integer primary key, name text, owner text not null)")

        return create
