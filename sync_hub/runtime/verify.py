"""The worker that proves that views agree (`guarantees.md` §7): source rows through the mapping against target rows.

A first look compares page by page, without any order between the two sides. What does not agree there becomes a probe:
a question in the log's own order, which the target's worker answers between two writes. Only its answer counts, so a
change in flight is no false alarm.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from sync_hub.errors import ConfigError, Fatal, SyncHubError, Unavailable
from sync_hub.mapping.apply import compile_mapping
from sync_hub.ports import Sink, Source
from sync_hub.runtime.compare import Comparer
from sync_hub.runtime.control import Control, answer_requests, described
from sync_hub.runtime.extras import Extras
from sync_hub.runtime.first_look import FirstLook
from sync_hub.runtime.pipelines import by_table, stored_bundle
from sync_hub.runtime.questions import Questions
from sync_hub.runtime.tally import Tally
from sync_hub.runtime.view import View
from sync_hub.settings import Settings
from sync_hub.state import Pipeline, State
from sync_hub.state_snapshots import CANCELLED, new_id
from sync_hub.state_verifications import ASKED, SCHEDULE, Verification, VerificationOptions

LOG = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
AGAIN_SECONDS: Final = 60.0
"""After how long a verification that a view needs is tried again."""


class Verify:
    """The loop of the verify worker: one verification at a time. `run` returns when asked to stop."""

    def __init__(self, settings: Settings, state: State, control: Control) -> None:
        self._settings = settings
        self._state = state
        self._control = control
        self._now: Verification | None = None
        self._not_before: dict[str, float] = {}

    def run(self) -> None:
        """Verify what is asked for, what is in doubt and what is due, until stopped."""
        for one in self._state.verifications.all():
            if one.state == "running":  # of a process that is gone
                ended = replace(one, state="failed", finished_at=time.time(), error="its worker ended while it ran")
                self._state.verifications.store(ended)
        while not self._control.stopping.is_set():
            self._control.turn()
            answer_requests(self._control, self._state, done=False)
            try:
                due = self._next()
                self._control.running()
                if due is not None:
                    self._verify(due)
                    continue
            except Unavailable as error:
                self._control.backing_off(error)
                LOG.warning("%s", error, extra={"action": "retry", "code": error.code})
            self._control.wait(LOOK_SECONDS)

    def detail(self) -> dict[str, Any]:
        """Figures for the beat; called from the beat's thread."""
        now = self._now
        return {
            "kind": "verify",
            "pipeline": now.pipeline if now else None,
            "verification": now.id if now else None,
            "error": described(self._control.error),
        }

    def _next(self) -> Verification | None:
        """The oldest that waits; else of the views that are in doubt or due the one that has waited longest."""
        known = self._state.verifications.all()
        waiting = [one for one in known if one.state == "waiting"]
        if waiting:
            return waiting[0]
        pipeline = longest_due(
            self._state.pipelines(), known, self._not_before, self._settings.verify.every, time.time()
        )
        if pipeline is None:
            return None
        if _in_doubt(pipeline):
            return self._begun(pipeline, pipeline.unproven, VerificationOptions(repair=True))
        most = self._settings.verify.max_rows_per_second
        return self._begun(pipeline, SCHEDULE, VerificationOptions(max_rows_per_second=most))

    def _begun(self, pipeline: Pipeline, reason: str, options: VerificationOptions) -> Verification:
        one = Verification(new_id(), pipeline.name, reason, options=options, asked_at=time.time())
        self._state.verifications.ask([one])
        return one

    def _verify(self, asked: Verification) -> None:
        started = replace(asked, state="running", started_at=time.time())
        if not self._state.verifications.store(started):
            return
        self._now = started
        run = Run(started, self._settings, self._state, self._control)
        try:
            done = run.verify()
        except SyncHubError as error:
            if self._control.stopping.is_set():
                self._state.verifications.store(replace(started, state="waiting", started_at=None))
                return
            text = f"{error.code}: {error.message}"
            LOG.warning("verification of %s failed: %s", asked.pipeline, text, extra={"action": "verify"})
            done = replace(started, state="failed", report=run.tally.report, error=text)
        finally:
            run.close()
            self._now = None
        if done is None:  # cancelled, or stopped: then it is begun again
            if self._control.stopping.is_set():
                self._state.verifications.store(replace(started, state="waiting", started_at=None))
            return
        self._state.verifications.store(replace(done, finished_at=time.time()))
        self._conclude(run, done)

    def _conclude(self, run: Run, done: Verification) -> None:
        """A view that was in doubt is proven when all of it agrees; else it is tried again later."""
        report = done.report
        equal = done.is_whole and report.agrees and not report.busy
        if equal and run.pipeline is not None and run.pipeline.unproven:
            self._state.prove(run.pipeline)
        elif not equal and done.reason not in (ASKED, SCHEDULE):
            self._not_before[done.pipeline] = time.time() + AGAIN_SECONDS
        LOG.info(
            "verified %s: %d matched, %d different, %d missing, %d extra, %d busy",
            done.pipeline,
            report.matched,
            report.different,
            report.missing,
            report.extra,
            report.busy,
            extra={"action": "verify", "pipeline": done.pipeline},
        )


def longest_due(
    pipelines: Sequence[Pipeline],
    known: Sequence[Verification],
    not_before: Mapping[str, float],
    every: float | None,
    now: float,
) -> Pipeline | None:
    """Whose turn it is: of those in doubt, and those last verified `every` seconds ago, the one due first; None: none.

    A view that has come into doubt was due long ago; one that was tried in vain is at the time in `not_before`.
    """
    finished: dict[str, float] = {}
    for one in known:
        finished[one.pipeline] = max(finished.get(one.pipeline, 0.0), one.finished_at or 0.0)
    due: list[tuple[float, Pipeline]] = []
    for pipeline in pipelines:
        if pipeline.phase == "loaded" and _in_doubt(pipeline):
            due.append((not_before.get(pipeline.name, 0.0), pipeline))
        elif pipeline.phase == "loaded" and every is not None:
            last = max(pipeline.loaded_at or pipeline.applied_at, finished.get(pipeline.name, 0.0))
            due.append((last + every, pipeline))
    first = min(due, key=lambda pair: pair[0], default=None)
    return first[1] if first is not None and first[0] <= now else None


def _in_doubt(pipeline: Pipeline) -> bool:
    return bool(pipeline.unproven) and pipeline.unproven != CANCELLED


class Run:
    """One verification. Reads both ends over connections of its own; writes nothing but questions."""

    def __init__(self, verification: Verification, settings: Settings, state: State, control: Control) -> None:
        self._verification = verification
        self._settings = settings
        self._state = state
        self.tally = Tally(verification, state, control)
        self.pipeline: Pipeline | None = None
        self._opened: list[Source | Sink] = []

    def close(self) -> None:
        """Let go of both ends."""
        for connector in self._opened:
            connector.close()

    def verify(self) -> Verification | None:
        """The finished verification; None when it was cancelled or the worker is to stop."""
        asked, tally = self._verification, self.tally
        self.pipeline = pipeline = self._loaded_pipeline()
        source, sink = self._settings.source(pipeline.source), self._settings.sink(pipeline.target)
        self._opened = [source, sink]
        now = source.describe(pipeline.table)
        tally.report = replace(tally.report, rows_estimated=max(0, now.rows_estimated if now is not None else 0))
        view = self._view(pipeline, sink)
        suspects: Sequence[dict[str, Any]] = asked.options.keys
        look = FirstLook(view, (source, sink), asked.options, tally)
        if not suspects:
            suspects = look.suspects()
        if not tally.stopped:
            spelled = source.event_keys(pipeline.table, suspects)
            if asked.options.keys:
                _refuse_strange(pipeline.table, suspects, spelled)
            tally.add(busy=spelled.count(None))  # of rows whose keys the source itself does not take back
            Questions(view, pipeline, asked, tally, self._state).ask([key for key in spelled if key is not None])
        if not tally.stopped:
            extras = Extras(view, (source, sink), pipeline, tally, self._state)
            broker = self._settings.new_broker
            extras.settle(look.unaskable, broker, repair=asked.options.repair, shared=self._is_shared(pipeline, view))
        return None if tally.stopped else replace(asked, state="done", report=tally.report)

    def _loaded_pipeline(self) -> Pipeline:
        name = self._verification.pipeline
        pipeline = next((one for one in self._state.pipelines() if one.name == name), None)
        if pipeline is None:
            raise ConfigError("unknown_name", f"there is no pipeline {name}")
        held = {f"pipeline:{name}", f"target:{pipeline.target}", f"source:{pipeline.source}"}
        paused = [one.subject for one in self._state.pauses() if one.subject in held]
        if paused:
            raise Unavailable(
                "paused",
                f"{paused[0]} is paused, and only a pipeline that runs can be verified",
                command=f"sync-hub resume {paused[0]}",
            )
        if pipeline.phase != "loaded" or pipeline.table not in self._state.tables(pipeline.source):
            raise Unavailable("not_loaded", f"pipeline {name} is not loaded yet", hint="wait until it is")
        return pipeline

    def _is_shared(self, pipeline: Pipeline, view: View) -> bool:
        """Whether other mappings write to the same table."""
        of_target = [one for one in self._state.pipelines() if one.target == pipeline.target]
        return len(by_table(of_target)[view.target]) > 1

    def _view(self, pipeline: Pipeline, sink: Sink) -> View:
        table = self._state.tables(pipeline.source)[pipeline.table]
        mapping = compile_mapping(stored_bundle(pipeline), table, secrets=os.environ)
        sink.open()
        target = sink.describe(mapping.spec.target_table)
        if target is None:
            raise Fatal("target_table_missing", f"there is no table {mapping.spec.target_table} in {pipeline.target}")
        mapping.fit(target)
        return View(mapping, table, target, Comparer(mapping, target, sink))


def _refuse_strange(table: str, keys: Sequence[dict[str, Any]], spelled: Sequence[dict[str, Any] | None]) -> None:
    """Raise `ConfigError` for a key that no row of the table can have; `spelled` are the keys as events spell them."""
    strange = next((given for given, key in zip(keys, spelled, strict=True) if key is None), None)
    if strange is not None:
        raise ConfigError(
            "bad_key",
            f"{table}: {strange} is no key of this table",
            hint="give every column of the key a value of its type",
        )
