"""Which records a pipeline holds with their error, and what becomes of them (`guarantees.md` §6). Pure.

A target keeps the newest state of a row, so a later whole event of a key that is held is tried at once, and closes what
was held for it. An event that lacks columns cannot stand for what came before it: it waits behind, in order.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from sync_hub.errors import Rejected
from sync_hub.mapping.apply import CompiledMapping
from sync_hub.model import ChangeEvent, Offset, Parked, ParkedState, Record, RowChange, TopicPartition
from sync_hub.runtime.batch import Work, superseded
from sync_hub.settings import Retry

WAITING_FOR_ROWS: Final = frozenset({"unique_violated", "foreign_key_violated"})
"""What another row may solve: the parent that has not come, the row that still has the value."""
WAIT_SECONDS: Final = 1.0
"""How soon rows that wait for others are tried again; those that wait longer are tried less often."""
MOST_WAIT_SECONDS: Final = 10.0
BEHIND: Final = "parked_behind"


class Held:
    """The open parked records of one pipeline in the partitions that this worker reads."""

    def __init__(self, rows: Iterable[Parked] = ()) -> None:
        self._keys: dict[str, list[Parked]] = {}
        self._counts = Counter[ParkedState]()
        self.store(rows)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def count(self, state: ParkedState) -> int:
        """How many records are in this state."""
        return self._counts[state]

    def of(self, key: str) -> list[Parked]:
        """What is held for a key, oldest first."""
        return self._keys.get(key, [])

    def all(self) -> list[Parked]:
        """All that is held. The beat's thread asks, too, while the worker stores."""
        return [one for rows in list(self._keys.values()) for one in rows]

    def due(self, now: float) -> list[list[Parked]]:
        """Keys whose oldest record is to be tried again now, each with all that is held for it."""
        return [rows for rows in self._keys.values() if is_due(rows[0], now)]

    def waiting(self) -> list[list[Parked]]:
        """Keys whose oldest record another row may solve, each with all that is held for it."""
        return [rows for rows in self._keys.values() if rows[0].code in WAITING_FOR_ROWS]

    def store(self, rows: Iterable[Parked]) -> None:
        """Take in rows as they are now in the target."""
        for row in rows:
            known = self.of(row.key)
            others = [one for one in known if (one.partition, one.seq) != (row.partition, row.seq)]
            left = sorted([*others, row] if row.is_open else others, key=order)
            self._counts.subtract(one.state for one in known)
            self._counts.update(one.state for one in left)
            if left:
                self._keys[row.key] = left
            else:
                self._keys.pop(row.key, None)


class Planned(NamedTuple):
    """What one pipeline writes for its work: changes of rows, and of parked records."""

    changes: list[RowChange]
    parked: list[Parked]


def planned(
    mapping: CompiledMapping,
    held: Held,
    work: Work,
    retry: Retry,
    now: float,
    outdated: Set[tuple[int, int]] | None = None,
) -> Planned:
    """Map the work. What the mapping rejects, or the target has refused, is parked, unless something newer is there.

    `outdated` is what `superseded` found in the poll that the work is a part of; without it the work is all of it.
    """
    mapped = mapping.apply([item.event for item in work.items])
    if not (mapped.rejected or held or work.unreadable or work.refused):
        return Planned(mapped.changes, [])
    parking = _Parking(held, work, retry, now)
    for one in work.unreadable:
        parking.park(one.record, one.key, None, one.error)
    errors = dict(mapped.rejected)
    errors |= {index: work.refused[item.place] for index, item in enumerate(work.items) if item.place in work.refused}
    if outdated is None:
        outdated = superseded(work.items) if errors else frozenset()
    taken = []
    for index, item in enumerate(work.items):
        key = key_text(item.event)
        if index in errors:
            if item.place not in outdated:
                parking.park(item.record, key, item.event, about(item.event, errors[index]))
        elif item.event.unchanged and parking.holds(key, item.record):
            parking.park(item.record, key, item.event, _behind(item.event))
        else:
            parking.close(key, item.record)
            taken.append(item.event)
    return Planned(mapping.apply(taken).changes, parking.rows())


class _Parking:
    """Changes of parked records that come with one work."""

    def __init__(self, held: Held, work: Work, retry: Retry, now: float) -> None:
        self._known = held
        self._offsets = work.before
        self._looked_up: set[str] = set()
        self._held = Held()
        self._seqs = {partition: before.parked_seq for partition, before in work.before.items()}
        self._retry = retry
        self._now = now
        self._rows: dict[tuple[int, int], Parked] = {}

    def holds(self, key: str, record: Record) -> bool:
        """Whether a record has to wait behind another one."""
        return bool(self._before(key, record))

    def close(self, key: str, record: Record) -> None:
        """A record that is whole takes the place of what is held of before it."""
        self._store([closed(one, "superseded", self._now) for one in self._before(key, record)])

    def park(self, record: Record, key: str, event: ChangeEvent | None, error: Rejected) -> None:
        """Hold a record; a whole one stands for all that was held for its key."""
        if event is not None and not event.unchanged:
            self.close(key, record)
        if any((one.partition, one.offset) == (record.partition, record.offset) for one in self._of(key)):
            return  # it was parked before a crash
        seq = self._seqs[record.partition]
        self._seqs[record.partition] = seq + 1
        waits = error.code in WAITING_FOR_ROWS
        attempts = 0 if waits or error.code == BEHIND else 1
        new = Parked(
            pipeline=self._offsets[record.partition].pipeline,
            topic=record.topic,
            partition=record.partition,
            seq=seq,
            offset=record.offset,
            key=key,
            version=event.version if event is not None else "",
            state="waiting" if waits else "parked",
            code=error.code,
            message=_storable(error.message),
            sqlstate=error.sqlstate,
            hint=_storable(error.hint),
            attempts=attempts,
            first_at=self._now,
            last_at=self._now,
            next_at=self._now + WAIT_SECONDS if waits else next_attempt(attempts, self._retry, self._now),
            correlation_id=_storable(event.correlation_id) if event is not None else "",
            record_key=record.key,
            record_value=record.value,
            record_headers=_headers_text(record.headers),
            record_bytes=len(record.value or b""),
        )
        self._store([new])

    def rows(self) -> list[Parked]:
        """All that changed."""
        return list(self._rows.values())

    def _before(self, key: str, record: Record) -> list[Parked]:
        """What is held for a key, but for what came behind the record: of a work, the unreadable are parked first."""
        return [one for one in self._of(key) if one.partition != record.partition or one.offset < record.offset]

    def _of(self, key: str) -> list[Parked]:
        """What is held for a key with this work's changes; only keys that are asked for are taken over."""
        if key not in self._looked_up:
            self._looked_up.add(key)
            self._held.store(self._known.of(key))
        return self._held.of(key)

    def _store(self, rows: Sequence[Parked]) -> None:
        self._held.store(rows)
        self._rows |= {(row.partition, row.seq): row for row in rows}


def with_seqs(pairs: dict[int, tuple[Offset, Offset]], parked: Sequence[Parked]) -> dict[int, tuple[Offset, Offset]]:
    """Offset rows before and after, raised where parked records change: who read them before that writes nothing."""
    for partition in {row.partition for row in parked}:
        before, after = pairs[partition]
        newest = max(row.seq for row in parked if row.partition == partition)
        pairs[partition] = before, replace(after, parked_seq=max(before.parked_seq, newest) + 1)
    return pairs


def order(row: Parked) -> tuple[int, int]:
    """By what records of a key are applied one after the other: their places in the topic."""
    return (row.partition, row.offset)


def is_due(row: Parked, now: float) -> bool:
    """Whether it is to be tried again now. One that was tried after now was so by a clock that was wrong."""
    return row.next_at is not None and (row.next_at <= now or row.last_at > now)


def closed(row: Parked, state: ParkedState, now: float, reason: str = "") -> Parked:
    """A row that its key does not wait for any more."""
    return replace(row, state=state, next_at=None, closed_at=now, reason=reason)


def tried(row: Parked, error: Rejected, retry: Retry, now: float) -> Parked:
    """A row whose attempt failed again; after the last attempt it waits for a person.

    What another row may solve never has its last attempt: nobody would see that the other one has come.
    """
    waits = row.state == "waiting" and error.code in WAITING_FOR_ROWS
    attempts = row.attempts if waits else row.attempts + 1
    patience = min(MOST_WAIT_SECONDS, max(WAIT_SECONDS, (now - row.first_at) / 2))
    again = now + patience if waits else _next_attempt_of(error.code, attempts, retry, now)
    return replace(
        row,
        state="waiting" if waits else "parked",
        code=error.code,
        message=error.message,
        sqlstate=error.sqlstate,
        hint=error.hint,
        attempts=attempts,
        last_at=now,
        next_at=again,
    )


def given_up(row: Parked, retry: Retry, now: float) -> Parked:
    """A row that waited for another one, which will not come: it counts as rejected from now on."""
    return replace(row, state="parked", attempts=1, last_at=now, next_at=_next_attempt_of(row.code, 1, retry, now))


def next_attempt(attempts: int, retry: Retry, now: float) -> float | None:
    """When to try again after so many attempts, the first delivery among them; None when all are used up.

    Each wait is longer than the one before by `retry.factor`, with jitter, and none is longer than `retry.max`.
    """
    return _after(attempts, retry, now) if attempts < retry.attempts else None


def _next_attempt_of(code: str, attempts: int, retry: Retry, now: float) -> float | None:
    return _after(attempts, retry, now) if code in WAITING_FOR_ROWS else next_attempt(attempts, retry, now)


def _after(attempts: int, retry: Retry, now: float) -> float:
    try:
        ideal = min(retry.max, retry.first * retry.factor ** max(0, attempts - 1))
    except OverflowError:  # after a thousand attempts
        ideal = retry.max
    return now + min(retry.max, ideal * random.uniform(0.75, 1.25))


def record(row: Parked) -> Record:
    """The record as it was in the topic; `row` was read with it."""
    headers = msgspec.json.decode(row.record_headers, type=list[tuple[str, bytes]]) if row.record_headers else None
    return Record(
        row.topic, row.partition, row.offset, row.record_key, row.record_value, headers, round(row.first_at * 1000)
    )


def place(row: Parked) -> TopicPartition:
    """Where it was read."""
    return TopicPartition(row.topic, row.partition)


def key_text(event: ChangeEvent) -> str:
    """An event's key as text: equal for equal keys."""
    return msgspec.json.encode(event.key).decode()


def about(event: ChangeEvent, error: Rejected) -> Rejected:
    """The error with the row that it is about."""
    state = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
    message = f"{event.source.schema}.{event.source.table} {event.key}: {error.message}{state}"
    return Rejected(error.code, message, sqlstate=error.sqlstate, hint=error.hint, command=error.command)


def _behind(event: ChangeEvent) -> Rejected:
    return about(
        event,
        Rejected(
            BEHIND,
            "an earlier record of this key is parked, and this one lacks columns",
            hint="it is applied after that one",
        ),
    )


def _storable(text: str) -> str:
    """Text that every target can keep: what a record brings along must not keep it from being parked."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def without_record(row: Parked) -> Parked:
    """A row as it is read without what was in the topic: how much may be held is not for the size of records to say."""
    return replace(row, record_key=None, record_value=None, record_headers="")


def _headers_text(headers: Sequence[tuple[str, bytes]] | None) -> str:
    return msgspec.json.encode(headers).decode() if headers else ""
