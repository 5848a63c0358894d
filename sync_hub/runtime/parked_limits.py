"""How much a pipeline may park before it stops: then not a row is wrong, but all of it (`guarantees.md` §6). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from sync_hub.errors import Fatal
from sync_hub.model import Parked
from sync_hub.runtime.parking import Held
from sync_hub.settings import Limits

SHARE_OF_EVENTS: Final = 1000
"""Of how many events, at least, a share is told: before so many were read, a pipeline may park its share of these."""


class Placed(Protocol):
    """What has a place in a topic: an event that is applied, or a record that is parked."""

    @property
    def partition(self) -> int:
        """The partition it was read from."""
        ...

    @property
    def offset(self) -> int:
        """Its place there."""
        ...


class Share:
    """How much of what a pipeline read lately was parked.

    What lies below `looked_at`, an offset for each partition, is not judged: a person has looked at it.
    """

    def __init__(self, looked_at: Mapping[int, int] | None = None) -> None:
        self._looked_at = looked_at or {}
        self._events = self._parked = 0.0

    def add(self, events: Sequence[Placed], parked: Sequence[Placed]) -> None:
        """Count what was written; what is long ago counts less and less."""
        self._events += self._judged(events)
        self._parked += self._judged(parked)
        if self._events > 2 * SHARE_OF_EVENTS:
            self._events, self._parked = self._events / 2, self._parked / 2

    def exceeds(self, limit: float, events: Sequence[Placed], parked: Sequence[Placed]) -> bool:
        """Whether it would be too much with these events, and these of them parked."""
        more = self._judged(parked)
        read = max(self._events + self._judged(events), SHARE_OF_EVENTS)
        return more > 0 and self._parked + more > limit * read

    def _judged(self, places: Sequence[Placed]) -> int:
        if not self._looked_at:
            return len(places)
        return sum(place.offset >= self._looked_at.get(place.partition, 0) for place in places)


def newly_parked(held: Held, changed: Iterable[Parked]) -> list[Parked]:
    """Of the records that change, those that are parked from now on and were not before."""
    return [row for row in changed if row.state == "parked" and not _was_parked(held, row)]


def refuse_too_many(
    pipeline: str, held: Held, share: Share, events: Sequence[Placed], changed: Sequence[Parked], limits: Limits
) -> None:
    """Raise `Fatal` where a pipeline would park more than is allowed with these events: something is wrong with all.

    `changed` are the parked records that change with them.
    """
    more = newly_parked(held, changed)
    if not more:
        return
    fewer = sum(row.state != "parked" and _was_parked(held, row) for row in changed)
    many = held.count("parked") + len(more) - fewer > limits.parked.stop
    if many or share.exceeds(limits.parked_share.stop, events, more):
        reason = f"{limits.parked.stop} records" if many else f"{limits.parked_share.stop:.0%} of what it reads"
        last = more[-1]
        raise Fatal(
            "too_many_parked",
            f"pipeline {pipeline} would park more than {reason}; the last is {last.code}: {last.message}",
            hint="mend mapping, target or source, then resume; limits.parked and limits.parked_share say how many",
            command=f"sync-hub parked list {pipeline}" if held.count("parked") else f"sync-hub resume {pipeline}",
        )


def _was_parked(held: Held, row: Parked) -> bool:
    place = (row.partition, row.seq)
    return any((one.partition, one.seq) == place and one.state == "parked" for one in held.of(row.key))
