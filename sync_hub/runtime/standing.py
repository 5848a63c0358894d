"""Whether a target's worker that had to begin again works again: its offset rows in the target tell.

Nobody's word counts that the target takes rows again, only a transaction that it took, or that nothing waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sync_hub.model import Offset
from sync_hub.ports import Broker, Sink
from sync_hub.runtime.pipelines import Delivery

LOOK_SECONDS: Final = 0.5
Place = tuple[str, str, int]
"""Pipeline, topic, partition."""


class Standing:
    """What the target did not take, over all sessions of a worker, until it has taken it."""

    def __init__(self) -> None:
        self._stuck: dict[Place, Offset] = {}
        self._seen: dict[Place, Offset] | None = None
        self._look_at = 0.0

    def begin(self, stuck: Iterable[Offset]) -> None:
        """A session ended, in which the target did not take a transaction that would have moved these offset rows."""
        self._stuck |= by_place(stuck)
        self._seen, self._look_at = None, 0.0

    def proven(self, sink: Sink, broker: Broker, deliveries: Sequence[Delivery], *, wrote: bool) -> bool:
        """Whether it works again; `wrote`: this turn has written. Looks into target and broker, but not all the time.

        Raises what they raise.
        """
        if not (wrote or time.monotonic() >= self._look_at):
            return False
        self._look_at = time.monotonic() + LOOK_SECONDS
        topics = {one.name: one.topic for one in deliveries}
        rows = by_place(row for row in sink.load_offsets(list(topics)) if row.topic == topics[row.pipeline])
        seen, self._seen = self._seen or rows, self._seen or rows
        proven = taken(self._stuck, rows) and (wrote or rows != seen or self._nothing_waits(broker, rows))
        if proven:
            self._stuck.clear()
        return proven

    def _nothing_waits(self, broker: Broker, rows: Mapping[Place, Offset]) -> bool:
        """Whether all that the topics have is applied."""
        ends = broker.end_offsets({row.topic for row in rows.values()})
        return all(row.next_offset >= ends.get(row.place, 0) for row in rows.values())


def by_place(rows: Iterable[Offset]) -> dict[Place, Offset]:
    """Offset rows by what they are of."""
    return {(row.pipeline, row.topic, row.partition): row for row in rows}


def taken(stuck: Mapping[Place, Offset], rows: Mapping[Place, Offset]) -> bool:
    """Whether each of these rows was moved since; of what is not among the rows nobody waits for anything."""
    return all(rows.get(place) != row for place, row in stuck.items())
