"""The three doors to the outside: `Source`, `Broker`, `Sink`. The docstring of each method is its contract.

All methods block. Every method may raise `Unavailable` (try again later) and `Fatal` (a person is needed). A connector
belongs to one thread; what may be called from another thread says so. Each connector class has an inner pydantic model
`Options` (found through the registry) and is constructed from `(name, options, hub)` without touching the network:
`name` is the source's or target's name (`broker` for the broker), `hub` the hub's name, for slots and groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from pydantic import BaseModel

from sync_hub.model import (
    ChunkRead,
    ChunkRequest,
    Column,
    Finding,
    Offset,
    Outgoing,
    Parked,
    RangeSum,
    Record,
    RowBlock,
    SinkBatch,
    SourceBatch,
    Table,
    TopicInfo,
    TopicPartition,
)


class Source(Protocol):
    """A database whose changes are captured."""

    Options: ClassVar[type[BaseModel]]

    def check(self) -> list[Finding]:
        """Preflight: everything that would stop capture or harm the application, without changing anything."""
        ...

    def tables(self) -> list[str]:
        """Full names of the tables to capture, as configured; patterns resolved against the catalog."""
        ...

    def describe(self, table: str) -> Table | None:
        """The table in the catalog now; None when it does not exist."""
        ...

    def setup_sql(self) -> str:
        """What a database administrator runs once, as a script: role, grants, publication, slot."""
        ...

    def open(self, position: str | None, *, raise_epoch: bool = False) -> str:
        """Connect to the log, creating what it needs, and return the position to store before the first `read`.

        With a position, nothing is delivered before the log has proven that it continues exactly there; otherwise
        `Fatal`. With None, reading starts now (or where an unused slot stands): existing rows need a snapshot.
        `raise_epoch` gives all further versions a higher epoch: asked for after a possible hole in publishing.
        """
        ...

    def read(self, timeout_seconds: float) -> SourceBatch:
        """The next events in commit order; empty after the timeout. Ends at a commit unless one is very large.

        When it raises, the log is to be opened anew: what it had taken from the server is gone with the error.
        """
        ...

    def acknowledge(self, position: str) -> None:
        """Everything up to `position` is durable at the broker and stored: the source may forget it. Monotonic."""
        ...

    def keep_alive(self) -> None:
        """Keep the connection from timing out while the caller is busy. Cheap: call it often. Never acknowledges."""
        ...

    def heartbeat(self) -> None:
        """Write one heartbeat to the log now; it comes back through `read`."""
        ...

    def track(self, active: bool) -> None:
        """Start or stop to remember recent transactions; must be on before `fence` and until the last chunk is done."""
        ...

    def fence(self) -> None:
        """Take the fence: from now on `fence_passed` tells whether every transaction begun before is visible."""
        ...

    def fence_passed(self) -> str:
        """Empty when chunks may be read; else who blocks, as one line for people."""
        ...

    def request_chunk(self, request: ChunkRequest) -> ChunkRead:
        """Read a chunk and emit its mark; the next one may be asked for at once. Blocks while it is read.

        The rows come through `read` when the mark does, without those touched meanwhile, and with them a `ChunkDone`.
        A chunk that had to be given up comes back as `discarded`. A range may have fewer rows than were asked for.
        Raises `ConfigError` when `where` is no condition of this table.
        """
        ...

    def read_rows(
        self, table: str, *, columns: Sequence[str] | None = None, keys: Sequence[Mapping[str, Any]] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Rows as they are now, as wire values, in key order, streamed; all of them, or those with these keys."""
        ...

    def read_page(
        self, table: str, after: tuple[Any, ...] | None, rows: int, *, share: float = 1.0
    ) -> tuple[list[dict[str, Any]], tuple[Any, ...] | None]:
        """The next `rows` rows by key after `after` as they are now, and where the next page begins (None: no more).

        May return fewer rows. `share` below 1 leaves only about this share of the rows, chosen at random. One short
        statement on a connection of its own that stays open until `close`.
        """
        ...

    def event_keys(self, table: str, keys: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | None]:
        """These keys, whatever spelling their values have, as events spell them; None for what no row can have."""
        ...

    def checksum(self, table: str, columns: Sequence[str], after: tuple[Any, ...] | None, rows: int) -> RangeSum | None:
        """The sum over these columns of the next `rows` rows by key after `after`, made by the source itself.

        None where it cannot make one over such types, or where it would not order keys as a target does.
        """
        ...

    def take_changed(self) -> dict[str, str]:
        """Tables whose rows must be loaded again although the log goes on, with the reason; each is told once.

        Columns or partitions changed, or the table was not captured up to the position given to `open`. Until this is
        called they are part of every position, so nothing is forgotten by a crash: call it, have the pipelines of these
        tables loaded again in the same turn, and only then store a position that was read later.
        """
        ...

    def forget(self, position: str | None) -> None:
        """Let go of what the log keeps for this hub: the next `open` begins anew, without a position.

        Everything it reads then is newer than anything that was read up to `position`. Safe to call twice.
        """
        ...

    def status(self) -> dict[str, Any]:
        """Figures for health: `position`, `retained_log_bytes`, `retained_log_limit_bytes`, `slot_status`."""
        ...

    def close(self) -> None:
        """Let go of connections; what the log keeps for this hub stays. Safe to call twice."""
        ...


class Subscription(Protocol):
    """A reader of partitions. Offsets are the caller's: nothing is committed at the broker."""

    def assignment(self) -> list[TopicPartition]:
        """The partitions this member reads now. Changes only inside `poll`."""
        ...

    def poll(self, timeout_seconds: float, max_records: int) -> list[Record]:
        """The next records, each partition in offset order without holes; empty after the timeout.

        A change of assignment is announced through the callback given to `subscribe`, inside this call and before
        records of the new assignment. Raises `Fatal` when an asked-for offset no longer exists.
        """
        ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Continue this assigned partition at `offset`."""
        ...

    def close(self) -> None:
        """Leave the group. Safe to call twice."""
        ...


class Broker(Protocol):
    """Durable, partitioned, ordered logs with dense offsets."""

    Options: ClassVar[type[BaseModel]]

    def check(self) -> list[Finding]:
        """Preflight: reachable, allowed, and set up so that nothing can be lost."""
        ...

    def create_topics(self, names: Sequence[str]) -> dict[str, TopicInfo]:
        """Make sure that these topics exist, and tell about each; existing ones stay as they are."""
        ...

    def topics(self) -> dict[str, TopicInfo]:
        """All topics, by name, the broker's internal ones left out."""
        ...

    def publish(self, records: Sequence[Outgoing]) -> None:
        """Hand over records in this order; order per partition is kept. Blocks while too much is unacknowledged.

        No records at all: get ready, so that the first ones need not wait. May return before anything is durable.
        Raises `PublishingBroken` when an earlier record failed: all that was not yet durable is then given up.
        """
        ...

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Wait until all published records are durable: True; False when the time was too short.

        Raises `PublishingBroken`, as `publish` does.
        """
        ...

    def published(self) -> dict[TopicPartition, int]:
        """For each partition written by this object: the offset after its last durable record."""
        ...

    def subscribe(
        self,
        topics: Sequence[str],
        group: str,
        *,
        member: int = 0,
        members: int = 1,
        on_assign: Callable[[list[TopicPartition]], Mapping[TopicPartition, int]],
    ) -> Subscription:
        """Read these topics as one member of a group; each partition has one reader in the group at a time.

        `on_assign` is called with the partitions newly assigned and answers where to start each. Brokers with
        groups of their own balance by themselves; others give member i of n every n-th partition of a topic, whatever
        other topics it reads.
        """
        ...

    def fetch(self, places: Mapping[TopicPartition, int]) -> dict[TopicPartition, Record]:
        """The one record at each of these offsets, asked for together; without those that are gone or not yet there."""
        ...

    def start_offsets(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """For each partition of these topics, the lowest offset still there."""
        ...

    def end_offsets(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """For each partition of these topics, the offset that the next record will get."""
        ...

    def retain(self, lowest: Mapping[TopicPartition, int], keep_seconds: float) -> None:
        """Delete what is older than `keep_seconds` and below these offsets; a partition not named keeps everything.

        Brokers that retain by their own settings do nothing.
        """
        ...

    def close(self) -> None:
        """Let go of connections without waiting for what is unacknowledged. Safe to call twice."""
        ...


class Sink(Protocol):
    """A target that receives."""

    Options: ClassVar[type[BaseModel]]

    def check(self, tables: Sequence[str] = ()) -> list[Finding]:
        """Preflight: reachable, privileges, space for the hub's own tables.

        `tables` are those that mappings write to; one that does not exist is no finding here.
        """
        ...

    def describe(self, table: str) -> Table | None:
        """The table in the target's catalog now; None when it does not exist."""
        ...

    def open(self) -> None:
        """Connect, and create the hub's own tables where they are missing."""
        ...

    def create(self, table: Table) -> str:
        """Create a missing target table with its key; return the DDL that ran. Types are PostgreSQL's, translated."""
        ...

    def add_columns(self, table: str, columns: Sequence[Column]) -> str:
        """Add those of these columns that the table has not; return the DDL that ran, empty when there is none to add.

        Added columns take NULL, which is what the rows that are there have in them. Types are as in `create`.
        """
        ...

    def share(self, table: str, mappings: Sequence[str]) -> None:
        """Add the presence flags of a table that several mappings write to, where missing."""
        ...

    def load_offsets(self, pipelines: Sequence[str]) -> list[Offset]:
        """The stored offsets of these pipelines, read in one snapshot."""
        ...

    def start_offsets(self, offsets: Sequence[Offset]) -> None:
        """Insert rows for partitions that have none yet, in one transaction; existing rows stay as they are."""
        ...

    def write(self, batch: SinkBatch) -> None:
        """Apply one batch in one transaction: first compare-and-set every offset row, then all rows, then commit.

        Raises `OffsetsMoved` (nothing was written) when an offset row is not as expected, `Rejected` (nothing was
        written) when the target refuses a row for good, `Unavailable` when it is not known or not now.
        """
        ...

    def read_rows(
        self,
        table: str,
        columns: Sequence[str],
        *,
        mapping: str = "",
    ) -> Iterator[tuple[Any, ...]]:
        """All rows as wire values in the order of `columns`, streamed.

        With `mapping`, only rows that are there for this mapping, where several share the table.
        """
        ...

    def find_parked(
        self, pipelines: Sequence[str], *, closed: bool = False, records: bool = False, seqs: Sequence[int] = ()
    ) -> list[Parked]:
        """Parked records of these pipelines, oldest first: the open ones, or the `closed` as well.

        `records`: with what was in the topic; without it `record_bytes` says how large its value is all the same.
        `seqs`: only those with one of these numbers.
        """
        ...

    def find_rows(
        self,
        table: str,
        columns: Sequence[str],
        key: Sequence[str],
        keys: Sequence[Sequence[Any]],
        *,
        mapping: str = "",
    ) -> list[tuple[Any, ...] | None]:
        """For each of `keys` the row whose `key` columns equal it, as a write would find it; None: there is none.

        Values and `mapping` are as in `read_rows`. A key with a value that is none of its column has no row.
        """
        ...

    def checksum(
        self,
        table: str,
        key: Sequence[str],
        columns: Sequence[str],
        between: tuple[tuple[Any, ...] | None, tuple[Any, ...] | None],
        *,
        mapping: str = "",
    ) -> RangeSum | None:
        """The sum over these columns of all rows whose key lies after the first and up to the second of `between`.

        None on a side is no bound; bounds are keys as a source of the same system gave them. None: it cannot.
        """
        ...

    def rows_between(
        self,
        table: str,
        columns: Sequence[str],
        key: Sequence[str],
        between: tuple[tuple[Any, ...] | None, tuple[Any, ...] | None],
        limit: int,
        *,
        mapping: str = "",
    ) -> list[tuple[Any, ...]] | None:
        """Rows in such a range, as `read_rows` gives them; if there are more than `limit`, any so many of them.

        None where it does not order keys of such types as a source does.
        """
        ...

    def as_stored(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """These wire values as they would be read back once written: rounded, padded or folded by the table's types.

        Raises `Rejected` when one is no value of its column's type.
        """
        ...

    def close(self) -> None:
        """Let go of connections. Safe to call twice."""
        ...


BLOCK_BYTES: Final = 8_000_000
"""About how large a block of rows may be: two of them are in memory, one that is written and the next one."""


@runtime_checkable
class BlockSource(Source, Protocol):
    """A source that can also hand out rows in the form that its own kind of database loads in bulk."""

    block_kind: str
    """The form of its blocks."""

    def read_block(self, table: str, columns: Sequence[str], after: tuple[Any, ...] | None, rows: int) -> RowBlock:
        """The next rows by key after `after` as they are now, durable at the source.

        `columns` include the key's. May return fewer rows: a block ends soon after `BLOCK_BYTES`, or is one row.
        """
        ...


@runtime_checkable
class BlockSink(Sink, Protocol):
    """A target that takes such blocks."""

    block_kind: str
    """The form of the blocks that it takes."""

    def write_block(self, moved: tuple[Offset, Offset], table: str, columns: Sequence[str], block: RowBlock) -> None:
        """Insert a block's rows, whose values are in the order of `columns`, in one transaction with an offset row.

        Compare-and-set and errors are as in `write`; `Rejected` also where a row of the same key is there.
        """
        ...
