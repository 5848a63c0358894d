"""Reading the embedded log: a fixed share of the partitions, woken by polling `PRAGMA data_version`."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from connectors import sqlite
from connectors.brokers.embedded_log import PARTITION_SHIFT, LogFile, StoredBatch, damaged, decode_batch
from sync_hub.errors import Fatal
from sync_hub.model import Record, TopicPartition

_FIRST_PAUSE_SECONDS = 0.0003
_LONGEST_PAUSE_SECONDS = 0.01
_POLL_BYTES = 8 * 1024 * 1024
"""One poll stops reading further batches after this much, whatever it was asked for."""

_BATCHES_FROM = """
    select id, count, data, time from batches
    where id between (select max(id) from batches where id between ? and ?) and ? order by id
"""

OnAssign = Callable[[list[TopicPartition]], Mapping[TopicPartition, int]]


class _Place:
    """How far one partition was read: `offset` is the next to deliver, `ready` are records decoded beyond it."""

    def __init__(self, name: TopicPartition, partition_id: int, offset: int) -> None:
        self.name = name
        self.partition_id = partition_id
        self.offset = offset
        self.ready: deque[Record] = deque()

    @property
    def read_offset(self) -> int:
        """The first offset not yet read from the file."""
        return self.ready[-1].offset + 1 if self.ready else self.offset


class EmbeddedSubscription:
    """See `Subscription`. Has a connection of its own: SQLite tells a connection only of what others wrote."""

    def __init__(self, log: LogFile, topics: Sequence[str], share: tuple[int, int], on_assign: OnAssign) -> None:
        self._log = log
        self._waiting_for = list(dict.fromkeys(topics))
        self._member, self._members = share
        self._on_assign = on_assign
        self._places: dict[TopicPartition, _Place] = {}
        self._turn = 0
        self._seen_version = -1
        self._more = True
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    def assignment(self) -> list[TopicPartition]:
        """See `Subscription.assignment`."""
        return list(self._places)

    def poll(self, timeout_seconds: float, max_records: int) -> list[Record]:
        """See `Subscription.poll`."""
        end = time.monotonic() + timeout_seconds
        while True:
            if self._changed() or self._more:
                if self._waiting_for:
                    self._assign()
                records = self._read(max_records)
                self._more = bool(records)
                if records:
                    self._pause_seconds = _FIRST_PAUSE_SECONDS
                    return records
            left = end - time.monotonic()
            if left <= 0:
                return []
            time.sleep(min(self._pause_seconds, left))
            self._pause_seconds = min(self._pause_seconds * 1.3, _LONGEST_PAUSE_SECONDS)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """See `Subscription.seek`."""
        if partition in self._places:
            place = self._places[partition]
            place.offset = offset
            place.ready.clear()
            self._more = True

    def close(self) -> None:
        """See `Subscription.close`."""
        self._log.close()

    def _changed(self) -> bool:
        connection = self._log.connection()
        with sqlite.translated(self._log.path):
            version = connection.execute("pragma data_version").fetchone()[0]
        changed = bool(version != self._seen_version)
        self._seen_version = version
        return changed

    def _assign(self) -> None:
        """Take this member's share of the topics that have appeared: every n-th partition, not always from the first.

        Where it begins depends on the topic's name alone: all members count alike, whatever else they read.
        """
        found: list[tuple[TopicPartition, int]] = []
        with sqlite.read_transaction(self._log.connection(), self._log.path) as connection:
            for topic in list(self._waiting_for):
                rows = connection.execute(
                    "select p.partition, p.id from partitions p join topics t on t.number = p.topic"
                    " where t.name = ? order by 1",
                    (topic,),
                ).fetchall()
                if rows:
                    self._waiting_for.remove(topic)
                found += [
                    (TopicPartition(topic, partition), id_)
                    for partition, id_ in rows
                    if (zlib.crc32(topic.encode()) + partition) % self._members == self._member
                ]
        if found:
            starts = self._on_assign([name for name, _ in found])
            self._places |= {name: _Place(name, id_, starts[name]) for name, id_ in found}

    def _read(self, max_records: int) -> list[Record]:
        """Up to `max_records`, beginning with another partition each time so that none starves."""
        places = list(self._places.values())
        if not places:
            return []
        self._turn = (self._turn + 1) % len(places)
        places = places[self._turn :] + places[: self._turn]
        self._fill(places, max_records)
        records: list[Record] = []
        for place in places:
            count = min(len(place.ready), max_records - len(records))
            if count:
                records += [place.ready.popleft() for _ in range(count)]
                place.offset = records[-1].offset + 1
        return records

    def _fill(self, places: list[_Place], wanted: int) -> None:
        """Read batches until `wanted` records are ready; decode them after the transaction."""
        batches: list[tuple[_Place, StoredBatch]] = []
        size = 0
        with sqlite.read_transaction(self._log.connection(), self._log.path) as connection:
            marks = ",".join("?" * len(places))
            bounds = {
                row[0]: row[1:]
                for row in connection.execute(
                    f"select id, start_offset, next_offset from partitions where id in ({marks})",
                    [place.partition_id for place in places],
                )
            }
            for place in places:
                offset, end = place.read_offset, _checked(place, bounds)
                wanted -= len(place.ready)
                if wanted <= 0 or size >= _POLL_BYTES:
                    break
                if offset == end:
                    continue
                low = place.partition_id << PARTITION_SHIFT
                with closing(connection.execute(_BATCHES_FROM, (low, low | offset, low | (end - 1)))) as rows:
                    for batch in map(StoredBatch._make, rows):
                        if not batch.base_offset <= offset < batch.end_offset:
                            raise damaged(f"{place.name.topic}/{place.name.partition}@{offset} is missing")
                        batches.append((place, batch))
                        size += len(batch.data)
                        wanted -= batch.end_offset - offset
                        offset = batch.end_offset
                        if wanted <= 0 or size >= _POLL_BYTES:
                            break
                if offset == place.read_offset:
                    raise damaged(f"{place.name.topic}/{place.name.partition}@{offset} is missing")
        for place, batch in batches:
            place.ready.extend(decode_batch(*place.name, batch, place.read_offset))


def _checked(place: _Place, bounds: Mapping[int, Sequence[int]]) -> int:
    """The partition's end. Raises `Fatal` when the wanted offset is not, or no longer, in the log."""
    topic, partition = place.name
    if place.partition_id not in bounds:
        raise Fatal(
            "topic_recreated",
            f"topic {topic} was deleted or created again while it was read",
            hint="run `sync-hub recover` for its source",
        )
    start, end = bounds[place.partition_id]
    if not start <= place.offset <= end:
        raise Fatal(
            "offset_gone",
            f"{topic}/{partition}: offset {place.offset} is not in the log, which holds {start} to {end}",
            hint="reload the pipelines that read this topic",
        )
    return int(end)
