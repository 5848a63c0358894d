"""Verification of a view, alone and beside a backlog. Only the hub has it."""

from __future__ import annotations

import time
from functools import partial

from benchmarks.databases import PSQL, Databases, shell
from benchmarks.hub import HubSession
from benchmarks.legs import Figures
from benchmarks.subjects import PARTS, Session
from benchmarks.waiting import wait_until
from benchmarks.workloads import CUSTOMERS, PER_TRANSACTION, customers_from
from sync_hub.state_snapshots import new_id
from sync_hub.state_verifications import Verification


def verify(session: Session, databases: Databases) -> Figures:
    """Verify a view, against what it takes to COPY both tables to nowhere."""
    assert isinstance(session, HubSession)
    changed = databases.change()
    session.load()
    session.wait_loaded()
    wait_until(databases.arrival(), "all rows in the target", session.check)
    copied = _copy_both(databases)
    session.start("verify")
    asked = Verification(new_id(), "t1_customers", asked_at=time.time())
    verifications = session.state.verifications
    verifications.ask([asked])
    wait_until(lambda: verifications.find([asked.id])[0].finished_at, "verified", session.check)
    (done,) = verifications.find([asked.id])
    peak = session.usage(("verify",)).peak_bytes
    seconds = (done.finished_at or 0) - (done.started_at or 0)
    rows = sum(changed.values())
    agrees = done.report.agrees and done.report.matched == rows
    return {
        "rows": done.report.matched,
        "difference": databases.difference() if agrees else f"verification found {done.report}",
        "seconds": round(seconds, 3),
        "rows_per_second": round(rows / seconds),
        "copy_both_rows_per_second": round(rows / copied),
        "times_copy": round(seconds / copied, 2),
        "peak_mb": round(peak / 2**20, 1),
    }


def scheduled(session: Session, databases: Databases) -> Figures:
    """A backlog through both legs, without and with a verification of the same view that is due all the while."""
    assert isinstance(session, HubSession)
    rows, seconds = databases.rows, []
    session.start(*PARTS)
    session.wait_loaded()
    verifications = session.state.verifications
    topic = {"customers": 0}
    for number in range(4):
        if number % 2:
            session.start("verify")
            wait_until(lambda: any(one.state == "running" for one in verifications.all()), "verifying", session.check)
        session.stop("capture")
        for start in range(number * rows + 1, (number + 1) * rows + 1, PER_TRANSACTION):
            end = min((number + 1) * rows, start + PER_TRANSACTION - 1)
            databases.source.execute(customers_from(start, end))
        session.start("capture")
        topic["customers"] = number * rows + 1
        started = wait_until(lambda: session.captured(topic), "a first record", session.check)
        last = (number + 1) * rows
        ended = wait_until(partial(_passed, session, last), "applied", session.check)
        seconds.append(ended - started)
        if number % 2:
            session.stop("verify")
    session.start("verify")
    wait_until(lambda: any(one.state == "done" for one in verifications.all()), "verified", session.check)
    done = [one for one in verifications.all() if one.state == "done"]
    alone, beside = seconds[0] + seconds[2], seconds[1] + seconds[3]
    agrees = bool(done) and all(one.report.agrees for one in done)
    return {
        "rows": databases.count(),
        "difference": databases.difference() if agrees else "a verification found differences",
        "seconds": round(alone + beside, 3),
        "rows_per_second": round(2 * rows / alone),
        "beside_rows_per_second": round(2 * rows / beside),
        "slower_percent": round(100 * (beside / alone - 1), 1),
        "verified_rows": sum(one.report.matched for one in done),
    }


def _passed(session: HubSession, events: int) -> bool:
    return session.applied() >= events


def _copy_both(databases: Databases) -> float:
    """Seconds that it takes to COPY source table and view to nowhere, one after the other."""
    started = time.monotonic()
    for dsn in (databases.source_dsn, *databases.target_dsns):
        shell(f"{PSQL} {dsn} -c 'copy {CUSTOMERS.name} to stdout' > /dev/null")
    return time.monotonic() - started
