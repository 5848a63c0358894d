"""Runs what one transaction does besides filling the staging table: move the offsets, then take the steps in order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import RawCursor

from connectors.sinks.pgoffsets import advance_parameters
from connectors.sinks.pgwork import Step
from sync_hub.errors import OffsetsMoved
from sync_hub.model import Offset

Connection = psycopg.Connection[tuple[Any, ...]]


class StepFailed(Exception):
    """The server refused a step, and the transaction with it."""

    def __init__(self, error: psycopg.Error, step: Step) -> None:
        super().__init__(str(error))
        self.error = error
        self.step = step


class NotAsTold(Exception):
    """A step found another number of rows than what events say makes it find."""


def run(
    connection: Connection, who: str, advance: str, offsets: Sequence[tuple[Offset, Offset]], steps: Sequence[Step]
) -> None:
    """Move the offsets by `advance`, then take the steps: those up to a COPY in one round trip.

    Raises `StepFailed`, `NotAsTold`, or `OffsetsMoved`, which outweighs them; the caller rolls back.
    """
    copies = [place for place, step in enumerate(steps) if step.data]
    moved: RawCursor[Any] = RawCursor(connection)

    def move() -> None:
        moved.execute(advance, advance_parameters(offsets), prepare=True)
        if steps:
            RawCursor(connection).execute("set constraints all deferred", prepare=False)

    try:
        _take(connection, steps[: copies[0]] if copies else steps, before=move)
    except (psycopg.Error, StepFailed, NotAsTold) as error:
        _refuse_moved(who, offsets, moved)
        if moved.pgresult is None and isinstance(error, StepFailed):
            raise error.error from None  # it was not the step
        raise
    _refuse_moved(who, offsets, moved)
    for copy, following in itertools.pairwise([*copies, len(steps)]):
        _copy(connection, steps[copy])
        _take(connection, steps[copy + 1 : following])


def _take(connection: Connection, steps: Sequence[Step], before: Callable[[], None] = lambda: None) -> None:
    cursors = [RawCursor(connection) for _ in steps]
    try:
        with connection.pipeline():
            before()
            for cursor, step in zip(cursors, steps, strict=True):
                cursor.execute(step.sql, step.parameters, prepare=False)
    except psycopg.Error as error:
        done = sum(cursor.pgresult is not None for cursor in cursors)
        if done == len(steps) or connection.closed:
            raise
        raise StepFailed(error, steps[done]) from error
    if any(step.expected not in (None, cursor.rowcount) for cursor, step in zip(cursors, steps, strict=True)):
        raise NotAsTold


def _copy(connection: Connection, step: Step) -> None:
    try:
        with RawCursor(connection).copy(step.sql) as copy:
            copy.write(step.data)
    except psycopg.Error as error:
        if connection.closed:
            raise
        raise StepFailed(error, step) from error


def _refuse_moved(who: str, offsets: Sequence[tuple[Offset, Offset]], moved: RawCursor[Any]) -> None:
    if moved.pgresult is None or moved.rowcount == len(offsets):
        return
    names = sorted({old.pipeline for old, _ in offsets})
    raise OffsetsMoved(
        "offsets_moved",
        f"{who}: another worker has moved the offsets of {', '.join(names)}",
        hint="they are loaded again; nothing was written",
    )
