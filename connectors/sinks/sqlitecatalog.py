"""Tables of an SQLite file as its catalog has them."""

from __future__ import annotations

import sqlite3

from msgspec import Struct

from connectors.sinks.sqlitetypes import Kind, described
from sync_hub.model import Column, Table


class Described(Struct, frozen=True):
    """A table, and what SQLite has beyond it: how each column stores values, and its default as SQL."""

    table: Table
    kinds: dict[str, Kind]
    defaults: dict[str, str]


def quote(identifier: str) -> str:
    """An identifier as SQL text, always in double quotes."""
    return '"' + identifier.replace('"', '""') + '"'


def describe(connection: sqlite3.Connection, name: str) -> Described | None:
    """The table as it is now; None when there is none. Names are found whatever their case, as SQLite does."""
    rows = connection.execute(
        'select name, type, "notnull", dflt_value, pk, hidden from pragma_table_xinfo(?)', (name,)
    ).fetchall()
    if not rows:
        return None
    key = tuple(row[0] for row in sorted((row for row in rows if row[4]), key=lambda row: row[4]))
    columns = tuple(
        Column(
            column,
            described(declared)[1],
            nullable=not (required or primary),
            declared=declared,
            default=default is not None,
            generated=hidden in (2, 3),
        )
        for column, declared, required, default, primary, hidden in rows
        if hidden != 1
    )
    return Described(
        Table("", name, columns, key, _unique(connection, name, key)),
        {row[0]: described(row[1])[0] for row in rows},
        {row[0]: row[3] for row in rows if row[3] is not None},
    )


def _unique(connection: sqlite3.Connection, name: str, key: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    found = [key] if key else []
    indexes = connection.execute(
        'select name from pragma_index_list(?) where "unique" and not partial order by seq', (name,)
    )
    for (index,) in indexes.fetchall():
        columns = tuple(row[0] for row in connection.execute("select name from pragma_index_info(?)", (index,)))
        if None not in columns and columns not in found:
            found.append(columns)
    return tuple(found)
