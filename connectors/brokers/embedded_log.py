"""The embedded broker's file: its tables, the bytes of a batch, and what must be true of the file at every use."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from connectors import sqlite
from sync_hub.errors import Fatal
from sync_hub.model import Outgoing, Record

PARTITION_SHIFT: Final = 48
"""A batch's id is `partition id << 48 | offset of its first record`."""

MOST_PARTITIONS: Final = 1 << 15
"""Ids of SQLite have 63 bits, so a file can hold this many partitions in its life."""

BATCH_RECORDS: Final = 1000
BATCH_BYTES: Final = 1024 * 1024

_FORMAT: Final = 1
_TABLES: Final = (
    """create table topics(
        number integer primary key autoincrement, name text not null unique, id text not null,
        partitions integer not null)""",
    """create table partitions(
        id integer primary key autoincrement, topic integer not null references topics on delete cascade,
        partition integer not null, next_offset integer not null default 0, start_offset integer not null default 0,
        unique (topic, partition))""",
    "create table batches(id integer primary key, count integer not null, data blob not null, time integer not null)",
    f"pragma user_version = {_FORMAT}",
)

Headers = list[tuple[str, bytes]]


class StoredBatch(NamedTuple):
    """A row of `batches`; `time` is that of publishing, in milliseconds."""

    id: int
    records: int
    data: bytes
    time: int

    @property
    def base_offset(self) -> int:
        """The offset of the first record."""
        return self.id & ((1 << PARTITION_SHIFT) - 1)

    @property
    def end_offset(self) -> int:
        """The offset after the last record."""
        return self.base_offset + self.records


class _Columns(msgspec.Struct, array_like=True, gc=False):
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers | None] | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Columns).decode


def encode_batches(records: list[Outgoing]) -> Iterable[tuple[int, bytes]]:
    """Cut records of one partition into batches: (count, data) of each, in order."""
    start = size = 0
    for end, record in enumerate(records, 1):
        size += len(record.value or b"")
        if size >= BATCH_BYTES or end - start >= BATCH_RECORDS or end == len(records):
            chunk = records[start:end]
            headers = [record.headers or None for record in chunk] if any(record.headers for record in chunk) else None
            yield len(chunk), _encode(_Columns([r.key for r in chunk], [r.value for r in chunk], headers))
            start, size = end, 0


def decode_batch(topic: str, partition: int, batch: StoredBatch, from_offset: int) -> list[Record]:
    """The records of a batch from `from_offset` on."""
    try:
        columns = _decode(batch.data)
    except msgspec.DecodeError as error:
        raise damaged(f"{topic}/{partition}@{batch.base_offset}: {error}") from error
    base, time = batch.base_offset, batch.time
    skip = max(0, from_offset - base)
    keys, values, headers = columns.keys, columns.values, columns.headers
    if headers is None:
        return [
            Record(topic, partition, base + index, keys[index], values[index], None, time)
            for index in range(skip, len(values))
        ]
    return [
        Record(topic, partition, base + index, keys[index], values[index], headers[index], time)
        for index in range(skip, len(values))
    ]


def damaged(what: str) -> Fatal:
    """The error for a file whose contents contradict themselves."""
    return Fatal("log_damaged", f"the embedded log is damaged: {what}", hint="move the file away and reload its topics")


class LogFile:
    """One connection to the log, opened at the first use and for one thread; notices when the file is exchanged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = sqlite.WriteLock(path)
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] = (0, 0)

    def connection(self) -> sqlite3.Connection:
        """The open connection. Raises `Fatal` when the path no longer leads to the file that was opened."""
        if self._connection is None:
            self._connection = self._open()
        elif self._identity != sqlite.identity(self.path):
            raise Fatal(
                "log_replaced",
                f"{self.path} was removed or replaced while it was in use",
                hint="put the file back; if it is lost, restart and run `sync-hub recover` for each source",
            )
        return self._connection

    def exists(self) -> bool:
        """Whether there is a file, or one was opened."""
        return self._connection is not None or self.path.exists()

    def close(self) -> None:
        """Close it, if open. Safe to call twice."""
        if self._connection is not None:
            sqlite.close(self._connection, self.lock)
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        connection = sqlite.connect(self.path, self.lock)
        try:
            self._create_tables(connection)
            self._identity = sqlite.identity(self.path)
        except BaseException:
            sqlite.close(connection, self.lock)
            raise
        return connection

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        version = _format_of(connection, self.path)
        if version == 0:
            with sqlite.write_transaction(connection, self.lock):
                version = _format_of(connection, self.path)
                if version == 0:
                    for statement in _TABLES:
                        connection.execute(statement)
                    return
        if version != _FORMAT:
            raise Fatal(
                "log_format_unknown",
                f"{self.path} has format {version}, this version of sync-hub reads {_FORMAT}",
                hint="use the version of sync-hub that wrote it",
            )


def _format_of(connection: sqlite3.Connection, path: Path) -> int:
    with sqlite.translated(path):
        version = int(connection.execute("pragma user_version").fetchone()[0])
        if version == 0 and connection.execute("select 1 from sqlite_schema limit 1").fetchone():
            raise Fatal(
                "log_format_unknown",
                f"{path} is another program's database",
                hint="give the embedded broker a file of its own",
            )
        return version
