"""The second loop: what one target's worker delivers, session after session; the work itself is `session.py`.

What is wrong with one pipeline stops that pipeline; what is not available is tried again for ever.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from sync_hub.errors import ConfigError, Fatal, OffsetsMoved, Rejected, Unavailable
from sync_hub.model import Table
from sync_hub.ports import Broker, Sink
from sync_hub.runtime.beginning import find
from sync_hub.runtime.control import PARKED, Control, described
from sync_hub.runtime.copying import Copying
from sync_hub.runtime.pipelines import COPYING, Delivery, by_table, shown_phase
from sync_hub.runtime.retry import Backoff
from sync_hub.runtime.session import Session
from sync_hub.runtime.standing import Standing
from sync_hub.settings import Settings
from sync_hub.state import Pipeline, State

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
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
        self._standing = Standing()
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
            "parked": one.held.count("parked"),
            "waiting_rows": one.held.count("waiting"),
            "parked_since": min((row.first_at for row in one.held.all()), default=None),
            "error": described(one.error or failing or not_copied),
        }

    def _is_paused(self, one: Delivery) -> bool:
        return not self._control.paused.isdisjoint((f"target:{self._target}", f"pipeline:{one.name}"))

    def _deliver(self) -> None:
        self._next_attempt_at = None
        sink = self._settings.sink(self._target)
        broker = self._settings.new_broker()
        session = Session(self._target, sink, broker, self._state, self._settings, self._control)
        try:
            sink.open()
            outline = self._prepare(session, sink, broker)
            group = f"sync_hub_{self._settings.hub.name}_{self._target}"
            session.subscribe(group, self._member, self._settings.targets[self._target].workers)
            if self._control.state == "starting":
                self._control.running()
            self._control.changed.set()
            look_at, paused = time.monotonic() + LOOK_SECONDS, self._control.paused
            while not self._control.stopping.is_set():
                self._control.turn()
                written = session.written
                session.turn()
                self._worked = True
                if self._works(session, sink, broker, wrote=session.written > written):
                    self._control.running()
                    self._backoff.reset()
                if time.monotonic() >= look_at or self._control.asked or self._control.paused is not paused:
                    look_at, paused = time.monotonic() + LOOK_SECONDS, self._control.paused
                    self._tell_changes()
                    if self._answer_requests(session) or self._outline() != outline:
                        return
        finally:
            self._standing.begin(session.not_taken)
            session.close()

    def _works(self, session: Session, sink: Sink, broker: Broker, *, wrote: bool) -> bool:
        """Whether nothing speaks against it: having begun again does not show that the target takes rows."""
        if self._control.state != "backing_off":
            return True
        return self._standing.proven(sink, broker, session.active(), wrote=wrote)

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
        beginning = {name: one for name, one in compiled.items() if not paused[name]}
        found = find({name: one.topic for name, one in beginning.items()}, sink, broker)
        for name, one in beginning.items():
            table = catalogs[one.pipeline.source][one.pipeline.table]
            shared_by = tables[one.mapping.spec.target_table]

            def begin(one: Delivery = one, table: Any = table, shared_by: list[str] = shared_by) -> None:
                mine = found[one.name]
                if isinstance(mine, Exception):
                    raise mine
                one.fit(sink, table, shared_by, copy=self._copies(one.pipeline.source))
                one.start(mine, sink, broker, self._state)

            if self._tried(one, begin) and not one.copying:
                session.deliveries[name] = one
        wanted = [replace(one, phase=COPYING) if self._deliveries[one.name].copying else one for one in wanted]
        self._copy(wanted)
        return _outline(wanted, paused, known)

    def _copy(self, pipelines: Sequence[Pipeline]) -> None:
        """Have rows copied for those that wait for it; one worker of a target is enough."""
        if self._member == 0:
            self._copying.look(pipelines)

    def _copies(self, source: str) -> bool:
        """Whether the rows that were there before are wanted, and need not be in the topic."""
        return getattr(self._settings.sources[source].options, "snapshot", "initial") == "initial"

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

    def _answer_requests(self, session: Session | None = None) -> bool:
        """Forget errors that someone wants tried again; True when a new session is needed for it."""
        again = False
        while request := self._control.take():
            if request.action == PARKED:
                if session is not None:
                    session.reload()
                self._state.finish_request(request.id, {"ok": True})
                continue
            name = request.arguments.get("pipeline")
            failed = [one for one in self._deliveries.values() if one.error is not None and name in (None, one.name)]
            for one in failed:
                one.resume()
            again |= bool(failed)
            self._state.finish_request(request.id, {"ok": bool(failed)})
        return again


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
