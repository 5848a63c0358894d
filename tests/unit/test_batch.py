"""Choosing, cutting, halving and coalescing work: pure rules between the broker and the target's transaction."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_hub.errors import Rejected
from sync_hub.model import (
    ABSENT,
    ChangeEvent,
    Offset,
    Operation,
    Record,
    RowChange,
    TopicPartition,
    version_prefix,
    version_suffix,
)
from sync_hub.runtime.batch import (
    Barrier,
    Decoded,
    Item,
    Unreadable,
    Work,
    coalesce,
    decoded,
    halves,
    rebased,
    select,
    superseded,
)
from tests.events import change_event, decoded_as


def version(number: int) -> str:
    return version_prefix(1, 7) + version_suffix(number)


def event(number: int, **changes: Any) -> ChangeEvent:
    values: dict[str, Any] = {
        "source": "erp",
        "schema": "public",
        "table": "customers",
        "operation": "create",
        "key": {"id": number},
        "before": None,
        "after": {"id": number},
        "version": version(number),
        "committed_at": 1,
    }
    return change_event(**values | changes)


def offset(partition: int = 0, next_offset: int = 0, last_version: str = "", barrier: str = "") -> Offset:
    return Offset("p", "t", partition, "id", next_offset, last_version, "hash", 0, barrier)


def record(partition: int, offset: int) -> Record:
    return Record("t", partition, offset, b'{"id":1}', b"", None, 0)


def stream(*events: ChangeEvent | Rejected | None, start: int = 0, partition: int = 0) -> list[Decoded]:
    return [decoded_as(record(partition, start + index), one) for index, one in enumerate(events)]


def item(partition: int, offset: int, event: ChangeEvent) -> Item:
    return Item(record(partition, offset), event)


def numbers(work: Work) -> list[int]:
    return [item.event.key["id"] for item in work.items if item.event.key]


def test_versions_not_newer_than_the_last_applied_are_skipped_and_still_move_the_offset() -> None:
    work = select("p", {0: offset(last_version=version(2))}, {0: stream(event(1), event(2), event(3))})
    assert numbers(work) == [3]
    assert work.ends[0].next_offset == 3
    assert work.ends[0].last_version == version(3)


def test_a_duplicate_inside_one_poll_is_applied_once() -> None:
    work = select("p", {0: offset()}, {0: stream(event(1), event(2), event(1), event(2), event(3))})
    assert numbers(work) == [1, 2, 3]
    assert work.ends[0] == offset(next_offset=5, last_version=version(3))


def test_records_below_the_offset_are_not_applied_again_even_without_versions() -> None:
    foreign = [event(number, version="") for number in range(4)]
    work = select("p", {0: offset(next_offset=2)}, {0: stream(*foreign)})
    assert numbers(work) == [2, 3]
    assert work.ends[0].last_version == ""


def test_snapshot_rows_for_other_pipelines_only_move_the_offset() -> None:
    others = event(1, operation="read", pipelines=("q",))
    mine = event(2, operation="read", pipelines=("q", "p"))
    work = select("p", {0: offset()}, {0: stream(others, mine)})
    assert numbers(work) == [2]
    assert work.ends[0].next_offset == 2


def test_a_partition_that_is_not_assigned_or_stands_at_a_barrier_is_left_alone() -> None:
    work = select("p", {0: offset(barrier=version(9))}, {0: stream(event(1)), 1: stream(event(2), partition=1)})
    assert work == Work({}, {}, [], {})


def test_a_barrier_ends_the_partition_before_itself_and_is_marked_in_its_offset() -> None:
    barrier = event(2, operation="truncate", key=None, after=None)
    work = select(
        "p", {0: offset(), 1: offset(1)}, {0: stream(event(1), barrier, event(3)), 1: stream(event(4), partition=1)}
    )
    assert numbers(work) == [1, 4]
    assert work.barriers == {0: Barrier(1, version(2))}
    assert work.ends[0] == offset(next_offset=1, last_version=version(1), barrier=version(2))
    assert work.ends[1] == offset(1, next_offset=1, last_version=version(4))


def test_a_barrier_seen_before_is_passed() -> None:
    barrier = event(2, operation="truncate", key=None, after=None)
    work = select("p", {0: offset(last_version=version(2))}, {0: stream(barrier, event(3))})
    assert numbers(work) == [3]
    assert not work.barriers


def test_a_truncate_that_debezium_wrote_stops_the_pipeline() -> None:
    work = select("p", {0: offset()}, {0: stream(event(1, operation="truncate", key=None, version=""))})
    assert work.failure is not None
    assert work.failure.error.code == "truncate_without_order"


def test_an_unreadable_record_is_told_apart_and_passed() -> None:
    work = select("p", {0: offset()}, {0: stream(event(1), Rejected("not_an_envelope", "no"), event(3))})
    assert numbers(work) == [1, 3]
    assert [(one.record.offset, one.key, one.error.code) for one in work.unreadable] == [
        (1, '{"id":1}', "not_an_envelope")
    ]
    assert work.failure is None
    assert work.ends[0].next_offset == 3


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"null", b"a\x00b", b"\x1b[31m"])
def test_an_unreadable_record_without_a_readable_key_is_known_by_its_offset(key: bytes | None) -> None:
    assert Unreadable(Record("t", 0, 7, key, b"", None, 0), Rejected("x", "x")).key == "@7"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (b'{"id": 1}', '{"id":1}'),
        (b'{"schema": {"type": "struct"}, "payload": {"id": 1}}', '{"id":1}'),
        (b'{"id":"a\\u0000b"}', '{"id":"a\\u0000b"}'),
        ("plain é".encode(), "plain é"),
    ],
)
def test_an_unreadable_record_has_the_key_that_its_later_events_have(key: bytes, text: str) -> None:
    assert Unreadable(Record("t", 0, 7, key, b"", None, 0), Rejected("x", "x")).key == text


def test_an_event_is_superseded_by_a_later_whole_one_of_its_key_in_its_partition() -> None:
    first, partial, whole = event(1), event(2, key={"id": 1}, unchanged=("big",)), event(3, key={"id": 1})
    assert superseded([item(0, 0, first), item(0, 1, partial)]) == set()
    assert superseded([item(0, 0, first), item(1, 1, whole)]) == set()
    assert superseded([item(0, 0, first), item(0, 1, partial), item(0, 2, whole)]) == {(0, 0), (0, 1)}


def test_tombstones_only_move_the_offset() -> None:
    record = Record("t", 0, 5, b"{}", None, None, 0)
    work = select("p", {0: offset(next_offset=5)}, {0: decoded([record])[TopicPartition("t", 0)]})
    assert work.items == []
    assert work.ends[0].next_offset == 6


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=2, max_size=30))
def test_halves_applied_one_after_the_other_end_where_the_whole_ends(shape: list[tuple[int, bool]]) -> None:
    records: dict[int, list[Decoded]] = {}
    for number, (partition, tombstone) in enumerate(shape):
        run = records.setdefault(partition, [])
        run.append(decoded_as(record(partition, len(run)), None if tombstone else event(number)))
    work = select("p", {partition: offset(partition) for partition in records}, records)
    first, second = halves(work)
    assert first.items + second.items == work.items
    state = dict(work.before)
    for half in (first, second):
        for partition, end in half.ends.items():
            assert half.before[partition] == state[partition]
            state[partition] = end
    assert state == work.ends


KEYS = st.integers(0, 3)
WRITTEN = (
    st.builds(lambda k, a, b: RowChange("upsert", (k,), (k, a, b)), KEYS, st.integers(0, 9), st.integers(0, 9)),
    st.builds(lambda k, a: RowChange("update", (k,), (k, a, ABSENT)), KEYS, st.integers(0, 9)),
    st.builds(lambda k, b: RowChange("update", (k,), (k, ABSENT, b)), KEYS, st.integers(0, 9)),
)
DELETED = st.builds(lambda k: RowChange("delete", (k,)), KEYS)
MARKED = st.builds(lambda k, m: RowChange("mark", (k,), (m,)), KEYS, st.integers(0, 9))
CHANGES = st.sampled_from([DELETED, MARKED]).flatmap(lambda gone: st.lists(st.one_of(*WRITTEN, gone), max_size=25))
"""Of one mapping: its rows are deleted or marked, never both."""


def applied(table: dict[Any, list[Any]], change: RowChange) -> None:
    """A target table in memory: [a, b, mark] a key, as the sinks' contract says."""
    row = table.get(change.key)
    match change.kind:
        case "upsert":
            table[change.key] = [*change.values[1:], row[2] if row else None]
        case "update" if row:
            row[:2] = [old if new is ABSENT else new for old, new in zip(row[:2], change.values[1:], strict=True)]
        case "delete":
            table.pop(change.key, None)
        case "mark" if row:
            row[2] = change.values[0]


@given(CHANGES, st.sets(KEYS))
def test_coalesced_changes_end_as_the_changes_one_by_one(changes: list[RowChange], existing: set[int]) -> None:
    one_by_one: dict[Any, list[Any]] = {(key,): [-1, -1, None] for key in existing}
    together = {key: list(row) for key, row in one_by_one.items()}
    for change in changes:
        applied(one_by_one, change)
    for layer in coalesce(changes):
        assert len({change.key for change in layer}) == len(layer)
        for change in layer:
            applied(together, change)
    assert together == one_by_one


@given(CHANGES, st.sets(KEYS))
def test_what_coalesced_upserts_tell_of_their_rows_is_true(changes: list[RowChange], existing: set[int]) -> None:
    state = {(key,): [-1, -1, None] for key in existing}
    told = []
    before = {key: list(row) for key, row in state.items()}
    for change in changes:
        operation: Operation = "update" if change.key in state else "create"
        told.append(msgspec.structs.replace(change, operation=operation) if change.kind == "upsert" else change)
        applied(state, change)
    for layer in coalesce(told):
        for change in layer:
            assert change.operation in ("", "update" if change.key in before else "create")
            applied(before, change)


@pytest.mark.parametrize("others", [["update"], ["update", "update"]])
def test_a_row_that_was_created_and_then_updated_is_new(others: list[Operation]) -> None:
    changes = [RowChange("upsert", (1,), (1, place), operation=one) for place, one in enumerate(["create", *others])]
    assert coalesce(changes) == [[RowChange("upsert", (1,), (1, len(others)), operation="create")]]


def test_an_event_with_absent_columns_never_replaces_one_that_has_them() -> None:
    whole = RowChange("upsert", (1,), (1, "text", 5))
    partial = RowChange("update", (1,), (1, ABSENT, 6))
    assert coalesce([whole, partial]) == [[RowChange("upsert", (1,), (1, "text", 6))]]


def test_changes_of_array_keys_are_coalesced_and_keep_their_keys() -> None:
    first = RowChange("upsert", (1, ["a", ["b"]]), (1, ["a", ["b"]], "first"))
    other = RowChange("upsert", (1, ["a", ["c"]]), (1, ["a", ["c"]], "other"))
    gone = RowChange("delete", (1, ["a", ["b"]]))
    assert coalesce([first, other, gone]) == [[gone, other]]


def test_items_keep_their_place() -> None:
    assert (item(1, 2, event(3)).partition, item(1, 2, event(3)).offset) == (1, 2)


def test_work_goes_on_upon_offsets_that_parking_has_raised() -> None:
    work = select("p", {0: offset()}, {0: stream(event(1), event(2))})
    raised = msgspec.structs.replace(offset(), parked_seq=4)
    again = rebased(work, {0: raised})
    assert again.before == {0: raised}
    assert again.ends == {0: msgspec.structs.replace(work.ends[0], parked_seq=4)}


def test_events_without_a_version_are_split_as_any_others() -> None:
    """Topics that Debezium wrote have none."""
    work = select("p", {0: offset()}, {0: stream(*[event(number, version="") for number in range(1, 5)])})
    first, second = halves(work)
    assert [len(half.items) for half in (first, second)] == [2, 2]
    assert (first.ends[0].next_offset, first.ends[0].last_version) == (first.items[-1].offset + 1, "")


def test_keys_that_cannot_be_compared_by_hash_are_found_again() -> None:
    keys: list[Any] = [[1, [2]], {"scale": 0, "value": "BQ=="}, 5]
    changes = [RowChange("upsert", (key,), (place,)) for place in (0, 1) for key in keys]
    assert [[change.values for change in layer] for layer in coalesce(changes)] == [[(1,), (1,), (1,)]]
