"""Lag that can be believed (`guarantees.md` §8): what is proven, and how long ago. Pure; clocks come in as numbers.

Capture stores a `Progress` whenever a heartbeat has come back through the log and all before it is durable: everything
committed at the source before `source_time` lies below `offsets`. A pipeline is proven through the newest progress
whose offsets it has applied. What is not proven is unknown (None), never 0.

Two clocks are at work. `now` and `Progress.stored_at` are the hub's, `Progress.source_time` is the source's. Storing
comes after the heartbeat, so `source_time - stored_at` is never more than the source's clock is ahead: the largest of
the recent differences is taken when it is positive. A negative difference is ambiguous (a source's clock that is
behind, or a capture that is late), so it counts as lateness: too much lag may be shown, never too little. Only a
measured `clock_offset_seconds` (source minus hub) takes that doubt away.

What a pipeline has applied is known as of its worker's last beat, `told_at`. A proof therefore has the age that it had
then: else a pipeline that applies everything at once would seem late whenever its worker has not beaten for a moment.
That is worth `TOLD_SECONDS` at most: a worker that beats no more does not stay proven.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from sync_hub.state import Progress, Worker

PROVEN_INTERVALS = 2
"""Heartbeat intervals for which a proof counts as fresh, and after which a missing heartbeat makes lag unknown."""

TOLD_SECONDS = 2.5
"""How long what a worker told holds: one interval of its beats, and the time to write one."""

CLOCK_RECORDS = 30
"""How many of the newest progress records tell the clocks' difference."""


class Lag(Struct, frozen=True):
    """How far a pipeline is behind; None wherever nothing is proven.

    `seconds`: from commit at the source to commit in the target, for what is not yet applied; 0 only when proven.
    `capture_seconds`: what of it is between source and topic; `deliver_seconds`: between topic and target.
    `events`: records in the topic, as of the last heartbeat before the worker told, that are not applied.
    `proven_time`: everything committed before it, by the source's clock in seconds since 1970, is applied.
    `caught_up_in_seconds`: at the present rates.
    """

    seconds: float | None = None
    capture_seconds: float | None = None
    deliver_seconds: float | None = None
    events: int | None = None
    proven_time: float | None = None
    caught_up_in_seconds: float | None = None


class Rates(Struct, frozen=True):
    """Events a second that arrive in the topic and that are applied, now."""

    arriving: float = 0
    applied: float = 0


class Clock(Struct, frozen=True):
    """`now` by the hub, `heartbeat_seconds` of the source, and how far its clock is ahead when that was measured.

    `told_at`: when the workers last told what they have applied; None when that is now.
    """

    now: float
    heartbeat_seconds: float
    offset_seconds: float | None = None
    told_at: float | None = None

    @property
    def told_ago_seconds(self) -> float:
        """How old the workers' words are, as far as they may be."""
        return 0.0 if self.told_at is None else min(max(0.0, self.now - self.told_at), TOLD_SECONDS)

    def at_source(self, progress: Sequence[Progress]) -> float:
        """The source's time now; at most its measured one, else the latest that the progress allows."""
        if self.offset_seconds is not None:
            return self.now + self.offset_seconds
        differences = [entry.source_time - entry.stored_at for entry in progress[:CLOCK_RECORDS]]
        return self.now + max([0.0, *differences])


def capture_lag(progress: Sequence[Progress], clock: Clock) -> float | None:
    """Seconds between the source's commits and the topics; `progress` is newest first. None without heartbeats."""
    fresh_seconds = PROVEN_INTERVALS * clock.heartbeat_seconds
    if not progress or clock.now - progress[0].stored_at >= fresh_seconds:
        return None
    age = clock.at_source(progress) - progress[0].source_time
    return 0.0 if age < fresh_seconds else age


def measure(
    progress: Sequence[Progress],
    topic: str,
    applied: Mapping[int, int],
    clock: Clock,
    *,
    rates: Rates | None = None,
    loading: bool = False,
    loaded_at: float | None = None,
) -> Lag:
    """The lag of one pipeline.

    `progress` of its source is newest first, `applied` has the next offset of each partition as the target has it,
    merged over all workers: a partition that is missing is unknown. `loading`: existing rows are not all in the topic;
    when they are, since `loaded_at`, only progress stored after it says that they have arrived.
    """
    if not progress or topic not in progress[0].offsets:
        return Lag()
    told_at = clock.now - clock.told_ago_seconds
    then = next((entry for entry in progress if entry.stored_at <= told_at and topic in entry.offsets), progress[0])
    events = _behind(then.offsets[topic], applied)
    proven = next((entry for entry in progress if passed(entry, topic, applied)), None)
    if proven and (loading or (loaded_at is not None and proven.stored_at < loaded_at)):
        proven = None
    proven_time = proven.source_time if proven else None
    capture_seconds = capture_lag(progress, clock)
    if capture_seconds is None or proven_time is None:
        return Lag(capture_seconds=capture_seconds, events=events, proven_time=proven_time)
    seconds = clock.at_source(progress) - proven_time
    if seconds - clock.told_ago_seconds < PROVEN_INTERVALS * clock.heartbeat_seconds:
        return Lag(0.0, 0.0, 0.0, events, proven_time, 0.0)
    return Lag(
        seconds,
        capture_seconds,
        max(0.0, progress[0].source_time - proven_time),
        events,
        proven_time,
        _caught_up_in(events, rates or Rates()),
    )


def passed(entry: Progress, topic: str, applied: Mapping[int, int]) -> bool:
    """Whether all that this progress speaks of is applied; an empty partition needs nobody who reads it."""
    ends = entry.offsets.get(topic)
    return ends is not None and all(applied.get(partition, 0) >= end for partition, end in enumerate(ends))


def _behind(ends: Sequence[int], applied: Mapping[int, int]) -> int | None:
    if any(end and partition not in applied for partition, end in enumerate(ends)):
        return None
    return sum(max(0, end - applied.get(partition, 0)) for partition, end in enumerate(ends))


def _caught_up_in(events: int | None, rates: Rates) -> float | None:
    gain = rates.applied - rates.arriving
    return events / gain if events and gain > 0 else None


def applied_offsets(workers: Iterable[Worker], pipeline: str) -> dict[int, int]:
    """The next offset of each partition, as the workers of the pipeline's target last told."""
    applied: dict[int, int] = {}
    for worker in workers:
        figures = worker.detail.get("pipelines", {}).get(pipeline, {})
        for partition, offset in figures.get("offsets", {}).items():
            applied[int(partition)] = max(offset, applied.get(int(partition), 0))
    return applied
