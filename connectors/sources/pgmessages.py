"""What pgoutput's messages say, as values.

Protocol: "Logical Replication Message Formats" in PostgreSQL's manual.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from connectors.sources.pgtuple import Unchanged
from sync_hub.model import Operation


class RelationColumn(Struct, frozen=True):
    """A column in a Relation message; `key`: part of the replica identity."""

    name: str
    type_oid: int
    modifier: int
    key: bool


class Relation(Struct, frozen=True):
    """A table as it was when the following changes were made; `identity` is `d n f i` as in pg_class."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]


class Begin(Struct, frozen=True, gc=False):
    """A transaction that committed at `lsn`; `committed_at` in microseconds since 1970 UTC."""

    lsn: int
    committed_at: int
    xid: int


class Commit(Struct, frozen=True, gc=False):
    """The end of the transaction."""

    lsn: int
    end_lsn: int
    committed_at: int


class Origin(Struct, frozen=True, gc=False):
    """The replication origin of the transaction."""

    lsn: int
    name: str


class Type(Struct, frozen=True, gc=False):
    """A type that is not built in, named before the relation that uses it."""

    oid: int
    schema: str
    name: str


class Insert(Struct, frozen=True, gc=False):
    """A new row."""

    relation: int
    new: dict[str, Any]


class Update(Struct, frozen=True, gc=False):
    """A changed row. `old` is None, the old key (`whole` False) or the old row; `unchanged` are missing in `new`."""

    relation: int
    old: dict[str, Any] | None
    whole: bool
    new: dict[str, Any]
    unchanged: tuple[str, ...]


class Rows(Struct, frozen=True, gc=False):
    """The same as an `Insert` (create), `Update` or `Delete` of each row, in order.

    A row is the new one, and nothing is known of the old one; of a removed row it is the key. `unchanged` are the
    columns that changed rows lack, by their places among `rows`.
    """

    relation: int
    operations: list[Operation]
    rows: list[dict[str, Any]]
    unchanged: Unchanged = {}


class Delete(Struct, frozen=True, gc=False):
    """A removed row: its key, or under REPLICA IDENTITY FULL (`whole`) all of it."""

    relation: int
    old: dict[str, Any]
    whole: bool


class Truncate(Struct, frozen=True):
    """Several tables emptied at once."""

    relations: tuple[int, ...]


class Message(Struct, frozen=True, gc=False):
    """What pg_logical_emit_message wrote."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


class Skipped(Struct, frozen=True, gc=False):
    """A change of a relation that the receiver does not want: not decoded."""


LogMessage = Begin | Commit | Origin | Relation | Type | Insert | Update | Rows | Delete | Truncate | Message | Skipped
