"""Turns the writes of one batch into staged rows and the statements that take them. Pure: no connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from connectors.pgtypes import from_wire
from connectors.sinks.changes import Present, by_kind
from connectors.sinks.pgstage import Convert, Staging
from connectors.sinks.pgstatements import Statements
from sync_hub.model import Column, Table, TableWrite


class Step(NamedTuple):
    """One statement of a transaction, and the table and mapping it is for."""

    write: TableWrite
    sql: str
    parameters: tuple[Any, ...]


class Work(NamedTuple):
    """All that one transaction does besides moving offsets: fill the staging table, then these steps, in order."""

    data: bytes
    width: int
    steps: list[Step]


class Mapped:
    """One mapping's way into one table: its statements and converters, made once and kept."""

    def __init__(self, table: Table, write: TableWrite) -> None:
        self.statements = Statements(table, write)
        self.updates: dict[Present, str] = {}

    def update(self, present: Present) -> str:
        """The statement for rows that carry the columns at these places only."""
        if present not in self.updates:
            self.updates[present] = self.statements.update(present)
        return self.updates[present]

    @cached_property
    def values(self) -> list[Convert]:
        """Converters of a whole row."""
        return _converts(self.statements.columns)

    @cached_property
    def deleted(self) -> list[Convert]:
        """Converters of a deleted row: old key, new key."""
        return _converts(self.statements.key) * 2

    @cached_property
    def marked(self) -> list[Convert]:
        """Converters of a marked row: old key, new key, values."""
        return self.deleted + self.marks

    @cached_property
    def marks(self) -> list[Convert]:
        """Converters of the values that `on_delete` sets."""
        return _converts(self.statements.marked)


def plan(writes: Sequence[TableWrite], mapped: Callable[[TableWrite], Mapped], *, vacate: bool = False) -> Work:
    """Work out one transaction. Raises `Rejected` for a value that no PostgreSQL column could take.

    `vacate`: whole rows first give up unique values that they are to lose.
    """
    staging = Staging()
    steps: list[Step] = []
    for write in writes:
        way = mapped(write)
        steps += _truncate(write, way)
        changes = by_kind(write)
        for rows, converts, statements in (
            (changes.deletes, way.deleted, way.statements.delete if changes.deletes else []),
            (changes.marks, way.marked, [way.statements.mark] if changes.marks else []),
            *((rows, way.values, [way.update(present)]) for present, rows in changes.updates.items()),
            (changes.upserts, way.values, [way.statements.vacate] * vacate + way.statements.upsert),
        ):
            if rows and any(statements):
                number = staging.add(rows, converts)
                steps += [Step(write, sql, (number,)) for sql in statements if sql]
    return Work(staging.data(), staging.width, steps)


def _truncate(write: TableWrite, way: Mapped) -> list[Step]:
    if write.truncate == "delete":
        return [Step(write, sql, ()) for sql in way.statements.truncate_delete]
    if write.truncate == "mark":
        values = zip(write.mark_values, way.marks, strict=True)
        texts = tuple(None if value is None else convert(value) for value, convert in values)
        return [Step(write, way.statements.truncate_mark, texts)]
    return []


def _converts(columns: Sequence[Column]) -> list[Convert]:
    return [from_wire(column.type) for column in columns]
