"""The source's second connection: catalog, chunks, fetched columns, marks and heartbeats. Made again when it breaks."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import pq
from pydantic import SecretStr

from connectors.postgresql import classify, connect
from connectors.sources.pgsnapshot import Visible, parse_snapshot
from sync_hub.errors import Fatal, Unavailable

Connection = psycopg.Connection[tuple[Any, ...]]

LOOK_SECONDS: Final = 1.0
_SETTINGS: Final = """
select set_config('synchronous_commit', 'local', false), set_config('row_security', 'off', false),
       set_config('default_transaction_isolation', 'read committed', false),
       set_config('default_transaction_read_only', 'off', false), set_config('lock_timeout', '30s', false),
       set_config('jit', 'off', false)
"""
"""Statements read rows in small parts: compiling one would take longer than it runs."""
_EMIT: Final = "select pg_catalog.pg_logical_emit_message(true, 'sync_hub', %s)"
_HEARTBEAT: Final = """
select pg_catalog.pg_logical_emit_message(true, 'sync_hub', pg_catalog.json_build_object(
    'heartbeat', %s::text, 'time', extract(epoch from pg_catalog.clock_timestamp()))::text)
"""
_RETAINED: Final = """
select pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), restart_lsn)::bigint, wal_status,
       (select setting::bigint from pg_catalog.pg_settings where name = 'max_slot_wal_keep_size'),
       active_pid is not null
from pg_catalog.pg_replication_slots where slot_name = %s
"""
_FLUSHED: Final = "select pg_catalog.pg_current_wal_flush_lsn() >= %s::pg_lsn"


class Queries:
    """A connection that is opened on first use and again after it broke; commits wait for the local disk only.

    A synchronous standby that is away must not hold up heartbeats and marks, hence `synchronous_commit = local`.
    """

    def __init__(self, dsn: SecretStr | str, what: str, application_name: str) -> None:
        self._dsn = dsn
        self._what = what
        self._application_name = application_name
        self._connection: Connection | None = None
        self._look_at = 0.0

    @contextmanager
    def use(self) -> Iterator[Connection]:
        """The connection; errors of the driver inside the block leave it as what `classify` makes of them."""
        try:
            yield self._get()
        except psycopg.Error as error:
            if self._connection is not None and (self._connection.broken or self._connection.closed):
                self._connection = None
            raise classify(error, self._what) from error

    def separate(self) -> Connection:
        """A new connection with the same settings, for the caller to close."""
        connection = connect(self._dsn, application_name=self._application_name)
        try:
            connection.execute(_SETTINGS)
        except psycopg.Error as error:
            connection.close()
            raise classify(error, self._what) from error
        return connection

    def close(self) -> None:
        """Let go of the connection. Safe to call twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def look(self) -> None:
        """Raise `Unavailable` when the server has ended this connection; looks once a second, without asking it.

        A server that shuts down ends it at once, but waits for walsenders to send all they have: seeing this is what
        lets the hub get out of its way.
        """
        now = time.monotonic()
        if self._connection is None or now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        pgconn = self._connection.pgconn
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN)
        if not poll.poll(0):
            return
        try:
            pgconn.consume_input()
            ended = pgconn.status != pq.ConnStatus.OK
        except psycopg.Error:
            ended = True
        if ended:
            self.close()
            raise Unavailable(
                "server_shut_down", f"{self._what}: the server ended the connection", hint="is it being restarted?"
            )

    def emit(self, content: str) -> None:
        """Write a transactional message to the log, in a transaction of its own."""
        with self.use() as connection:
            connection.execute(_EMIT, (content,))

    def heartbeat(self, name: str) -> None:
        """Write a heartbeat with the server's own clock."""
        with self.use() as connection:
            connection.execute(_HEARTBEAT, (name,))

    def snapshot(self) -> Visible:
        """What a statement sees now."""
        return parse_snapshot(self.value("select pg_catalog.pg_current_snapshot()::text"))

    def new_transaction_id(self) -> int:
        """A fresh 64-bit transaction id, its transaction already over."""
        return int(self.value("select pg_catalog.pg_current_xact_id()::text"))

    def retained(self, slot: str) -> dict[str, Any]:
        """What the slot holds back, for health."""
        with self.use() as connection:
            row = connection.execute(_RETAINED, (slot,)).fetchone()
        if row is None:
            return {
                "retained_log_bytes": None,
                "retained_log_limit_bytes": None,
                "slot_status": "lost",
                "slot_active": False,
            }
        retained, status, limit_megabytes, active = row
        return {
            "retained_log_bytes": retained,
            "retained_log_limit_bytes": limit_megabytes * 1024 * 1024 if limit_megabytes >= 0 else None,
            "slot_status": status,
            "slot_active": active,
        }

    def wait_flushed(self) -> None:
        """Wait until everything that any statement has seen so far is on the server's disk."""
        lsn = self.value("select pg_catalog.pg_current_wal_insert_lsn()::text")
        if self.value(_FLUSHED, (lsn,)):
            return
        self.emit('{"flush": true}')  # its commit is flushed, and all before it
        if not self.value(_FLUSHED, (lsn,)):
            raise Fatal("log_not_flushed", f"{self._what}: the server did not flush its log", hint="is fsync off?")

    def value(self, statement: str, parameters: Sequence[Any] = ()) -> Any:
        """The one value of a statement."""
        with self.use() as connection:
            return connection.execute(statement.encode(), parameters).fetchall()[0][0]

    def _get(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self.separate()
        return self._connection
