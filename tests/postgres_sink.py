"""A PostgreSQL sink under test, and what a person sees in its database."""

from __future__ import annotations

from typing import Any

import psycopg

from connectors.sinks.postgres import PostgresSink


def sql(dsn: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run one or more statements; the rows of the last."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, parameters or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def sink(dsn: str, **options: Any) -> PostgresSink:
    """The target `crm`."""
    return PostgresSink("crm", PostgresSink.Options(dsn=dsn, **options), "test")
