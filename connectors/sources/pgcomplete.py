"""Makes events whole: values that the log left out come from the row before, else from the table. Pure.

An unchanged TOAST value is left out of the log. An earlier event of the same row in the batch has it; else it is read
by key. What is read may be newer than its event (the newer event follows), but never older: a transaction that is not
yet visible to the select could have changed the value itself, so its columns stay absent then, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from connectors.sources.pgrows import key_identity
from connectors.sources.pgsnapshot import Visible
from sync_hub.model import ChangeEvent

Row = dict[str, Any]


class Incomplete(Struct, frozen=True):
    """An event (its place in the list, the 32-bit id of its transaction) whose row lacks columns."""

    place: int
    table: str
    xid: int
    columns: tuple[str, ...]


class Fetched(Struct, frozen=True):
    """Rows by key identity, and what at least was visible to the select."""

    rows: dict[Hashable, Row]
    visible: Visible


Fetch = Callable[[str, Sequence[Row], Sequence[str]], Fetched]


def complete(
    events: list[ChangeEvent], incomplete: Sequence[Incomplete], fetch: Fetch, columns: Callable[[str], Sequence[str]]
) -> bool:
    """Fill in what is missing, in place; True when something was fetched.

    `fetch` (table, keys, columns) is called once a table; `columns` gives a table's columns in their order. What
    cannot be had stays absent and is named in `unchanged`.
    """
    missing = _from_batch(events, incomplete, columns)
    for table in dict.fromkeys(entry.table for entry in missing):
        entries = [entry for entry in missing if entry.table == table]
        wanted = dict.fromkeys(name for entry in entries for name in entry.columns)
        keys = {key_identity(key): key for entry in entries if (key := events[entry.place].key) is not None}
        fetched = fetch(table, list(keys.values()), list(wanted))
        for entry in entries:
            event = events[entry.place]
            row = fetched.rows.get(key_identity(event.key or {}))
            if row is None or not fetched.visible.sees(fetched.visible.widen(entry.xid)):
                row = {}
            have = {name: row[name] for name in entry.columns if name in row}
            events[entry.place] = msgspec.structs.replace(
                event,
                after=_merged(event.after or {}, have, columns(table)),
                fetched=tuple(have),
                unchanged=tuple(name for name in entry.columns if name not in have),
            )
    return bool(missing)


def _from_batch(
    events: list[ChangeEvent], incomplete: Sequence[Incomplete], columns: Callable[[str], Sequence[str]]
) -> list[Incomplete]:
    """Fill from earlier events of the same row, in place; returns what is still missing."""
    lacking = {entry.place: entry for entry in incomplete}
    rows: dict[tuple[str, str], dict[Hashable, Row]] = {}
    missing = []
    for place, event in enumerate(events):
        known = rows.setdefault((event.schema, event.table), {})
        if event.key is None:
            known.clear()
            continue
        key = key_identity(event.key)
        entry = lacking.get(place)
        if entry is not None:
            before = known.get(key, {})
            have = {name: before[name] for name in entry.columns if name in before}
            if have:
                events[place] = _with(event, have, columns(entry.table))
            if len(have) < len(entry.columns):
                left = tuple(name for name in entry.columns if name not in have)
                missing.append(msgspec.structs.replace(entry, columns=left))
        after = events[place].after
        if after is not None:
            known[key] = after
        else:
            gone = known.pop(key, None)
            if gone is not None and event.new_key is not None:
                known[key_identity(event.new_key)] = gone
    return missing


def _with(event: ChangeEvent, more: Row, order: Sequence[str]) -> ChangeEvent:
    return msgspec.structs.replace(event, after=_merged(event.after or {}, more, order))


def _merged(row: Row, more: Row, order: Sequence[str]) -> Row:
    return {name: row[name] if name in row else more[name] for name in order if name in row or name in more}
