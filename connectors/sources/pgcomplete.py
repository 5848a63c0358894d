"""Makes events whole: values that the log left out come from the row before, else from the table. Pure.

An unchanged TOAST value is left out of the log. An earlier event of the same row in the batch has it; else it is read
by key. What is read may be newer than its event (the newer event follows), but never older. While a transaction is not
yet visible to a select, nobody else can have changed its rows since: what the select shows under the key that the row
had before the transaction is what the transaction left unchanged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Struct

from connectors.sources.pgrows import key_identity
from connectors.sources.pgsnapshot import Visible
from sync_hub.model import ChangeEvent

Row = dict[str, Any]

ENTRIES_AT_ONCE: Final = 1000
PART_BYTES: Final = 4_000_000
"""How much of what the log left out is read, and handed out, at a time: it may be far more than the log's own bytes."""


class Incomplete(Struct, frozen=True):
    """An event (its place in the list, the 32-bit id of its transaction) whose row lacks columns.

    `cut`: the transaction began in an earlier batch, so what it did to the row before is not known.
    """

    place: int
    table: str
    xid: int
    columns: tuple[str, ...]
    cut: bool = False


class Fetched(Struct, frozen=True):
    """Rows by key identity, for the first `answered` of the keys asked for, and what the one select saw."""

    rows: dict[Hashable, Row]
    answered: int
    visible: Visible


Fetch = Callable[[str, Sequence[Row], Sequence[str], int], Fetched]
"""Reads (table, keys, columns); answers for fewer keys where the values come to more than so many bytes."""


class _Missing(Struct, frozen=True):
    """What is still to be read. `origin`: the row's key before the transaction; None: not known from this batch."""

    place: int
    table: str
    xid: int
    columns: tuple[str, ...]
    key: Row
    origin: Row | None
    creates: bool


class Completion:
    """The events of one batch, handed out in order as they become whole. `done`: all were."""

    def __init__(
        self,
        events: list[ChangeEvent],
        incomplete: Sequence[Incomplete],
        columns: Callable[[str], Sequence[str]],
        *,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._events = events
        self._columns = columns
        self._part_bytes = part_bytes
        self._handed = 0
        self._added: dict[int, int] = {}
        self._missing = deque(self._from_batch(incomplete))

    @property
    def done(self) -> bool:
        """Whether all events were handed out."""
        return not self._events

    @property
    def waits_for(self) -> str:
        """Which transaction the next event waits for, as text for people; empty: none."""
        return f"transaction {self._missing[0].xid}, which wrote {self._missing[0].table}," if self._missing else ""

    def advance(self, fetch: Fetch) -> list[ChangeEvent]:
        """The next whole events; none when a transaction must become visible first. What is gone stays absent."""
        if self._missing and sum(self._sizes(self._missing[0].place)) < self._part_bytes:
            self._fill(fetch)
        stop = self._missing[0].place if self._missing else self._handed + len(self._events)
        count = size = 0
        for added in self._sizes(stop):
            count, size = count + 1, size + added
            if size >= self._part_bytes:
                break
        part, self._events = self._events[:count], self._events[count:]
        self._handed += count
        return part

    def _sizes(self, stop: int) -> Iterator[int]:
        """How many bytes were added to each event that comes next, up to this place."""
        return (self._added.get(place, 0) for place in range(self._handed, stop))

    def _fill(self, fetch: Fetch) -> None:
        """Read for what comes next, the table that holds up first; leaves to the next time what is too much."""
        ahead = sum(self._sizes(self._handed + len(self._events)))  # of events behind one that still waits
        entries = list(islice(self._missing, ENTRIES_AT_ONCE if ahead < self._part_bytes else 1))
        budget = self._part_bytes
        filled: set[int] = set()
        for table in dict.fromkeys(entry.table for entry in entries):
            if budget <= 0:
                break
            of_table = [entry for entry in entries if entry.table == table]
            answers = _Answers(fetch, table, of_table, budget)
            for entry in of_table:
                row = answers.row(entry)
                if row is None or budget <= 0:
                    continue
                have = {name: row[name] for name in entry.columns if name in row}
                left = tuple(name for name in entry.columns if name not in have)
                budget -= self._add(entry.place, have, entry.table, fetched=tuple(have), unchanged=left)
                filled.add(entry.place)
        if filled:
            self._missing = deque(entry for entry in self._missing if entry.place not in filled)

    def _add(self, place: int, more: Row, table: str, **changes: Any) -> int:
        """Add these columns to an event; returns how many bytes they are.

        The table's order is that of its newest layout; what a row has of an older one stays, behind it.
        """
        event = self._events[place - self._handed]
        row = (event.after or {}) | more
        after = {name: row[name] for name in dict.fromkeys((*self._columns(table), *row)) if name in row}
        self._events[place - self._handed] = msgspec.structs.replace(event, after=after, **changes)
        size = sum(_size(value) for value in more.values())
        self._added[place] = self._added.get(place, 0) + size
        return size

    def _from_batch(self, incomplete: Sequence[Incomplete]) -> Iterator[_Missing]:
        """Fill from earlier events of the same row; gives what is still missing."""
        lacking = {entry.place: entry for entry in incomplete}
        tables: dict[tuple[str, str], _Known] = {}
        for place, event in enumerate(self._events):
            known = tables.setdefault((event.source.schema, event.source.table), _Known())
            entry = lacking.get(place)
            if entry is not None and event.key is not None:
                have = known.values(event, entry.columns)
                if have:
                    self._add(place, have, entry.table)
                left = tuple(name for name in entry.columns if name not in have)
                if left:
                    origin = None if entry.cut else known.origin(event)
                    creates = event.operation == "create"
                    yield _Missing(place, entry.table, entry.xid, left, event.key, origin, creates)
            known.take(self._events[place])


class _Answers:
    """What one select says about the entries of one table."""

    def __init__(self, fetch: Fetch, table: str, entries: Sequence[_Missing], budget: int) -> None:
        wanted = list(dict.fromkeys(name for entry in entries for name in entry.columns))
        keys = {key_identity(key): key for entry in entries for key in (entry.key, entry.origin) if key is not None}
        self._fetched = fetch(table, list(keys.values()), wanted, budget)
        self._answered = set(islice(keys, self._fetched.answered))

    def row(self, entry: _Missing) -> Row | None:
        """The row whose values are the entry's, empty when it has none any more; None: not known yet."""
        visible = self._fetched.visible
        if visible.sees(visible.widen(entry.xid)):
            return self._find(entry.key, {})
        if entry.origin is not None:
            return self._find(entry.origin, None)
        return None if entry.creates else {}  # an update without them leaves the target's as the transaction set them

    def _find(self, key: Row, gone: Row | None) -> Row | None:
        identity = key_identity(key)
        return self._fetched.rows.get(identity, gone) if identity in self._answered else None


class _Known:
    """What the batch's events so far tell about the rows of one table."""

    def __init__(self) -> None:
        self._rows: dict[Hashable, Row] = {}
        self._origins: dict[Hashable, Row | None] = {}
        self._transaction = ""

    def values(self, event: ChangeEvent, columns: Sequence[str]) -> Row:
        """Those of these columns that an earlier event of the row has."""
        row = self._rows.get(key_identity(event.key or {}), {})
        return {name: row[name] for name in columns if name in row}

    def origin(self, event: ChangeEvent) -> Row | None:
        """The key that the row had before the event's transaction; None when the transaction made the row."""
        self._enter(event)
        key = event.key if event.old_key is None else event.old_key
        return self._origins.get(key_identity(key or {}), key)

    def take(self, event: ChangeEvent) -> None:
        """An event of the table has passed."""
        self._enter(event)
        if event.key is None:
            self._rows.clear()
            self._origins.clear()
            return
        key = key_identity(event.key)
        if event.after is not None:
            if event.operation == "create":
                self._origins[key] = None if event.old_key is None else self.origin(event)
                if event.old_key is not None:
                    self._origins.pop(key_identity(event.old_key), None)
            self._rows[key] = event.after
            return
        gone = self._rows.pop(key, None)
        if event.new_key is None:
            self._origins.pop(key, None)
        elif gone is not None:
            self._rows[key_identity(event.new_key)] = gone

    def _enter(self, event: ChangeEvent) -> None:
        transaction = event.transaction.id if event.transaction else ""
        if transaction != self._transaction:
            self._transaction = transaction
            self._origins.clear()


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str) else len(msgspec.json.encode(value))
