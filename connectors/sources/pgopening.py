"""Opening the log: publication, slot, proof by the catalogs, epoch, and the stream itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import psycopg

from connectors import pgcatalog
from connectors.postgresql import classify, connect
from connectors.sources import pgslot
from connectors.sources.pgcomplete import Fetch
from connectors.sources.pgevents import EventAssembler
from connectors.sources.pglog import Log
from connectors.sources.pgoptions import PostgresOptions
from connectors.sources.pgposition import (
    POSITION_UNPROVEN,
    Captured,
    Position,
    Server,
    Slot,
    fingerprint,
    format_lsn,
    next_epoch,
    prove_slot,
    replaced,
)
from connectors.sources.pgqueries import Queries
from connectors.sources.pgslot import Connection, Publication
from connectors.sources.pgsnapshot import Chunks
from connectors.sources.pgstream import LogStream
from connectors.sources.pgtables import CapturedTable, CapturedTables, logged_columns
from sync_hub.errors import Fatal, Unavailable
from sync_hub.model import Table

NOT_CAPTURED: Final = "it was not captured until now: changes made before are missing"

ACTIVE_SECONDS: Final = 5.0
"""How long to wait for another reader of the slot to go, such as the walsender of a connection just lost."""


class Opening:
    """Opens the log of one source once."""

    def __init__(
        self,
        name: str,
        options: PostgresOptions,
        queries: Queries,
        *,
        slot: str,
        publication: str,
        recover: str,
        epoch_above: int = 0,
    ) -> None:
        self._name = name
        self._options = options
        self._queries = queries
        self._slot = slot
        self._publication = publication
        self._recover = recover
        self._epoch_above = epoch_above
        self._what = f"sources.{name}"

    def open(
        self,
        stored: Position | None,
        tables: Mapping[str, Table],
        chunks: Chunks,
        *,
        raise_epoch: bool,
        fetch: Fetch,
    ) -> Log:
        """Create what is missing and start the stream. Raises `Fatal` when the stored position cannot be proven."""
        with self._queries.use() as connection:
            if connection.execute("select pg_catalog.pg_is_in_recovery()").fetchall()[0][0]:
                raise Unavailable(
                    "server_in_recovery",
                    f"{self._what}: the server is a standby",
                    hint="connect to the primary: snapshots and heartbeats need it",
                )
            if stored is not None:
                self._refuse_replaced(tables, stored)
            publication = pgslot.ensure_publication(connection, self._publication, tables, stored=stored)
            known = {name: _known(connection, table, publication, stored) for name, table in tables.items()}
        log = connect(self._options.dsn, application_name=self._slot, replication=True)
        try:
            captured = self._captured(tables, known, publication, chunks)
            return self._start(log, stored, captured, chunks, raise_epoch=raise_epoch, fetch=fetch)
        except BaseException:
            log.close()
            raise

    def _refuse_replaced(self, tables: Mapping[str, Table], stored: Position) -> None:
        reason = replaced(dict(tables), stored.tables)
        if reason:
            raise Fatal(
                "table_replaced",
                f"{self._what}: {reason}",
                hint="its changes are not in the log: take it out of `tables`, start, add it again and reload",
                command=self._recover,
            )

    def _start(
        self,
        log: psycopg.Connection[Any],
        stored: Position | None,
        captured: CapturedTables,
        chunks: Chunks,
        *,
        raise_epoch: bool,
        fetch: Fetch,
    ) -> Log:
        try:
            server = pgslot.identify(log)
            slot = self._idle_slot()
            if stored is not None:
                prove_slot(stored, server, slot, self._slot, self._recover)
            position = self._position(log, stored, server, slot, raise_epoch=raise_epoch)
            stream = LogStream(log, self._what, self._recover)
            stream.start(pgslot.start_command(self._slot, self._publication, position.lsn_number))
        except psycopg.Error as error:
            raise classify(error, self._what) from error
        position = msgspec.structs.replace(
            position, tables=captured.remembered(), publication=captured.publication.version
        )
        assembler = EventAssembler(self._name, log.info.dbname, position.epoch, chunks)
        assembler.tables = {oid: table.events for oid, table in captured.by_oid.items()}
        log_reader = Log(
            stream,
            captured,
            assembler,
            chunks,
            position,
            heartbeat_name=self._slot,
            command=self._recover,
            fetch=fetch,
        )
        log_reader.timeline_changed = stored is not None and stored.timeline != server.timeline
        return log_reader

    def _idle_slot(self) -> Slot | None:
        """The slot, once nobody reads it any more; waits a few seconds for that."""
        give_up = time.monotonic() + ACTIVE_SECONDS
        while True:
            with self._queries.use() as connection:
                slot = pgslot.find_slot(connection, self._slot)
                if slot is None or slot.active_pid is None:
                    return slot
                if time.monotonic() > give_up:
                    raise Unavailable(
                        "slot_active",
                        f"{self._what}: the replication slot {self._slot} is in use by process {slot.active_pid}",
                        hint="is another hub of the same name running? A lost connection is let go after"
                        " wal_sender_timeout",
                    )
                connection.execute("select pg_catalog.pg_sleep(0.1)")

    def _position(
        self,
        log: psycopg.Connection[Any],
        stored: Position | None,
        server: Server,
        slot: Slot | None,
        *,
        raise_epoch: bool,
    ) -> Position:
        if stored is not None:
            changed = raise_epoch or stored.timeline != server.timeline
            epoch = next_epoch(stored.epoch) if changed else stored.epoch
            return Position(
                server.system, server.timeline, stored.lsn, stored.xid, stored.committed_at, epoch, stored.tables
            )
        if slot is None:
            with self._queries.use() as connection:
                start = pgslot.create_slot(log, connection, self._slot, failover=self._options.failover)
        else:
            start = self._usable(slot, log.info.dbname)
        return Position(server.system, server.timeline, format_lsn(start), 0, 0, next_epoch(self._epoch_above), {})

    def _usable(self, slot: Slot, database: str) -> int:
        """Where an existing slot stands that no stored position speaks of."""
        reason = ""
        if slot.plugin != "pgoutput" or slot.database != database:
            reason = f"it belongs to {slot.plugin or 'physical replication'} in database {slot.database or 'none'}"
        elif slot.two_phase:
            reason = "it decodes prepared transactions (two_phase)"
        elif slot.status == "lost" or not slot.confirmed:
            reason = "it has lost log that is still needed"
        if reason:
            raise Fatal(
                POSITION_UNPROVEN if slot.status == "lost" else "slot_unusable",
                f"{self._what}: the replication slot {self._slot} cannot be used: {reason}",
                hint=f"select pg_drop_replication_slot('{self._slot}');",
                command=self._recover,
            )
        return slot.confirmed

    def _captured(
        self, tables: Mapping[str, Table], known: Mapping[str, Captured], publication: Publication, chunks: Chunks
    ) -> CapturedTables:
        types = pgcatalog.TypeNames()

        def type_name(oid: int, modifier: int) -> str:
            with self._queries.use() as connection:
                return types.name(connection, oid, modifier)

        return CapturedTables(
            [CapturedTable(table, self._options.excluded(name), known[name]) for name, table in tables.items()],
            publication,
            type_name,
            chunks.discard,
            self._recover,
        )


def _known(connection: Connection, table: Table, publication: Publication, stored: Position | None) -> Captured:
    """What the stored position has of a table; for one that it does not have, what the catalogs have now."""
    before = stored.tables.get(table.full_name) if stored is not None else None
    entry = publication.tables[table.full_name]
    columns = before.columns if before is not None else ""
    return Captured(
        int(table.identity),
        columns or fingerprint(logged_columns(connection, table, generated=publication.generated)),
        before.partitions if before is not None else entry.partitions,
        entry.entry,
        before.changed if before is not None else NOT_CAPTURED if stored is not None else "",
    )
