"""How each leg is measured: what is there before, from when the clock runs, until when, and what proves the rows.

A backlog is in the log (capture, end to end) or in the topic (deliver) before its reader starts. The clock runs from
the moment when the reader has its first answer, not from its start: interpreters and virtual machines are not measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import psycopg

from benchmarks.databases import FIRST_BYTES, Databases
from benchmarks.processes import Usage
from benchmarks.subjects import PARTS, Session
from benchmarks.waiting import Failed, wait_until
from benchmarks.workloads import Events, one_statement

Figures = dict[str, Any]
Leg = Callable[[Session, Databases], Figures]
LATE_SECONDS = 20
"""For how long rows may still differ when the last ones are there."""
TRANSACTIONS_PER_SECOND = 250
"""At a steady rate; each has as many rows as the rate needs."""
REACHED = 0.95
"""The part of the rate that the writer must reach."""


def capture(session: Session, databases: Databases) -> Figures:
    """Log to topic: from the answer to START_REPLICATION to the last record."""
    greeted = session.prepare("capture")
    changed = databases.change()
    events = _both(greeted, changed)
    session.start("capture")
    clock = _Clock(session, ("capture",), _reading(session, databases))
    ended = wait_until(lambda: session.captured(events), "all records in the topic", session.check)
    figures = clock.figures(ended, sum(changed.values()), databases)
    session.stop("capture")
    if session.unproven:
        return figures | {"rows": sum(changed.values()), "note": session.unproven}
    return figures | {"rows": sum(events.values()), "difference": session.difference(events)}


def deliver(session: Session, databases: Databases) -> Figures:
    """Topic to target: from the target's first rows to its last."""
    events = _both(session.prepare("deliver"), changed := databases.change())
    session.start("capture")
    wait_until(lambda: session.captured(events), "all records in the topic", session.check)
    session.stop("capture")
    before = databases.written_bytes() + FIRST_BYTES
    session.start("deliver")
    written = wait_until(
        lambda: databases.written_bytes() > before, "a first row in the target", session.check, every_seconds=0.005
    )
    clock = _Clock(session, ("deliver",), written)
    return _arrived(session, databases, clock, changed)


def end_to_end(session: Session, databases: Databases) -> Figures:
    """Log to target, both parts side by side: from the answer to START_REPLICATION to the last row."""
    session.prepare("end-to-end")
    changed = databases.change()
    session.start("deliver")
    session.wait_delivering()
    session.start("capture")
    clock = _Clock(session, PARTS, _reading(session, databases))
    return _arrived(session, databases, clock, changed)


def snapshot(session: Session, databases: Databases) -> Figures:
    """Existing rows into an empty target: from when the subject has begun to read them to the last row."""
    changed = databases.change()
    clock = _Clock(session, PARTS, session.load())
    return _arrived(session, databases, clock, changed)


def latency(session: Session, databases: Databases) -> Figures:
    """Commits at a steady rate: milliseconds between the clock values of a row at both ends."""
    session.prepare("latency")
    session.start(*PARTS)
    _reading(session, databases)
    if not databases.greeted():
        databases.greet()
    wait_until(databases.greeted, "a first row in the target", session.check, 120)
    rate = databases.workload.per_second
    clock = _Clock(session, PARTS, time.monotonic())
    reached = _write_steadily(databases, rate)
    changed = databases.finish({"customers": databases.rows})
    figures = _arrived(session, databases, clock, changed)
    if reached < REACHED * rate:
        raise Failed(f"the writer reached {reached:.0f} of {rate} rows/s")
    found = databases.latencies_ms(skip=rate)
    cuts = statistics.quantiles(found, n=100)
    values = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": found[-1]}
    return figures | {"latency_ms": {name: round(value, 2) for name, value in values.items()}}


LEGS: dict[str, Leg] = {
    "capture": capture,
    "deliver": deliver,
    "end-to-end": end_to_end,
    "snapshot": snapshot,
    "latency": latency,
}


class _Clock:
    """Time and processor time from a moment on; the processor time from now on, which is as good as then."""

    def __init__(self, session: Session, parts: tuple[str, ...], started: float) -> None:
        self._session, self._parts, self._started = session, parts, started
        self._before: Usage = session.usage(parts)

    def figures(self, ended: float, events: int, databases: Databases) -> Figures:
        """Rates of this many events in each target."""
        used = self._session.usage(self._parts)
        seconds = max(ended - self._started, 0.001)
        rows = events * len(databases.targets)
        cpu = used.cpu_seconds - self._before.cpu_seconds
        figures: Figures = {
            "seconds": round(seconds, 3),
            "rows_per_second": round(rows / seconds),
            "values_per_second": round(rows * databases.workload.columns / seconds),
        }
        if used.peak_bytes:
            figures |= {"cpu_us_per_row": round(cpu * 1e6 / rows, 2), "peak_mb": round(used.peak_bytes / 2**20, 1)}
        return figures


def _both(first: Events, then: Events) -> Events:
    return {name: count + first.get(name, 0) for name, count in then.items()}


def _reading(session: Session, databases: Databases) -> float:
    return wait_until(
        lambda: databases.readers() >= session.readers,
        "the log is read",
        session.check,
        120,
        every_seconds=0.005,
    )


def _arrived(session: Session, databases: Databases, clock: _Clock, changed: Events) -> Figures:
    """Figures up to when all rows were in the targets, and whether they are equal.

    Who writes a batch in several transactions may still be busy when the last rows are there: then the clock runs on.
    """
    ended = wait_until(databases.arrival(), "all rows in the target", session.check, every_seconds=0.01)
    figures = clock.figures(ended, sum(changed.values()), databases)
    difference = databases.difference()
    while difference and time.monotonic() < ended + LATE_SECONDS:
        looked = time.monotonic()
        difference = databases.difference()
        session.check()
        figures = clock.figures(looked, sum(changed.values()), databases)
    return figures | {"rows": databases.count(), "difference": difference}


def _write_steadily(databases: Databases, rate: int) -> float:
    """Insert rows in small transactions, each at its time; the rate that was reached."""
    per_transaction = max(1, rate // TRANSACTIONS_PER_SECOND)
    statement = one_statement()
    with psycopg.connect(databases.source_dsn, autocommit=True) as connection:
        started = time.monotonic()
        for first in range(1, databases.rows + 1, per_transaction):
            connection.execute(statement, (first, first + per_transaction - 1), prepare=True)
            time.sleep(max(0.0, started + (first + per_transaction - 1) / rate - time.monotonic()))
        return databases.rows / (time.monotonic() - started)
