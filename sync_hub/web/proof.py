"""What is wrong with the proof that views agree with their sources. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sync_hub.settings import Settings
from sync_hub.state_snapshots import CANCELLED, RECOVERY
from sync_hub.state_verifications import ASKED, SCHEDULE, Verification
from sync_hub.web.facts import Facts
from sync_hub.web.problems import DEGRADED, FAILING, Document, Problem, seconds, short

LEEWAY_SECONDS = 3600.0
"""How much later than scheduled a verification may be: it takes its time."""

_REASONS = {
    CANCELLED: "its loading was given up",
    RECOVERY: "its source was begun anew",
}
"""Reasons to doubt a view that are no sentence by themselves."""


def find(name: str, pipeline: Document, settings: Settings, facts: Facts) -> Iterator[Problem]:
    """What is wrong with the proof of one view, as the health document and the last verifications tell."""
    if pipeline["unproven"]:
        yield _unproven(name, pipeline, facts)
        return
    if pipeline["phase"] != "loaded":
        return
    found = pipeline["verified"]
    loaded_at = next((one.loaded_at for one in facts.pipelines if one.name == name), None) or 0.0
    if found and not found["agrees"] and (seconds(found["at"]) or 0.0) >= loaded_at:
        yield _differs(name, pipeline)
    last = facts.verified(name, "done", "failed")
    if last is not None and last.state == "failed" and not _is_over(last):
        yield Problem(
            "verification_failed", DEGRADED, f"pipeline:{name}",
            f"the last verification of {name} failed: {last.error}", "mend what it names, and verify again",
            f"sync-hub verify {name}", last.finished_at, (name,),
        )  # fmt: skip
    yield from _old(name, pipeline, settings, facts)


def paused_snapshots(source: Document, name: str) -> Iterator[Problem]:
    """Loading that somebody paused: what it is for misses rows until it goes on. A view in doubt says it itself."""
    paused = [one for one in source["snapshots"] if one["state"] == "paused" and one["reason"] != "reload"]
    if paused:
        tables = ", ".join(
            f"{one['table']} ({one['rows_done']} of about {one['rows_estimated']} rows)" for one in paused
        )
        yield Problem(
            "snapshot_paused",
            DEGRADED,
            f"source:{name}",
            f"the loading of existing rows is paused: {tables}",
            "resume it when it may go on; sync-hub snapshot shows all of them",
            f"sync-hub snapshot {paused[0]['id']} --do resume",
            affects=tuple(sorted({pipeline for one in paused for pipeline in one["pipelines"]})),
        )


def _is_over(failed: Verification) -> bool:
    """Whether a failed verification says nothing about a loaded view: single keys were named, or it was not loaded."""
    return bool(failed.options.keys) or failed.error.startswith("not_loaded:")


def _unproven(name: str, pipeline: Document, facts: Facts) -> Problem:
    why = pipeline["unproven"]
    now, hint, command = _what_happens(name, pipeline, facts)
    message = f"{name} may differ from its source ({_REASONS.get(why, why)}): {now}"
    return Problem("view_unproven", DEGRADED, f"pipeline:{name}", message, hint, command, affects=(name,))


def _what_happens(name: str, pipeline: Document, facts: Facts) -> tuple[str, str, str]:
    """What happens now to a view in doubt, what a person can do, and the command for it."""
    status, repair = f"sync-hub status {name}", f"sync-hub verify {name} --repair"
    loading, running = pipeline["loading"], pipeline["verifying"]
    if pipeline["state"] == "failed":
        return "it has stopped", "mend what stopped it; then it goes on and is verified", status
    if pipeline["phase"] != "loaded":
        if loading is None:
            return "it will be loaded again", "nothing needs to be done; then it is verified", status
        done = _share(loading)
        if loading["state"] == "paused":
            return f"its loading is paused at {done}", "resume it", f"sync-hub snapshot {loading['id']} --do resume"
        return f"it is loaded again, {done}", "nothing needs to be done; then it is verified", status
    if running is not None:
        begun = f"it is verified now, {_share(running)}" if running["state"] == "running" else "its verification waits"
        return begun, "nothing needs to be done", status
    if pipeline["unproven"] == CANCELLED:
        return "nothing is done about it", "verify and repair it, or load it again", repair
    last = facts.verified(name, "done", "failed")
    if last is not None and last.reason == pipeline["unproven"]:
        if last.state == "failed":
            return f"its verification failed ({last.error}) and is tried again", "mend what it names", status
        if not last.report.agrees:
            return "its verification found differences that it could not repair", "look at what differs", repair
        if last.report.busy:
            return f"{last.report.busy} rows changed whenever they were verified: tried again", "", status
    return "it waits for its verification", "nothing needs to be done", status


def _share(progress: Document) -> str:
    if not progress["rows_estimated"]:
        return "just begun"
    return f"{min(99, 100 * progress['rows_done'] // progress['rows_estimated'])} %"


def _differs(name: str, pipeline: Document) -> Problem:
    found = pipeline["verified"]
    counts = ", ".join(f"{found[kind]} {kind}" for kind in ("different", "missing", "extra") if found[kind])
    return Problem(
        "view_differs",
        FAILING,
        f"pipeline:{name}",
        f"{name} differs from its source: {counts} rows, as verified at {short(found['at'])}",
        "find out who else writes to the view; a repair writes what differs again and removes what is extra",
        f"sync-hub verify {name} --repair",
        seconds(found["at"]),
        (name,),
    )


def _old(name: str, pipeline: Document, settings: Settings, facts: Facts) -> Iterator[Problem]:
    """A verification that is overdue: by the schedule, or where people verify by hand."""
    every, verified = settings.verify.every, pipeline["verified"]
    by_people = verified is not None and verified["reason"] in (ASKED, SCHEDULE)
    if pipeline["verifying"] is not None or (every is None and not by_people):
        return
    limit = max(settings.limits.verified_age.warn, 0.0 if every is None else every + LEEWAY_SECONDS)
    mine = next(one for one in facts.pipelines if one.name == name)
    verified_at = seconds(verified["at"]) if verified else mine.applied_at
    since = max(mine.loaded_at or 0.0, verified_at or 0.0)
    if facts.now - since >= limit:
        said = f"was verified last at {short(verified['at'])}" if verified else "was never verified"
        yield Problem(
            "verification_old", DEGRADED, f"pipeline:{name}", f"{name} {said}",
            "verify it; does the worker that verifies run?" if every is not None else "verify it, or set verify.every",
            f"sync-hub verify {name}", since + limit, (name,),
        )  # fmt: skip
