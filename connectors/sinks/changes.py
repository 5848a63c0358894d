"""What every sink with SQL does the same way: sort the changes of one write by kind, and name presence flags."""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple

from sync_hub.model import ABSENT, TableWrite

FLAG_PREFIX: Final = "sync_hub_"
IDENTIFIER_BYTES: Final = 63
"""PostgreSQL cuts longer names silently, so two mappings could end up with one flag."""

Present = tuple[int, ...]
"""Places, within the columns of a mapping, of the values that an event carried."""


def flag_column(mapping: str) -> str:
    """The column of a shared table that says whether a row is there for this mapping: `sync_hub_<mapping>`."""
    name = FLAG_PREFIX + mapping
    if len(name.encode()) <= IDENTIFIER_BYTES:
        return name
    digest = hashlib.sha256(mapping.encode()).hexdigest()[:12]
    return f"{name.encode()[: IDENTIFIER_BYTES - 13].decode(errors='ignore')}_{digest}"


class ByKind(NamedTuple):
    """The changes of one `TableWrite` as rows for one statement each.

    Rows of `upserts` and `updates` are values of all columns; rows of `deletes` and `marks` are the key, the new key
    (None where the key did not change), then the values of the marked columns.
    """

    upserts: list[tuple[Any, ...]]
    updates: dict[Present, list[tuple[Any, ...]]]
    deletes: list[tuple[Any, ...]]
    marks: list[tuple[Any, ...]]


def by_kind(write: TableWrite) -> ByKind:
    """Sort the changes of a write. An `update` that carries every column still never inserts."""
    upserts = [change.values for change in write.changes if change.kind == "upsert"]
    sorted_ = ByKind(upserts, {}, [], [])
    if len(upserts) == len(write.changes):
        return sorted_
    no_key = (None,) * len(write.key)
    for change in write.changes:
        if change.kind == "delete":
            sorted_.deletes.append(change.key + (change.new_key or no_key))
        elif change.kind == "mark":
            sorted_.marks.append(change.key + (change.new_key or no_key) + change.values)
        elif change.kind == "update":
            present = tuple(place for place, value in enumerate(change.values) if value is not ABSENT)
            sorted_.updates.setdefault(present, []).append(change.values)
    return sorted_
