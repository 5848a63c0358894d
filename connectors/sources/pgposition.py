"""Where a PostgreSQL log was read up to, and the proof that a server continues exactly there. Pure."""

from __future__ import annotations

import time
import zlib
from typing import Any, Final

import msgspec
from msgspec import Struct

from sync_hub.errors import Fatal
from sync_hub.model import Table

POSITION_UNPROVEN: Final = "position_unproven"


class Captured(Struct, frozen=True):
    """A captured table as the position remembers it.

    Its OID, fingerprints of its columns in the log and of its partitions, its entry in the publication, and why its
    rows are to be loaded again although the log goes on. Empty: not known, has none, nothing is the matter.
    """

    oid: int
    columns: str = ""
    partitions: str = ""
    published: str = ""
    changed: str = ""


class Position(Struct, frozen=True):
    """The last wholly published transaction, and whose log it is in.

    `lsn` is the transaction's commit LSN, `committed_at` in microseconds. `xid` 0 means that nothing was published
    yet: reading starts where the slot stands, which must then be exactly `lsn`. `tables` are those captured up to it,
    through the publication whose version is `publication`.
    """

    system: str
    timeline: int
    lsn: str
    xid: int
    committed_at: int
    epoch: int
    tables: dict[str, Captured]
    publication: str = ""

    @property
    def lsn_number(self) -> int:
        """`lsn` as a number."""
        return parse_lsn(self.lsn)


class Server(Struct, frozen=True):
    """What IDENTIFY_SYSTEM says: the cluster, the timeline it is on now, and where its log ends."""

    system: str
    timeline: int
    end: int


class Slot(Struct, frozen=True):
    """A replication slot as pg_replication_slots shows it. `confirmed` is confirmed_flush_lsn, 0 when not set."""

    name: str
    plugin: str
    database: str
    confirmed: int
    status: str
    active_pid: int | None
    two_phase: bool


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Position).decode


def parse_lsn(text: str) -> int:
    """`16/B374D848` as a number."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def format_lsn(lsn: int) -> str:
    """A log position as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def dump(position: Position) -> str:
    """The text that the hub stores."""
    return _encode(position).decode()


def load(text: str, command: str) -> Position:
    """The position in a stored text. Raises `Fatal` for what is none."""
    try:
        position = _decode(text)
        parse_lsn(position.lsn)
    except (msgspec.DecodeError, ValueError) as error:
        raise Fatal(
            "position_unreadable",
            f"the stored position is not one of this source: {error}",
            hint="was the source's type changed?",
            command=command,
        ) from error
    return position


def next_epoch(stored: int) -> int:
    """A higher epoch: the time in UTC milliseconds, or one more than the stored where clocks went back."""
    return max(stored + 1, time.time_ns() // 1_000_000)


def prove_slot(position: Position, server: Server, slot: Slot | None, name: str, command: str) -> None:
    """Raise `Fatal` when the slot or server cannot be the one that the position is from.

    Necessary, not sufficient: the log must also send the position's transaction again.
    """
    reason = _unproven(position, server, slot, name)
    if reason:
        raise Fatal(
            POSITION_UNPROVEN,
            f"it cannot be proven that the log continues where reading stopped ({position.lsn}): {reason}",
            hint="changes may be lost: recovery makes a new slot and loads all its pipelines again",
            command=command,
        )


def _unproven(position: Position, server: Server, slot: Slot | None, name: str) -> str:
    if server.system != position.system:
        return f"the server is another one (system identifier {server.system}, not {position.system})"
    if server.timeline < position.timeline:
        return f"the server is on timeline {server.timeline}, reading had reached {position.timeline}"
    if server.end < position.lsn_number:
        return f"the server's log ends at {format_lsn(server.end)}: it lacks what was published last"
    if slot is None:
        return f"the replication slot {name} is gone"
    if slot.status == "lost":
        return f"the replication slot {name} has lost log that is still needed (max_slot_wal_keep_size)"
    if slot.confirmed > position.lsn_number:
        return f"somebody else has advanced the replication slot {name} to {format_lsn(slot.confirmed)}"
    if position.xid == 0 and slot.confirmed != position.lsn_number:
        return f"the replication slot {name} stands at {format_lsn(slot.confirmed)}: it was created again"
    return ""


def fingerprint(columns: Any) -> str:
    """Eight hexadecimal digits that change when the columns of a Relation message do."""
    return f"{zlib.crc32(_encode(columns)):08x}"


def replaced(tables: dict[str, Table], known: dict[str, Captured]) -> str:
    """The first captured table that is no longer the one that was captured, as one line; empty when all are."""
    for name, table in tables.items():
        before = known.get(name)
        if before is not None and str(before.oid) != table.identity:
            return f"{name} is another table than before (OID {table.identity}, not {before.oid})"
    return ""
