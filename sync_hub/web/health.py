"""The health document (`design.md` §10): one view of the whole hub, derived from the state alone.

Pure: everything comes from `Facts` and `Settings`, so that every node, the command line and the web show the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sync_hub import __version__
from sync_hub.runtime.lag import Clock, Lag, Rates, capture_lag, measure
from sync_hub.settings import Settings
from sync_hub.state import Pause, Pipeline, Worker
from sync_hub.state_snapshots import Snapshot
from sync_hub.state_verifications import Verification
from sync_hub.web.facts import Facts, iso, number, subject_of
from sync_hub.web.mappings import MappingStatus

Document = dict[str, Any]

HEARTBEAT_SECONDS = 2.0

WORST_FIRST = ("failed", "stopped", "retrying", "paused", "snapshotting", "reloading", "catching_up", "running")
"""States of pipelines: of several, the first in this order tells most."""
OUTCOMES = ("matched", "different", "missing", "extra", "busy", "parked", "repaired")
"""What is told of what a verification counts."""
_LOADED = "loaded"


def document(settings: Settings, facts: Facts, mappings: Mapping[str, MappingStatus]) -> Document:
    """Everything but the problems: they are found in this."""
    sources = {name: _source(name, settings, facts) for name in settings.sources}
    return {
        "status": "ok",
        "hub": settings.hub.name,
        "version": __version__,
        "time": iso(facts.now),
        "act_before": None,
        "problems": [],
        "workers": [_worker(worker, facts) for worker in facts.shown(settings)],
        "sources": sources,
        "pipelines": {
            pipeline.name: _pipeline(pipeline, facts, mappings.get(pipeline.name, MappingStatus()))
            for pipeline in facts.pipelines
        },
    }


def worker_state(worker: Worker, facts: Facts) -> str:
    """A worker's state as it can be believed: `lost` when it has been silent for too long."""
    if facts.silent(worker) and worker.state not in ("stopped", "failed"):
        return "lost"
    return worker.state


def pause_of(subjects: tuple[str, ...], facts: Facts) -> Pause | None:
    """The pause in force for one of these subjects."""
    return next((pause for pause in facts.pauses if pause.subject in subjects), None)


def _worker(worker: Worker, facts: Facts) -> Document:
    state = worker_state(worker, facts)
    return {
        "name": worker.name,
        "subject": subject_of(worker.name),
        "host": worker.host,
        "pid": worker.pid,
        "state": state,
        "since": iso(worker.beat_at if state == "lost" else worker.since),
        "restarts_last_hour": int(number(worker.detail.get("restarts_last_hour"))),
        "seen_at": iso(worker.beat_at),
        "turn_at": iso(worker.detail.get("turn_at")),
        "error": worker.detail.get("error"),
    }


def _source(name: str, settings: Settings, facts: Facts) -> Document:
    workers = [worker for worker in facts.workers if worker.name == f"capture:{name}"]
    worker = max(workers, key=lambda found: found.beat_at, default=None)
    detail: Document = worker.detail if worker else {}
    status: Document = detail.get("status") or {}
    state, since = _source_state(worker, facts)
    progress = facts.progress.get(name, [])
    pause = pause_of((f"source:{name}",), facts)
    return {
        "type": settings.sources[name].type,
        "state": state,
        "since": iso(since),
        "position": detail.get("position") or status.get("position"),
        "lag_seconds": _rounded(capture_lag(progress, _clock(detail, facts))),
        "heartbeat_at": iso(progress[0].stored_at if progress else None),
        "heartbeat_seconds": number(detail.get("heartbeat_seconds"), HEARTBEAT_SECONDS),
        "events_total": int(number(detail.get("events_total"))),
        "events_per_second": number(detail.get("events_per_second")) if _live(worker, facts) else 0.0,
        "retained_log_bytes": status.get("retained_log_bytes"),
        "retained_log_limit_bytes": status.get("retained_log_limit_bytes"),
        "slot_status": status.get("slot_status"),
        "last_event_at": iso(detail.get("last_event_at")),
        "waiting": detail.get("waiting") or facts.copying_waits(name),
        "paused": _pause(pause),
        "snapshot": detail.get("snapshot"),
        "snapshots": [_snapshot(one) for one in facts.loading(name)],
        "error": detail.get("error"),
    }


def _source_state(worker: Worker | None, facts: Facts) -> tuple[str, float | None]:
    """The state and since when; a source whose worker is silent is not streaming, whatever it said last."""
    if worker is None:
        return "stopped", None
    believed = worker_state(worker, facts)
    if believed == "failed":
        return "failed", worker.since
    if believed in ("lost", "stopped"):
        return "stopped", worker.beat_at if believed == "lost" else worker.since
    return str(worker.detail.get("state", "stopped")), worker.since


def _live(worker: Worker | None, facts: Facts) -> bool:
    return worker is not None and worker_state(worker, facts) in ("running", "starting", "backing_off")


def _clock(capture_detail: Document, facts: Facts, told_at: float | None = None) -> Clock:
    offset = (capture_detail.get("status") or {}).get("clock_offset_seconds")
    heartbeat_seconds = number(capture_detail.get("heartbeat_seconds"), HEARTBEAT_SECONDS)
    return Clock(facts.now, heartbeat_seconds, None if offset is None else number(offset), told_at)


def _pipeline(pipeline: Pipeline, facts: Facts, mapping: MappingStatus) -> Document:
    reports = facts.reports(pipeline.name)
    live = [(worker, report) for worker, report in reports if _live(worker, facts)]
    worst = _worst(pipeline, reports, facts)
    rates = Rates(_sum(live, "arriving_per_second"), _sum(live, "applied_per_second"))
    behind = _lag(pipeline, facts, rates)
    parked_since = min((report["parked_since"] for _, report in reports if report.get("parked_since")), default=None)
    pause = pause_of((f"pipeline:{pipeline.name}", f"target:{pipeline.target}", f"source:{pipeline.source}"), facts)
    return {
        "source": pipeline.source,
        "table": pipeline.table,
        "target": pipeline.target,
        "topic": facts.topic(pipeline),
        "owner": mapping.owner,
        "description": mapping.description,
        **worst,
        "phase": pipeline.phase,
        "paused": _pause(pause),
        "lag_seconds": _rounded(_with_parked(behind.seconds, parked_since, facts.now)),
        "lag_proven_seconds": _rounded(behind.seconds),
        "lag_capture_seconds": _rounded(behind.capture_seconds),
        "lag_deliver_seconds": _rounded(behind.deliver_seconds),
        "lag_events": behind.events,
        "proven_time": iso(behind.proven_time),
        "arriving_per_second": round(rates.arriving, 1),
        "applied_per_second": round(rates.applied, 1),
        "caught_up_in_seconds": _rounded(behind.caught_up_in_seconds),
        "applied_total": int(_sum(reports, "applied_total")),
        "last_applied_at": iso(max((report.get("last_applied_at") or 0 for _, report in reports), default=0) or None),
        "parked": int(_sum(reports, "parked")),
        "waiting_rows": int(_sum(reports, "waiting_rows")),
        "parked_since": iso(parked_since),
        "unproven": pipeline.unproven or None,
        "loading": next((_snapshot(one) for one in facts.loading(pipeline.source) if _loads(one, pipeline)), None),
        "verified": _verified(facts.verified(pipeline.name, "done")),
        "verifying": _verifying(facts.verifying(pipeline.name)),
        "mapping": {"applied": iso(pipeline.applied_at), "pending": mapping.pending},
    }


def _with_parked(lag: float | None, parked_since: float | None, now: float) -> float | None:
    """A view that lacks what is parked is as old as that."""
    return lag if lag is None or parked_since is None else max(lag, now - parked_since)


def _loads(snapshot: Snapshot, pipeline: Pipeline) -> bool:
    return pipeline.name in snapshot.pipelines and snapshot.reason != "asked"


def _snapshot(one: Snapshot) -> Document:
    return {
        "id": one.id,
        "table": one.table,
        "pipelines": list(one.pipelines),
        "reason": one.reason,
        "state": one.state,
        "rows_done": one.rows_done,
        "rows_estimated": max(one.rows_estimated, one.rows_done),
        "asked_at": iso(one.asked_at),
    }


def _verified(one: Verification | None) -> Document | None:
    """What the last whole verification found."""
    if one is None:
        return None
    figures = {name: getattr(one.report, name) for name in OUTCOMES}
    return {"at": iso(one.finished_at), **figures, "agrees": one.report.agrees, "reason": one.reason}


def _verifying(one: Verification | None) -> Document | None:
    if one is None:
        return None
    report = one.report
    return {
        "id": one.id,
        "state": one.state,
        "reason": one.reason,
        "repair": one.options.repair,
        "rows_done": report.rows_done,
        "rows_estimated": max(report.rows_estimated, report.rows_done),
        "since": iso(one.started_at or one.asked_at),
    }


def _lag(pipeline: Pipeline, facts: Facts, rates: Rates) -> Lag:
    capture = max(
        (worker for worker in facts.workers if worker.name == f"capture:{pipeline.source}"),
        key=lambda worker: worker.beat_at,
        default=None,
    )
    return measure(
        facts.progress.get(pipeline.source, []),
        facts.topic(pipeline),
        facts.applied(pipeline.name),
        _clock(capture.detail if capture else {}, facts, facts.told_at(pipeline.name)),
        rates=rates,
        loading=pipeline.phase != _LOADED,
        loaded_at=pipeline.loaded_at,
    )


def _worst(pipeline: Pipeline, reports: list[tuple[Worker, Document]], facts: Facts) -> Document:
    """State, since, and what is waited for: of the worker that is worst off, replaced ones left out."""
    fresh = {worker.name for worker, _ in reports if not facts.silent(worker)}
    seen = [
        _reported(worker, report, facts)
        for worker, report in reports
        if not (facts.silent(worker) and worker.name in fresh)
    ]
    if not seen:
        return _unreported(pipeline)
    return min(seen, key=lambda entry: WORST_FIRST.index(entry["state"]))


def _unreported(pipeline: Pipeline) -> Document:
    """No worker has said anything about it."""
    return {
        "state": "stopped",
        "since": iso(pipeline.applied_at),
        "waiting_for": "person",
        "attempt": 0,
        "next_attempt_at": None,
        "error": None,
    }


def _reported(worker: Worker, report: Document, facts: Facts) -> Document:
    believed = worker_state(worker, facts)
    state, since, waiting_for = report.get("state"), report.get("since"), report.get("waiting_for")
    if believed in ("lost", "stopped"):
        state, since, waiting_for = "stopped", worker.beat_at if believed == "lost" else worker.since, "person"
    elif believed == "failed":
        state, since, waiting_for = "failed", worker.since, "person"
    elif believed == "backing_off" and state not in ("failed", "paused"):
        state, since, waiting_for = "retrying", worker.since, waiting_for or "target"
    return {
        "state": state if state in WORST_FIRST else "stopped",
        "since": iso(since),
        "waiting_for": waiting_for,
        "attempt": int(number(report.get("attempt"))),
        "next_attempt_at": iso(report.get("next_attempt_at")),
        "error": report.get("error") or worker.detail.get("error"),
    }


def _sum(reports: list[tuple[Worker, Document]], figure: str) -> float:
    return sum(number(report.get(figure)) for _, report in reports)


def _pause(pause: Pause | None) -> Document | None:
    if pause is None:
        return None
    return {
        "subject": pause.subject,
        "reason": pause.reason,
        "since": iso(pause.since),
        "until": iso(pause.until),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
