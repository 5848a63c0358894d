"""The worker that proves that views agree (`guarantees.md` §7): source rows through the mapping against target rows.

A first look compares page by page, without any order between the two sides. What does not agree there becomes a probe:
a question in the log's own order, which the target's worker answers between two writes. Only its answer counts, so a
change in flight is no false alarm.
"""

from __future__ import annotations

import logging
import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from msgspec.structs import replace

from sync_hub.envelope import topic_name
from sync_hub.errors import ConfigError, Fatal, SyncHubError, Unavailable
from sync_hub.mapping.apply import CompiledMapping, compile_mapping
from sync_hub.model import ChangeEvent, RangeSum, Table
from sync_hub.ports import Sink, Source
from sync_hub.runtime.compare import Comparer, Expected, expectations, judge
from sync_hub.runtime.control import PROBE, Control, answer_requests, described
from sync_hub.runtime.lag import passed
from sync_hub.runtime.pipelines import stored_bundle
from sync_hub.settings import Settings
from sync_hub.state import Pipeline, State
from sync_hub.state_snapshots import new_id
from sync_hub.state_verifications import ASKED, SCHEDULE, WRONG, Probe, Report, Verification, VerificationOptions

LOG = logging.getLogger(__name__)

WORKER: Final = "verify"
LOOK_SECONDS: Final = 0.5
PAGE_ROWS: Final = 2000
RANGE_ROWS: Final = 20_000
KEYS_PER_PROBE: Final = 1000
REPORT_SECONDS: Final = 1.0
EXAMPLES: Final = 10
ANSWER_SECONDS: Final = 60.0
"""How long to wait for another answer of a probe before it is asked again."""
BUSY_AFTER: Final = 8
"""A key that gave no answer that counts in so many probes is reported as busy."""
AGAIN_SECONDS: Final = 60.0
"""After how long a verification that a view needs is tried again."""
CANCELLED: Final = "cancelled"
"""Why a view is in doubt whose loading was given up: only a person knows whether it is to be verified."""


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
                self._state.verifications.store(replace(one, state="waiting", report=Report()))
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
        """The oldest that waits; else a view that is in doubt; else one that is due."""
        known = self._state.verifications.all()
        waiting = [one for one in known if one.state == "waiting"]
        if waiting:
            return waiting[0]
        now = time.time()
        for pipeline in self._state.pipelines():
            if pipeline.phase != "loaded" or now < self._not_before.get(pipeline.name, 0.0):
                continue
            if pipeline.unproven and pipeline.unproven != CANCELLED:
                return self._begun(pipeline, pipeline.unproven, VerificationOptions(repair=True))
            if self._due(pipeline, known, now):
                most = self._settings.verify.max_rows_per_second
                return self._begun(pipeline, SCHEDULE, VerificationOptions(max_rows_per_second=most))
        return None

    def _due(self, pipeline: Pipeline, known: Sequence[Verification], now: float) -> bool:
        every = self._settings.verify.every
        if every is None:
            return False
        finished = [one.finished_at or 0.0 for one in known if one.pipeline == pipeline.name and one.finished_at]
        return now - max([pipeline.loaded_at or pipeline.applied_at, *finished]) >= every

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
            done = replace(started, state="failed", report=run.report, error=text)
        finally:
            run.close()
            self._now = None
        if done is None:
            return  # cancelled, or stopped
        self._state.verifications.store(replace(done, finished_at=time.time()))
        self._conclude(run, done)

    def _conclude(self, run: Run, done: Verification) -> None:
        """A view that was in doubt is proven when all of it agrees; else it is tried again later."""
        report, whole = done.report, not (done.options.keys or done.options.sample)
        equal = done.state == "done" and whole and report.agrees and not report.busy
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


class Run:
    """One verification. Reads both ends over connections of its own; writes nothing but questions."""

    def __init__(self, verification: Verification, settings: Settings, state: State, control: Control) -> None:
        self._verification = verification
        self._settings = settings
        self._state = state
        self._control = control
        self.pipeline: Pipeline | None = None
        self.report = Report()
        self.source: Source
        self.sink: Sink
        self._opened: list[Source | Sink] = []
        self._report_at = 0.0
        self._cancelled = False
        self._probes = 0

    def close(self) -> None:
        """Let go of both ends."""
        for connector in self._opened:
            connector.close()

    def verify(self) -> Verification | None:
        """The finished verification; None when it was cancelled or the worker is to stop."""
        asked = self._verification
        pipeline = next((one for one in self._state.pipelines() if one.name == asked.pipeline), None)
        if pipeline is None:
            raise ConfigError("unknown_name", f"there is no pipeline {asked.pipeline}")
        self.pipeline = pipeline
        table = self._state.tables(pipeline.source).get(pipeline.table)
        if pipeline.phase != "loaded" or table is None:
            raise Unavailable("not_loaded", f"pipeline {pipeline.name} is not loaded yet", hint="wait until it is")
        self.source, self.sink = self._settings.source(pipeline.source), self._settings.sink(pipeline.target)
        self._opened = [self.source, self.sink]
        mapping = compile_mapping(stored_bundle(pipeline), table, secrets=os.environ)
        now = self.source.describe(pipeline.table)
        estimate = max(0, now.rows_estimated if now is not None else 0)
        self.sink.open()
        target = self.sink.describe(mapping.spec.target_table)
        if target is None:
            raise Fatal("target_table_missing", f"there is no table {mapping.spec.target_table} in {pipeline.target}")
        view = View(mapping, table, target, Comparer(mapping, target, self.sink))
        self.report = replace(self.report, rows_estimated=estimate)
        suspects = [dict(key) for key in asked.options.keys] or self._look(view)
        if not self._stopped():
            self._ask(view, suspects)
        if self._stopped():
            return None
        return replace(asked, state="done", report=self.report)

    def _look(self, view: View) -> list[dict[str, Any]]:
        """Compare all rows as they are now; returns the source keys of what does not agree."""
        if not self._verification.options.sample and (names := view.summable()):
            suspects = self._look_at_ranges(view, names)
            if suspects is not None:
                return suspects
        return self._look_at_rows(view)

    def _look_at_rows(self, view: View) -> list[dict[str, Any]]:
        options = self._verification.options
        suspects: list[dict[str, Any]] = []
        seen = array("q")
        share = options.sample / max(1, self.report.rows_estimated) if options.sample else 1.0
        after: tuple[Any, ...] | None = None
        started = time.monotonic()
        while not self._stopped():
            rows, after = self.source.read_page(view.table.full_name, after, PAGE_ROWS, share=share)
            suspects += self._page(view, rows, seen)
            if after is None or (options.sample and self.report.rows_done >= options.sample):
                break
            self._slow_down(started)
        if not options.sample and not self._stopped():
            suspects += self._extras(view, seen)
        return suspects

    def _look_at_ranges(self, view: View, names: Mapping[str, str]) -> list[dict[str, Any]] | None:
        """Compare checksums that both systems make of key ranges, and rows where they differ; None: they cannot.

        `names` are source columns by target column. Sound because nothing is between them but the mapping's copying.
        """
        suspects: list[dict[str, Any]] = []
        after: tuple[Any, ...] | None = None
        started = time.monotonic()
        with ThreadPoolExecutor(1) as source:  # it works out the next range while the target works on this one

            def following(place: tuple[Any, ...] | None) -> Future[RangeSum | None]:
                return source.submit(
                    self.source.checksum, view.table.full_name, list(names.values()), place, RANGE_ROWS
                )

            asked = following(None)
            while not self._stopped():
                ours = asked.result()
                if ours is None:
                    return None
                if ours.last_key is not None:
                    asked = following(ours.last_key)
                between = (after, ours.last_key)
                theirs = self.sink.checksum(view.target, view.mapping.key, list(names), between, mapping=view.name)
                if theirs is None or theirs.kind != ours.kind:
                    asked.result()
                    return None
                if (theirs.rows, theirs.digest) == (ours.rows, ours.digest):
                    self._add(matched=ours.rows)
                    self._tell(rows_done=ours.rows)
                else:
                    wrong = source.submit(self._rows_between, view, after, ours.rows)
                    suspects += self._compare_range(view, wrong.result(), between)
                after = ours.last_key
                if after is None:
                    break
                self._slow_down(started)
        return suspects

    def _rows_between(self, view: View, after: tuple[Any, ...] | None, count: int) -> list[dict[str, Any]]:
        """The rows of a range whose checksum had this many."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            rows, after = self.source.read_page(view.table.full_name, after, min(PAGE_ROWS, count - len(found)))
            found += rows
            if after is None:
                break
        return found

    def _compare_range(
        self, view: View, rows: Sequence[dict[str, Any]], between: tuple[Any, Any]
    ) -> list[dict[str, Any]]:
        seen = array("q")
        suspects = []
        for start in range(0, len(rows), PAGE_ROWS):
            suspects += self._page(view, rows[start : start + PAGE_ROWS], seen)
        known = set(seen)
        keys = self.sink.keys_between(view.target, view.mapping.key, between, mapping=view.name)
        extra = [key for key in keys if hash(view.comparer.identity(key)) not in known]
        return suspects + [view.source_key(key) for key in extra]

    def _slow_down(self, started: float) -> None:
        most = self._verification.options.max_rows_per_second
        if most:
            self._control.wait(started + self.report.rows_done / most - time.monotonic())

    def _page(self, view: View, rows: Sequence[dict[str, Any]], seen: array[int]) -> list[dict[str, Any]]:
        keys = [view.event_key(row) for row in rows]
        expected = view.expected(rows, keys)
        answers = judge(view.comparer, keys, expected, keeps=view.keeps)
        seen.extend(hash(view.comparer.identity(one.key)) for one in expected if one.values is not None)
        counts = _counted(answers)
        self._add(matched=counts.get("matched", 0), kept=counts.get("kept", 0), parked=counts.get("parked", 0))
        self._tell(rows_done=len(rows))
        return [answer.key for answer in answers if answer.outcome in WRONG]

    def _extras(self, view: View, seen: array[int]) -> list[dict[str, Any]]:
        """Source keys of target rows that no source row was seen for; they are `kept` where the mapping keeps them."""
        known = array("q", sorted(seen))
        extra = []
        for key in self.sink.read_rows(view.target, view.mapping.key, mapping=view.name):
            self._tell()
            if not _contains(known, hash(view.comparer.identity(key))):
                extra.append(tuple(key))
                if self._stopped():
                    return []
        if view.keeps:
            self._add(kept=len(extra))
            return []
        if view.undone:
            return [view.source_key(key) for key in extra]
        self._second_look(view, extra)
        return []

    def _second_look(self, view: View, extra: list[tuple[Any, ...]]) -> None:
        """Keys that are computed cannot be asked for at the source: look at all of it again for rows that make them.

        What is still in the target when all that was committed before is applied, as it was, is extra.
        """
        before = view.comparer.read(extra)
        after: tuple[Any, ...] | None = None
        while before and not self._stopped():
            rows, after = self.source.read_page(view.table.full_name, after, PAGE_ROWS)
            for one in view.expected(rows, [view.event_key(row) for row in rows]):
                before.pop(view.comparer.identity(one.key), None)
            self._tell()
            if after is None:
                break
        if before and self._proven_past(time.time()):
            now = view.comparer.read(extra)
            identities = {view.comparer.identity(key): key for key in extra}
            still = [
                key
                for identity, key in identities.items()
                if identity in before and before[identity] == now.get(identity)
            ]
            examples = [f"{', '.join(map(str, key))}: extra" for key in still]
            self.report = replace(self.report, examples=(*self.report.examples, *examples)[:EXAMPLES])
            self._add(extra=len(still))

    def _proven_past(self, moment: float) -> bool:
        """Wait until the pipeline has applied all that was committed before; False when stopped."""
        assert self.pipeline is not None  # noqa: S101 - set by `verify`
        topic = topic_name(self.pipeline.source, self.pipeline.table)
        while not self._stopped():
            applied = applied_offsets(self._state, self.pipeline.name)
            proven = [p for p in self._state.progress(self.pipeline.source, limit=20) if passed(p, topic, applied)]
            if proven and proven[0].source_time > moment:
                return True
            self._control.wait(LOOK_SECONDS)
            self._tell()
        return False

    def _ask(self, view: View, suspects: Sequence[dict[str, Any]]) -> None:
        """Probe what did not agree, a thousand keys at a time."""
        different = list({view.identity(key): key for key in suspects}.values())
        for start in range(0, len(different), KEYS_PER_PROBE):
            answers = self._settled(view, different[start : start + KEYS_PER_PROBE])
            wrong = [one.key for one in answers if one.outcome in WRONG]
            if wrong and self._verification.options.repair:
                answers = [one for one in answers if one.outcome not in WRONG] + self._repaired(view, wrong)
            self._count(answers)
            if self._stopped():
                return

    def _repaired(self, view: View, keys: Sequence[dict[str, Any]]) -> list[Probe]:
        """Have what differs written, and look again."""
        self._write_again(view, keys)
        answers = self._settled(view, keys)
        self._add(repaired=sum(1 for one in answers if one.outcome in {"matched", "absent", "kept"}))
        return answers

    def _settled(self, view: View, keys: Sequence[dict[str, Any]]) -> list[Probe]:
        """The answers to probes of these keys; what changes all the while comes back as `touched`.

        A difference counts when it is seen twice, the same on both sides. At the place of one probe a target may be
        ahead of its source: what the log leaves out of an event is read later, and is then newer than the event.
        """
        settled: list[Probe] = []
        seen: dict[Any, Probe] = {}
        left = list(keys)
        for _ in range(BUSY_AFTER):
            if not left or self._stopped():
                break
            again = []
            for answer in self._probe(view, left, repair=False):
                identity = view.identity(answer.key)
                if answer.outcome == "touched" or (answer.outcome in WRONG and seen.get(identity) != answer):
                    again.append(answer.key)
                else:
                    settled.append(answer)
                seen[identity] = answer
            left = again
        return settled + [Probe(key, "touched") for key in left]

    def _write_again(self, view: View, keys: Sequence[dict[str, Any]]) -> None:
        """Probe with `repair` until nothing touches the keys meanwhile, or often enough."""
        left = list(keys)
        for _ in range(BUSY_AFTER):
            if left and not self._stopped():
                left = [one.key for one in self._probe(view, left, repair=True) if one.outcome == "touched"]

    def _probe(self, view: View, keys: Sequence[dict[str, Any]], *, repair: bool) -> list[Probe]:
        """Ask once; keys that nobody answers in time count as touched."""
        self._probes += 1
        assert self.pipeline is not None  # noqa: S101 - set by `verify`
        run = f"{self._verification.id}.{self._probes}"
        arguments = {
            "run": run,
            "table": view.table.full_name,
            "pipeline": self.pipeline.name,
            "keys": list(keys),
            "repair": repair,
        }
        request = self._state.ask(f"capture:{self.pipeline.source}", PROBE, arguments)
        answers: list[Probe] = []
        until = time.monotonic() + ANSWER_SECONDS
        while len(answers) < len(keys) and time.monotonic() < until and not self._stopped():
            self._control.wait(0.02 if not answers else 0.1)
            now = self._state.verifications.answers(run)
            if len(now) > len(answers):
                answers, until = now, time.monotonic() + ANSWER_SECONDS
            self._tell()
        if len(answers) < len(keys):
            self._state.finish_request(request, {"ok": False})
            if not answers and not self._stopped():
                raise Unavailable(
                    "probe_unanswered",
                    f"no answer from pipeline {self.pipeline.name} within {ANSWER_SECONDS:.0f} s",
                    hint="is it paused, failed or far behind? its target can only be compared while it runs",
                    command=f"sync-hub status {self.pipeline.name}",
                )
        answered = {view.identity(one.key) for one in answers}
        return answers + [Probe(dict(key), "touched") for key in keys if view.identity(key) not in answered]

    def _count(self, answers: Sequence[Probe]) -> None:
        counts = _counted(answers)
        columns = dict(self.report.columns)
        for answer in answers:
            for name in answer.columns:
                columns[name] = columns.get(name, 0) + 1
        wrong = [one for one in answers if one.outcome in WRONG]
        examples = [*self.report.examples, *(_example(one) for one in wrong)]
        self.report = replace(self.report, columns=columns, examples=tuple(examples[:EXAMPLES]))
        names = ("matched", "different", "missing", "extra", "parked", "kept")
        self._add(busy=counts.get("touched", 0), **{name: counts.get(name, 0) for name in names})

    def _add(self, **figures: int) -> None:
        now = {name: getattr(self.report, name) + count for name, count in figures.items()}
        self.report = replace(self.report, **now)

    def _tell(self, *, rows_done: int = 0) -> None:
        """Show progress now and then; notice that it was cancelled."""
        if rows_done:
            self._add(rows_done=rows_done)
        self._control.turn()
        if time.monotonic() >= self._report_at:
            self._report_at = time.monotonic() + REPORT_SECONDS
            self._cancelled = not self._state.verifications.store(replace(self._verification, report=self.report))

    def _stopped(self) -> bool:
        return self._cancelled or self._control.stopping.is_set()


class View:
    """One view and what is needed to compare it: mapping, source table, comparer."""

    def __init__(self, mapping: CompiledMapping, table: Table, target: Table, comparer: Comparer) -> None:
        self.mapping = mapping
        self.name = mapping.spec.name
        self.table = table
        self._target_types = {column.name: column.declared or column.type for column in target.columns}
        self.comparer = comparer
        self.target = mapping.spec.target_table
        self.keeps = mapping.spec.on_delete != "delete"
        self.undone = {field.column for field in mapping.key_fields} >= set(table.key)

    def summable(self) -> dict[str, str]:
        """Source columns by target column where the view is nothing but a copy, of the same types; else nothing."""
        if self.mapping.condition is not None or self.keeps or not self.undone:
            return {}
        fields = [field for field in self.mapping.fields if field.name in self.comparer.columns]
        types = {column.name: column.declared or column.type for column in self.table.columns}
        alike = all(types.get(field.column) == self._target_types[field.name] for field in fields)
        in_order = tuple(field.column for field in self.mapping.key_fields) == self.table.key
        return {field.name: field.column for field in fields} if alike and in_order else {}

    def identity(self, key: Mapping[str, Any]) -> tuple[str, ...]:
        """An event key as something that is equal for equal keys, however their values are spelled in JSON."""
        return tuple([str(key[name]) for name in self.table.key])

    def event_key(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The key that the row's events have, as far as its values show it."""
        return {name: row[name] for name in self.table.key}

    def expected(self, rows: Sequence[dict[str, Any]], keys: Sequence[dict[str, Any]]) -> list[Expected]:
        """What the target should have for these source rows."""
        events = [
            ChangeEvent(
                source=self.mapping.spec.source,
                schema=self.table.schema,
                table=self.table.name,
                operation="read",
                key=key,
                before=None,
                after=row,
                version="-",
                committed_at=0,
            )
            for row, key in zip(rows, keys, strict=True)
        ]
        return expectations(self.mapping, events)

    def source_key(self, key: Sequence[Any]) -> dict[str, Any]:
        """The source's key of a target key, where `undone` says that it can be told."""
        found = {field.column: value for field, value in zip(self.mapping.key_fields, key, strict=True)}
        return {name: found[name] for name in self.table.key}


def applied_offsets(state: State, pipeline: str) -> dict[int, int]:
    """The next offset of each partition, as the workers of the pipeline's target last told."""
    applied: dict[int, int] = {}
    for worker in state.workers():
        figures = worker.detail.get("pipelines", {}).get(pipeline, {})
        for partition, offset in figures.get("offsets", {}).items():
            applied[int(partition)] = max(offset, applied.get(int(partition), 0))
    return applied


def _counted(answers: Sequence[Probe]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for answer in answers:
        counts[answer.outcome] = counts.get(answer.outcome, 0) + 1
    return counts


def _example(probe: Probe) -> str:
    key = ", ".join(f"{name}={value}" for name, value in probe.key.items())
    return f"{key}: {probe.outcome}" + (f" in {', '.join(probe.columns)}" if probe.columns else "")


def _contains(ordered: array[int], value: int) -> bool:
    place = bisect_left(ordered, value)
    return place < len(ordered) and ordered[place] == value
