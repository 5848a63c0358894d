"""Tries parked records again when they are due: between two batches, by who owns their partition."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from sync_hub.envelope import decode, topic_name
from sync_hub.errors import Fatal, Rejected, SyncHubError
from sync_hub.failpoints import failpoint
from sync_hub.model import ChangeEvent, Parked, RowChange
from sync_hub.ports import Sink
from sync_hub.runtime import parking
from sync_hub.runtime.batch import Work
from sync_hub.runtime.lag import applied_offsets, passed
from sync_hub.runtime.pipelines import Delivery
from sync_hub.settings import Retry
from sync_hub.state import State

LOG = logging.getLogger(__name__)

KEYS_PER_TURN: Final = 500
TURN_SECONDS: Final = 0.1
"""How long one turn may try, before the next batch has its turn again."""
LOOK_SECONDS: Final = 0.4
PROGRESS_RECORDS: Final = 20
NOTHING: Final = Work({}, {}, [], {})


class Plan(NamedTuple):
    """What one pipeline puts into a transaction of the target."""

    one: Delivery
    work: Work
    changes: list[RowChange]
    parked: list[Parked]


class Replay:
    """The retries of one session. `write` is the session's: one transaction, with the offsets compared and set.

    `fail` stops a pipeline.
    """

    def __init__(
        self,
        sink: Sink,
        state: State,
        retry: Retry,
        write: Callable[[Sequence[Plan]], None],
        fail: Callable[[Delivery, SyncHubError], None],
    ) -> None:
        self._sink = sink
        self._state = state
        self._retry = retry
        self._write = write
        self._fail = fail
        self._until = 0.0
        self._look_at = 0.0

    def turn(self, deliveries: Sequence[Delivery]) -> None:
        """Try what is due, for a moment: all in one transaction first, because they may wait for one another."""
        if time.monotonic() < self._look_at or not any(one.held for one in deliveries):
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        now = time.time()
        due = [(one, rows) for one in deliveries for rows in one.held.due(now)]
        if any(rows[0].code in parking.WAITING_FOR_ROWS for _, rows in due) and self._together(deliveries):
            due = [pair for pair in due if pair[1][0].code not in parking.WAITING_FOR_ROWS]
        due.sort(key=lambda pair: (pair[1][0].next_at or 0.0, pair[1][0].seq))
        self._until = time.monotonic() + TURN_SECONDS
        self._try(due[:KEYS_PER_TURN])

    def _together(self, deliveries: Sequence[Delivery]) -> bool:
        """Whether all rows that wait for others are applied now, in one transaction.

        Rows that wait for one another fit only together, and would never be due in the same turn.
        """
        waiting = [(one, one.held.waiting()) for one in deliveries if one.held.waiting()]
        if sum(len(rows) for _, rows in waiting) > KEYS_PER_TURN:
            return False
        try:
            self._write([self._attempt(one, rows) for one, rows in waiting])
        except (Rejected, Fatal):  # which of them it is about is found out one by one
            return False
        self._tell(waiting)
        return True

    def _try(self, due: Sequence[tuple[Delivery, list[Parked]]]) -> None:
        """Apply all that is held for these keys; where it is refused, by halves, until it is known for which.

        What there is no time for is due at the next turn.
        """
        due = [pair for pair in due if pair[0].error is None]
        held: dict[str, tuple[Delivery, list[Parked]]] = {}
        for one, rows in due:
            held.setdefault(one.name, (one, []))[1].extend(rows)
        if not held or time.monotonic() > self._until:
            return
        failpoint("before_replay")
        if len(due) == 1:
            self._try_alone(*due[0])
            return
        try:
            self._write([self._attempt(one, rows) for one, rows in held.values()])
        except (Rejected, Fatal):
            middle = len(due) // 2
            self._try(due[:middle])
            self._try(due[middle:])
            return
        failpoint("after_replay")
        self._tell(held.values())

    def _try_alone(self, one: Delivery, rows: list[Parked]) -> None:
        """Apply what is held for one key; where it is refused, its oldest record says so, as when it was parked."""
        events: list[ChangeEvent] = []
        try:
            events = self._events(one, rows)
            self._write([_applying(one, rows, events)])
        except Rejected as error:
            self._again(one, rows, parking.about(events[0], error) if events else error)
            return
        except Fatal as error:
            self._fail(one, error)
            return
        failpoint("after_replay")
        self._tell([(one, rows)])

    def _tell(self, applied: Iterable[tuple[Delivery, list[Parked]]]) -> None:
        for one, rows in applied:
            text, facts = "pipeline %s: applied %d parked, the first %s", {"action": "replay", "pipeline": one.name}
            LOG.info(text, one.name, len(rows), rows[0].id, extra=facts)

    def _again(self, one: Delivery, rows: Sequence[Parked], error: Rejected) -> None:
        """One key that is still refused: its oldest record says so."""
        now, oldest = time.time(), rows[0]
        again = parking.tried(oldest, error, self._retry, now)
        if again.state == "waiting" and self._all_past(one, oldest.first_at):
            again = parking.given_up(again, self._retry, now)
        try:
            self._write([Plan(one, NOTHING, [], [again])])
        except Fatal as too_many:
            self._fail(one, too_many)

    def _attempt(self, one: Delivery, rows: Sequence[Parked]) -> Plan:
        """What applying these records takes, in their order. Raises `Rejected` as before."""
        return _applying(one, rows, self._events(one, rows))

    def _events(self, one: Delivery, rows: Sequence[Parked]) -> list[ChangeEvent]:
        """What these records say, in their order. Raises `Rejected` where one cannot be read."""
        read = self._sink.find_parked([one.name], records=True, seqs=[row.seq for row in rows])
        places = {(row.partition, row.seq) for row in rows}
        events: list[ChangeEvent] = []
        for row in read:
            if (row.partition, row.seq) in places:
                event = decode(parking.record(row))
                events += [event] if event is not None else []
        return events

    def _all_past(self, one: Delivery, since: float) -> bool:
        """Whether every pipeline into this target has applied all that its source had when the row began to wait."""
        for pipeline in self._state.pipelines():
            if pipeline.target != one.pipeline.target:
                continue
            topic = topic_name(pipeline.source, pipeline.table)
            applied = applied_offsets(self._state.workers(), pipeline.name)
            known = self._state.progress(pipeline.source, limit=PROGRESS_RECORDS)
            if not any(entry.source_time > since and passed(entry, topic, applied) for entry in known):
                return False
        return True


def _applying(one: Delivery, rows: Sequence[Parked], events: Sequence[ChangeEvent]) -> Plan:
    """What applying the events of these records takes. Raises `Rejected` for the first that cannot be mapped."""
    mapped = one.mapping.apply(events)
    for _, error in mapped.rejected[:1]:
        raise error
    now = time.time()
    return Plan(one, NOTHING, mapped.changes, [parking.closed(row, "applied", now) for row in rows])
