"""Rejected events in several partitions of one poll: none may be passed over unless a newer one of its key is there."""

from __future__ import annotations

from typing import Any

from sync_hub.errors import Rejected
from sync_hub.mapping.apply import Mapped
from sync_hub.model import ChangeEvent, Offset, RowChange, version_prefix, version_suffix
from sync_hub.runtime.batch import Decoded, select
from sync_hub.runtime.deliver import Session


class _OnlyEven:
    """A mapping that rejects odd numbers."""

    def apply(self, events: list[ChangeEvent]) -> Mapped:
        changes, sources, rejected = [], [], []
        for index, event in enumerate(events):
            assert event.after is not None
            if event.after["v"] % 2:
                rejected.append((index, Rejected("odd", "no")))
            else:
                changes.append(RowChange("upsert", (event.after["id"],), (event.after["v"],)))
                sources.append(index)
        return Mapped(changes, sources, rejected)


class _One:
    name = "p"
    mapping: Any = _OnlyEven()


def _event(number: int, key: int, value: int) -> ChangeEvent:
    return ChangeEvent(
        source="erp",
        schema="public",
        table="t",
        operation="update",
        key={"id": key},
        before=None,
        after={"id": key, "v": value},
        version=version_prefix(1, 7) + version_suffix(number),
        committed_at=1,
    )


def _mapped(partitions: dict[int, list[tuple[int, int]]]) -> Any:
    offsets = {partition: Offset("p", "t", partition, "id", 0, "", "hash") for partition in partitions}
    records = {
        partition: [Decoded(at, _event(at + 1, key, value)) for at, (key, value) in enumerate(pairs)]
        for partition, pairs in partitions.items()
    }
    work = select("p", offsets, records)
    one: Any = _One()
    return Session._mapped(object.__new__(Session), one, work, work.items)


def test_each_partition_stops_before_its_own_rejected_event() -> None:
    work, changes = _mapped({0: [(1, 2), (2, 3), (3, 4)], 1: [(4, 2), (5, 6), (6, 5), (7, 8)]})
    assert {partition: end.next_offset for partition, end in work.ends.items()} == {0: 1, 1: 2}
    assert [change.key for change in changes] == [(1,), (4,), (5,)]
    assert work.failure is not None


def test_a_rejected_event_that_a_newer_one_replaces_stops_nothing() -> None:
    work, changes = _mapped({0: [(1, 3), (2, 2), (1, 4)]})
    assert work.failure is None
    assert work.ends[0].next_offset == 3
    assert [change.key for change in changes] == [(2,), (1,)]
