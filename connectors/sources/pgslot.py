"""Publication and replication slot: looked at, created, altered; and the fixed text of their commands."""

from __future__ import annotations

import hashlib
import logging
import re
import select
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import psycopg
from msgspec import Struct
from psycopg import pq

from connectors.postgresql import classify, literal, quote, quote_table
from connectors.sources.pgposition import Position, Server, Slot, format_lsn, parse_lsn
from sync_hub.errors import Fatal, Unavailable
from sync_hub.model import Table

LOG = logging.getLogger(__name__)
Connection = psycopg.Connection[tuple[Any, ...]]

SLOT_WAIT_SECONDS: Final = 120.0
_MAX_NAME: Final = 63

_SLOT = """
select slot_name, coalesce(plugin, ''), coalesce(database, ''), coalesce(confirmed_flush_lsn, '0/0')::text,
       coalesce(wal_status, ''), active_pid, coalesce(two_phase, false)
from pg_catalog.pg_replication_slots where slot_name = %s
"""
_PUBLICATION = """
select p.puballtables, p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate, p.pubviaroot,
       pg_catalog.pg_get_userbyid(p.pubowner), pg_catalog.pg_has_role(p.pubowner, 'USAGE'),
       coalesce(to_jsonb(p) ->> 'pubgencols', ''), p.oid || '/' || p.xmin::text
from pg_catalog.pg_publication p where p.pubname = %s
"""
_PUBLISHED = """
select n.nspname || '.' || c.relname, c.oid, to_jsonb(r) ->> 'prqual' is not null,
       to_jsonb(r) ->> 'prattrs' is not null,
       (select coalesce(pg_catalog.md5(string_agg(relid::oid::text, ',' order by relid::oid)), '')
        from pg_catalog.pg_partition_tree(c.oid) where relid <> c.oid),
       coalesce(r.oid || '/' || r.xmin::text, {of_schema}, '')
from pg_catalog.pg_publication_tables t
join pg_catalog.pg_namespace n on n.nspname = t.schemaname
join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
left join pg_catalog.pg_publication p on p.pubname = t.pubname
left join pg_catalog.pg_publication_rel r on r.prpubid = p.oid and r.prrelid = c.oid
where t.pubname = %s
"""
_OF_SCHEMA: Final = """
(select s.oid || '/' || s.xmin::text from pg_catalog.pg_publication_namespace s
 where s.pnpubid = p.oid and s.pnnspid = n.oid)
"""
BLOCKERS: Final = """
select 'session ' || pid || coalesce(' of ' || usename, '') || coalesce(' (' || nullif(application_name, '') || ')', '')
       || ', in a transaction' || coalesce(' since ' || xact_start::timestamptz(0), '')
       || coalesce(', waiting for ' || wait_event, '')
from pg_catalog.pg_stat_activity
where backend_xid is not null and pid <> pg_catalog.pg_backend_pid() and pid <> %s
union all
select 'prepared transaction ' || quote_literal(gid) || ' of ' || owner || ' since ' || prepared::timestamptz(0)
from pg_catalog.pg_prepared_xacts
order by 1 limit 3
"""


class PublishedTable(Struct, frozen=True):
    """A table in the publication, as its catalog shows it now.

    `partitions` is a fingerprint of them, empty where there are none. `entry` changes when the table is taken out and
    added again, also with other rows or columns; empty: it has none of its own.
    """

    oid: int
    filtered: bool
    column_list: bool
    partitions: str
    entry: str


class Publication(Struct, frozen=True):
    """A publication; `tables` by full name. `usable`: the role may alter it; `generated`: it carries such columns.

    `version` changes whenever its options do, also when they were changed and changed back.
    """

    name: str
    all_tables: bool
    all_operations: bool
    via_root: bool
    owner: str
    usable: bool
    generated: bool
    version: str
    tables: dict[str, PublishedTable]


def object_name(hub: str, source: str) -> str:
    """The name of slot and publication for a source: lower-case letters, digits and underscores, 63 at most."""
    name = re.sub(r"[^a-z0-9_]", "_", f"sync_hub_{hub}_{source}".lower())
    if len(name) > _MAX_NAME:
        name = f"{name[:54]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def find_slot(connection: Connection, name: str) -> Slot | None:
    """The slot of this name; None when there is none."""
    row = connection.execute(_SLOT, (name,)).fetchone()
    if row is None:
        return None
    slot, plugin, database, confirmed, status, pid, two_phase = row
    return Slot(slot, plugin, database, parse_lsn(confirmed), status, pid, two_phase)


def find_publication(connection: Connection, name: str) -> Publication | None:
    """The publication of this name with its tables; None when there is none."""
    row = connection.execute(_PUBLICATION, (name,)).fetchone()
    if row is None:
        return None
    all_tables, operations, via_root, owner, usable, generated, version = row
    of_schema = _OF_SCHEMA if connection.info.server_version >= 150000 else "null"
    entries = connection.execute(_PUBLISHED.format(of_schema=of_schema).encode(), (name,)).fetchall()
    tables = {entry[0]: PublishedTable(*entry[1:]) for entry in entries}
    return Publication(name, all_tables, operations, via_root, owner, usable, generated == "s", version, tables)


def create_publication_sql(name: str, tables: Iterable[Table], server_version: int) -> str:
    """The statement that creates the publication: these tables and no others, without filters."""
    options = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
    if server_version >= 180000:
        options += ", publish_generated_columns = stored"
    listed = ", ".join(f"only {quote_table(table.schema, table.name)}" for table in tables)
    return f"create publication {quote(name)} for table {listed} with ({options})"


def ensure_publication(
    connection: Connection, name: str, tables: Mapping[str, Table], *, stored: Position | None = None
) -> Publication:
    """Create the publication, or make it hold these tables; what the role may not do is `Fatal` with the statement.

    A publication that is not as it was at the `stored` position may have left out changes, which cannot be mended
    silently.
    """
    found = find_publication(connection, name)
    if stored is not None:
        known = {table: entry.published for table, entry in stored.tables.items() if table in tables}
        refuse_changed(name, found, known, stored.publication)
    statements = (
        [create_publication_sql(name, tables.values(), connection.info.server_version)]
        if found is None
        else _alterations(name, found, tables)
    )
    for statement in statements:
        try:
            connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege as error:
            raise Fatal(
                "publication_privilege",
                f"the publication {name} cannot be made to fit: {error.diag.message_primary}",
                hint=f"run as the owner of the tables: {statement};",
            ) from error
    now = found if found is not None and not statements else find_publication(connection, name)
    if now is None:
        raise Unavailable("publication_missing", f"the publication {name} was dropped a moment ago")
    _refuse(name, now, tables)
    return now


def refuse_changed(name: str, found: Publication | None, known: Mapping[str, str], version: str) -> None:
    """Raise `Fatal` when the publication is not as it was; `known` tables with their entries (empty: any will do)."""
    reason = _difference(found, known, version) if known else ""
    if reason:
        raise Fatal(
            "publication_changed",
            f"the publication {name} was changed by hand: {reason}; changes since then may not be in the log",
            hint="mend the publication, then load the source's pipelines again",
        )


def _difference(found: Publication | None, known: Mapping[str, str], version: str) -> str:
    if found is None:
        return "it is gone"
    missing = [] if found.all_tables else [table for table in known if table not in found.tables]
    if missing:
        return f"it no longer holds {', '.join(missing)}"
    if not found.all_operations:
        return "it no longer publishes every operation"
    if version not in ("", found.version):
        return "its options or its owner were changed, or it was created again"
    for table, entry in known.items():
        now = found.tables.get(table)
        if now is not None and entry not in ("", now.entry):
            part = "with a row filter" if now.filtered else "with a column list" if now.column_list else "again"
            return f"{table} was taken out and added {part}"
    return ""


def _alterations(name: str, found: Publication, tables: Mapping[str, Table]) -> list[str]:
    statements = []
    if not (found.all_operations and found.via_root):
        options = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
        statements.append(f"alter publication {quote(name)} set ({options})")
    if not found.all_tables:
        for full_name, table in tables.items():
            if full_name not in found.tables:
                listed = quote_table(table.schema, table.name)
                statements.append(f"alter publication {quote(name)} add table only {listed}")
    return statements


def _refuse(name: str, publication: Publication, tables: Mapping[str, Table]) -> None:
    """Raise `Fatal` for a publication that would leave out changes."""
    for full_name, table in tables.items():
        entry = publication.tables.get(full_name)
        if entry is None or str(entry.oid) != table.identity:
            raise Fatal(
                "publication_incomplete",
                f"the publication {name} does not hold {full_name}",
                hint=f"alter publication {quote(name)} add table only {quote_table(table.schema, table.name)};",
            )
        if entry.filtered or entry.column_list:
            kind = "row filter" if entry.filtered else "column list"
            raise Fatal(
                "publication_filtered",
                f"the publication {name} has a {kind} for {full_name}: changes would be lost",
                hint="publish the table whole; leave columns out with `exclude`",
            )


def publishes_generated(connection: Connection, name: str) -> bool:
    """Whether the publication carries stored generated columns; one that is still to be created will."""
    row = connection.execute(
        "select to_jsonb(p) ->> 'pubgencols' from pg_catalog.pg_publication p where p.pubname = %s", (name,)
    ).fetchone()
    return row is None or row[0] == "s"


def drop(connection: Connection, slot: str, publication: str) -> None:
    """Drop slot and publication where they exist."""
    connection.execute(f"drop publication if exists {quote(publication)}".encode())
    drop_slot(connection, slot)


def drop_slot(connection: Connection, slot: str) -> None:
    """Drop the slot if it exists. Raises psycopg's ObjectInUse while somebody reads it."""
    connection.execute(
        "select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots"
        " where slot_name = %s",
        (slot,),
    )


def identify(connection: Connection) -> Server:
    """Cluster, timeline and end of the log of the server behind a replication connection."""
    row = connection.execute("IDENTIFY_SYSTEM").fetchall()[0]
    return Server(str(row[0]), int(row[1]), parse_lsn(str(row[2])))


def create_slot(log: Connection, queries: Connection, name: str, *, failover: bool) -> int:
    """Create the slot and return where it starts. Waits for transactions that run now; says who they are.

    Raises `Unavailable` when that takes longer than SLOT_WAIT_SECONDS; the slot is then not created.
    """
    version = queries.info.server_version
    options = "NOEXPORT_SNAPSHOT"
    if version >= 150000:
        options = f"(SNAPSHOT 'nothing'{', FAILOVER true' if failover and version >= 170000 else ''})"
    command = f"CREATE_REPLICATION_SLOT {quote(name)} LOGICAL pgoutput {options}"
    log.pgconn.send_query(command.encode())
    results = _results(log, queries, name)
    for result in results:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise classify(psycopg.errors.error_from_result(result), f"replication slot {name}")
    value = results[0].get_value(0, 1) or b"0/0"
    return parse_lsn(value.decode())


def _results(log: Connection, queries: Connection, name: str) -> list[pq.abc.PGresult]:
    poll = select.poll()
    poll.register(log.pgconn.socket, select.POLLIN)
    give_up, blockers = time.monotonic() + SLOT_WAIT_SECONDS, ""
    while log.pgconn.is_busy():
        if poll.poll(2000):
            log.pgconn.consume_input()
            continue
        blockers = blocked_by(queries, log.pgconn.backend_pid) or blockers
        LOG.warning("slot %s waits for older transactions: %s", name, blockers, extra={"action": "create_slot"})
        if time.monotonic() > give_up:
            log.close()
            raise Unavailable(
                "slot_waits",
                f"creating the replication slot {name} waits for older transactions: {blockers}",
                hint="end them, or wait",
            )
    results = []
    while (result := log.pgconn.get_result()) is not None:
        results.append(result)
    return results


def blocked_by(connection: Connection, besides_pid: int = 0) -> str:
    """Who holds transactions open, as one line; empty when nobody is to be seen."""
    return "; ".join(row[0] for row in connection.execute(BLOCKERS, (besides_pid,)))


def start_command(slot: str, publication: str, lsn: int) -> str:
    """START_REPLICATION for a stream that `pgoutput.Decoder` reads."""
    options = f"proto_version '1', publication_names {literal(quote(publication))}, messages 'true'"
    return f"START_REPLICATION SLOT {quote(slot)} LOGICAL {format_lsn(lsn)} ({options})"
