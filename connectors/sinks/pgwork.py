"""Turns the writes of one batch into staged rows and the statements that take them. Pure: no connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

from connectors.pgtypes import from_wire
from connectors.sinks.changes import Present, by_kind
from connectors.sinks.pgstage import Convert, Staging, copy_rows
from connectors.sinks.pgstatements import Statements
from sync_hub.model import Column, Table, TableWrite

FEWEST_NEW: Final = 200
"""So many new rows are worth a COPY of their own: it takes two round trips more."""
FEWEST_KNOWN: Final = 1000
"""So many known rows are worth an update of their own: its plan, a join, takes longer to make than an upsert's."""

Rows = list[tuple[Any, ...]]


class Step(NamedTuple):
    """One statement of a transaction, and the table and mapping it is for; a COPY where it has `data`.

    `expected`: how many rows it has to find, where what events say is relied on.
    """

    write: TableWrite
    sql: str
    parameters: tuple[Any, ...] = ()
    expected: int | None = None
    data: bytes = b""


class Work(NamedTuple):
    """All that one transaction does besides moving offsets: fill the staging table, then these steps, in order."""

    data: bytes
    width: int
    steps: list[Step]

    @property
    def told(self) -> set[str]:
        """The pipelines whose events are relied on to know which rows are in the table."""
        return {step.write.pipeline for step in self.steps if step.expected is not None}


class Told(NamedTuple):
    """Whole rows of one write by what their events say: new, known to be there, and those to be upserted."""

    new: Rows
    known: Rows
    others: Rows


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
    def copied(self) -> list[Convert | None]:
        """Converters of a whole row that is copied into the table; None for columns that the server generates."""
        columns = zip(self.statements.columns, self.values, strict=True)
        return [None if column.generated else convert for column, convert in columns]

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


def plan(
    writes: Sequence[TableWrite],
    mapped: Callable[[TableWrite], Mapped],
    *,
    vacate: bool = False,
    tells: Callable[[TableWrite], bool] | None = None,
) -> Work:
    """Work out one transaction. Raises `Rejected` for a value that no PostgreSQL column could take.

    `vacate`: whole rows first give up unique values that they are to lose. `tells`: whether what the events of a write
    say about its rows is relied on (ADR 18): many new rows are then copied straight into the table, and many known ones
    updated without asking whether they are there.
    """
    staging = Staging()
    steps: list[Step] = []
    for write in writes:
        way = mapped(write)
        steps += _truncate(write, way)
        changes = by_kind(write)
        told = Told([], [], changes.upserts) if tells is None or not tells(write) else _told(write, way)
        steps += _guards(write, way, told)
        for rows, converts, statements, expected in (
            (changes.deletes, way.deleted, way.statements.delete if changes.deletes else [], None),
            (changes.marks, way.marked, [way.statements.mark] if changes.marks else [], None),
            *((rows, way.values, [way.update(present)], None) for present, rows in changes.updates.items()),
            (told.known, way.values, [way.statements.update_known], len(told.known)),
            (told.others, way.values, [way.statements.vacate] * vacate + way.statements.upsert, None),
        ):
            if rows and any(statements):
                number = staging.add(rows, converts)
                steps += [Step(write, sql, (number,), expected) for sql in statements if sql]
        if told.new:
            steps.append(Step(write, way.statements.copy, data=copy_rows(told.new, way.copied)))
    return Work(staging.data(), staging.width, steps)


def _told(write: TableWrite, way: Mapped) -> Told:
    """Few rows are not worth a way of their own, and not every table has one."""
    told = Told([], [], [])
    for change in write.changes:
        if change.kind == "upsert":
            match change.operation:
                case "create" | "read":
                    told.new.append(change.values)
                case "update":
                    told.known.append(change.values)
                case _:
                    told.others.append(change.values)
    new = told.new if way.statements.copy and len(told.new) >= FEWEST_NEW else []
    known = told.known if way.statements.update_known and len(told.known) >= FEWEST_KNOWN else []
    return Told(new, known, [*told.others, *([] if known else told.known), *([] if new else told.new)])


def _guards(write: TableWrite, way: Mapped, told: Told) -> list[Step]:
    """The table stays as it is, and is one that can be relied on."""
    if told.known:
        guard = way.statements.guard_known
    elif told.new:
        guard = way.statements.guard_new
    else:
        return []
    return [Step(write, way.statements.lock), Step(write, guard, expected=1)]


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
