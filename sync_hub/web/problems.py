"""What is wrong, with stable codes: found in the health document, worst first. Pure.

Each code is described in `docs/reference/health.md`. A problem's `since` comes from what the state stores; where
nothing is stored (None), the reader fills in when it first saw the problem.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from msgspec import Struct

from sync_hub.runtime.worker import names as worker_names
from sync_hub.settings import Limits, Settings
from sync_hub.web.facts import Facts, iso, subject_of

Document = dict[str, Any]

DEGRADED, FAILING = "degraded", "failing"

STUCK_SECONDS = 60.0
"""How old a worker's last turn of its loop may be while it still beats."""

NEW_SECONDS = 15.0
"""How long a pipeline that was just applied may go unreported before that is failing."""

SLOT_SHARE_DEGRADED, SLOT_SHARE_FAILING = 0.5, 0.8
"""Shares of the source's own limit for retained log."""

CODES = {
    "state_unavailable": "The hub's own state cannot be read.",
    "no_pipelines": "Nothing flows: no mapping has been applied.",
    "mapping_unreadable": "A mapping file cannot be read now; what was applied goes on.",
    "worker_missing": "A worker that the configuration asks for has never reported.",
    "worker_lost": "A worker has been silent for three beats.",
    "worker_failed": "A worker stopped because a person is needed.",
    "worker_stopped": "A worker was stopped and not started again.",
    "worker_backing_off": "A worker cannot work now and tries again.",
    "worker_stuck": "A worker beats, but its loop has not turned for a minute.",
    "source_failed": "Capture stopped because a person is needed.",
    "source_stopped": "Capture does not run.",
    "source_no_heartbeat": "No heartbeat has come back through the source's log.",
    "source_waiting": "Loading existing rows waits for a transaction at the source.",
    "retained_log": "The source keeps much log for the hub.",
    "log_filling": "The log kept at the source will reach its limit if nothing changes.",
    "slot_at_risk": "The source is about to drop log that the hub has not read.",
    "slot_lost": "The source has dropped log that the hub had not read.",
    "paused": "Somebody paused a source, target or pipeline.",
    "pipeline_missing": "No worker reports this pipeline.",
    "pipeline_failed": "A pipeline stopped because a person is needed.",
    "pipeline_stopped": "A pipeline does not run.",
    "pipeline_retrying": "A pipeline's target does not take its rows now; it tries again.",
    "lag": "A pipeline is behind.",
    "lag_unknown": "Nothing proves how far a pipeline is behind.",
}

_STOPPING = {
    "worker_missing", "worker_lost", "worker_failed", "worker_stopped", "worker_backing_off", "source_failed",
    "source_stopped", "source_no_heartbeat", "slot_lost", "paused",
}  # fmt: skip


class Problem(Struct):
    """One thing that is wrong. `since` is in seconds since 1970, None when the state does not tell."""

    code: str
    severity: str
    subject: str
    message: str
    hint: str = ""
    command: str = ""
    since: float | None = None
    affects: tuple[str, ...] = ()
    act_before: float | None = None

    @property
    def stops(self) -> bool:
        """Whether it says by itself why what it affects stands still, with the severity that this has."""
        return self.code in _STOPPING and (self.code != "worker_lost" or self.severity == FAILING)

    @property
    def identity(self) -> tuple[str, str]:
        """The same problem keeps it while it lasts."""
        return (self.code, self.subject)


def find(settings: Settings, facts: Facts, health: Document) -> list[Problem]:
    """All problems in a health document, failing ones first, then by code and subject."""
    found = [
        *_workers(settings, health, facts),
        *(problem for name, source in health["sources"].items() for problem in _source(name, source, settings, facts)),
        *_pauses(facts),
    ]
    for problem in found:
        problem.affects = problem.affects or affected(problem.subject, health)
    explained = {name for problem in found if problem.stops for name in problem.affects}
    for name, pipeline in health["pipelines"].items():
        found += _pipeline(name, pipeline, settings.limits, facts, explained=name in explained)
    if not health["pipelines"]:
        hint, command = "write mappings and start the hub", "sync-hub mapping list"
        found.append(
            Problem("no_pipelines", DEGRADED, "hub", "no mapping has been applied: nothing flows", hint, command)
        )
    return sorted(found, key=lambda problem: (problem.severity != FAILING, problem.code, problem.subject))


def affected(subject: str, health: Document) -> tuple[str, ...]:
    """The pipelines that a source's, target's or pipeline's problem touches."""
    kind, _, name = subject.partition(":")
    if kind == "pipeline":
        return (name,)
    return tuple(sorted(key for key, pipeline in health["pipelines"].items() if pipeline.get(kind) == name))


def _workers(settings: Settings, health: Document, facts: Facts) -> Iterator[Problem]:
    known = {worker["name"] for worker in health["workers"]}
    running = {worker["name"] for worker in health["workers"] if worker["state"] not in ("lost", "stopped")}
    for name in worker_names(settings):
        if name not in known:
            yield Problem(
                "worker_missing",
                FAILING,
                subject_of(name),
                f"no worker {name} has ever reported",
                "start the hub, or this part of it",
                f"sync-hub run --only {name}",
            )
    for worker in health["workers"]:
        yield from _worker(worker, settings.limits, facts, replaced=worker["name"] in running)


def _worker(worker: Document, limits: Limits, facts: Facts, *, replaced: bool) -> Iterator[Problem]:
    name, subject, state = worker["name"], worker["subject"], worker["state"]
    error = worker["error"] or {}
    since = _seconds(worker["since"])
    if state == "lost":
        yield Problem(
            "worker_lost",
            DEGRADED if replaced else FAILING,
            subject,
            f"{name} on {worker['host']} (process {worker['pid']}) has been silent since {_short(worker['seen_at'])}",
            "look whether the process and its machine are alive; start it again",
            f"sync-hub run --only {name}",
            since,
        )
    elif state == "stopped" and not replaced:
        yield Problem(
            "worker_stopped", FAILING, subject, f"{name} on {worker['host']} was stopped", "start the hub",
            f"sync-hub run --only {name}", since,
        )  # fmt: skip
    elif state == "failed":
        yield Problem(
            "worker_failed", FAILING, subject, _said(name, error, "it failed"), error.get("hint", ""),
            error.get("command", ""), since,
        )  # fmt: skip
    elif state == "backing_off":
        long = since is not None and facts.now - since >= limits.lag.fail
        yield Problem(
            "worker_backing_off", FAILING if long else DEGRADED, subject,
            _said(name, error, "it failed and starts again"), error.get("hint", ""), error.get("command", ""), since,
        )  # fmt: skip
    turn_at = _seconds(worker["turn_at"])
    if state in ("starting", "running") and turn_at is not None and facts.now - turn_at > STUCK_SECONDS:
        yield Problem(
            "worker_stuck",
            DEGRADED if facts.now - turn_at < 5 * STUCK_SECONDS else FAILING,
            subject,
            f"{name} (process {worker['pid']}) beats, but its loop has not turned since {_short(worker['turn_at'])}",
            "look into its log; stop the process and it is started again",
            since=turn_at,
        )


def _source(name: str, source: Document, settings: Settings, facts: Facts) -> Iterator[Problem]:
    subject, state, error = f"source:{name}", source["state"], source["error"] or {}
    worker_told = {worker.name: worker.state for worker in facts.workers if not facts.silent(worker)}
    beating = worker_told.get(f"capture:{name}") in ("running", "starting")
    since = _seconds(source["since"])
    if beating and state == "failed":
        yield Problem(
            "source_failed", FAILING, subject, _said(f"source {name}", error, "capture failed"),
            error.get("hint", ""), error.get("command", ""), since,
        )  # fmt: skip
    elif beating and state == "stopped" and worker_told[f"capture:{name}"] == "running":
        yield Problem("source_stopped", FAILING, subject, f"capture of {name} does not run", since=since)
    if beating and state in ("streaming", "snapshotting") and source["lag_seconds"] is None:
        yield _no_heartbeat(subject, name, source, settings.limits, facts)
    if source["waiting"]:
        yield Problem(
            "source_waiting",
            DEGRADED,
            subject,
            f"loading existing rows of {name} waits: {source['waiting']}",
            "end that transaction, or let it finish",
        )
    yield from _retained(subject, name, source, settings.limits)


def _no_heartbeat(subject: str, name: str, source: Document, limits: Limits, facts: Facts) -> Problem:
    heard = _seconds(source["heartbeat_at"])
    long_ago = heard is not None and facts.now - heard >= limits.lag.fail
    return Problem(
        "source_no_heartbeat",
        FAILING if long_ago else DEGRADED,
        subject,
        f"no heartbeat of {name} has come back since {_short(source['heartbeat_at'])}"
        if heard
        else f"no heartbeat of {name} has ever come back",
        "the log may be busy with one very large transaction, or the broker may not answer: look into the log of "
        f"capture:{name}",
        f"sync-hub status {name}",
        None if heard is None else heard + 2 * source["heartbeat_seconds"],
    )


def _retained(subject: str, name: str, source: Document, limits: Limits) -> Iterator[Problem]:
    size, limit, slot = source["retained_log_bytes"], source["retained_log_limit_bytes"], source["slot_status"]
    if slot == "lost":
        yield Problem(
            "slot_lost",
            FAILING,
            subject,
            f"{name} has dropped log that was not read: changes are missing",
            "make a new slot and load the tables again",
            f"sync-hub status {name}",
        )
        return
    share = size / limit if size is not None and limit else 0.0
    if slot == "unreserved" or share >= SLOT_SHARE_DEGRADED:
        yield Problem(
            "slot_at_risk",
            FAILING if slot == "unreserved" or share >= SLOT_SHARE_FAILING else DEGRADED,
            subject,
            f"{name} keeps {_size(size or 0)} of log for the hub"
            + (f", {share:.0%} of its limit of {_size(limit)}" if limit else "")
            + (": it may drop it any moment" if slot == "unreserved" else ""),
            "find out what holds capture back; raise max_slot_wal_keep_size at the source meanwhile",
            f"sync-hub status {name}",
        )
    if size is not None and size >= limits.retained_log.warn:
        yield Problem(
            "retained_log",
            FAILING if size >= limits.retained_log.fail else DEGRADED,
            subject,
            f"{name} keeps {_size(size)} of log for the hub",
            "find out what holds capture back: the disk of the source fills up",
            f"sync-hub status {name}",
        )


def _pauses(facts: Facts) -> Iterator[Problem]:
    for pause in facts.pauses:
        kind, _, name = pause.subject.partition(":")
        until = f" until {_short(iso(pause.until))}" if pause.until else ""
        yield Problem(
            "paused",
            DEGRADED,
            pause.subject,
            f"the {kind} {name} is paused{until}" + (f": {pause.reason}" if pause.reason else ""),
            "resume it when it may go on",
            f"sync-hub resume {pause.subject}",
            pause.since,
        )


def _pipeline(name: str, pipeline: Document, limits: Limits, facts: Facts, *, explained: bool) -> Iterator[Problem]:
    subject, state, error = f"pipeline:{name}", pipeline["state"], pipeline["error"] or {}
    since = _seconds(pipeline["since"])
    command = error.get("command") or f"sync-hub status {name}"
    own = Problem("", FAILING, subject, "", error.get("hint", ""), command, since, (name,))
    if not facts.reports(name):
        if not explained:
            new = since is not None and facts.now - since < NEW_SECONDS
            own.code, own.message = "pipeline_missing", f"no worker reports the pipeline {name}"
            own.severity = DEGRADED if new else FAILING
            own.hint = f"start the hub again; is the target {pipeline['target']} still configured?"
            yield own
    elif state == "failed" and (error or not explained):
        own.code, own.message = "pipeline_failed", _said(name, error, "it failed")
        yield own
    elif state == "stopped" and not explained:
        own.code, own.message = "pipeline_stopped", f"the pipeline {name} does not run"
        yield own
    elif state == "retrying" and not explained:
        long = since is not None and facts.now - since >= limits.lag.fail
        own.code, own.severity = "pipeline_retrying", FAILING if long else DEGRADED
        own.message = _said(name, error, f"{pipeline['target']} does not take its rows")
        yield own
    yield from _behind(name, pipeline, limits, facts, explained=explained or bool(own.code))


def _behind(name: str, pipeline: Document, limits: Limits, facts: Facts, *, explained: bool) -> Iterator[Problem]:
    lag, command = pipeline["lag_seconds"], f"sync-hub status {name}"
    subject, loading = f"pipeline:{name}", pipeline["phase"] != "loaded" or pipeline["state"] == "snapshotting"
    if lag is None:
        if not explained and not loading:
            since = _seconds(pipeline["since"])
            long = since is not None and facts.now - since >= limits.lag.fail
            yield Problem(
                "lag_unknown", FAILING if long else DEGRADED, subject, f"nothing proves how far {name} is behind",
                "a moment after a start this is normal; else look into the log of its worker", command,
                affects=(name,),
            )  # fmt: skip
    elif lag >= limits.lag.warn and not explained:
        yield Problem(
            "lag",
            FAILING if lag >= limits.lag.fail else DEGRADED,
            subject,
            f"{name} is {lag:.0f} s behind" + (f", {pipeline['lag_events']} events" if pipeline["lag_events"] else ""),
            f"it waits for {'a' if pipeline['waiting_for'] == 'person' else 'the'} {pipeline['waiting_for']}"
            if pipeline["waiting_for"]
            else "",
            command,
            facts.now - lag + limits.lag.warn,
            (name,),
        )


def _said(who: str, error: Document, otherwise: str) -> str:
    return f"{who}: {error.get('code', '')}: {error.get('message', '')}" if error else f"{who}: {otherwise}"


def _seconds(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()


def _short(text: str | None) -> str:
    """A moment for people: `2026-11-23 09:30:02 UTC`."""
    return "" if text is None else f"{text[:10]} {text[11:19]} UTC"


def _size(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"
