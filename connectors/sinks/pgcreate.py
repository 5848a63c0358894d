"""The DDL of a PostgreSQL target table that a mapping asks for (`create: true`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import RawCursor

from connectors.postgresql import quote
from sync_hub.errors import ConfigError
from sync_hub.model import Column, Table


def create_table(cursor: RawCursor[Any], name: str, table: Table) -> str:
    """The CREATE TABLE of a table; `name` is its quoted name. Looks up which types the server knows."""
    types = {column.type: _known_type(cursor, column.type) for column in table.columns}
    lines = [f"    {_column(column, types[column.type], column.name in table.key)}" for column in table.columns]
    if table.key:
        lines.append(f"    primary key ({', '.join(map(quote, table.key))})")
    return f"create table if not exists {name} (\n" + ",\n".join(lines) + "\n)"


def add_columns(cursor: RawCursor[Any], name: str, columns: Sequence[Column]) -> str:
    """The ALTER TABLE that adds columns to a table; `name` is its quoted name. They take NULL."""
    added = [f"add column if not exists {quote(one.name)} {_known_type(cursor, one.type)}" for one in columns]
    return f"alter table {name} {', '.join(added)}"


def _column(column: Column, type_name: str, in_key: bool) -> str:
    required = "" if column.nullable and not in_key else " not null"
    return f"{quote(column.name)} {type_name}{required}"


def _known_type(cursor: RawCursor[Any], type_name: str) -> str:
    """The type if this server has it, else text: an enumeration or composite of the source means nothing here.

    Only what the server reads as the name of a type gets into the DDL.
    """
    array = "[]" if type_name.endswith("[]") else ""
    if type_name.removesuffix("[]") == "enum":
        return f"text{array}"
    try:
        row = cursor.execute("select to_regtype($1) is not null", (type_name,)).fetchone()
    except psycopg.errors.SyntaxError as error:
        raise ConfigError(
            "bad_type", f"{type_name!r} is no type of PostgreSQL", hint="write it as in CREATE TABLE: numeric(12,2)"
        ) from error
    return type_name if row == (True,) else f"text{array}"
