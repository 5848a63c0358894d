"""Which changes a target has refused, as far as it told: then nothing has to be cut in halves to find them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sync_hub.errors import Conflict
from sync_hub.mapping.apply import CompiledMapping
from sync_hub.model import ABSENT, RowChange

Values = tuple[str, ...]
"""The values of a key, as `_text` spells them."""


def concerned(conflict: Conflict, mapping: CompiledMapping, changes: Sequence[RowChange]) -> list[int]:
    """Places of the changes with the values that are refused.

    None where it is about other rows, or where the target spells values otherwise.
    """
    if not _same_table(conflict.table, mapping.spec.target_table):
        return []
    places = {name: place for place, name in enumerate(mapping.columns)}
    keys = {name: place for place, name in enumerate(mapping.key)}
    return [place for place, change in enumerate(changes) if _has(conflict, change, places, keys)]


class Moves(NamedTuple):
    """What changes do to the values of one unique key, by their places.

    `keys` are the keys of their rows. `wants` and `has` are the values after and before; `holders` the keys of the rows
    that have what is wanted, before. None: no such row, or no value.
    """

    keys: Sequence[Values | None]
    wants: Sequence[Values | None]
    has: Sequence[Values | None]
    holders: Sequence[Values | None]


def refused_by_others(moves: Moves) -> list[int]:
    """Places of the changes that want what a row has and does not give up; and of those that want what these keep."""
    by_key = {key: place for place, key in enumerate(moves.keys)}
    wanting: dict[Values, list[int]] = {}
    for place, values in enumerate(moves.wants):
        if values is not None:
            wanting.setdefault(values, []).append(place)
    found = [place for places in wanting.values() for place in places[:-1]]  # of several the last one has it
    for place, holder in enumerate(moves.holders):
        if holder is not None and holder != moves.keys[place] and moves.wants[place] is not None:
            mover = by_key.get(holder)
            if mover is None or moves.wants[mover] == moves.has[mover]:
                found.append(place)
    for place in found:
        kept = moves.has[place]
        if kept is not None and kept != moves.wants[place]:
            found += [other for other in wanting.pop(kept, []) if other != place]
    return list(dict.fromkeys(found))


def wanted(conflict: Conflict, mapping: CompiledMapping, change: RowChange) -> list[Any]:
    """The values that a change gives the columns of a violated key, as the mapping spells them; None: none."""
    places = {name: place for place, name in enumerate(mapping.columns)}
    values = change.values if change.kind in {"upsert", "update"} else ()
    chosen = [places.get(column, len(values)) for column in conflict.columns]
    return [values[place] if place < len(values) else None for place in chosen]


def key_values(conflict: Conflict, mapping: CompiledMapping, changes: Sequence[RowChange]) -> list[Values | None]:
    """What each change gives the columns of a violated key; None where it is not all of them."""
    return [texts(wanted(conflict, mapping, change)) for change in changes]


def texts(values: Sequence[Any] | None) -> Values | None:
    """Values of a key as they are compared here; None where one of them is missing."""
    found = tuple(_text(value) for value in values or (None,))
    return None if None in found else tuple(text or "" for text in found)


def _same_table(told: str, named: str) -> bool:
    return told == named or ("." not in named and told.rpartition(".")[2] == named)


def _has(conflict: Conflict, change: RowChange, places: Mapping[str, int], keys: Mapping[str, int]) -> bool:
    row, where = (change.values, places) if change.kind in {"upsert", "update"} else (change.key, keys)
    return all(
        column in where and _text(row[where[column]]) == value.rstrip()
        for column, value in zip(conflict.columns, conflict.values, strict=True)
    )


def _text(value: Any) -> str | None:
    """A value as PostgreSQL shows it, for most types; blanks at the end are padding, or do not matter."""
    if value is None or value is ABSENT:
        return None
    return {True: "t", False: "f"}[value] if isinstance(value, bool) else str(value).rstrip()
