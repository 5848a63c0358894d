"""Rows that wait for others, a parent or a unique value: tried all together, because they may wait for one another.

One that nothing will solve must not hold up the others. Where the target tells which values it refuses, the keys with
these values are left out, and the rest is tried again, until it is taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from sync_hub.errors import Conflict, Fatal, Rejected
from sync_hub.model import ChangeEvent, Parked, RowChange
from sync_hub.ports import Sink
from sync_hub.runtime import parking
from sync_hub.runtime.batch import Work, hashable
from sync_hub.runtime.conflicts import Moves, Values, concerned, key_values, refused_by_others, texts, wanted
from sync_hub.runtime.pipelines import Delivery

NOTHING: Final = Work({}, {}, [], {})


class Plan(NamedTuple):
    """What one pipeline puts into a transaction of the target."""

    one: Delivery
    work: Work
    changes: list[RowChange]
    parked: list[Parked]


class Key(NamedTuple):
    """A key of one pipeline with all that is held for it, oldest first."""

    one: Delivery
    rows: list[Parked]

    @property
    def name(self) -> tuple[str, str]:
        """Which key it is."""
        return (self.one.name, self.rows[0].key)


Events = Mapping[tuple[str, str], Sequence[ChangeEvent] | Rejected]
"""By `Key.name`, what its records say, in their order, or why they cannot be read."""


class Outcome(NamedTuple):
    """What became of keys: applied; refused, with what was said about each; refused together, nobody knows which."""

    applied: list[Key]
    refused: list[tuple[Key, Rejected]]
    unknown: list[Key]


class Waiting:
    """The attempts of one session. `write` is one transaction of the target for all plans.

    What was left out stays so until something is found out about all others, however many attempts that takes. Then all
    keys begin anew: what they wait for may have come.
    """

    def __init__(self, sink: Sink, write: Callable[[Sequence[Plan]], None]) -> None:
        self._sink = sink
        self._write = write
        self._apart: set[tuple[str, str]] = set()

    def solve(self, keys: Sequence[Key], events: Events, until: float) -> Outcome:
        """Apply as many of these keys as fit together. Leaves no more out after `until` (monotonic seconds)."""
        apart, self._apart = self._apart, set()
        trying = [key for key in keys if key.name not in apart] or list(keys)
        refused: list[tuple[Key, Rejected]] = []
        while trying:
            try:
                self._write(applying(trying, events))
            except (Rejected, Fatal) as error:
                named = [] if isinstance(error, Fatal) else self._named(trying, events, error)
                if isinstance(error, Fatal) or not named:
                    return Outcome([], refused, trying)
                refused += [(key, about(key, events, error)) for key in named]
                names = {key.name for key in named}
                trying = [key for key in trying if key.name not in names]
                if time.monotonic() > until:
                    self._apart = apart | {key.name for key, _ in refused} if trying else set()
                    break
            else:
                return Outcome(trying, refused, [])
        return Outcome([], refused, [])

    def _named(self, keys: Sequence[Key], events: Events, error: Rejected) -> list[Key]:
        """The keys that a refusal is about; a single one is meant by whatever is said.

        Of several that want a unique value the oldest, which may have given the value up since, and all that want what
        it keeps then.
        """
        if len(keys) == 1:
            return list(keys)
        found = [key for key in keys if _is_meant(key, events, error)]
        if error.code == "foreign_key_violated":
            return found
        found = sorted(found, key=lambda key: key.rows[0].version)[:1]
        if error.conflict is None or not found:
            return found
        one = found[0].one
        alike = [key for key in keys if key.one is one and _mapped(key, events)]
        changes = [_mapped(key, events)[-1] for key in alike]
        if found[0] not in alike:
            return found
        named = [alike[place] for place in held_up(self._sink, one, changes, error.conflict)]
        return list({key.name: key for key in [*found, *named]}.values())


def applying(keys: Sequence[Key], events: Events) -> list[Plan]:
    """What applying all that is held for these keys takes, a plan a pipeline. Raises `Rejected` as the mapping does."""
    now = time.time()
    plans: dict[str, Plan] = {}
    for key in keys:
        plan = plans.setdefault(key.one.name, Plan(key.one, NOTHING, [], []))
        plan.changes.extend(_changes(key, events))
        plan.parked.extend(parking.closed(row, "applied", now) for row in key.rows)
    return list(plans.values())


def held_up(sink: Sink, one: Delivery, changes: Sequence[RowChange], conflict: Conflict) -> list[int]:
    """The changes that a unique key of the target refuses, by their places: all of them, not only what it told of.

    Asks what the rows have now. Of several changes of a row the last one counts.
    """
    places = sorted({hashable(change.key): place for place, change in enumerate(changes)}.values())
    chosen = [changes[place] for place in places]
    mapping, table, columns = one.mapping, one.mapping.spec.target_table, conflict.columns
    wants = key_values(conflict, mapping, chosen)
    known = [place for place, value in enumerate(wants) if value is not None]
    rows = sink.find_rows(table, columns, mapping.key, [change.key for change in chosen])
    looked_up = sink.find_rows(
        table, mapping.key, columns, [wanted(conflict, mapping, chosen[place]) for place in known]
    )
    holders: list[Values | None] = [None] * len(chosen)
    for place, holder in zip(known, looked_up, strict=True):
        holders[place] = texts(holder)
    moves = Moves([texts(change.key) for change in chosen], wants, [texts(row) for row in rows], holders)
    return [places[place] for place in refused_by_others(moves)]


def about(key: Key, events: Events, error: Rejected) -> Rejected:
    """The error with the row that it is about, as it was said when its first record was parked."""
    said = events[key.name]
    return parking.about(said[0], error) if not isinstance(said, Rejected) and said else error


def _changes(key: Key, events: Events) -> list[RowChange]:
    said = events[key.name]
    if isinstance(said, Rejected):
        raise said
    mapped = key.one.mapping.apply(said)
    for _, error in mapped.rejected[:1]:
        raise error
    return mapped.changes


def _is_meant(key: Key, events: Events, error: Rejected) -> bool:
    try:
        changes = _changes(key, events)
    except Rejected:
        return True
    return error.conflict is not None and bool(concerned(error.conflict, key.one.mapping, changes[-1:]))


def _mapped(key: Key, events: Events) -> list[RowChange]:
    """Its changes; none where they cannot be mapped."""
    try:
        return _changes(key, events)
    except Rejected:
        return []
