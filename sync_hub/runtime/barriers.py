"""A TRUNCATE: all partitions of its topic pass it together, in one transaction that does what it means for the view."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from sync_hub.envelope import decode
from sync_hub.errors import Fatal, Rejected, SyncHubError
from sync_hub.failpoints import failpoint
from sync_hub.model import ABSENT, ChangeEvent, Offset, SinkBatch, TableWrite, TopicPartition
from sync_hub.ports import Broker, Sink
from sync_hub.runtime import parking
from sync_hub.runtime.batch import past_barrier
from sync_hub.runtime.pipelines import Delivery
from sync_hub.state import State

LOG = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.1
PATIENCE_SECONDS: Final = 10.0
"""How long a TRUNCATE waits for rows of other views that still refer to its own."""


class Barriers:
    """The barriers that one session meets. `transact` is one transaction of the target, `fail` stops a pipeline."""

    def __init__(
        self,
        sink: Sink,
        broker: Broker,
        state: State,
        transact: Callable[[SinkBatch], None],
        fail: Callable[[Delivery, SyncHubError], None],
    ) -> None:
        self._sink = sink
        self._broker = broker
        self._state = state
        self._transact = transact
        self._fail = fail
        self._look_at = 0.0
        self._refused_since: dict[tuple[str, str], float] = {}

    def turn(self, deliveries: Sequence[Delivery]) -> set[TopicPartition]:
        """Pass what all partitions have come to; the places from which their topics are to be read again."""
        passed: set[TopicPartition] = set()
        if time.monotonic() < self._look_at:
            return passed
        self._look_at = time.monotonic() + LOOK_SECONDS
        for one in deliveries:
            blocked = {offset.barrier for offset in one.offsets.values() if offset.barrier}
            if blocked:
                passed |= self._try(one, min(blocked))
        return passed

    def _try(self, one: Delivery, version: str) -> set[TopicPartition]:
        try:
            try:
                return self._pass(one, version)
            except Rejected as error:
                if error.code not in parking.WAITING_FOR_ROWS:
                    raise
                return self._pass_in_doubt(one, version, error) if self._waited_long(one, version) else set()
        except (Rejected, Fatal) as error:
            self._fail(one, error)
            return set()

    def _waited_long(self, one: Delivery, version: str) -> bool:
        """Whether rows of other tables, which have to go first, had their time."""
        now = time.monotonic()
        return now - self._refused_since.setdefault((one.name, version), now) >= PATIENCE_SECONDS

    def _pass_in_doubt(self, one: Delivery, version: str, error: Rejected) -> set[TopicPartition]:
        """Go on without removing the rows of before a TRUNCATE.

        What refers to them came after it, and means rows that wait behind it: to wait for each other would be for ever.
        Verification, which is asked for first, removes what is left over.
        """
        reason = f"rows of before a TRUNCATE are still there, because others refer to them: {error.message}"
        LOG.warning("pipeline %s: %s", one.name, reason, extra={"action": "doubt", "pipeline": one.name})
        self._state.doubt([one.name], reason)
        return self._pass(one, version, remove=False)

    def _pass(self, one: Delivery, version: str, *, remove: bool = True) -> set[TopicPartition]:
        """When all partitions stand at the barrier or past it, do its work and move them on in one transaction.

        What was parked before is older than the barrier, and closed with it.
        """
        rows = one.own(self._sink.load_offsets([one.name]))
        pairs = past_barrier(rows, version)
        if pairs:
            held = [row for row in self._sink.find_parked([one.name]) if row.partition in pairs]
            closed = [parking.closed(row, "superseded", time.time()) for row in held]
            truncation = [_truncation(one, self._event(next(iter(pairs.values()))[0]))] if remove else []
            failpoint("before_barrier")
            self._transact(SinkBatch([*parking.with_seqs(pairs, closed).values()], truncation, closed))
            failpoint("after_barrier")
        if pairs is not None:
            self._refused_since.pop((one.name, version), None)
            rows = self._sink.load_offsets([one.name])
        stood = {partition for partition, row in one.offsets.items() if row.barrier}
        one.load(rows, sorted(one.offsets))
        one.hold([row for row in self._sink.find_parked([one.name]) if row.partition in one.offsets])
        return {TopicPartition(one.topic, partition) for partition in stood if not one.offsets[partition].barrier}

    def _event(self, row: Offset) -> ChangeEvent | None:
        record = self._broker.fetch({row.place: row.next_offset}).get(row.place)
        return decode(record) if record else None


def _truncation(one: Delivery, event: ChangeEvent | None) -> TableWrite:
    mapping, columns, values = one.mapping, [], []
    policy = mapping.on_truncate()
    if policy == "mark" and event is not None:
        for column, value in zip(mapping.mark_columns, mapping.truncate_values(event), strict=True):
            if value is not ABSENT:
                columns.append(column)
                values.append(value)
    return TableWrite(
        one.name,
        mapping.spec.target_table,
        mapping.key,
        mapping.columns,
        [],
        mark_columns=tuple(columns),
        shared=one.shared,
        truncate=policy,
        mark_values=tuple(values),
    )
