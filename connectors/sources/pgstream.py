"""A stream of log messages from a walsender: START_REPLICATION, COPY data without blocking, feedback, keepalives."""

from __future__ import annotations

import select
import time
from struct import Struct as Format
from typing import Any, Final

import psycopg
from psycopg import pq

from connectors.postgresql import classify
from connectors.sources.pgoutput import POSTGRES_EPOCH_MICROSECONDS
from sync_hub.errors import Fatal, SyncHubError, Unavailable

_DATA: Final = ord("w")
_KEEPALIVE: Final = ord("k")
_keepalive = Format("!QqB").unpack_from
_sent_at = Format("!q").unpack_from
_feedback = Format("!BQQQqB").pack
_HEADER_BYTES: Final = 25
_BUFFER_BYTES: Final = 262_144
"""libpq reads from its socket at once what its buffer holds: 16 KB, or as much as the largest message was."""
TAKE_MESSAGES: Final = 1_000
_TAKE_BYTES: Final = 500_000

_NO_PUBLICATION: Final = "42704"
_PUBLICATION_SKIPPED: Final = "55000"

MINIMUM_SILENCE_SECONDS: Final = 120.0


class LogStream:
    """Messages of one START_REPLICATION, in order. Owns its connection.

    Feedback never acknowledges by itself: it reports how far was received (`write`), and only `acknowledge` reports
    what may be forgotten (`flush`). That `flush` is left out in between is what lets the server shut down: it waits
    until its client has what was sent, and with a `flush` that lags for good it would wait for ever.
    """

    def __init__(self, connection: psycopg.Connection[Any], what: str, command: str = "") -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._what = what
        self._command = command
        self._unpublished = False
        connection.add_notice_handler(self._take_notice)
        self._received = 0
        self._silent_seconds = 0.0
        self._reported_at = 0.0
        self._newest = bytes(_HEADER_BYTES)
        self._end: SyncHubError | None = None
        timeout_seconds = self._timeout_seconds()
        self._report_seconds = min(10.0, timeout_seconds / 3) if timeout_seconds else 10.0
        self._silence_seconds = max(MINIMUM_SILENCE_SECONDS, 2 * timeout_seconds)

    def start(self, command: str) -> None:
        """Send START_REPLICATION. Raises what `classify` makes of a refusal (`object_in_use`: the slot is active).

        A large answer comes before it, for libpq's buffer: else it asks the socket again every few dozen rows.
        """
        self._pgconn.exec_(b"select pg_catalog.repeat('x', %d)" % _BUFFER_BYTES)
        result = self._pgconn.exec_(command.encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise self._failure(result)
        self._pgconn.nonblocking = 1
        self._poll = select.poll()
        self._poll.register(self._pgconn.socket, select.POLLIN)

    def take(self, until: float) -> list[bytes]:
        """The next log messages, at least one; none if none has come by `until` (monotonic seconds). Reports when due.

        What is buffered is returned without asking the socket: nothing at hand is no sign of nothing to come. What ends
        the log is raised when all before it was taken.
        """
        if self._end is not None:
            raise self._end
        taken: list[bytes] = []
        try:
            self._take(taken, until)
        except SyncHubError as error:
            if not taken:
                raise
            self._end = error
        return taken

    def _take(self, taken: list[bytes], until: float) -> None:
        get, size_bytes = self._pgconn.get_copy_data, 0
        while len(taken) < TAKE_MESSAGES and size_bytes < _TAKE_BYTES:
            try:
                size, data = get(1)
            except psycopg.Error as error:
                raise self._lost(error) from error
            if self._unpublished:
                raise self._not_published()
            if size > 0:
                message = bytes(data)
                if message[0] == _DATA:
                    self._newest = message
                    taken.append(message[_HEADER_BYTES:])
                    size_bytes += size
                elif message[0] == _KEEPALIVE:
                    self._take_keepalive(message)
            elif size < 0:
                raise self._ended()
            elif taken or not self._wait(until):
                return

    @property
    def sent_at(self) -> int:
        """When the server sent the newest message, in microseconds since 1970 by its own clock."""
        return int(_sent_at(self._newest, 17)[0]) + POSTGRES_EPOCH_MICROSECONDS

    def acknowledge(self, lsn: int) -> None:
        """Tell the server that it may forget what was committed before `lsn`."""
        self._send(flush=lsn)

    def report(self, *, now: bool = False) -> None:
        """Keep the connection alive: report when it is due, asking for an answer."""
        if now or time.monotonic() - self._reported_at >= self._report_seconds:
            self._send(ask=True)

    def close(self) -> None:
        """End the connection at once."""
        self._connection.close()

    def _wait(self, until: float) -> bool:
        """Wait for input; False when `until` has come. Reports are sent meanwhile."""
        now = time.monotonic()
        if now - self._reported_at >= self._report_seconds:
            self._send(ask=True)
        seconds = max(0.0, min(until - now, self._report_seconds))
        if not self._poll.poll(seconds * 1000):
            self._silent_seconds += seconds
            if self._silent_seconds > self._silence_seconds:
                raise Unavailable("log_silent", f"{self._what}: the server has not answered", hint="is the network up?")
            return time.monotonic() < until
        self._silent_seconds = 0.0
        try:
            self._pgconn.consume_input()
        except psycopg.Error as error:
            raise self._lost(error) from error
        return True

    def _take_keepalive(self, message: bytes) -> None:
        wal_end, _, answer = _keepalive(message, 1)
        self._received = max(self._received, wal_end)
        if answer:
            self._send()

    def _send(self, *, flush: int = 0, ask: bool = False) -> None:
        self._received = max(self._received, flush)
        clock = time.time_ns() // 1000 - POSTGRES_EPOCH_MICROSECONDS
        try:
            self._pgconn.put_copy_data(_feedback(ord("r"), self._received, flush, flush, clock, ask))
            self._pgconn.flush()
        except psycopg.Error as error:
            raise self._lost(error) from error
        self._reported_at = time.monotonic()

    def _timeout_seconds(self) -> float:
        row = self._connection.execute("SHOW wal_sender_timeout").fetchall()[0][0]
        for unit, factor in (("ms", 0.001), ("min", 60.0), ("s", 1.0), ("h", 3600.0), ("d", 86400.0)):
            if row.endswith(unit):
                return float(row.removesuffix(unit)) * factor
        return float(row) / 1000

    def _take_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        """Since version 18 the server leaves changes out where there was no publication, and only warns."""
        if (notice.severity_nonlocalized, notice.sqlstate) == ("WARNING", _PUBLICATION_SKIPPED):
            self._unpublished = True

    def _not_published(self) -> Fatal:
        return Fatal(
            "publication_changed",
            f"{self._what}: the publication is younger than this place in the log, which lacks changes made before",
            hint="it was made after the slot, or again: begin the source anew, which makes both in the right order",
            command=self._command,
        )

    def _lost(self, error: psycopg.Error) -> SyncHubError:
        return classify(error, self._what)

    def _ended(self) -> SyncHubError:
        result = self._pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            state = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
            return self._not_published() if state.decode() == _NO_PUBLICATION else self._failure(result)
        return Unavailable("log_ended", f"{self._what}: the server ended the log", hint="is it being restarted?")

    def _failure(self, result: pq.abc.PGresult) -> SyncHubError:
        return classify(psycopg.errors.error_from_result(result), self._what)
