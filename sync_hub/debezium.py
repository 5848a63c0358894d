"""What Debezium itself writes differently from us: marks in the place of values, and rows with only the key filled."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import md5
from typing import Any, Final
from uuid import UUID

UNAVAILABLE: Final = "__debezium_unavailable_value"
"""Stands for a value that the log did not carry (unchanged TOAST)."""

_BYTES: Final = UNAVAILABLE.encode()
_TEXTS: Final = {UNAVAILABLE, b64encode(_BYTES).decode()}
_UUID: Final = UUID(bytes=md5(_BYTES, usedforsecurity=False).digest(), version=3)
_LISTS: Final[tuple[list[Any], ...]] = ([UNAVAILABLE], list(_BYTES), [str(_UUID)])


def available(row: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The row without its marks, and the names of the columns that had one.

    The mark has the column's type: text for text and json, base64 for bytea, and for arrays a list of the text, of its
    bytes as numbers, or of a uuid made from it.
    """
    missing = tuple(name for name, value in row.items() if _is_mark(value))
    return ({name: value for name, value in row.items() if name not in missing} if missing else row), missing


def _is_mark(value: Any) -> bool:
    if isinstance(value, str):
        return value in _TEXTS
    return isinstance(value, list) and value in _LISTS


def known(before: dict[str, Any], key: Mapping[str, Any] | None) -> dict[str, Any]:
    """The part of an old row that is known: without REPLICA IDENTITY FULL all but the key is null, whatever it was."""
    if key and before.keys() > key.keys() and all(before[name] is None for name in before if name not in key):
        return {name: value for name, value in before.items() if name in key}
    return before
