"""`sync_hub_parked` as every target with SQL keeps it: its columns, and rows as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import astuple, fields

from sync_hub.model import Parked

TABLE: Final = "sync_hub_parked"
KEY: Final = ("pipeline", "topic", "partition", "seq")
_NAMES: Final = {"offset": "record_offset", "key": "source_key"}
"""Fields whose names SQL keeps for itself."""
COLUMNS: Final = tuple(_NAMES.get(field.name, field.name) for field in fields(Parked))[:-1]
"""All fields but the last, which is not stored: the size of the record's value."""
_SIZE: Final = "coalesce(length(record_value), 0)"
_RECORD: Final = ("record_key", "record_value", "record_headers")
UPSERT: Final = f"on conflict ({', '.join(KEY)}) do update set " + ", ".join(
    f"{name} = excluded.{name}" for name in COLUMNS if name not in (*KEY, *_RECORD)
)
"""A row that is known keeps its record: who changes it need not have read it."""


def selected(*, records: bool) -> str:
    """The columns to select, in the order of the fields; without what was in the topic where it is not wanted."""
    missing = {"record_key": "null", "record_value": "null", "record_headers": "''"}
    return ", ".join([*(COLUMNS if records else (missing.get(name, name) for name in COLUMNS)), _SIZE])


def values(parked: Parked) -> tuple[Any, ...]:
    """A row as it is stored."""
    return tuple(astuple(parked))[:-1]


def parked(row: Sequence[Any]) -> Parked:
    """A row that was read."""
    return Parked(*row)
