"""Events become whole in parts of bytes, in their order, whatever one of them waits for."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.sources.pgcomplete import Completion, Fetched, Incomplete, Row
from connectors.sources.pgrows import key_identity
from connectors.sources.pgsnapshot import Visible, parse_snapshot
from sync_hub.model import ChangeEvent, Operation, Transaction
from tests.events import change_event

PART_BYTES = 100
WIDE = "x" * 40
SEES_ALL = parse_snapshot("100:100:")
SEES_NOT_7 = parse_snapshot("7:100:7")


def event(number: int, *, xid: int, operation: Operation = "update") -> ChangeEvent:
    return change_event(
        source="erp",
        schema="public",
        table="t",
        operation=operation,
        key={"id": number},
        before=None,
        after={"id": number},
        version=f"{number}",
        committed_at=0,
        transaction=Transaction(str(xid), 1, 1),
        old_key={"id": -number} if operation == "create" else None,
    )


class Table:
    """A table whose rows all have a wide value; remembers how many of them were read."""

    def __init__(self, visible: Visible) -> None:
        self.visible = visible
        self.read = 0

    def fetch(self, table: str, keys: Sequence[Row], columns: Sequence[str], size_bytes: int) -> Fetched:
        count = min(len(keys), max(2, -(-size_bytes // len(WIDE))))
        self.read += count
        rows = {key_identity(key): key | {"wide": WIDE} for key in keys[:count]}
        return Fetched(rows, count, self.visible)


def completion(events: list[ChangeEvent], *, cut: bool = False) -> Completion:
    incomplete = [
        Incomplete(place, "public.t", int(event.transaction.id), ("wide",), cut and event.operation == "create")
        for place, event in enumerate(events)
        if event.transaction
    ]
    return Completion(list(events), incomplete, lambda _: ("id", "wide"), part_bytes=PART_BYTES)


def test_each_part_is_bounded_by_bytes_and_the_order_is_kept() -> None:
    events = [event(number, xid=5) for number in range(50)]
    table, whole = Table(SEES_ALL), completion(events)
    parts = []
    while not whole.done:
        parts.append(whole.advance(table.fetch))
    assert [one.key for part in parts for one in part] == [one.key for one in events]
    assert all((one.after or {})["wide"] == WIDE for part in parts for one in part)
    assert max(len(part) for part in parts) * len(WIDE) < PART_BYTES + len(WIDE)
    assert table.read < 2 * len(events), "hardly anything is read twice"


def test_one_value_for_many_events_counts_for_each_of_them() -> None:
    events = [event(1, xid=number) for number in range(20)]
    table, whole = Table(SEES_ALL), completion(events)
    parts = []
    while not whole.done:
        parts.append(whole.advance(table.fetch))
    assert max(len(part) for part in parts) * len(WIDE) < PART_BYTES + len(WIDE)


def test_waiting_for_one_event_does_not_gather_all_that_are_behind_it() -> None:
    events = [event(0, xid=7, operation="create"), *(event(number, xid=5) for number in range(1, 500))]
    table, whole = Table(SEES_NOT_7), completion(events, cut=True)
    for _ in range(100):
        assert whole.advance(table.fetch) == []
    assert "transaction 7" in whole.waits_for
    assert sum(whole._added.values()) < 3 * PART_BYTES
    table.visible = SEES_ALL
    handed: list[ChangeEvent] = []
    while not whole.done:
        handed += whole.advance(table.fetch)
    assert [one.key for one in handed] == [one.key for one in events]
    assert not any(one.unchanged for one in handed)
