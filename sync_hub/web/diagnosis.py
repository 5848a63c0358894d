"""What is wrong now: found in the health document, worst first. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sync_hub.runtime.worker import names as worker_names
from sync_hub.settings import Limits, Settings
from sync_hub.web import proof
from sync_hub.web.facts import Facts, iso, subject_of
from sync_hub.web.problems import DEGRADED, FAILING, Document, Problem, affected, counted, said, seconds, short, size

STUCK_SECONDS = 60.0
"""How old a worker's last turn of its loop may be while it still beats."""

NEW_SECONDS = 15.0
"""How long a pipeline that was just applied may go unreported before that is failing, and one that begins may wait."""

BEGINNING = ("new", "starting", "adopting", "ready")
"""Phases before the loading of existing rows."""

SLOT_SHARE_DEGRADED, SLOT_SHARE_FAILING = 0.5, 0.8
"""Shares of the source's own limit for retained log."""


def find(settings: Settings, facts: Facts, health: Document) -> list[Problem]:
    """All problems in a health document, failing ones first, then by code and subject."""
    found = [
        *_workers(settings, health, facts),
        *(problem for name, source in health["sources"].items() for problem in _source(name, source, settings, facts)),
        *_pauses(facts),
    ]
    for problem in found:
        problem.affects = problem.affects or affected(problem.subject, health)
        if problem.subject == "hub":  # the worker that verifies: without it changes flow on
            problem.severity = DEGRADED
    explained = {name for problem in found if problem.stops for name in problem.affects}
    for name, pipeline in health["pipelines"].items():
        explains = name in explained
        waits = [] if explains else list(_waiting(name, pipeline, health["sources"], settings.limits, facts))
        found += waits or _pipeline(name, pipeline, settings.limits, facts, explained=explains)
        found += proof.find(name, pipeline, settings, facts)
    if not health["pipelines"]:
        hint, command = "write mappings and start the hub", "sync-hub mapping list"
        found.append(
            Problem("no_pipelines", DEGRADED, "hub", "no mapping has been applied: nothing flows", hint, command)
        )
    return sorted(found, key=lambda problem: (problem.severity != FAILING, problem.code, problem.subject))


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
                "start the hub, or this part of it" if running else "start the hub",
                f"sync-hub run --only {name}" if running else "sync-hub run",
            )
    for worker in health["workers"]:
        alone = worker["name"] not in running and bool(running)
        yield from _worker(worker, settings.limits, facts, replaced=worker["name"] in running, alone=alone)


def _worker(worker: Document, limits: Limits, facts: Facts, *, replaced: bool, alone: bool) -> Iterator[Problem]:
    """What is wrong with a worker; `alone`: others of this hub run."""
    name, subject, state = worker["name"], worker["subject"], worker["state"]
    error = worker["error"] or {}
    since = seconds(worker["since"])
    if state == "lost":
        yield Problem(
            "worker_lost",
            DEGRADED if replaced else FAILING,
            subject,
            f"{name} on {worker['host']} (process {worker['pid']}) has been silent since {short(worker['seen_at'])}",
            "look whether the process and its machine are alive; start it again",
            f"sync-hub run --only {name}",
            since,
        )
    elif state == "stopped" and not replaced:
        yield Problem(
            "worker_stopped", FAILING, subject, f"{name} on {worker['host']} was stopped",
            "the others run: start this part again" if alone else "the hub was stopped: start it again",
            f"sync-hub run --only {name}" if alone else "sync-hub run", since,
        )  # fmt: skip
    elif state == "failed":
        yield Problem(
            "worker_failed", FAILING, subject, said(name, error, "it failed"), error.get("hint", ""),
            error.get("command", ""), since,
        )  # fmt: skip
    elif state == "backing_off":
        long = since is not None and facts.now - since >= limits.lag.fail
        yield Problem(
            "worker_backing_off", FAILING if long else DEGRADED, subject,
            said(name, error, "it failed and starts again"), error.get("hint", ""), error.get("command", ""), since,
        )  # fmt: skip
    turn_at = seconds(worker["turn_at"])
    if state in ("starting", "running") and turn_at is not None and facts.now - turn_at > STUCK_SECONDS:
        yield Problem(
            "worker_stuck",
            DEGRADED if facts.now - turn_at < 5 * STUCK_SECONDS else FAILING,
            subject,
            f"{name} (process {worker['pid']}) beats, but its loop has not turned since {short(worker['turn_at'])}",
            "look into its log; stop the process and it is started again",
            since=turn_at,
        )


def _source(name: str, source: Document, settings: Settings, facts: Facts) -> Iterator[Problem]:
    subject, state, error = f"source:{name}", source["state"], source["error"] or {}
    worker_told = {worker.name: worker.state for worker in facts.workers if not facts.silent(worker)}
    beating = worker_told.get(f"capture:{name}") in ("running", "starting")
    since = seconds(source["since"])
    if beating and state == "failed":
        yield Problem(
            "source_failed", FAILING, subject, said(f"source {name}", error, "capture failed"),
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
    yield from proof.paused_snapshots(source, name)
    yield from _retained(subject, name, source, settings.limits)


def _no_heartbeat(subject: str, name: str, source: Document, limits: Limits, facts: Facts) -> Problem:
    heard = seconds(source["heartbeat_at"])
    long_ago = heard is not None and facts.now - heard >= limits.lag.fail
    return Problem(
        "source_no_heartbeat",
        FAILING if long_ago else DEGRADED,
        subject,
        f"no heartbeat of {name} has come back since {short(source['heartbeat_at'])}"
        if heard
        else f"no heartbeat of {name} has ever come back",
        "the log may be busy with one very large transaction, or the broker may not answer: look into the log of "
        f"capture:{name}",
        f"sync-hub status {name}",
        None if heard is None else heard + 2 * source["heartbeat_seconds"],
    )


def _retained(subject: str, name: str, source: Document, limits: Limits) -> Iterator[Problem]:
    kept, limit, slot = source["retained_log_bytes"], source["retained_log_limit_bytes"], source["slot_status"]
    if slot == "lost":
        yield Problem(
            "slot_lost",
            FAILING,
            subject,
            f"{name} has dropped log that was not read: changes are missing",
            "begin the source anew: a new slot, and every view loaded again and verified",
            f"sync-hub recover {name}",
        )
        return
    share = kept / limit if kept is not None and limit else 0.0
    if slot == "unreserved" or share >= SLOT_SHARE_DEGRADED:
        yield Problem(
            "slot_at_risk",
            FAILING if slot == "unreserved" or share >= SLOT_SHARE_FAILING else DEGRADED,
            subject,
            f"{name} keeps {size(kept or 0)} of log for the hub"
            + (f", {share:.0%} of its limit of {size(limit)}" if limit else "")
            + (": it may drop it any moment" if slot == "unreserved" else ""),
            "find out what holds capture back; raise max_slot_wal_keep_size at the source meanwhile",
            f"sync-hub status {name}",
        )
    if kept is not None and kept >= limits.retained_log.warn:
        yield Problem(
            "retained_log",
            FAILING if kept >= limits.retained_log.fail else DEGRADED,
            subject,
            f"{name} keeps {size(kept)} of log for the hub",
            "find out what holds capture back: the disk of the source fills up",
            f"sync-hub status {name}",
        )


def _pauses(facts: Facts) -> Iterator[Problem]:
    for pause in facts.pauses:
        kind, _, name = pause.subject.partition(":")
        until = f" until {short(iso(pause.until))}" if pause.until else ""
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
    since = seconds(pipeline["since"])
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
        own.command = error.get("command") or f"sync-hub resume {name}"
        own.code, own.message = "pipeline_failed", said(name, error, "it failed")
        yield own
    elif state == "stopped" and not explained:
        own.code, own.message = "pipeline_stopped", f"the pipeline {name} does not run"
        yield own
    elif state == "retrying" and not explained:
        long = since is not None and facts.now - since >= limits.lag.fail
        own.code, own.severity = "pipeline_retrying", FAILING if long else DEGRADED
        own.message = said(name, error, f"{pipeline['target']} does not take its rows")
        yield own
    if pipeline["parked"] >= limits.parked.warn:
        yield Problem(
            "parked",
            FAILING if pipeline["parked"] >= limits.parked.fail else DEGRADED,
            subject,
            f"{name} holds {counted(pipeline['parked'], 'rejected record')}",
            "mend the rows at the source, or the mapping or target; or discard the records",
            f"sync-hub parked list {name}",
            seconds(pipeline["parked_since"]),
            (name,),
        )
    yield from _behind(name, pipeline, limits, facts, explained=explained or bool(own.code))


def _waiting(name: str, pipeline: Document, sources: Document, limits: Limits, facts: Facts) -> Iterator[Problem]:
    """A pipeline whose loading has not begun, and nobody does anything about it: neither it nor another is loaded."""
    source, table = pipeline["source"], pipeline["table"]
    unknown = pipeline["waiting_for"] == "source"
    begins = pipeline["state"] in ("snapshotting", "reloading") and (unknown or pipeline["phase"] in BEGINNING)
    capture = sources.get(source, {})
    if not begins or pipeline["error"] or capture.get("snapshot") or capture.get("waiting"):
        return
    since = seconds(pipeline["since"]) or facts.now
    done_at = [one.loaded_at for one in facts.pipelines if one.source == source and one.loaded_at]
    if facts.now - max([since, *done_at]) < NEW_SECONDS:
        return
    yield Problem(
        "pipeline_waiting",
        FAILING if facts.now - since >= limits.lag.fail else DEGRADED,
        f"pipeline:{name}",
        f"{name} waits for {source} to tell about {table}, which it has not done"
        if unknown
        else f"{name} has not begun: nobody loads the existing rows of {table}",
        f"add {table} to the tables of {source} if it is not there, and start the hub again: they are read at its start"
        if unknown
        else f"look into the log of capture:{source}",
        "sync-hub check" if unknown else f"sync-hub status {source}",
        since,
        (name,),
    )


def _behind(name: str, pipeline: Document, limits: Limits, facts: Facts, *, explained: bool) -> Iterator[Problem]:
    """What is not applied and not parked either: what is parked is a problem of its own and hides none of it."""
    lag, command = pipeline["lag_proven_seconds"], f"sync-hub status {name}"
    subject, loading = f"pipeline:{name}", pipeline["phase"] != "loaded" or pipeline["state"] == "snapshotting"
    if lag is None:
        if not explained and not loading:
            since = seconds(pipeline["since"])
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
