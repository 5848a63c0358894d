"""The values that flow through the hub. Frozen, without behaviour, known to everything; they depend on nothing."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from msgspec import UNSET, Struct

Operation = Literal["create", "update", "delete", "read", "truncate"]
Severity = Literal["error", "warning", "info"]

ABSENT = UNSET
"""In a row of values: the event did not carry this column. Never the same as NULL (None)."""


class Finding(Struct, frozen=True):
    """One result of a preflight check. `path` says where: `sources.erp`, `mappings/customer.yaml:12:5`."""

    code: str
    severity: Severity
    path: str
    message: str
    hint: str = ""
    command: str = ""


class Column(Struct, frozen=True):
    """A column as the catalog has it.

    `type` decides the wire format and is the base type in PostgreSQL's spelling (`numeric(12,2)`, `timestamp with time
    zone`, `text[]`): domains are resolved, enumerations are `enum`. `declared` is the type as the catalog spells it.
    `carried` is False where the log cannot carry the column (virtual generated columns, for example).
    """

    name: str
    type: str
    nullable: bool = True
    declared: str = ""
    default: bool = False
    generated: bool = False
    carried: bool = True


class Table(Struct, frozen=True):
    """A table of a source or target as its catalog has it.

    `schema` is empty where the system has none (SQLite). `key` is what events are keyed by on a source (replica
    identity index, else primary key) and the primary key on a target; `unique` lists every unique constraint or index
    usable for an upsert, the primary key included. `identity` changes when the table is replaced by another of the
    same name (PostgreSQL: its OID).
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    identity: str = ""
    rows_estimated: int = 0

    @property
    def full_name(self) -> str:
        """`schema.name`, or the name alone where there is no schema."""
        return f"{self.schema}.{self.name}" if self.schema else self.name


class Transaction(Struct, frozen=True, gc=False, rename={"table_order": "data_collection_order"}):
    """The source's transaction of an event; `total_order` counts its events, `table_order` those of one table.

    In JSON its fields have Debezium's names.
    """

    id: str = ""
    total_order: int = 0
    table_order: int = 0


class SourceInfo(Struct, frozen=True, gc=False, kw_only=True):
    """What the events of one table in one transaction have in common: the envelope's `source` block.

    `name` is the source's. `committed_at` is in microseconds since 1970 UTC. `lsn` is the commit's place in the log.
    """

    name: str
    schema: str
    table: str
    committed_at: int
    snapshot: bool = False
    database: str = ""
    lsn: int = 0
    connector: str = ""
    origin: str = ""


class ChangeEvent(Struct, frozen=True, gc=False):
    """One row change, whole.

    `key`, `before` and `after` map column names to wire values (`design.md` §6: numbers and booleans native, the rest
    text). `unchanged` names columns that the log did not carry and that could not be fetched: they are missing from
    `after`. `fetched` names columns read by key afterwards. `version` sorts in commit order within one source;
    `id` is the version without its epoch. `old_key` and `new_key` tie the two events of a key change. `pipelines` is
    set on snapshot rows: only these take the row. `check` names the verification of a probe: the row as it is at this
    place (a delete: there is none), to be compared, not written, unless `repair` says that what differs is to be
    written.
    """

    source: SourceInfo
    operation: Operation
    key: dict[str, Any] | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    version: str
    transaction: Transaction | None = None
    unchanged: tuple[str, ...] = ()
    fetched: tuple[str, ...] = ()
    old_key: dict[str, Any] | None = None
    new_key: dict[str, Any] | None = None
    pipelines: tuple[str, ...] = ()
    check: str = ""
    repair: bool = False
    correlation_id: str = ""
    traceparent: str = ""
    actor: str = ""
    oversize_bytes: int = 0

    @property
    def id(self) -> str:
        """The version without its epoch: the same however often and under whichever epoch the change is published."""
        return self.version[VERSION_EPOCH_DIGITS + 1 :]


VERSION_EPOCH_DIGITS = 12


def version_prefix(epoch: int, lsn: int) -> str:
    """Everything of a version that is constant within one transaction; `epoch` in UTC milliseconds, `lsn` 64 bits."""
    return f"{epoch:012x}-{lsn:016x}-"


def version_suffix(ordinal: int, sub_ordinal: int = 0) -> str:
    """The part of a version that counts the messages of one relation within the transaction."""
    return f"{ordinal:010x}{sub_ordinal:02x}"


class Heartbeat(Struct, frozen=True):
    """A heartbeat that came back through the log: everything committed before `source_time` (seconds, UTC) was read."""

    position: str
    source_time: float


class ChunkRequest(Struct, frozen=True):
    """Existing rows to read for some pipelines: a range, or the rows with `keys` (event keys).

    A range is the next `rows` rows by key after `after`, of which those are read that fulfil `where`, a condition in
    the source's SQL: a chunk takes no longer because few do. With `check` every key is answered, also when there is no
    row, and the answers are probes of that verification.
    """

    run: str
    table: str
    number: int
    pipelines: tuple[str, ...]
    after: tuple[Any, ...] | None = None
    rows: int = 0
    keys: tuple[dict[str, Any], ...] = ()
    where: str = ""
    check: str = ""
    repair: bool = False


class ChunkRead(Struct, frozen=True):
    """What a chunk holds before its mark has come. `last_key` None: no rows follow.

    `impossible` are keys of a probe, as given, that no row of the table can have: the chunk says nothing about them.
    `answered`: so many of the keys that were asked for, from the first, the chunk answers for; the others are to be
    asked for again, because their rows together are too large.
    """

    rows: int
    size_bytes: int
    last_key: tuple[Any, ...] | None
    impossible: tuple[dict[str, Any], ...] = ()
    answered: int = 0


class RangeSum(Struct, frozen=True):
    """A checksum over the rows of a key range: equal `rows` and `digest` of one `kind` mean equal values.

    Unequal ones mean nothing yet. `last_key` is the range's last key, None when no rows follow.
    """

    kind: str
    rows: int
    digest: str
    last_key: tuple[Any, ...] | None = None


class ChunkDone(Struct, frozen=True):
    """All rows of chunk `number` of `table` are among the events so far. `last_key` None: it was the last.

    `touched` are the keys among those asked for that were left out, because the log itself brings their newest state.
    """

    run: str
    table: str
    number: int
    rows: int
    last_key: tuple[Any, ...] | None
    touched: tuple[dict[str, Any], ...] = ()


class SourceBatch(Struct, frozen=True):
    """What one `Source.read` returns, in commit order.

    `position` is where to resume once all events so far are durable; None while inside a transaction.
    `discarded` lists (run, number) of chunks that must be asked for again.
    """

    events: list[ChangeEvent]
    position: str | None = None
    heartbeat: Heartbeat | None = None
    chunks: tuple[ChunkDone, ...] = ()
    discarded: tuple[tuple[str, int], ...] = ()


class Outgoing(Struct, frozen=True, gc=False):
    """A record to publish. `partition` None: chosen by the key. `headers` None: none."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None = None
    partition: int | None = None


class Record(Struct, frozen=True, gc=False):
    """A record as read from a topic. `timestamp_ms` is the time of publishing."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None
    timestamp_ms: int


class TopicInfo(Struct, frozen=True):
    """A topic at the broker. `id` is 16 bytes as lower-case hex and changes when the topic is created again."""

    name: str
    id: str
    partitions: int
    max_record_bytes: int


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Offset(Struct, frozen=True):
    """One row of `sync_hub_offsets`: how far one pipeline has applied one partition (`guarantees.md` §5)."""

    pipeline: str
    topic: str
    partition: int
    topic_id: str
    next_offset: int
    last_version: str
    mapping_hash: str
    parked_seq: int = 0
    barrier: str = ""

    @property
    def place(self) -> TopicPartition:
        """Its partition in the broker."""
        return TopicPartition(self.topic, self.partition)


class RowChange(Struct, frozen=True, gc=False):
    """One change of one target row.

    `upsert`: `values` are whole, aligned with the mapping's columns. `update`: as upsert, with ABSENT where the event
    lacked an input: never inserts. `delete`: `key` alone; `new_key` set when the row's key changed, the delete then
    spares a row whose key the target finds equal to it. `mark`: `on_delete: {set: …}`, `values` are aligned with the
    mapping's `delete_columns`. `operation` is what the event of an `upsert` did at the source, a hint of whether the
    target has the row, empty where nobody can tell: results do not depend on it.
    """

    kind: Literal["upsert", "update", "delete", "mark"]
    key: tuple[Any, ...]
    values: tuple[Any, ...] = ()
    new_key: tuple[Any, ...] | None = None
    operation: Operation | Literal[""] = ""


class TableWrite(Struct, frozen=True):
    """All changes of one mapping in one target transaction: at most one change a key, in no particular order.

    `columns` are all that the mapping writes, the key's included; `mark_columns` those of `on_delete: set`.
    `shared` means that other mappings own columns of the same rows: a delete then clears this mapping's columns and its
    presence flag, and the row goes when no flag is left. `truncate` removes all of this mapping's rows first, under
    the same rule; `mark_values` says with what when `on_delete` is set, `keep` that nothing is removed.
    """

    pipeline: str
    table: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    changes: list[RowChange]
    mark_columns: tuple[str, ...] = ()
    shared: bool = False
    truncate: Literal["", "delete", "mark", "keep"] = ""
    mark_values: tuple[Any, ...] = ()


ParkedState = Literal["parked", "waiting", "superseded", "applied", "discarded"]


class Parked(Struct, frozen=True):
    """A record that a pipeline could not apply, with its error (`guarantees.md` §6): one row of `sync_hub_parked`.

    `seq` is unique within its partition and rises. `key` is the event's key as JSON. `parked` and `waiting` (for
    another row) are open, the others closed. `next_at`: when it is tried again, None: it waits for a person. Times
    are seconds since 1970. `record_key`, `record_value` and `record_headers` are the record in the topic, empty where
    they were not asked for; `record_bytes` is then how large the value is. `reason` says why it was discarded.
    """

    pipeline: str
    topic: str
    partition: int
    seq: int
    offset: int
    key: str
    version: str
    state: ParkedState
    code: str
    message: str
    sqlstate: str = ""
    hint: str = ""
    attempts: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    next_at: float | None = None
    correlation_id: str = ""
    reason: str = ""
    closed_at: float | None = None
    record_key: bytes | None = None
    record_value: bytes | None = None
    record_headers: str = ""
    record_bytes: int = 0

    @property
    def is_open(self) -> bool:
        """Whether its key still waits for it."""
        return self.state in ("parked", "waiting")

    @property
    def has_record(self) -> bool:
        """Whether what was in the topic was read with it."""
        return self.record_key is not None or self.record_value is not None

    @property
    def id(self) -> str:
        """What people call it."""
        return f"{self.pipeline}:{self.partition}-{self.seq}"


class RowBlock(Struct, frozen=True):
    """Rows as bulk loading carries them, which nobody looks into: `kind` names the form that `data` has.

    `last_key` is the last row's key as the source spells it, None when no rows follow.
    """

    kind: str
    data: list[bytes]
    rows: int
    last_key: tuple[str, ...] | None


class SinkBatch(Struct, frozen=True):
    """One target transaction: the rows, and for every partition written for its offset row before and after.

    `parked` are rows of `sync_hub_parked` as they are from now on: new ones, and known ones that changed.
    """

    offsets: list[tuple[Offset, Offset]]
    writes: list[TableWrite]
    parked: list[Parked] = []
