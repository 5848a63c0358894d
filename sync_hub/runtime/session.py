"""One subscription and one connection to the target: poll, decode, map, coalesce per key, write in one transaction.

The target's offsets are the only ones: after any doubt (a lost connection, a commit whose outcome is unknown, another
worker's write) the session ends, and the next one loads them again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import closing
from typing import Final

from msgspec.structs import replace

from sync_hub.errors import Fatal, OffsetsMoved, Rejected, SyncHubError, Unavailable
from sync_hub.failpoints import failpoint
from sync_hub.model import ChangeEvent, Offset, Record, RowChange, SinkBatch, TableWrite, TopicPartition
from sync_hub.ports import Broker, Sink, Subscription
from sync_hub.runtime import parking
from sync_hub.runtime.barriers import Barriers
from sync_hub.runtime.batch import (
    Decoded,
    Work,
    coalesce,
    decoded,
    halves,
    rebased,
    select,
    stages,
    superseded,
)
from sync_hub.runtime.compare import Comparer, Expected, expectations, judge, repairs
from sync_hub.runtime.conflicts import concerned
from sync_hub.runtime.control import Control
from sync_hub.runtime.offset_proof import unproven_offsets
from sync_hub.runtime.parked_limits import refuse_too_many
from sync_hub.runtime.parked_log import ParkedLog
from sync_hub.runtime.parked_topic import ParkedTopic
from sync_hub.runtime.pipelines import Delivery
from sync_hub.runtime.replay import Replay
from sync_hub.runtime.waiting import Plan, held_up
from sync_hub.settings import Settings
from sync_hub.state import State
from sync_hub.state_verifications import WRONG, Probe

LOG = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.1
POLL_RECORDS: Final = 3000
BUSY_RECORDS: Final = 300
"""A poll that brings so many is of a busy stream: more are waited for, since in small transactions a row costs more."""
GATHER_SECONDS: Final = 0.02
"""How long for."""
IDLE_SECONDS: Final = 1.0
MOST_NAMED: Final = 20
"""How many refusals are followed by another attempt at the whole, before it is cut in halves."""
LOOK_SECONDS: Final = 2.0
"""How long a target may rest before it is asked whether it is there."""


class Session:
    """One subscription and one connection to the target, until something fails, moves or changes."""

    def __init__(
        self, target: str, sink: Sink, broker: Broker, state: State, settings: Settings, control: Control
    ) -> None:
        self._target = target
        self._sink = sink
        self._broker = broker
        self._state = state
        self._limits = settings.limits
        self._retry = settings.retry
        self._told = ParkedLog()
        self._copies = ParkedTopic(settings.hub.name, broker) if settings.topics.parked else None
        self._control = control
        self._subscription: Subscription | None = None
        self._places: dict[TopicPartition, int] = {}
        self._polled: list[Record] = []
        self._barriers = Barriers(sink, broker, state, self._transact, self._fail)
        self._replay = Replay(sink, state, settings.retry, self._write, self._fail)
        self.deliveries: dict[str, Delivery] = {}
        self.written = 0
        self.not_taken: list[Offset] = []
        self._looked_at = time.monotonic()

    def subscribe(self, group: str, member: int, members: int) -> None:
        """Begin to read the topics of all pipelines that can."""
        self._replay.leads = member == 0 and members > 1
        topics = sorted({one.topic for one in self.deliveries.values()})
        for one in self.deliveries.values():
            one.hold([])  # what another session held says nothing about the partitions of this one
        if topics:
            self._subscription = self._broker.subscribe(
                topics, group, member=member, members=members, on_assign=self._on_assign
            )

    def close(self) -> None:
        """Leave the group and let go of everything, also of what comes after something that fails."""
        with closing(self._sink), closing(self._broker):
            if self._subscription is not None:
                self._subscription.close()

    def turn(self) -> None:
        """Poll once and apply what came; help barriers on; try again what is parked and due."""
        if self._subscription is None:
            self._control.wait(IDLE_SECONDS)
            return
        records = self._poll(self._subscription)
        if records:
            failpoint("after_poll")
            partitions = decoded(records, {one.topic: one.mapping.source_table.key for one in self.active()})
            self._refuse_holes(partitions)
            self._apply(partitions)
        for one in self.deliveries.values():
            one.caught_up = len(records) < POLL_RECORDS
        for place in self._barriers.turn(self.active()) & set(self._subscription.assignment()):
            self._seek(place)
        self._replay.turn(self.active())
        self._told.tell()
        self._look()

    def _poll(self, subscription: Subscription) -> list[Record]:
        """What has come: at once where it is little, of a busy stream as much as comes in a moment."""
        self._polled = list(subscription.poll(POLL_SECONDS, POLL_RECORDS))
        until = time.monotonic() + GATHER_SECONDS
        while BUSY_RECORDS <= len(self._polled) < POLL_RECORDS and (left := until - time.monotonic()) > 0:
            more = subscription.poll(left, POLL_RECORDS - len(self._polled))
            self._polled += more
        return self._polled

    def _look(self) -> None:
        """Ask an idle target for something, now and then: one that has gone is told before there are rows for it."""
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        try:
            self._sink.load_offsets([])
        except Fatal as error:
            for one in self.active():
                self._fail(one, error)
        self._looked_at = time.monotonic()

    def _transact(self, batch: SinkBatch) -> None:
        """One transaction of the target; which offset rows it would have moved is remembered when nobody knows.

        A row that it only compares, because what is behind it was applied before, will not move.
        """
        try:
            self._sink.write(batch)
        except Unavailable:
            self.not_taken = [before for before, after in batch.offsets if before != after]
            raise
        self.written += 1
        self._looked_at = time.monotonic()

    def active(self) -> list[Delivery]:
        """The pipelines that have not failed."""
        return [one for one in self.deliveries.values() if one.error is None]

    def reload(self) -> None:
        """Load offsets and parked records again: someone else changed what is parked."""
        self._on_assign([])

    def _on_assign(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Load what the target knows, and say where to read; partitions that stay are read on from there, too.

        Another worker may have passed a barrier meanwhile that they stood at: what was polled behind it was let go.
        """
        self._polled = []  # it is read again
        names = list(self.deliveries)
        rows = self._sink.load_offsets(names)
        held = self._sink.find_parked(names)  # read after: what changes in between moves the offsets' `parked_seq`
        kept = set(self._subscription.assignment() if self._subscription else ()) - set(partitions)
        assigned: dict[str, set[int]] = {}
        for topic, partition in {*partitions, *kept}:
            assigned.setdefault(topic, set()).add(partition)
        for one in self.active():
            mine = assigned.get(one.topic, set())
            try:
                one.load(rows, sorted(mine))
                one.hold([row for row in held if row.pipeline == one.name and row.partition in mine])
            except (Fatal, Rejected) as error:
                self._fail(one, error)
        for one, unproven in unproven_offsets(self._broker, self.active()):
            self._fail(one, unproven)
        for place in kept:
            self._seek(place)
        starts = {partition: self._start(partition) for partition in partitions}
        self._places |= starts
        return starts

    def _seek(self, place: TopicPartition) -> None:
        """Read on from where the target stands."""
        if self._subscription is not None:
            self._places[place] = self._start(place)
            self._subscription.seek(place, self._places[place])

    def _refuse_holes(self, partitions: Mapping[TopicPartition, Sequence[Decoded]]) -> None:
        """What was polled begins where each pipeline stands, or before; else `OffsetsMoved`, and it is read again.

        A pipeline at a barrier lets go of what is behind it; whoever passes the barrier goes back there.
        """
        readers: dict[str, list[Delivery]] = {}
        for one in self.active():
            readers.setdefault(one.topic, []).append(one)
        for place, records in partitions.items():
            begin, self._places[place] = self._places.get(place, 0), records[-1].record.offset + 1
            for one in readers.get(place.topic, ()):
                offset = one.offsets.get(place.partition)
                if offset is not None and not offset.barrier and offset.next_offset < begin:
                    raise OffsetsMoved(
                        "offsets_moved",
                        f"pipeline {one.name} stands at {offset.next_offset} of {place.topic}/{place.partition}, which "
                        f"was read from {begin}",
                        hint="it is read again from there; nothing was written",
                    )

    def _start(self, place: TopicPartition) -> int:
        """The lowest offset that a pipeline of this topic still needs; the end when none can go on."""
        topic, partition = place
        needed = [one.offsets[partition].next_offset for one in self.active() if one.topic == topic]
        return min(needed) if needed else self._broker.end_offsets([topic])[place]

    def _apply(self, partitions: dict[TopicPartition, list[Decoded]]) -> None:
        for number, stage in enumerate(stages(partitions)):
            if number % 2:
                self._answer_probes(stage)
            else:
                self._apply_events(stage)

    def _answer_probes(self, partitions: dict[TopicPartition, list[Decoded]]) -> None:
        """Compare instead of writing; with `repair` write what differs. Pipelines not asked only move their offsets."""
        topics = _by_topic(partitions)
        for one in self.active():
            mine = topics.get(one.topic)
            work = select(one.name, one.offsets, mine) if mine else None
            if work is not None:
                self._answer(one, work)

    def _answer(self, one: Delivery, work: Work) -> None:
        """The target is read between two compare-and-sets of the same offsets, so nobody else has written meanwhile."""
        events = [item.event for item in work.items]
        probes = [Probe(event.key or {}, "touched") for event in events]  # of one that cannot be compared, it stays so
        try:
            expected = expectations(one.mapping, events)
            probes = self._judged(one, events, expected)
            changes = repairs(events, expected, probes)
            asked = [event for event, probe in zip(events, probes, strict=True) if probe.outcome != "parked"]
            mended = [event for event in asked if event.repair] if changes else []
            closed = [
                parking.closed(row, "superseded", time.time())
                for e in mended
                for row in one.held.of(parking.key_text(e))
            ]
            self._write([Plan(one, work, changes, closed)])
        except Rejected:
            if len(work.items) > 1:
                for half in halves(work):
                    self._answer(one, rebased(half, one.offsets))
                return
            self._write([Plan(one, work, [], [])])
        except Fatal as error:
            self._fail(one, error)
            return
        answers = [
            replace(probe, outcome="parked")
            if probe.outcome in WRONG and one.held.of(parking.key_text(event))
            else probe
            for event, probe in zip(events, probes, strict=True)
        ]
        if events:
            failpoint("before_answer")
        for run in sorted({event.check for event in events}):
            self._state.verifications.answer(
                run, [probe for event, probe in zip(events, answers, strict=True) if event.check == run]
            )

    def _judged(self, one: Delivery, events: Sequence[ChangeEvent], expected: Sequence[Expected]) -> list[Probe]:
        comparer = Comparer(one.mapping, one.target, self._sink)
        keeps = one.mapping.spec.on_delete != "delete"
        return judge(comparer, [event.key or {} for event in events], expected, keeps=keeps)

    def _apply_events(self, partitions: dict[TopicPartition, list[Decoded]]) -> None:
        plans, topics = [], _by_topic(partitions)
        for one in self.active():
            mine = topics.get(one.topic)
            if mine:
                one.arrived.add(sum(len(records) for records in mine.values()))
                work = select(one.name, one.offsets, mine)
                plans.append(self._planned(one, work))
        try:
            self._write(plans)
        except (Rejected, Fatal):
            for plan in plans:
                self._isolate(plan.one, plan.work, superseded(plan.work.items))
        for plan in plans:
            if plan.work.failure is not None and plan.one.error is None:
                self._fail(plan.one, plan.work.failure.error)

    def _planned(self, one: Delivery, work: Work, outdated: Set[tuple[int, int]] | None = None) -> Plan:
        return Plan(one, work, *parking.planned(one.mapping, one.held, work, self._retry, time.time(), outdated))

    def _write(self, plans: Sequence[Plan]) -> None:
        """One target transaction for all pipelines. Raises `Fatal` where more would be parked than is allowed."""
        offsets: list[tuple[Offset, Offset]] = []
        for plan in plans:
            one, items = plan.one, plan.work.items
            refuse_too_many(one.name, one.held, one.share, items, plan.parked, self._limits)
            offsets += moved(plan).values()
        if not offsets:
            return
        writes = [write for plan in plans for write in table_writes(plan.one, plan.changes)]
        failpoint("before_write")
        self._transact(SinkBatch(offsets, writes, [row for plan in plans for row in plan.parked]))
        failpoint("after_write")
        for plan in plans:
            new = plan.one.written(moved(plan), plan.work.items, plan.parked)
            self._told.add(new)
            if self._copies is not None:
                self._copies.publish(new)

    def _isolate(self, one: Delivery, work: Work, outdated: Set[tuple[int, int]]) -> None:
        """Write one pipeline's work alone, but for the records that the target refuses: these are parked.

        They are found by what the target says about them; where it does not tell, by halves. A refused record is passed
        over when it is outdated, a newer one of its key polled with it: that one is tried.
        """
        if one.error is not None:
            return
        work = rebased(work, one.offsets)
        try:
            while True:
                try:
                    self._write([self._planned(one, work, outdated)])
                    break
                except Rejected as error:
                    named = self._named(one, work, outdated, error)
                    if not named:
                        self._split(one, work, outdated, error)
                        break
                    work = replace(work, refused=work.refused | named, named=work.named + 1)
                    self._control.turn()  # many of them take long, and are no stall
        except (Fatal, Rejected) as error:
            self._fail(one, error)

    def _named(
        self, one: Delivery, work: Work, outdated: Set[tuple[int, int]], error: Rejected
    ) -> dict[tuple[int, int], Rejected]:
        """The items that a refusal is about, if it tells, by their places; none when that has been asked for too often.

        Of items that want the same value of a unique key, the last one: those before it may have it. What else this key
        refuses is found out with it.
        """
        if error.conflict is None or work.named >= MOST_NAMED:
            return {}
        mapped = one.mapping.apply([item.event for item in work.items])
        places = [work.items[source].place for source in mapped.sources]
        found = [
            index
            for index in concerned(error.conflict, one.mapping, mapped.changes)
            if places[index] not in work.refused and places[index] not in outdated
        ]
        if found and error.code == "unique_violated":
            found = [found[-1], *held_up(self._sink, one, mapped.changes, error.conflict)]
        return dict.fromkeys((places[index] for index in found), error)

    def _split(self, one: Delivery, work: Work, outdated: Set[tuple[int, int]], error: Rejected) -> None:
        if work.unreadable:
            unreadable = replace(work, items=[], ends=work.before, refused={})
            self._write([self._planned(one, unreadable, outdated)])
            work = rebased(replace(work, unreadable=[]), one.offsets)
        if len(work.items) > 1:
            for half in halves(work):
                self._isolate(one, half, outdated)
                self._control.turn()
                failpoint("after_half")
        elif not work.items or work.items[0].place in work.refused:
            raise error
        else:
            self._write([self._planned(one, replace(work, refused={work.items[0].place: error}), outdated)])

    def _fail(self, one: Delivery, error: SyncHubError) -> None:
        one.error = error
        LOG.error("pipeline %s stopped: %s", one.name, error, extra={"action": "stop_pipeline", "code": error.code})
        self._control.changed.set()


def _by_topic(partitions: Mapping[TopicPartition, list[Decoded]]) -> dict[str, dict[int, list[Decoded]]]:
    topics: dict[str, dict[int, list[Decoded]]] = {}
    for (topic, partition), records in partitions.items():
        topics.setdefault(topic, {})[partition] = records
    return topics


def moved(plan: Plan) -> dict[int, tuple[Offset, Offset]]:
    """The offset rows of a plan, by partition, before and after."""
    one, work = plan.one, plan.work
    pairs = {partition: (work.before[partition], end) for partition, end in work.ends.items()}
    for row in plan.parked:
        pairs.setdefault(row.partition, (one.offsets[row.partition], one.offsets[row.partition]))
    return parking.with_seqs(pairs, plan.parked)


def table_writes(one: Delivery, changes: Sequence[RowChange]) -> list[TableWrite]:
    """The changes of one pipeline, in layers that are written one after the other."""
    mapping = one.mapping
    return [
        TableWrite(
            one.name,
            mapping.spec.target_table,
            mapping.key,
            mapping.columns,
            layer,
            mark_columns=mapping.mark_columns,
            shared=one.shared,
        )
        for layer in coalesce(changes)
    ]
