"""Preflight of a PostgreSQL target: every privilege that writing needs, asked of the server itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg

from connectors.pgcatalog import split_name
from connectors.postgresql import quote, quote_table
from connectors.sinks.parked import TABLE as PARKED
from connectors.sinks.pgoffsets import TABLE
from sync_hub.errors import SyncHubError
from sync_hub.model import Finding

OLDEST_VERSION: Final = 140000
NEEDED: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")

_OWN: Final = {TABLE: "how far each pipeline has come", PARKED: "what was rejected"}

_SERVER: Final = """
select current_user, current_database(), pg_is_in_recovery() or current_setting('default_transaction_read_only')::bool,
    has_database_privilege(current_database(), 'TEMPORARY')
"""
_SCHEMA: Final = """
select has_schema_privilege(oid, 'USAGE'), has_schema_privilege(oid, 'CREATE') from pg_namespace where nspname = %s
"""
_TABLE: Final = """
select array(select p from unnest(%s::text[]) p where not has_table_privilege(c.oid, p)
    and not (p <> 'DELETE' and has_any_column_privilege(c.oid, p)))
from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = %s and c.relname = %s
"""


def finding(target: str, error: SyncHubError) -> Finding:
    """An error met while checking, as a finding."""
    return Finding(error.code, "error", f"targets.{target}", error.message, error.hint, error.command)


def check(connection: psycopg.Connection[Any], target: str, schema: str, tables: Sequence[str]) -> list[Finding]:
    """What keeps the hub from writing; `tables` are full names, those that do not exist are left to the mappings."""
    path = f"targets.{target}"
    found: list[Finding] = []
    [(user, database, read_only, temporary)] = connection.execute(_SERVER)
    version = connection.info.server_version
    if version < OLDEST_VERSION:
        message = f"PostgreSQL {version // 10000} is older than 14"
        found.append(Finding("server_too_old", "error", path, message, "upgrade the server"))
    if read_only:
        message = "the server is in recovery or read-only"
        found.append(Finding("server_read_only", "error", path, message, "connect to the primary"))
    if not temporary:
        message = f"{user} may not create temporary tables in {database}, which rows are staged in"
        grant = f"grant temporary on database {quote(database)} to {quote(user)};"
        found.append(Finding("privilege_missing", "error", path, message, "grant it", grant))
    found += _own_tables(connection, path, schema, user)
    for table in tables:
        found += _table(connection, path, table, user)
    return found


def _own_tables(connection: psycopg.Connection[Any], path: str, schema: str, user: str) -> Iterator[Finding]:
    row = connection.execute(_SCHEMA, (schema,)).fetchone()
    if row is None:
        message = f"there is no schema {schema} for the hub's own tables"
        hint = "create it, or name another with `schema`"
        yield Finding("schema_missing", "error", path, message, hint, f"create schema {quote(schema)};")
        return
    usage, create = row
    if not usage:
        message = f"{user} may not use the schema {schema}"
        grant = f"grant usage on schema {quote(schema)} to {quote(user)};"
        yield Finding("privilege_missing", "error", path, message, "grant it", grant)
        return
    for name, what in _OWN.items():
        there = connection.execute(_TABLE, (list(NEEDED), schema, name)).fetchone()
        if there is None and not create:
            message = f"{user} may not create {schema}.{name}, which holds {what}"
            grant = f"grant create on schema {quote(schema)} to {quote(user)};"
            yield Finding("privilege_missing", "error", path, message, "grant it, or create the table yourself", grant)
            return
        if there is not None:
            yield from _table(connection, path, f"{schema}.{name}", user)


def _table(connection: psycopg.Connection[Any], path: str, table: str, user: str) -> Iterator[Finding]:
    schema, name = split_name(table)
    row = connection.execute(_TABLE, (list(NEEDED), schema, name)).fetchone()
    if row is not None and row[0]:
        missing = ", ".join(row[0])
        grant = f"grant {missing.lower()} on {quote_table(schema or '', name)} to {quote(user)};"
        yield Finding("privilege_missing", "error", path, f"{user} lacks {missing} on {table}", "grant it", grant)
