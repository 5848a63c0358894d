"""Chunks of existing rows beside the log: which rows a transaction touched that the chunk's snapshot did not see.

A commit can be streamed, published and acknowledged long before a SELECT sees it, for example while it waits for a
synchronous standby. So a chunk is told apart from the log by transaction ids, never by log positions alone. Pure.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

from msgspec import Struct

from sync_hub.model import ChunkRequest

RECENT_KEYS: Final = 100_000
"""More keys of one transaction and table than this are remembered as "all"."""


class Visible(Struct, frozen=True):
    """What a statement saw: pg_current_snapshot() with 64-bit transaction ids."""

    xmin: int
    xmax: int
    running: frozenset[int]

    def sees(self, xid: int) -> bool:
        """Whether the effects of this (64-bit) transaction are visible, if it committed."""
        return xid < self.xmax and xid not in self.running

    def widen(self, xid: int) -> int:
        """The 64-bit form of a 32-bit transaction id, taken from within two billion of this snapshot."""
        wide = (self.xmax & ~0xFFFFFFFF) | xid
        if wide - self.xmax > 0x7FFFFFFF:
            wide -= 1 << 32
        elif self.xmax - wide > 0x7FFFFFFF:
            wide += 1 << 32
        return wide


def parse_snapshot(text: str) -> Visible:
    """`10:20:10,14` as a value."""
    xmin, xmax, running = text.split(":")
    return Visible(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))


def _hash(key: Hashable) -> int:
    """64 bits of a key. Of its text, because hashes of numbers collide: hash(-1) is hash(-2)."""
    return hash(repr(key))


class Chunk:
    """What a request found, waiting for its mark. `last_key` None: no rows follow.

    `rows` has None for a key that was asked for and has no row; `asked` has the keys of a request that named them.
    """

    def __init__(
        self,
        request: ChunkRequest,
        visible: Visible,
        rows: dict[Hashable, dict[str, Any] | None],
        last_key: tuple[str, ...] | None = None,
        asked: Mapping[Hashable, dict[str, Any]] | None = None,
    ) -> None:
        self.request = request
        self.table = request.table
        self.visible = visible
        self.rows = rows
        self.last_key = last_key
        self.asked = asked or {}
        self.touched: list[dict[str, Any]] = []

    def leave_out(self, key: Hashable) -> None:
        """The log itself brings the newest state of this key."""
        del self.rows[key]
        if key in self.asked:
            self.touched.append(self.asked[key])


class Chunks:
    """Outstanding chunks, and the keys of transactions that a later snapshot may not see yet."""

    def __init__(self) -> None:
        self._chunks: dict[str, Chunk] = {}
        self._recent: dict[int, dict[str, set[int] | None]] = {}
        self._reference: Visible | None = None
        self._newest_xid = (0, 0)
        self.discarded: list[tuple[str, int]] = []
        self.tracking = False
        """Whether transactions are remembered."""

    def track(self, visible: Visible) -> None:
        """Start to remember."""
        self._reference = visible
        self.tracking = True

    def forget(self) -> None:
        """Stop remembering; chunks still outstanding are given up."""
        self.discard_all()
        self.tracking = False
        self._recent.clear()

    def seen(self, visible: Visible) -> None:
        """Forget transactions that every later snapshot sees."""
        self._reference = visible
        self._newest_xid = (0, 0)
        self._recent = {xid: keys for xid, keys in self._recent.items() if not visible.sees(xid)}

    def add(self, mark: str, chunk: Chunk) -> None:
        """Take a chunk whose mark was written; rows that `recent` transactions touched are left out."""
        self.seen(chunk.visible)
        for tables in self._recent.values():
            if chunk.table not in tables:
                continue
            hashes = tables[chunk.table]
            if hashes is None:
                self._give_up(chunk)
                return
            for key in [key for key in chunk.rows if _hash(key) in hashes]:
                chunk.leave_out(key)
        self._chunks[mark] = chunk

    def touch(self, xid: int, table: str, key: Hashable) -> None:
        """A streamed transaction wrote this key."""
        wide = self._widened(xid)
        tables = self._recent.get(wide)
        if tables is None:
            tables = self._recent[wide] = {}
        hashes = tables.setdefault(table, set())
        if hashes is not None:
            hashes.add(_hash(key))
            if len(hashes) > RECENT_KEYS:
                tables[table] = None
        for chunk in self._chunks.values():
            if chunk.table == table and key in chunk.rows and not chunk.visible.sees(wide):
                chunk.leave_out(key)

    def truncated(self, xid: int, table: str) -> None:
        """A streamed transaction emptied the table: chunks of it are worthless, as are those it is not visible to."""
        self._recent.setdefault(self._widened(xid), {})[table] = None
        self.discard(table)

    def discard(self, table: str) -> None:
        """Give up the outstanding chunks of a table: they must be asked for again."""
        for mark in [mark for mark, chunk in self._chunks.items() if chunk.table == table]:
            self._give_up(self._chunks.pop(mark))

    def discard_all(self) -> None:
        """Give up all outstanding chunks: the log was lost before their marks came."""
        for table in {chunk.table for chunk in self._chunks.values()}:
            self.discard(table)

    def take(self, mark: str) -> Chunk | None:
        """The chunk whose mark has come; None for marks of others."""
        return self._chunks.pop(mark, None)

    def take_discarded(self) -> tuple[tuple[str, int], ...]:
        """What was given up since the last call."""
        discarded, self.discarded = tuple(self.discarded), []
        return discarded

    def _give_up(self, chunk: Chunk) -> None:
        self.discarded.append((chunk.request.run, chunk.request.number))

    def _widened(self, xid: int) -> int:
        if self._newest_xid[0] != xid and self._reference is not None:
            self._newest_xid = (xid, self._reference.widen(xid))
        return self._newest_xid[1]
