"""Compares what a mapping makes of a source row with what its target has: by value, not by spelling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sync_hub.errors import Fatal, Rejected
from sync_hub.mapping.apply import CompiledMapping
from sync_hub.mapping.values import comparable
from sync_hub.model import ChangeEvent, RowChange, Table
from sync_hub.ports import Sink
from sync_hub.state_verifications import WRONG, Outcome, Probe

Values = tuple[Any, ...]


class Expected(NamedTuple):
    """What the target should have under `key`: `values` of the mapping's columns, None when it should have no row.

    `error` says that the row cannot be mapped; nothing is known about the target then, and `key` may be empty. `marks`
    are what the mapping sets its `mark_columns` to in a row that is gone.
    """

    key: Values
    values: Values | None
    error: Rejected | None = None
    marks: Values | None = None


class Comparer:
    """Compares rows of one mapping with its target table, as the table is in the catalog now."""

    def __init__(self, mapping: CompiledMapping, target: Table, sink: Sink) -> None:
        self._mapping = mapping
        self._sink = sink
        self._table = target.full_name
        left_out = mapping.event_columns()
        self.columns = tuple(name for name in mapping.columns if name not in left_out)
        self.key = mapping.key
        self._places = [mapping.columns.index(name) for name in self.columns]
        self._all = self._places == list(range(len(mapping.columns)))
        self._key_places = [self.columns.index(name) for name in mapping.key]
        self._written_key = [mapping.columns.index(name) for name in mapping.key]
        self._marks = [
            (place, self.columns.index(field.name), field.from_event)
            for place, field in enumerate(mapping.mark_fields)
            if field.name in self.columns and not field.expression.reads
        ]
        types = {column.name: column.type for column in target.columns}
        missing = [name for name in mapping.columns if name not in types]
        if missing:
            raise Fatal(
                "target_column_missing",
                f"{target.full_name} has no column {missing[0]}",
                hint="add the column, or change the mapping",
            )
        self._convert = [comparable(types[name]) for name in self.columns]

    def key_of(self, row: Values) -> Values:
        """The key of a row of `columns`."""
        return tuple([row[place] for place in self._key_places])

    def written_key(self, one: Expected) -> Values:
        """Under which key a row is looked for: what was written counts, where it is spelled as the source spells it."""
        return one.key if one.values is None else tuple([one.values[place] for place in self._written_key])

    def find(self, keys: Sequence[Values]) -> list[Values | None]:
        """For each key the target's row that is there for this mapping, found as the target itself compares keys."""
        return self._sink.find_rows(self._table, self.columns, self.key, keys, mapping=self._mapping.spec.name)

    def found(self, expected: Sequence[Expected]) -> list[Values | None]:
        """For each the target's row; None, too, where nothing is known of its key."""
        known = [one for one in expected if one.error is None]
        rows = iter(self.find([self.written_key(one) for one in known]))
        return [next(rows) if one.error is None else None for one in expected]

    def compared(self, values: Values) -> Values:
        """Of all mapped values those that are compared."""
        return values if self._all else tuple([values[place] for place in self._places])

    def marked(self, marks: Values, actual: Values) -> Values:
        """A row of `columns` as it would be if it had been marked when it went.

        What an event gives its mark is not known any more, but that it was something. What is made of the key is left
        out: a TRUNCATE does not set it.
        """
        row = list(actual)
        for place, column, from_event in self._marks:
            if not from_event or row[column] is None:
                row[column] = marks[place]
        return tuple(row)

    def differences(self, pairs: Sequence[tuple[Values, Values]]) -> list[tuple[str, ...]]:
        """For each pair of expected and actual compared values the columns that differ, as the target would keep them.

        The target is asked only about pairs that are not equal already.
        """
        found = [self._differing(ours, theirs) for ours, theirs in pairs]
        doubtful = [place for place, columns in enumerate(found) if columns]
        if doubtful:
            for place, kept in zip(doubtful, self._kept([pairs[place][0] for place in doubtful]), strict=True):
                found[place] = self._differing(kept, pairs[place][1])
        return found

    def _kept(self, rows: Sequence[Values]) -> Sequence[Values]:
        try:
            return self._sink.as_stored(self._table, self.columns, rows)
        except Rejected:
            if len(rows) == 1:
                return rows  # the target would refuse it: so it is not what the target has
        return [kept for row in rows for kept in self._kept([row])]

    def _differing(self, ours: Values, theirs: Values) -> tuple[str, ...]:
        if ours == theirs:
            return ()
        return tuple(
            name
            for name, convert, mine, other in zip(self.columns, self._convert, ours, theirs, strict=True)
            if mine != other and convert(mine) != convert(other)
        )


def expectations(mapping: CompiledMapping, events: Sequence[ChangeEvent]) -> list[Expected]:
    """What the target should have after each of these events; snapshot rows and deletes are whole."""
    mapped = mapping.apply(events)
    changes: Mapping[int, RowChange] = dict(zip(mapped.sources, mapped.changes, strict=True))
    errors = dict(mapped.rejected)
    expected = []
    for index, event in enumerate(events):
        if index in errors:
            expected.append(Expected(_key_of(mapping, event), None, errors[index]))
            continue
        change = changes.get(index)
        if change is None:
            expected.append(Expected(mapping.map_key(event.key or {}), None))
        else:
            values = change.values if change.kind == "upsert" else None
            expected.append(Expected(change.key, values, marks=change.values if change.kind == "mark" else None))
    return expected


def _key_of(mapping: CompiledMapping, event: ChangeEvent) -> Values:
    """The target's key of an event that is rejected; empty when that is for its key."""
    try:
        return mapping.map_key(event.key or {})
    except Rejected:
        return ()


def judge(
    comparer: Comparer, keys: Sequence[Mapping[str, Any]], expected: Sequence[Expected], *, keeps: bool
) -> list[Probe]:
    """Read the target's rows and say of each key whether they are as expected, in the same order.

    `keeps`: rows that should not be there are wanted, because the mapping keeps what is gone from the source.
    """
    return judged(comparer, keys, expected, comparer.found(expected), keeps=keeps)


def judged(
    comparer: Comparer,
    keys: Sequence[Mapping[str, Any]],
    expected: Sequence[Expected],
    found: Sequence[Values | None],
    *,
    keeps: bool,
) -> list[Probe]:
    """As `judge`, with the target's rows as they were found."""
    both = []
    for one, actual in zip(expected, found, strict=True):
        if actual is not None and one.values is not None:
            both.append((comparer.compared(one.values), actual))
        elif actual is not None and one.marks is not None:
            both.append((comparer.marked(one.marks, actual), actual))
    differing = iter(comparer.differences(both))
    answers = []
    for key, one, actual in zip(keys, expected, found, strict=True):
        compared = None if one.values is None else comparer.compared(one.values)
        answers.append(_answer(dict(key), one._replace(values=compared), actual, differing, keeps=keeps))
    return answers


def digest(key: Sequence[Any]) -> int:
    """64 bits of a target key. Of its text, because hashes of numbers collide: hash(-1) is hash(-2)."""
    return hash(repr(tuple(key)))


def _answer(
    key: dict[str, Any], one: Expected, actual: Values | None, differing: Iterator[tuple[str, ...]], *, keeps: bool
) -> Probe:
    wanted = one.values is not None or one.marks is not None
    columns = next(differing) if wanted and actual is not None else ()
    outcome: Outcome = "matched"
    if one.error is not None:
        outcome = "parked"
    elif actual is None:
        outcome = "absent" if one.values is None else "missing"
    elif columns:
        outcome = "different"
    elif one.values is None:
        outcome = "kept" if keeps else "extra"
    if outcome not in WRONG:
        return Probe(key, outcome)
    seen = hashlib.blake2b(repr((one.values, actual)).encode(), digest_size=8).hexdigest()
    return Probe(key, outcome, columns, seen)


def repairs(events: Sequence[ChangeEvent], expected: Sequence[Expected], probes: Sequence[Probe]) -> list[RowChange]:
    """What to write so that the target is as expected, for the events that ask for it."""
    changes = []
    for event, one, probe in zip(events, expected, probes, strict=True):
        if event.repair and probe.outcome in {"different", "missing"} and one.values is not None:
            changes.append(RowChange("upsert", one.key, one.values))
        elif event.repair and probe.outcome == "different" and one.marks is not None:
            changes.append(RowChange("mark", one.key, one.marks))
        elif event.repair and probe.outcome == "extra":
            changes.append(RowChange("delete", one.key))
    return changes
