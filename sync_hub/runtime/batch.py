"""From polled records to one target transaction. Pure: takes values, returns values.

`select` chooses what a pipeline has not applied yet; `coalesce` leaves one change a key; `halves` splits what a target
refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sync_hub.envelope import key_of
from sync_hub.envelopes import decode_all
from sync_hub.errors import Rejected
from sync_hub.model import ABSENT, ChangeEvent, Offset, Record, RowChange, TopicPartition


class Item(Struct, frozen=True, gc=False):
    """One event that a pipeline has to apply."""

    record: Record
    event: ChangeEvent

    @property
    def partition(self) -> int:
        """The partition it was read from."""
        return self.record.partition

    @property
    def offset(self) -> int:
        """Its place there."""
        return self.record.offset

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset."""
        return (self.record.partition, self.record.offset)


class Tombstone(Struct, frozen=True, gc=False):
    """One record without a value, for compaction: there is nothing to apply."""

    record: Record


class Unreadable(Struct, frozen=True):
    """One record that no event can be made of."""

    record: Record
    error: Rejected

    @property
    def key(self) -> str:
        """Its key as its events have it, as far as it can be told: a later one that can be read takes its place."""
        try:
            text = msgspec.json.encode(key_of(self.record)).decode()
        except Rejected:
            text = (self.record.key or b"").decode(errors="surrogateescape")
        return text if text.isprintable() and text not in {"", "null"} else f"@{self.record.offset}"


Decoded = Item | Tombstone | Unreadable


class Failure(NamedTuple):
    """A record that a pipeline cannot pass, because it is not about one key."""

    partition: int
    offset: int
    error: Rejected


class Barrier(NamedTuple):
    """A control record that all partitions of the topic pass together."""

    offset: int
    version: str


class Work(Struct, frozen=True):
    """What one pipeline does with one poll. `ends` are the offset rows afterwards, `before` as they are now.

    `refused`: which of the items the target has refused so far, by partition and offset; it has `named` some so often.
    """

    before: dict[int, Offset]
    ends: dict[int, Offset]
    items: list[Item]
    barriers: dict[int, Barrier]
    failure: Failure | None = None
    unreadable: list[Unreadable] = []
    refused: dict[tuple[int, int], Rejected] = {}
    named: int = 0


def decoded(
    records: Sequence[Record], keys: Mapping[str, Sequence[str]] | None = None
) -> dict[TopicPartition, list[Decoded]]:
    """Decode each record once, whichever pipelines read it; per partition in offset order.

    `keys`, by topic, are the columns that tell whose event it is where a record has no key.
    """
    partitions: dict[TopicPartition, list[Decoded]] = {}
    topic, partition, run = "", -1, []
    for record, event in zip(records, decode_all(records), strict=True):
        if record.partition != partition or record.topic != topic:
            topic, partition = record.topic, record.partition
            run = partitions.setdefault(TopicPartition(topic, partition), [])
        if isinstance(event, ChangeEvent):
            run.append(_item(record, event, keys) if event.key is None and keys is not None else Item(record, event))
        else:
            run.append(Tombstone(record) if event is None else Unreadable(record, event))
    return partitions


def _item(record: Record, event: ChangeEvent, keys: Mapping[str, Sequence[str]]) -> Item | Unreadable:
    try:
        return Item(record, keyed(event, keys.get(record.topic, ())))
    except Rejected as error:
        return Unreadable(record, error)


def keyed(event: ChangeEvent, columns: Sequence[str]) -> ChangeEvent:
    """An event with the key of its row, where its record has none: else it is taken for one of any other row's.

    Raises `Rejected` where the row does not tell.
    """
    if event.key is not None or event.operation == "truncate":
        return event
    row = event.after or event.before or {}
    if not columns or not all(row.get(name) is not None for name in columns):
        raise Rejected(
            "key_incomplete",
            f"{event.source.schema}.{event.source.table}: the record has no key, and its row lacks a column of it",
            hint="have the topic's records written with the key of their table",
        )
    return replace(event, key={name: row[name] for name in columns})


def stages(partitions: Mapping[TopicPartition, Sequence[Decoded]]) -> list[dict[TopicPartition, list[Decoded]]]:
    """Cut a poll where probes begin and end: every other stage, from the second, holds probes alone.

    What comes before a probe in its partition is written before the target is looked at.
    """
    if not any(isinstance(one, Item) and one.event.check for records in partitions.values() for one in records):
        return [{place: list(records) for place, records in partitions.items()}]
    cut: list[dict[TopicPartition, list[Decoded]]] = [{}]
    for place, records in partitions.items():
        stage = 0
        for one in records:
            if is_probe(one) != bool(stage % 2):
                stage += 1
                if stage == len(cut):
                    cut.append({})
            cut[stage].setdefault(place, []).append(one)
    return cut


def is_probe(one: Decoded) -> bool:
    """Whether a record is the question of a verification."""
    return isinstance(one, Item) and one.event.check != ""


def select(pipeline: str, offsets: dict[int, Offset], partitions: Mapping[int, Sequence[Decoded]]) -> Work:
    """Choose what is new to this pipeline, up to the first barrier of each partition.

    `offsets` are the pipeline's rows for the partitions that may be read now. What is below `next_offset`, or not newer
    than `last_version`, was applied before; snapshot rows for other pipelines only move the offset.
    """
    items: list[Item] = []
    ends: dict[int, Offset] = {}
    barriers: dict[int, Barrier] = {}
    unreadable: list[Unreadable] = []
    failure = None
    for partition, records in partitions.items():
        before = offsets.get(partition)
        if before is None or before.barrier:
            continue
        next_offset, last_version, problem = before.next_offset, before.last_version, None
        for one in records:
            offset = one.record.offset
            if offset < next_offset:
                continue
            if isinstance(one, Unreadable):
                unreadable.append(one)
            elif isinstance(one, Item) and not ((event := one.event).version and event.version <= last_version):
                if event.operation == "truncate" and not event.version:
                    problem = Failure(partition, offset, _foreign_truncate(event))
                    break
                if event.operation == "truncate":
                    barriers[partition] = Barrier(offset, event.version)
                    break
                if not event.pipelines or pipeline in event.pipelines:
                    items.append(one)
                last_version = event.version or last_version
            next_offset = offset + 1
        ends[partition] = _end(before, next_offset, last_version, barriers.get(partition))
        failure = failure or problem
    ends = {partition: end for partition, end in ends.items() if end != offsets[partition]}
    return Work({partition: offsets[partition] for partition in ends}, ends, items, barriers, failure, unreadable)


def _newest_versions(items: Iterable[Item]) -> dict[int, str]:
    newest: dict[int, str] = {}
    for item in items:
        newest[item.partition] = max(newest.get(item.partition, ""), item.event.version)
    return newest


def superseded(items: Sequence[Item]) -> set[tuple[int, int]]:
    """Partition and offset of each item whose key has a later whole event: the newest state wins.

    A later event that lacks columns replaces nothing.
    """
    later: set[tuple[int, bytes]] = set()
    found = set()
    for item in reversed(items):
        key = (item.partition, msgspec.json.encode(item.event.key))
        if key in later:
            found.add((item.partition, item.offset))
        elif not item.event.unchanged:
            later.add(key)
    return found


def halves(work: Work) -> tuple[Work, Work]:
    """Split the work in two that are applied one after the other; the second is relative to the first's end."""
    middle = len(work.items) // 2
    first_items, second_items = work.items[:middle], work.items[middle:]
    last: dict[int, Item] = {item.partition: item for item in first_items}
    versions = _newest_versions(first_items)
    ends = {
        partition: replace(
            work.before[partition],
            next_offset=item.offset + 1,
            last_version=max(versions[partition], work.before[partition].last_version),
        )
        for partition, item in last.items()
    }
    refused = {item.place: work.refused[item.place] for item in first_items if item.place in work.refused}
    first = Work({partition: work.before[partition] for partition in ends}, ends, first_items, {}, refused=refused)
    before = {partition: ends.get(partition, offset) for partition, offset in work.before.items()}
    rest = {place: error for place, error in work.refused.items() if place not in refused}
    return first, replace(work, before=before, items=second_items, refused=rest, named=0)


def rebased(work: Work, offsets: Mapping[int, Offset]) -> Work:
    """The same work upon the offset rows as they are now: parking may have moved them."""
    before = {partition: offsets[partition] for partition in work.before}
    ends = {p: replace(end, parked_seq=before[p].parked_seq) for p, end in work.ends.items()}
    return msgspec.structs.replace(work, before=before, ends=ends)


def past_barrier(rows: Iterable[Offset], version: str) -> dict[int, tuple[Offset, Offset]] | None:
    """The offset rows of one topic that stand at this barrier, before and after passing it.

    None while a partition has not come to it: then nobody passes.
    """
    rows = list(rows)
    if not all(row.barrier == version or row.last_version >= version for row in rows):
        return None
    return {
        row.partition: (row, replace(row, next_offset=row.next_offset + 1, last_version=version, barrier=""))
        for row in rows
        if row.barrier == version
    }


def coalesce(changes: Sequence[RowChange]) -> list[list[RowChange]]:
    """Leave one change a key, the last; an event with absent columns never replaces one that has them.

    Returns layers to be written one after the other: a second one only where two changes of a key cannot be one
    (`on_delete: set` after an upsert, or a row written again after being marked).
    """
    if _all_differ([change.key for change in changes]):
        return [list(changes)] if changes else []
    layers: list[dict[tuple[Any, ...], RowChange]] = [{}]
    depth: dict[tuple[Any, ...], int] = {}
    first = layers[0]
    for change in changes:
        key = change.key
        try:
            level = depth.get(key, 0)
        except TypeError:
            key = hashable(key)
            level = depth.get(key, 0)
        previous = layers[level].get(key) if level else first.get(key)
        if previous is None:
            first[key] = change
            continue
        merged = _merged(previous, change)
        if merged is None:
            level += 1
            depth[key] = level
            if level == len(layers):
                layers.append({})
            merged = change
        layers[level][key] = merged
    return [list(layer.values()) for layer in layers if layer]


def _all_differ(keys: Sequence[tuple[Any, ...]]) -> bool:
    """Whether no two keys are alike; False also where it cannot be told at once."""
    try:
        return len(set(keys)) == len(keys)
    except TypeError:
        return False


def hashable(value: Any) -> Any:
    """A key as something to find it by: arrays travel as lists, and what others wrote may hold objects."""
    if isinstance(value, dict):
        return tuple((name, hashable(part)) for name, part in value.items())
    return tuple(map(hashable, value)) if isinstance(value, list | tuple) else value


def _merged(previous: RowChange, change: RowChange) -> RowChange | None:
    if change.kind == "update":
        if previous.kind in {"delete", "mark"}:
            return previous if previous.kind == "delete" else None
        values = tuple(old if new is ABSENT else new for old, new in zip(previous.values, change.values, strict=True))
        return RowChange(previous.kind, change.key, values, operation=previous.operation)
    if change.kind == "mark":
        return change if previous.kind == "mark" else None
    if change.kind == "upsert":
        if previous.kind == "mark":
            return None
        return change if previous.operation == change.operation else replace(change, operation=previous.operation)
    return change


def _end(before: Offset, next_offset: int, last_version: str, barrier: Barrier | None) -> Offset:
    version = barrier.version if barrier else ""
    return replace(before, next_offset=next_offset, last_version=last_version, barrier=version)


def _foreign_truncate(event: ChangeEvent) -> Rejected:
    source = event.source
    return Rejected(
        "truncate_without_order",
        f"{source.schema}.{source.table}: a TRUNCATE that sync-hub did not write has no order to other partitions",
        hint="empty the target table, then load the table again",
    )
