"""The second loop: poll, decode, map, coalesce per key, and write one target transaction with rows and offsets.

The target's offsets are the only ones: after any doubt (a lost connection, a commit whose outcome is unknown, another
worker's write) they are loaded again and reading continues where they say.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from sync_hub.envelope import decode
from sync_hub.errors import ConfigError, Fatal, OffsetsMoved, Rejected, SyncHubError, Unavailable
from sync_hub.model import ABSENT, ChangeEvent, Offset, RowChange, SinkBatch, Table, TableWrite, TopicPartition
from sync_hub.ports import Broker, Sink, Subscription
from sync_hub.runtime.batch import (
    Decoded,
    Failure,
    Item,
    Work,
    coalesce,
    decoded,
    halves,
    select,
    stages,
    superseded,
    truncated,
)
from sync_hub.runtime.compare import Comparer, expectations, judge, repairs
from sync_hub.runtime.control import Control, described
from sync_hub.runtime.copying import Copying
from sync_hub.runtime.pipelines import COPYING, Delivery, by_table, shown_phase
from sync_hub.runtime.retry import Backoff
from sync_hub.settings import Settings
from sync_hub.state import Pipeline, State

LOG = logging.getLogger(__name__)

POLL_SECONDS = 0.1
POLL_RECORDS = 3000
LOOK_SECONDS = 1.0
BARRIER_SECONDS = 0.1
OF_ONE_TOPIC = frozenset({"offset_gone", "topic_missing", "topic_recreated", "topic_compacted", "partitions_changed"})
"""What a subscription raises about one of its topics."""
RELOAD_SECONDS = 0.2
"""Two workers that write for the same partitions take turns; the pause keeps them from doing nothing else."""


class Deliver:
    """One target's worker, or one of several. `run` returns when asked to stop; `Fatal` needs a person."""

    def __init__(self, target: str, settings: Settings, state: State, control: Control, member: int = 0) -> None:
        self._target = target
        self._settings = settings
        self._state = state
        self._control = control
        self._member = member
        self._deliveries: dict[str, Delivery] = {}
        self._phases: dict[str, str] = {}
        self._backoff = Backoff()
        self._next_attempt_at: float | None = None
        self._copying = Copying(target, settings, state, control)
        self._worked = False
        self._told: list[str] = []

    def run(self) -> None:
        """Deliver until stopped; what is not available is tried again for ever, with backoff.

        What is `Fatal` about one topic stops only the pipelines that read it: the next session looks at each pipeline
        by itself. What it meets before it works, it raises.
        """
        control, backoff = self._control, self._backoff
        while not control.stopping.is_set():
            try:
                self._deliver()
            except OffsetsMoved as error:
                LOG.warning("%s", error, extra={"action": "reload_offsets", "code": error.code})
                control.wait(RELOAD_SECONDS)
            except Fatal as error:
                if error.code not in OF_ONE_TOPIC or not self._worked:
                    raise
                self._worked = False
                LOG.warning("%s; finding out whom it concerns", error, extra={"action": "retry", "code": error.code})
            except Unavailable as error:
                seconds = backoff.next_seconds()
                self._next_attempt_at = time.time() + seconds
                control.backing_off(error)
                LOG.warning("%s; next attempt in %.1f s", error, seconds, extra={"action": "retry", "code": error.code})
                if control.wait_to_retry(seconds):
                    self._answer_requests()
                    backoff.reset()

    def detail(self) -> dict[str, Any]:
        """Figures for the beat; called from the beat's thread."""
        return {
            "kind": "deliver",
            "target": self._target,
            "pipelines": {name: self._figures(one) for name, one in list(self._deliveries.items())},
            "error": described(self._control.error),
        }

    def _figures(self, one: Delivery) -> dict[str, Any]:
        state = one.state(self._phases.get(one.name, "new"), paused=self._is_paused(one))
        failing = self._control.error if self._control.state == "backing_off" else None
        not_copied = self._copying.failure(one.name) if one.copying else None
        retrying = bool(failing or not_copied)
        return {
            "topic": one.topic,
            "state": "retrying" if retrying and state not in {"failed", "paused"} else state,
            "since": one.since,
            "waiting_for": "person"
            if one.error
            else "target"
            if failing
            else "source"
            if not_copied
            else one.waiting_for,
            "waiting": self._copying.blocked_by(one.name) if one.copying else "",
            "applied_total": one.applied.total,
            "applied_per_second": one.applied.figure(),
            "arriving_per_second": one.arrived.figure(),
            "last_applied_at": one.applied.last_at,
            "offsets": {str(partition): offset.next_offset for partition, offset in list(one.offsets.items())},
            "attempt": self._backoff.attempt,
            "next_attempt_at": self._next_attempt_at if failing else None,
            "error": described(one.error or failing or not_copied),
        }

    def _is_paused(self, one: Delivery) -> bool:
        return not self._control.paused.isdisjoint((f"target:{self._target}", f"pipeline:{one.name}"))

    def _deliver(self) -> None:
        sink = self._settings.sink(self._target)
        broker = self._settings.new_broker()
        session = Session(self._target, sink, broker, self._state, self._control)
        try:
            sink.open()
            outline = self._prepare(session, sink, broker)
            group = f"sync_hub_{self._settings.hub.name}_{self._target}"
            session.subscribe(group, self._member, self._settings.targets[self._target].workers)
            self._control.running()
            self._control.changed.set()
            look_at, paused = time.monotonic() + LOOK_SECONDS, self._control.paused
            while not self._control.stopping.is_set():
                self._control.turn()
                session.turn()
                self._worked = True
                self._control.running()
                self._backoff.reset()
                if time.monotonic() >= look_at or self._control.asked or self._control.paused is not paused:
                    look_at, paused = time.monotonic() + LOOK_SECONDS, self._control.paused
                    self._tell_changes()
                    if self._answer_requests() or self._outline() != outline:
                        return
        finally:
            session.close()

    def _tell_changes(self) -> None:
        """Beat soon when a pipeline does something else than before."""
        states = [
            one.state(self._phases.get(one.name, "new"), paused=self._is_paused(one))
            for one in self._deliveries.values()
        ]
        if states != self._told:
            self._told = states
            self._control.changed.set()

    def _prepare(self, session: Session, sink: Sink, broker: Broker) -> object:
        """Bring every pipeline of this target to where it can read, or note why it cannot; the others go on.

        Returns the outline that this rests on: what changes from here on begins a new session.
        """
        wanted = [pipeline for pipeline in self._state.pipelines() if pipeline.target == self._target]
        self._deliveries = {pipeline.name: self._kept(pipeline) for pipeline in wanted}
        paused = self._paused()
        compiled: dict[str, Delivery] = {}
        catalogs = {source: self._state.tables(source) for source in {pipeline.source for pipeline in wanted}}
        for name, one in self._deliveries.items():
            table = catalogs[one.pipeline.source].get(one.pipeline.table)
            one.waiting_for = None if table else "source"
            if table and one.error is None and self._tried(one, lambda one=one, table=table: one.compile(table)):
                compiled[name] = one
        known = {source: catalogs[source] for source in self._waited_for()}
        tables = by_table(wanted)
        for name, one in compiled.items():
            table = catalogs[one.pipeline.source][one.pipeline.table]
            if paused[name]:
                continue
            shared_by = tables[one.mapping.spec.target_table]

            def begin(one: Delivery = one, table: Any = table, shared_by: list[str] = shared_by) -> None:
                one.info = broker.create_topics([one.topic])[one.topic]
                one.fit(sink, table, shared_by, load=self._loads(one.pipeline.source))
                one.start(sink, broker, self._state)

            if self._tried(one, begin) and not one.copying:
                session.deliveries[name] = one
        wanted = [replace(one, phase=COPYING) if self._deliveries[one.name].copying else one for one in wanted]
        self._copy(wanted)
        return _outline(wanted, paused, known)

    def _copy(self, pipelines: Sequence[Pipeline]) -> None:
        """Have rows copied for those that wait for it; one worker of a target is enough."""
        if self._member == 0:
            self._copying.look(pipelines)

    def _loads(self, source: str) -> bool:
        """Whether the rows that were there before are wanted."""
        return getattr(self._settings.sources[source].options, "snapshot", "initial") != "never"

    def _kept(self, pipeline: Pipeline) -> Delivery:
        """A new session keeps figures and errors; an error is forgotten on request, or when the worker starts anew."""
        known = self._deliveries.get(pipeline.name)
        if known is None or _identity(known.pipeline) != _identity(pipeline):
            return Delivery(pipeline)
        known.pipeline = pipeline
        return known

    def _tried(self, one: Delivery, step: Any) -> bool:
        try:
            step()
        except (ConfigError, Fatal, Rejected) as error:
            one.error = error
            LOG.error("pipeline %s stopped: %s", one.name, error, extra={"action": "stop_pipeline", "code": error.code})  # noqa: TRY400
            return False
        return True

    def _outline(self) -> object:
        """What a session rests on, now."""
        pipelines = self._state.pipelines()
        self._phases = {pipeline.name: shown_phase(pipeline) for pipeline in pipelines}
        mine = [pipeline for pipeline in pipelines if pipeline.target == self._target]
        self._copy(mine)
        return _outline(mine, self._paused(), {source: self._state.tables(source) for source in self._waited_for()})

    def _paused(self) -> dict[str, bool]:
        return {name: self._is_paused(one) for name, one in self._deliveries.items()}

    def _waited_for(self) -> set[str]:
        """The sources whose tables are not known yet."""
        return {one.pipeline.source for one in self._deliveries.values() if one.waiting_for == "source"}

    def _answer_requests(self) -> bool:
        """Forget errors that someone wants tried again; True when a new session is needed for it."""
        again = False
        while request := self._control.take():
            name = request.arguments.get("pipeline")
            failed = [one for one in self._deliveries.values() if one.error is not None and name in (None, one.name)]
            for one in failed:
                one.error = None
            again |= bool(failed)
            self._state.finish_request(request.id, {"ok": bool(failed)})
        return again


class Session:
    """One subscription and one connection to the target, until something fails, moves or changes."""

    def __init__(self, target: str, sink: Sink, broker: Broker, state: State, control: Control) -> None:
        self._target = target
        self._sink = sink
        self._broker = broker
        self._state = state
        self._control = control
        self._subscription: Subscription | None = None
        self._barrier_at = 0.0
        self.deliveries: dict[str, Delivery] = {}

    def subscribe(self, group: str, member: int, members: int) -> None:
        """Begin to read the topics of all pipelines that can."""
        topics = sorted({one.topic for one in self.deliveries.values()})
        if topics:
            self._subscription = self._broker.subscribe(
                topics, group, member=member, members=members, on_assign=self._on_assign
            )

    def close(self) -> None:
        """Leave the group and let go of everything."""
        if self._subscription is not None:
            self._subscription.close()
        self._broker.close()
        self._sink.close()

    def turn(self) -> None:
        """Poll once and apply what came; help barriers on."""
        if self._subscription is None:
            self._control.wait(LOOK_SECONDS)
            return
        records = self._subscription.poll(POLL_SECONDS, POLL_RECORDS)
        if records:
            self._apply(decoded(records))
        for one in self.deliveries.values():
            one.caught_up = len(records) < POLL_RECORDS
        if time.monotonic() >= self._barrier_at:
            self._barrier_at = time.monotonic() + BARRIER_SECONDS
            self._pass_barriers(self._subscription)

    def _on_assign(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        rows = self._sink.load_offsets(list(self.deliveries))
        assigned: dict[str, set[int]] = {}
        for topic, partition in {*partitions, *(self._subscription.assignment() if self._subscription else ())}:
            assigned.setdefault(topic, set()).add(partition)
        for one in self._active():
            try:
                one.load(rows, sorted(assigned.get(one.topic, ())))
                for partition in assigned.get(one.topic, ()):
                    self._prove_record(one, one.offsets[partition])
            except (Fatal, Rejected) as error:
                self._fail(one, error)
        return {partition: self._start(partition) for partition in partitions}

    def _active(self) -> list[Delivery]:
        """The pipelines that have not failed."""
        return [one for one in self.deliveries.values() if one.error is None]

    def _start(self, place: TopicPartition) -> int:
        """The lowest offset that a pipeline of this topic still needs; the end when none can go on."""
        topic, partition = place
        needed = [one.offsets[partition].next_offset for one in self._active() if one.topic == topic]
        return min(needed) if needed else self._broker.end_offsets(topic)[partition]

    def _prove_record(self, one: Delivery, offset: Offset) -> None:
        """The record before the offset, if it is still there, must not be newer than what was applied last."""
        if not offset.last_version:
            return
        record = self._broker.fetch(TopicPartition(offset.topic, offset.partition), offset.next_offset - 1)
        event = decode(record) if record else None
        if event is not None and event.version > offset.last_version:
            raise Fatal(
                "offset_unproven",
                f"pipeline {one.name}: record {offset.next_offset - 1} of {offset.topic}/{offset.partition} is not the "
                "one that was applied last",
                hint="the topic's content was replaced",
                command=f"sync-hub recover {one.pipeline.source}",
            )

    def _apply(self, partitions: dict[TopicPartition, list[Decoded]]) -> None:
        for number, stage in enumerate(stages(partitions)):
            if number % 2:
                self._answer_probes(stage)
            else:
                self._apply_events(stage)

    def _answer_probes(self, partitions: dict[TopicPartition, list[Decoded]]) -> None:
        """Compare instead of writing; with `repair` write what differs. Pipelines not asked only move their offsets."""
        for one in self._active():
            mine = {place.partition: records for place, records in partitions.items() if place.topic == one.topic}
            work = select(one.name, one.offsets, mine) if mine else None
            if work is not None:
                self._answer(one, work)

    def _answer(self, one: Delivery, work: Work) -> None:
        """The target is read between two compare-and-sets of the same offsets, so nobody else has written meanwhile."""
        events = [item.event for item in work.items]
        expected = expectations(one.mapping, events)
        keeps = one.mapping.spec.on_delete != "delete"
        probes = judge(
            Comparer(one.mapping, one.target, self._sink), [e.key or {} for e in events], expected, keeps=keeps
        )
        try:
            self._write([(one, work, repairs(events, expected, probes))])
        except Rejected:
            if len(work.items) > 1:
                for half in halves(work):
                    self._answer(one, half)
                return
            self._write([(one, work, [])])
        except Fatal as error:
            self._fail(one, error)
            return
        for run in sorted({event.check for event in events}):
            answers = [probe for event, probe in zip(events, probes, strict=True) if event.check == run]
            self._state.verifications.answer(run, answers)

    def _apply_events(self, partitions: dict[TopicPartition, list[Decoded]]) -> None:
        works = []
        for one in self._active():
            mine = {place.partition: records for place, records in partitions.items() if place.topic == one.topic}
            if mine:
                one.arrived.add(sum(len(records) for records in mine.values()))
                work = select(one.name, one.offsets, mine)
                works.append((one, *self._mapped(one, work, work.items)))
        try:
            self._write(works)
        except (Rejected, Fatal):
            for one, work, _ in works:
                self._isolate(one, work, work.items)
        for one, work, _ in works:
            if work.failure is not None and one.error is None:
                self._fail(one, work.failure.error)

    def _mapped(self, one: Delivery, work: Work, polled: Sequence[Item]) -> tuple[Work, list[RowChange]]:
        """Map the work, in each partition up to the first event that is rejected.

        An event that a newer one among `polled` supersedes is passed over instead.
        """
        mapped = one.mapping.apply([item.event for item in work.items])
        if not mapped.rejected:
            return work, mapped.changes
        outdated = superseded(polled)
        failures: dict[int, Failure] = {}
        for index, error in mapped.rejected:
            item = work.items[index]
            if (item.partition, item.offset) not in outdated and item.partition not in failures:
                failures[item.partition] = Failure(item.partition, item.offset, _about(item.event, error))
        if not failures:
            return work, mapped.changes
        for failure in failures.values():
            work = truncated(work, failure)
        return work, one.mapping.apply([item.event for item in work.items]).changes

    def _write(self, works: Sequence[tuple[Delivery, Work, list[RowChange]]]) -> None:
        """One target transaction for all pipelines."""
        offsets = [(work.before[p], end) for _, work, _ in works for p, end in work.ends.items()]
        if not offsets:
            return
        writes = [write for one, _, changes in works for write in _table_writes(one, changes)]
        self._sink.write(SinkBatch(offsets, writes))
        for one, work, _ in works:
            one.offsets |= work.ends
            one.applied.add(len(work.items))

    def _isolate(self, one: Delivery, work: Work, polled: Sequence[Item]) -> None:
        """Write one pipeline's work alone, by halves, until the record that the target refuses is found.

        A refused record is passed over when a newer one of its key was polled with it: that one is tried instead.
        """
        if one.error is not None:
            return
        work, changes = self._mapped(one, work, polled)
        try:
            self._write([(one, work, changes)])
        except Fatal as error:
            self._fail(one, error)
        except Rejected as error:
            if len(work.items) == 1 and (work.items[0].partition, work.items[0].offset) in superseded(polled):
                self._write([(one, work, [])])
                return
            if len(work.items) <= 1:
                self._fail(one, _about(work.items[0].event, error) if work.items else error)
                return
            for half in halves(work):
                self._isolate(one, half, polled)

    def _fail(self, one: Delivery, error: SyncHubError) -> None:
        one.error = error
        LOG.error("pipeline %s stopped: %s", one.name, error, extra={"action": "stop_pipeline", "code": error.code})
        self._control.changed.set()

    def _pass_barriers(self, subscription: Subscription) -> None:
        for one in self._active():
            blocked = {p: offset.barrier for p, offset in one.offsets.items() if offset.barrier}
            if blocked:
                try:
                    self._pass_barrier(subscription, one, min(blocked.values()))
                except (Fatal, Rejected) as error:
                    self._fail(one, error)

    def _pass_barrier(self, subscription: Subscription, one: Delivery, version: str) -> None:
        """When all partitions stand at the barrier or past it, do its work and move them on in one transaction."""
        rows = [row for row in self._sink.load_offsets([one.name]) if row.topic == one.topic]
        if all(row.barrier == version or row.last_version >= version for row in rows):
            ends = [
                replace(row, next_offset=row.next_offset + 1, last_version=version, barrier="")
                if row.barrier == version
                else row
                for row in rows
            ]
            moved = [pair for pair in zip(rows, ends, strict=True) if pair[0] != pair[1]]
            if moved:
                self._sink.write(SinkBatch(moved, [_truncation(one, self._barrier_event(moved[0][0]))]))
            rows = ends
        stood = {partition for partition, row in one.offsets.items() if row.barrier}
        one.load(rows, sorted(one.offsets))
        passed = {TopicPartition(one.topic, partition) for partition in stood if not one.offsets[partition].barrier}
        for place in passed & set(subscription.assignment()):
            subscription.seek(place, self._start(place))

    def _barrier_event(self, row: Offset) -> ChangeEvent | None:
        record = self._broker.fetch(TopicPartition(row.topic, row.partition), row.next_offset)
        return decode(record) if record else None


def _outline(
    pipelines: Sequence[Pipeline], paused: Mapping[str, bool], tables: Mapping[str, Mapping[str, Table]]
) -> object:
    return (
        [_identity(pipeline) for pipeline in pipelines],
        dict(paused),
        {source: sorted(known) for source, known in tables.items()},
    )


def _identity(pipeline: Pipeline) -> tuple[str, str, int, bool]:
    """What a pipeline is delivered by: another mapping, or another loading, begins anew."""
    return pipeline.name, pipeline.bundle, pipeline.reloads, pipeline.phase == COPYING


def _about(event: ChangeEvent, error: Rejected) -> Rejected:
    """The error with the row that it is about."""
    state = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
    message = f"{event.schema}.{event.table} {event.key}: {error.message}{state}"
    return Rejected(error.code, message, sqlstate=error.sqlstate, hint=error.hint, command=error.command)


def _table_writes(one: Delivery, changes: Sequence[RowChange]) -> list[TableWrite]:
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


def _truncation(one: Delivery, event: ChangeEvent | None) -> TableWrite:
    mapping, columns, values = one.mapping, [], []
    policy = mapping.on_truncate()
    if policy == "mark" and event is not None:
        for column, value in zip(mapping.mark_columns, mapping.truncate_values(event), strict=True):
            if value is not ABSENT:
                columns.append(column)
                values.append(value)
    return TableWrite(
        one.name,
        mapping.spec.target_table,
        mapping.key,
        mapping.columns,
        [],
        mark_columns=tuple(columns),
        shared=one.shared,
        truncate=policy,
        mark_values=tuple(values),
    )
