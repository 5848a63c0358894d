"""PostgreSQL's catalog as the hub's own values: tables, columns, keys, domains resolved. For sources and targets."""

from __future__ import annotations

import fnmatch
from typing import Any, ClassVar, Final

import psycopg

from sync_hub.model import Column, Table

Connection = psycopg.Connection[tuple[Any, ...]]

_ROWS = "case when c.reltuples >= 0 then c.reltuples else pg_catalog.pg_stat_get_live_tuples(c.oid) end"
"""About how many rows a table has; one that was never analysed by the server's counters, which need no lock."""
_TABLE = f"""
select c.oid, n.nspname, c.relname, c.relkind::text, c.relreplident::text, coalesce({_ROWS}, 0)::bigint
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname = coalesce(%s, pg_catalog.current_schema()) and c.relname = %s
  and c.relkind in ('r', 'p', 'v', 'm', 'f')
"""
_COLUMNS = """
select a.attnum, a.attname, a.atttypid, a.atttypmod, not a.attnotnull, a.attgenerated::text,
       a.atthasdef or a.attidentity <> '', pg_catalog.format_type(a.atttypid, a.atttypmod)
from pg_catalog.pg_attribute a
where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_INDEXES = """
select i.indisprimary, i.indisreplident, i.indimmediate, i.indpred is null and not 0 = any(i.indkey::int2[]),
       (i.indkey::int2[])[0:i.indnkeyatts - 1]
from pg_catalog.pg_index i where i.indrelid = %s and i.indisunique and i.indisvalid
order by i.indisprimary desc, i.indexrelid
"""
_TYPE = """
select t.typtype::text, t.typbasetype, t.typtypmod, e.oid
from pg_catalog.pg_type t left join pg_catalog.pg_type e on e.typarray = t.oid where t.oid = %s
"""
_PARTITIONED_ROWS = f"""
select coalesce(sum({_ROWS}), 0)::bigint
from pg_catalog.pg_partition_tree(%s) p join pg_catalog.pg_class c on c.oid = p.relid where p.isleaf
"""
_LIST = """
select n.nspname, c.relname
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence = 'p'
  and n.nspname not in ('pg_catalog', 'information_schema', 'sync_hub') and n.nspname !~ '^pg_'
  and c.relname !~ '^sync_hub_'
order by 1, 2
"""


_FIRST_UNPINNED_OID: Final = 12_000
"""FirstUnpinnedObjectId of PostgreSQL's access/transam.h: a type with a lower one is the same on every server."""


def split_name(table: str) -> tuple[str | None, str]:
    """`schema.name` in its two parts; no schema: the connection's current one. Names are as the catalog has them."""
    schema, dot, name = table.partition(".")
    return (schema, name) if dot else (None, table)


def list_tables(connection: Connection) -> list[str]:
    """Full names of all ordinary and partitioned tables, the hub's own and partitions left out, sorted."""
    return [f"{schema}.{name}" for schema, name in connection.execute(_LIST)]


def matching(connection: Connection, entry: str) -> list[str]:
    """Full names of the tables that an entry of a configuration means: the table of exactly this name, else a pattern.

    So a table whose quoted name has signs of a pattern can be named. Empty: there is none.
    """
    table = describe(connection, entry)
    if table is not None:
        return [table.full_name]
    return fnmatch.filter(list_tables(connection), entry) if is_pattern(entry) else []


def is_pattern(entry: str) -> bool:
    """Whether an entry may stand for several tables."""
    return any(sign in entry for sign in "*?[")


def describe(connection: Connection, table: str, *, target: bool = False) -> Table | None:
    """The table as the catalog has it now; None when there is none.

    `key` is the replica identity index, else the primary key; for a `target` always the primary key. `unique` lists
    what ON CONFLICT can use, and the primary key. Stored generated columns are `carried` from PostgreSQL 18 on, whose
    log can hold them.
    """
    found = connection.execute(_TABLE, split_name(table)).fetchone()
    if found is None:
        return None
    oid, schema, name, kind, _, rows = found
    if kind == "p":
        rows = connection.execute(_PARTITIONED_ROWS, (oid,)).fetchall()[0][0]
    names, columns = _columns(connection, oid)
    key, unique = _keys(connection, oid, names, target=target)
    return Table(schema, name, columns, key, unique, str(oid), rows)


def is_partitioned(connection: Connection, table: Table) -> bool:
    """Whether the table is the root of partitions (or a partition with partitions of its own)."""
    row = connection.execute(
        "select relkind = 'p' from pg_catalog.pg_class where oid = %s", (int(table.identity),)
    ).fetchone()
    return row is not None and bool(row[0])


def _columns(connection: Connection, table_oid: int) -> tuple[dict[int, str], tuple[Column, ...]]:
    types = TypeNames()
    names: dict[int, str] = {}
    columns = []
    for number, name, oid, modifier, nullable, generated, default, declared in connection.execute(
        _COLUMNS, (table_oid,)
    ).fetchall():
        names[number] = name
        columns.append(
            Column(
                name,
                types.name(connection, oid, modifier),
                nullable=nullable,
                declared=declared,
                default=default,
                generated=bool(generated),
                carried=not generated or (generated == "s" and connection.info.server_version >= 180000),
            )
        )
    return names, tuple(columns)


def _keys(
    connection: Connection, table_oid: int, names: dict[int, str], *, target: bool
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    identity: tuple[str, ...] = ()
    primary: tuple[str, ...] = ()
    unique = []
    for is_primary, is_identity, immediate, plain, numbers in connection.execute(_INDEXES, (table_oid,)):
        if not plain:
            continue
        index = tuple(names[number] for number in numbers)
        if is_primary:
            primary = index
        if is_identity:
            identity = index
        if immediate and index not in unique:
            unique.append(index)
    return (primary if target else identity or primary), tuple(unique)


class TypeNames:
    """Names of types by OID, as `Column.type` has them; remembers what it has looked up."""

    _built_in: ClassVar[dict[tuple[int, int], str]] = {}

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], str] = {}

    def name(self, connection: Connection, oid: int, modifier: int = -1) -> str:
        """The base type: domains resolved, enumerations `enum`, a type that is gone `text`."""
        names = self._built_in if oid < _FIRST_UNPINNED_OID else self._known
        known = names.get((oid, modifier))
        if known is None:
            known = names[oid, modifier] = self._look_up(connection, oid, modifier)
        return known

    def _look_up(self, connection: Connection, oid: int, modifier: int) -> str:
        row = connection.execute(_TYPE, (oid,)).fetchone()
        if row is None:
            return "text"
        kind, base, base_modifier, element = row
        if kind == "d":
            return self.name(connection, base, base_modifier)
        if kind == "e":
            return "enum"
        if element:
            return self.name(connection, element, modifier) + "[]"
        name = connection.execute("select pg_catalog.format_type(%s, %s)", (oid, modifier)).fetchall()[0][0]
        return str(name)
