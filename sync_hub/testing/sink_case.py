"""Offsets, rows and a writer for the contract suite of sinks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from sync_hub.model import Column, Offset, Parked, RowChange, SinkBatch, Table, TableWrite
from sync_hub.ports import Sink

TOPIC = "erp.public.customers"
CUSTOMERS = Table("", "customers", (Column("id", "integer", nullable=False), Column("name", "text")), ("id",))


def first_offset(pipeline: str = "customers", partition: int = 0) -> Offset:
    """The offset of a partition of which nothing has been applied."""
    return Offset(pipeline, TOPIC, partition, "0" * 32, 0, "", "hash")


def moved(offset: Offset, **changes: Any) -> Offset:
    """The offset after one more record; `changes` are other fields that change with it."""
    following = offset.next_offset + 1
    return msgspec.structs.replace(offset, **({"next_offset": following, "last_version": f"v{following:04}"} | changes))


def upserts(*rows: tuple[Any, ...], pipeline: str = "customers", table: str = "customers") -> TableWrite:
    """Rows of `CUSTOMERS`, whole."""
    changes = [RowChange("upsert", row[:1], row) for row in rows]
    return TableWrite(pipeline, table, ("id",), ("id", "name"), changes)


class Writer:
    """A sink, and the offset of its one partition, moved by each write that succeeds."""

    def __init__(self, sink: Sink, offset: Offset | None = None) -> None:
        self.sink = sink
        self.offset = offset or first_offset()
        sink.open()
        sink.start_offsets([self.offset])

    def write(self, *writes: TableWrite, parked: Sequence[Parked] = (), **changes: Any) -> None:
        """One transaction; `changes` are fields of the offset that change with it."""
        after = moved(self.offset, **changes)
        self.sink.write(SinkBatch([(self.offset, after)], list(writes), list(parked)))
        self.offset = after

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        """All rows, sorted."""
        return sorted(self.sink.read_rows(table, columns), key=repr)
