"""Blocks of rows as COPY prints them: taken from the wire as they are, looked into for the last key only.

The driver's own reader costs more for a row than the rest of its way to another server; see the documentation of
libpq, "Functions Associated with the COPY Command".
"""

from __future__ import annotations

import re
import select
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import pq

from connectors.sources.pgrows import Connection, TableReader
from sync_hub.ports import BLOCK_BYTES

PIECE_BYTES: Final = 256_000
"""Rows are joined to pieces of this size: few large ones are cheap to hand on."""
_CANCELLED: Final = "57014"
_BY_INDEX: Final = "set local enable_sort = off"
"""Else a table that the server knows little about is sorted, all that is left of it, for each block."""


def read(
    connection: Connection, reader: TableReader, columns: Sequence[str], after: Sequence[Any] | None, rows: int
) -> tuple[list[bytes], int, tuple[str, ...] | None]:
    """The next rows by key, how many they are, and the key to go on after; fewer rows when they are wide.

    Raises psycopg errors; the connection is closed when one leaves it amid the COPY.
    """
    try:
        with connection.transaction():
            connection.execute(_BY_INDEX)
            pieces, count, last, cut = _copied(connection, reader.copying(columns, after, rows).encode())
    except psycopg.Error:
        if connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            connection.close()
        raise
    if not (cut or count == rows):
        return pieces, count, None
    values = last.removesuffix(b"\n").split(b"\t")
    return pieces, count, tuple([_unescaped(values[columns.index(name)]) for name in reader.key])


def _copied(connection: Connection, statement: bytes) -> tuple[list[bytes], int, bytes, bool]:
    """The rows in pieces, their number, the last one, and whether there are more than a block holds."""
    pgconn = connection.pgconn
    pgconn.send_query(statement)
    _wait_for_result(pgconn)
    result = pgconn.get_result()
    if result is None or result.status != pq.ExecStatus.COPY_OUT:
        raise _failed(connection, result)
    pieces: list[bytes] = []
    messages: list[memoryview] = []
    count, total, cut, last = 0, 0, False, b""
    piece_end = PIECE_BYTES
    readable = select.poll()
    readable.register(pgconn.socket, select.POLLIN)
    get = pgconn.get_copy_data
    while True:
        size, message = get(1)
        if size > 0:
            messages.append(message)
            total += size
            if total >= piece_end:
                count, last = count + len(messages), bytes(message)
                pieces.append(b"".join(messages))
                messages.clear()
                piece_end = total + PIECE_BYTES
                if total >= BLOCK_BYTES:
                    cut = True
                    connection.cancel_safe()
                    break
        elif size == 0:
            readable.poll()
            pgconn.consume_input()
        else:
            break
    if messages:
        count, last = count + len(messages), bytes(messages[-1])
        pieces.append(b"".join(messages))
    _end(connection, cut=cut)
    return pieces, count, last, cut


def _wait_for_result(pgconn: pq.abc.PGconn) -> None:
    readable = select.poll()
    readable.register(pgconn.socket, select.POLLIN)
    pgconn.flush()
    while pgconn.is_busy():
        readable.poll()
        pgconn.consume_input()


def _end(connection: Connection, *, cut: bool) -> None:
    """Read what is left of the COPY and its result: the connection is free again."""
    pgconn = connection.pgconn
    while cut and pgconn.get_copy_data(0)[0] > 0:
        pass
    failed = None
    while (result := pgconn.get_result()) is not None:
        if result.status != pq.ExecStatus.COMMAND_OK:
            failed = failed or result
    if failed is not None and not (cut and failed.error_field(pq.DiagnosticField.SQLSTATE) == _CANCELLED.encode()):
        raise _failed(connection, failed)


def _failed(connection: Connection, result: pq.abc.PGresult | None) -> psycopg.Error:
    if result is None:
        return psycopg.OperationalError("the server gave no result for COPY")
    return psycopg.errors.error_from_result(result, encoding=connection.info.encoding)


_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def _unescaped(value: bytes) -> str:
    """One value of COPY's text form; see its documentation, "Text Format"."""
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), value).decode()
