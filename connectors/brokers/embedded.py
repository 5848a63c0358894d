"""The embedded broker: topics in one SQLite file, shared by all processes of one machine, without a server.

A row of `batches` holds the records of one partition from one `publish`; it is written in one transaction with the
partition's next offset, so offsets are dense and a failed commit leaves nothing behind. A record is durable when
`publish` returns.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from zlib import crc32

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field

from connectors import sqlite
from connectors.brokers.embedded_log import (
    MOST_PARTITIONS,
    PARTITION_SHIFT,
    LogFile,
    StoredBatch,
    decode_batch,
    encode_batches,
)
from connectors.brokers.embedded_reader import EmbeddedSubscription
from sync_hub.errors import Fatal, PublishingBroken, SyncHubError
from sync_hub.model import Finding, Outgoing, Record, TopicInfo, TopicPartition

_NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "glusterfs", "ceph"}
_RETAIN_BATCHES = 500
"""Batches deleted in one transaction, so that nobody waits long for the lock."""


class EmbeddedOptions(BaseModel):
    """Settings under `broker:` with `type: embedded`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(default=Path(".sync-hub/log.db"), description="The file; its folder is created.")
    partitions: int = Field(default=4, ge=1, le=256, description="Partitions of a new topic.")
    max_record_bytes: int = Field(
        default=16 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024, description="The largest record: key, value, headers."
    )


class _Topic(Struct, frozen=True):
    info: TopicInfo
    partition_ids: list[int]


class EmbeddedBroker:
    """Topics in one file. Several processes may write and read; each object belongs to one thread."""

    Options: ClassVar[type[BaseModel]] = EmbeddedOptions

    def __init__(self, name: str, options: EmbeddedOptions, hub: str) -> None:
        self._name = name
        self._options = options
        self._hub = hub
        self._log = LogFile(options.path)
        self._topics: dict[str, _Topic] = {}
        self._published: dict[TopicPartition, int] = {}

    def check(self) -> list[Finding]:
        """See `Broker.check`: the file opens, can be written, and is on a disk that SQLite can share."""
        findings = []
        mounts = Path("/proc/self/mounts")
        kind = network_file_system(self._options.path, mounts.read_text()) if mounts.exists() else ""
        if kind:
            message = f"{self._options.path} is on a network file system ({kind})"
            hint = "put it on a local disk, or use Kafka"
            findings.append(Finding("log_on_network_disk", "error", self._name, message, hint))
        try:
            if not self._log.exists():
                sqlite.refuse_uncreatable(self._options.path)
                return findings
            with sqlite.write_transaction(self._log.connection(), self._log.lock):
                pass
        except SyncHubError as error:
            findings.append(Finding(error.code, "error", self._name, error.message, error.hint))
        return findings

    def create_topics(self, names: Sequence[str]) -> dict[str, TopicInfo]:
        """See `Broker.create_topics`."""
        connection = self._log.connection()
        existing = self.topics()
        missing = [name for name in dict.fromkeys(names) if name not in existing]
        if missing:
            with sqlite.write_transaction(connection, self._log.lock):
                for name in missing:
                    self._create(name)
            existing = self.topics()
        for name in names:
            if name in self._topics and self._topics[name].info.id != existing[name].id:
                del self._topics[name]
        return {name: existing[name] for name in names}

    def _create(self, name: str) -> None:
        connection, count = self._log.connection(), self._options.partitions
        row = connection.execute(
            "insert into topics(name, id, partitions) values (?, ?, ?) on conflict do nothing returning number",
            (name, secrets.token_hex(16), count),
        ).fetchone()
        if row is None:
            return
        for partition in range(count):
            cursor = connection.execute("insert into partitions(topic, partition) values (?, ?)", (row[0], partition))
            if (cursor.lastrowid or 0) >= MOST_PARTITIONS:
                raise Fatal(
                    "log_full",
                    f"{self._options.path} has had {MOST_PARTITIONS} partitions, the most a file can hold",
                    hint="use fewer partitions a topic, a new file, or Kafka",
                )

    def topics(self) -> dict[str, TopicInfo]:
        """See `Broker.topics`. Creates no file."""
        if not self._log.exists():
            sqlite.refuse_uncreatable(self._options.path)
            return {}
        with sqlite.read_transaction(self._log.connection(), self._options.path) as connection:
            rows = connection.execute("select name, id, partitions from topics order by name").fetchall()
        return {name: TopicInfo(name, id_, count, self._options.max_record_bytes) for name, id_, count in rows}

    def publish(self, records: Sequence[Outgoing]) -> None:
        """See `Broker.publish`. One transaction: all of these records are durable at return, or none on any error."""
        if not records:
            return
        groups = self._grouped(records)
        now = time.time_ns() // 1_000_000
        ends: dict[TopicPartition, int] = {}
        with sqlite.write_transaction(self._log.connection(), self._log.lock) as connection:
            for place, group in groups.items():
                partition_id = self._topic(place.topic).partition_ids[place.partition]
                row = connection.execute(
                    "update partitions set next_offset = next_offset + ? where id = ? returning next_offset",
                    (len(group), partition_id),
                ).fetchone()
                if row is None:
                    raise _recreated(place.topic)
                ends[place] = row[0]
                first = (partition_id << PARTITION_SHIFT) | (row[0] - len(group))
                for count, data in encode_batches(group):
                    connection.execute("insert into batches values (?, ?, ?, ?)", (first, count, data, now))
                    first += count
        self._published |= ends

    def _grouped(self, records: Sequence[Outgoing]) -> dict[TopicPartition, list[Outgoing]]:
        groups: dict[tuple[str, int], list[Outgoing]] = {}
        name, partitions, limit = "", 1, self._options.max_record_bytes
        for record in records:
            if record.topic != name:
                name, partitions = record.topic, self._topic(record.topic).info.partitions
            partition = record.partition
            if partition is None:
                partition = crc32(record.key or b"") % partitions
            elif not 0 <= partition < partitions:
                raise Fatal("partition_unknown", f"topic {name} has {partitions} partitions, none is {partition}")
            if len(record.value or b"") + len(record.key or b"") > limit:
                raise PublishingBroken(
                    "record_too_large",
                    f"a record for topic {name} exceeds {limit} bytes",
                    hint="raise max_record_bytes of the broker",
                )
            try:
                groups[name, partition].append(record)
            except KeyError:
                groups[name, partition] = [record]
        return {TopicPartition(*place): group for place, group in groups.items()}

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """See `Broker.flush`. Always True: what `publish` took is durable."""
        return True

    def published(self) -> dict[TopicPartition, int]:
        """See `Broker.published`."""
        return dict(self._published)

    def subscribe(
        self,
        topics: Sequence[str],
        group: str,
        *,
        member: int = 0,
        members: int = 1,
        on_assign: Callable[[list[TopicPartition]], Mapping[TopicPartition, int]],
    ) -> EmbeddedSubscription:
        """See `Broker.subscribe`. Member i of n reads the partitions p with p % n == i; `group` has no meaning here."""
        return EmbeddedSubscription(LogFile(self._options.path), topics, (member, members), on_assign)

    def fetch(self, places: Mapping[TopicPartition, int]) -> dict[TopicPartition, Record]:
        """See `Broker.fetch`."""
        lows = {place: self._topic(place.topic).partition_ids[place.partition] << PARTITION_SHIFT for place in places}
        statement = "select id, count, data, time from batches where id between ? and ? order by id desc limit 1"
        found: dict[TopicPartition, Record] = {}
        with sqlite.read_transaction(self._log.connection(), self._options.path) as connection:
            for place, offset in places.items():
                row = connection.execute(statement, (lows[place], lows[place] | offset)).fetchone()
                if row and (records := decode_batch(place.topic, place.partition, StoredBatch(*row), offset)):
                    found[place] = records[0]
        return found

    def start_offsets(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """See `Broker.start_offsets`."""
        return self._bounds(topics, "start_offset")

    def end_offsets(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """See `Broker.end_offsets`."""
        return self._bounds(topics, "next_offset")

    def _bounds(self, topics: Iterable[str], column: str) -> dict[TopicPartition, int]:
        statement = f"select partition, {column} from partitions p join topics t on t.number = p.topic where t.name = ?"
        bounds: dict[TopicPartition, int] = {}
        with sqlite.read_transaction(self._log.connection(), self._options.path) as connection:
            for topic in topics:
                rows = connection.execute(statement, (topic,)).fetchall()
                if not rows:
                    raise _missing(topic)
                bounds |= {TopicPartition(topic, partition): offset for partition, offset in sorted(rows)}
        return bounds

    def retain(self, lowest: Mapping[TopicPartition, int], keep_seconds: float) -> None:
        """See `Broker.retain`. Whole batches go, oldest first; their space in the file is used again."""
        before = int((time.time() - keep_seconds) * 1000)
        existing = self.topics()
        for place, offset in lowest.items():
            if place.topic in existing:
                low = self._topic(place.topic).partition_ids[place.partition] << PARTITION_SHIFT
                while self._delete_some(low, offset, before):
                    pass

    def _delete_some(self, low: int, offset: int, before: int) -> bool:
        """Delete the oldest batches that end at or below `offset`; True when there may be more."""
        with sqlite.write_transaction(self._log.connection(), self._log.lock) as connection:
            rows = connection.execute(
                "select id, count, time from batches where id between ? and ? order by id limit ?",
                (low, low | ((1 << PARTITION_SHIFT) - 1), _RETAIN_BATCHES),
            ).fetchall()
            start = last = -1
            for id_, count, written in rows:
                if id_ - low + count > offset or written >= before:
                    break
                start, last = id_ - low + count, id_
            if start < 0:
                return False
            connection.execute("delete from batches where id between ? and ?", (low, last))
            connection.execute("update partitions set start_offset = ? where id = ?", (start, low >> PARTITION_SHIFT))
        return len(rows) == _RETAIN_BATCHES and last == rows[-1][0]

    def close(self) -> None:
        """See `Broker.close`."""
        self._log.close()

    def _topic(self, name: str) -> _Topic:
        """The topic as this object first saw it: partition ids are never used again, so a re-created topic shows."""
        if name not in self._topics:
            connection = self._log.connection()
            with sqlite.translated(self._options.path):
                rows = connection.execute(
                    "select t.id, t.partitions, p.id from topics t join partitions p on p.topic = t.number"
                    " where t.name = ? order by p.partition",
                    (name,),
                ).fetchall()
            if not rows:
                raise _missing(name)
            info = TopicInfo(name, rows[0][0], rows[0][1], self._options.max_record_bytes)
            self._topics[name] = _Topic(info, [row[2] for row in rows])
        return self._topics[name]


def _missing(topic: str) -> Fatal:
    return Fatal("topic_missing", f"there is no topic {topic}", hint="topics are created when a source is captured")


def _recreated(topic: str) -> Fatal:
    return Fatal(
        "topic_recreated",
        f"topic {topic} was deleted or created again while it was in use",
        hint="run `sync-hub recover` for its source",
    )


def network_file_system(path: Path, mounts: str) -> str:
    """The type of the network file system that holds `path`, or nothing; `mounts` is what /proc/self/mounts says.

    SQLite's write-ahead log needs memory shared between the processes, which no network file system has.
    """
    folder = path.resolve().parent
    best, kind = -1, ""
    for _, point, kind_here, *_ in (line.split() for line in mounts.splitlines()):
        mount = Path(point.replace("\\040", " "))
        if folder.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), kind_here
    return kind if kind in _NETWORK_FILE_SYSTEMS else ""
