"""What would stop capture or harm the application, found before anything is changed; and the script for the DBA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import psycopg
from msgspec import Struct

from connectors import pgcatalog
from connectors.postgresql import literal, quote, quote_table, read_dsn
from connectors.sources import pgslot
from connectors.sources.pgoptions import PostgresOptions
from connectors.sources.pgposition import Slot
from connectors.sources.pgqueries import Queries
from sync_hub.errors import ConfigError, Fatal, SyncHubError
from sync_hub.model import Finding, Severity, Table

Connection = psycopg.Connection[tuple[Any, ...]]

OLDEST_VERSION: Final = 140000

_SERVER: Final = """
select current_setting('server_version_num')::int, pg_catalog.pg_is_in_recovery(), current_setting('wal_level'),
       current_setting('max_replication_slots')::int - (select count(*) from pg_catalog.pg_replication_slots),
       current_setting('max_wal_senders')::int - (select count(*) from pg_catalog.pg_stat_replication),
       (select setting::bigint from pg_catalog.pg_settings where name = 'max_slot_wal_keep_size'),
       pg_catalog.pg_encoding_to_char(d.encoding), r.rolreplication or r.rolsuper or exists (
           select from pg_catalog.pg_roles m where m.rolname = 'rds_replication'
           and pg_catalog.pg_has_role(r.oid, m.oid, 'MEMBER')),
       r.rolname, pg_catalog.has_database_privilege(d.oid, 'CREATE'), d.datname
from pg_catalog.pg_roles r, pg_catalog.pg_database d
where r.rolname = current_user and d.datname = current_database()
"""
_TABLE: Final = """
select c.relkind::text, c.relpersistence::text, c.relreplident::text,
       pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE')
       and pg_catalog.has_table_privilege(c.oid, 'SELECT'),
       pg_catalog.row_security_active(c.oid), pg_catalog.pg_has_role(c.relowner, 'USAGE'),
       pg_catalog.pg_get_userbyid(c.relowner),
       coalesce((select bool_and(i.indimmediate) from pg_catalog.pg_index i
                 where i.indrelid = c.oid and i.indisprimary), true),
       array(select a.attname::text
             from pg_catalog.pg_attribute a join pg_catalog.pg_collation l on l.oid = a.attcollation
             where a.attrelid = c.oid and not l.collisdeterministic and a.attnum > 0),
       exists (select from pg_catalog.pg_attribute a
               where a.attrelid = c.oid and a.attgenerated <> '' and not a.attisdropped)
from pg_catalog.pg_class c where c.oid = %s
"""


class _Server(Struct, frozen=True):
    version: int
    in_recovery: bool
    wal_level: str
    free_slots: int
    free_senders: int
    keep_megabytes: int
    encoding: str
    may_replicate: bool
    role: str
    may_create: bool
    database: str


class _TableFacts(Struct, frozen=True):
    kind: str
    persistence: str
    identity: str
    readable: bool
    row_security: bool
    owned: bool
    owner: str
    key_immediate: bool
    nondeterministic: list[str]
    generated: bool


Add = Callable[[Severity, str, str, str], None]


def check(name: str, queries: Queries, options: PostgresOptions, *, slot: str, publication: str) -> list[Finding]:
    """All findings for a source, the worst of the server first. Changes nothing."""
    findings: list[Finding] = []
    path = f"sources.{name}"

    def add(severity: Severity, code: str, message: str, hint: str) -> None:
        findings.append(Finding(code, severity, path, message, hint))

    try:
        with queries.use() as connection:
            server = _Server(*connection.execute(_SERVER).fetchall()[0])
            found_slot = pgslot.find_slot(connection, slot)
            _check_server(server, slot_exists=found_slot is not None, add=add)
            if found_slot is not None:
                _check_slot(found_slot, server, add)
            found = pgslot.find_publication(connection, publication)
            creatable = True
            for entry in options.table_options():
                path = f"sources.{name}.tables.{entry}"
                for table in _matching(connection, entry, add):
                    path = f"sources.{name}.tables.{table}"
                    _check_table(connection, name, options, table, add)
                    creatable &= _check_published(connection, server, found, publication, table, add)
            if not creatable:
                findings.append(_no_publication(name, publication))
    except SyncHubError as error:
        findings.append(Finding(error.code, "error", path, error.message, error.hint, error.command))
    return findings


def _no_publication(source: str, publication: str) -> Finding:
    """One finding for all tables: they are published together."""
    return Finding(
        "publication_privilege",
        "error",
        f"sources.{source}",
        f"there is no publication {publication}, and the role may not create it for these tables",
        "have the owner of the tables run what this prints",
        f"sync-hub init {source} --sql",
    )


def _check_server(server: _Server, *, slot_exists: bool, add: Add) -> None:
    if server.version < OLDEST_VERSION:
        add("error", "server_too_old", f"PostgreSQL {server.version // 10000} is too old", "upgrade to 14 or newer")
    if server.in_recovery:
        add("error", "server_in_recovery", "the server is a standby", "connect to the primary")
    if server.wal_level != "logical":
        hint = "alter system set wal_level = logical; then restart the server"
        add("error", "wal_level", f"wal_level is {server.wal_level}: the log has no row changes", hint)
    if not slot_exists and server.free_slots < 1:
        add("error", "no_free_slot", "all replication slots are taken", "raise max_replication_slots and restart")
    if server.free_senders < 1:
        add("error", "no_free_sender", "all walsenders are taken", "raise max_wal_senders and restart")
    if not server.may_replicate:
        hint = f"alter role {quote(server.role)} replication;"
        add("error", "replication_privilege", f"the role {server.role} may not replicate", hint)
    if server.keep_megabytes < 0:
        message = "max_slot_wal_keep_size is unlimited: while the hub is away the log can fill the server's disk"
        add("warning", "slot_limit_missing", message, "set max_slot_wal_keep_size to what the disk can spare")
    if server.encoding == "SQL_ASCII":
        message = "the database's encoding is SQL_ASCII: texts that are not UTF-8 stop capture"
        add("warning", "encoding", message, "move the data to a database with encoding UTF8")


def _check_slot(slot: Slot, server: _Server, add: Add) -> None:
    drop = f"select pg_drop_replication_slot({literal(slot.name)});"
    if slot.plugin != "pgoutput" or slot.database != server.database or slot.two_phase:
        add("error", "slot_unusable", f"the replication slot {slot.name} was made for something else", drop)
    elif slot.status == "lost":
        add("error", "slot_lost", f"the replication slot {slot.name} has lost log", "run sync-hub recover")
    elif slot.status == "unreserved":
        message = f"the replication slot {slot.name} is about to lose log that is still needed"
        add("warning", "slot_unreserved", message, "let the hub catch up, or raise max_slot_wal_keep_size")


def _matching(connection: Connection, entry: str, add: Add) -> Iterator[str]:
    if not pgcatalog.is_pattern(entry):
        yield entry
        return
    names = pgcatalog.matching(connection, entry)
    if not names:
        add("error", "pattern_matches_nothing", f"no table matches {entry}", "correct the pattern")
    yield from names


def _check_table(connection: Connection, source: str, options: PostgresOptions, name: str, add: Add) -> None:
    table = pgcatalog.describe(connection, name)
    if table is None:
        add("error", "table_missing", f"there is no table {name}", "create it, or remove it from `tables`")
        return
    facts = _facts(connection, table)
    if facts.kind not in ("r", "p"):
        add("error", "not_a_table", f"{name} is not an ordinary or partitioned table", "capture the tables behind it")
        return
    if facts.persistence != "p":
        add("error", "table_not_logged", f"{name} is unlogged or temporary", f"alter table {name} set logged;")
    for error in _unusable(source, table, facts):
        add("error", error.code, error.message, error.hint)
    if facts.identity == "f" and facts.generated:
        message = f"{name} has REPLICA IDENTITY FULL and generated columns: once published, its own UPDATEs may fail"
        add("warning", "generated_in_identity", message, f"alter table {name} replica identity default;")
    if not facts.readable:
        listed = quote_table(table.schema, table.name)
        hint = f"grant usage on schema {quote(table.schema)} to …; grant select on {listed} to …;"
        add("error", "select_privilege", f"the role may not read {name}", hint)
    if facts.row_security:
        message = f"row security hides rows of {name} from the role"
        add("error", "row_security", message, "alter role … bypassrls;")
    try:
        options.without_excluded(source, table)
    except ConfigError as error:
        add("error", error.code, error.message, error.hint)


def _check_published(
    connection: Connection, server: _Server, publication: pgslot.Publication | None, name: str, table: str, add: Add
) -> bool:
    """What is wrong with how a table is published; False when the publication is missing and others must make it."""
    found = pgcatalog.describe(connection, table)
    if found is None:
        return True
    entry = publication.tables.get(found.full_name) if publication else None
    if entry is None:
        owned = _facts(connection, found).owned
        if not publication:
            return owned and server.may_create
        if not (owned and publication.usable):
            statement = f"alter publication {quote(name)} add table only {quote_table(found.schema, found.name)}"
            message = f"the publication {name} does not hold {table}, and the role may not add it"
            add("error", "publication_privilege", message, f"run as the owner of the table: {statement};")
    elif entry.filtered or entry.column_list:
        message = f"the publication {name} has a row filter or column list for {table}"
        add("error", "publication_filtered", message, "publish the table whole")
    if publication and not publication.usable and not (publication.all_operations and publication.via_root):
        message = f"the publication {name} leaves out operations, or publishes partitions apart"
        add(
            "error", "publication_options", message, "set publish and publish_via_partition_root as `init --sql` prints"
        )
    return True


def _unusable(source: str, table: Table, facts: _TableFacts) -> Iterator[Fatal]:
    """Why changes of this table cannot be told apart by key; each would also break the application or lose events."""
    name = quote_table(table.schema, table.name)
    path = f"sources.{source}"
    if not table.key:
        yield Fatal(
            "no_key",
            f"{path}: {table.full_name} has neither a primary key nor a replica identity index",
            hint=f"alter table {name} add primary key (…);",
        )
    if facts.identity == "n":
        yield Fatal(
            "replica_identity_nothing",
            f"{path}: {table.full_name} has REPLICA IDENTITY NOTHING: published, its own UPDATE and DELETE would fail",
            hint=f"alter table {name} replica identity default;",
        )
    elif facts.identity == "d" and not facts.key_immediate:
        yield Fatal(
            "key_deferrable",
            f"{path}: the primary key of {table.full_name} is deferrable and no replica identity",
            hint=f"alter table {name} replica identity full;",
        )
    collated = sorted(set(table.key) & set(facts.nondeterministic))
    if collated:
        yield Fatal(
            "key_collation",
            f"{path}: key column {collated[0]} of {table.full_name} has a nondeterministic collation:"
            " keys that differ in text would be one row",
            hint="use a deterministic collation for key columns",
        )


def refuse_unkeyed(source: str, queries: Queries, table: Table) -> None:
    """Raise `Fatal` for a table that has no usable key."""
    with queries.use() as connection:
        facts = _facts(connection, table)
    for error in _unusable(source, table, facts):
        raise error


def _facts(connection: Connection, table: Table) -> _TableFacts:
    return _TableFacts(*connection.execute(_TABLE, (int(table.identity),)).fetchall()[0])


def setup_sql(
    queries: Queries, options: PostgresOptions, tables: Sequence[Table], *, slot: str, publication: str
) -> str:
    """A psql script: role, grants, publication, slot; in this order, since a slot must come after its publication."""
    role = read_dsn(options.dsn).get("user") or "sync_hub"
    with queries.use() as connection:
        version = connection.info.server_version
    schemas = sorted({table.schema for table in tables})
    failover = ", failover => true" if version >= 170000 and options.failover else ""
    lines = [
        "-- Run once, as a superuser or the owner of the tables, in the source database.",
        f"do $$ begin if not exists (select from pg_roles where rolname = {literal(str(role))}) then",
        f"  create role {quote(str(role))} login replication;  -- then: \\password",
        "end if; end $$;",
        *(f"grant usage on schema {quote(schema)} to {quote(str(role))};" for schema in schemas),
        *(f"grant select on {quote_table(t.schema, t.name)} to {quote(str(role))};" for t in tables),
        f"{pgslot.create_publication_sql(publication, tables, version)};" if tables else "-- no tables are configured",
        f"select pg_create_logical_replication_slot({literal(slot)}, 'pgoutput'{failover});",
    ]
    return "\n".join(lines) + "\n"
