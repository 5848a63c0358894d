"""Whether topics still hold what was applied last: the record before each offset, of all partitions asked together."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import suppress

from sync_hub.envelope import decode
from sync_hub.errors import Fatal, Rejected
from sync_hub.model import Offset, TopicPartition
from sync_hub.ports import Broker
from sync_hub.runtime.pipelines import Delivery

Place = tuple[TopicPartition, int]


def unproven_offsets(broker: Broker, deliveries: Sequence[Delivery]) -> list[tuple[Delivery, Fatal]]:
    """The pipelines whose offsets cannot be right, and why: one error each.

    The record before an offset, if it is still there, must not be newer than what was applied last.
    """
    rows = [(one, row) for one in deliveries for row in one.offsets.values() if row.last_version]
    try:
        versions = _versions(broker, {_before(row) for _, row in rows})
    except Fatal as error:
        if len(deliveries) == 1:
            return [(deliveries[0], error)]
        return [found for one in deliveries for found in unproven_offsets(broker, [one])]  # it is about one's topic
    newer = {one.name: (one, row) for one, row in rows if versions.get(_before(row), "") > row.last_version}
    return [(one, _unproven(one, row)) for one, row in newer.values()]


def _before(row: Offset) -> Place:
    return row.place, row.next_offset - 1


def _versions(broker: Broker, places: Set[Place]) -> dict[Place, str]:
    """The versions of the events at these places; without what is gone, or cannot be read: it proves nothing."""
    versions: dict[Place, str] = {}
    left = set(places)
    while left:
        asked = dict(left)  # of each partition one offset
        left.difference_update(asked.items())
        for place, record in broker.fetch(asked).items():
            with suppress(Rejected):
                event = decode(record)
                versions[place, asked[place]] = event.version if event else ""
    return versions


def _unproven(one: Delivery, row: Offset) -> Fatal:
    return Fatal(
        "offset_unproven",
        f"pipeline {one.name}: record {row.next_offset - 1} of {row.topic}/{row.partition} is not the one that was "
        "applied last",
        hint="the topic's content was replaced",
        command=f"sync-hub recover {one.pipeline.source}",
    )
