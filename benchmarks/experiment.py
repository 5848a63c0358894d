"""Which comparisons are made, and making them: rounds over the subjects, each result written down at once."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.databases import Servers
from benchmarks.legs import LEGS, Figures, Leg
from benchmarks.subjects import Subject
from benchmarks.verification import scheduled, verify
from benchmarks.workloads import WORKLOADS, Workload

ALL_LEGS: dict[str, Leg] = LEGS | {"verify": verify, "scheduled": scheduled}
HUBS = ("confluent", "kafka-python", "embedded")
LIMITS = ("postgres", "pg_recvlogical", "copy")
PEERS = ("debezium",)
SUBJECTS = (*HUBS, *LIMITS, *PEERS)
SNAPSHOT_ROWS = 1_000_000
WARM_UP_ROWS = 300_000
WARM_UP_RUNS = 3
"""A new virtual machine compiles for as long: Kafka's first run is a third slower than its eighth."""
AGAIN = "again"
"""The series of the first subject's second run in each round: what differs between its two series is noise."""


class Refused(Exception):
    """What was asked for cannot be done: what, where, and what to do instead, in one line."""


@dataclass(frozen=True)
class Comparison:
    """One leg on one workload by some subjects."""

    leg: str
    workload: Workload
    subjects: tuple[str, ...]
    rows: int


def _every(leg: str, workloads: str, subjects: Sequence[str]) -> list[tuple[str, str, Sequence[str]]]:
    return [(leg, workload, subjects) for workload in workloads.split()]


PLAN = [
    *_every("capture", "a", SUBJECTS),
    *_every("deliver", "a b c", SUBJECTS),
    *_every("end-to-end", "a b c d e", SUBJECTS),
    *_every("latency", "i1000 i5000", SUBJECTS),
    *_every("snapshot", "a", SUBJECTS),
    *_every("end-to-end", "f", ("confluent", "postgres", "debezium")),
    *_every("end-to-end", "m a10 g h1 h2 h4 h8", ("confluent",)),
    *_every("verify", "a", ("confluent",)),
    *_every("scheduled", "a", ("confluent",)),
]
"""What is measured unless told otherwise; subjects that cannot do a leg are left out."""


@dataclass(frozen=True)
class Choice:
    """What of the plan is wanted. Empty: all that it has; peers only when asked for, or named."""

    legs: Sequence[str] = ()
    workloads: Sequence[str] = ()
    subjects: Sequence[str] = ()
    peers: bool = False
    rows: int | None = None


def planned(choice: Choice, able: Callable[[str], Iterable[str]]) -> list[Comparison]:
    """The comparisons to make. What is named is measured in every leg it can do, also where the plan leaves it out."""
    plan = [one for one in PLAN if one[0] in (choice.legs or ALL_LEGS)]
    if choice.workloads:
        known = {(leg, workload): names for leg, workload, names in plan}
        legs = choice.legs or dict.fromkeys(leg for leg, _, _ in plan)
        named = [(leg, one) for leg in legs for one in dict.fromkeys(choice.workloads) if _fits(leg, one)]
        plan = [(*one, known.get(one, SUBJECTS)) for one in named if choice.legs or one in known]
    found = []
    for leg, name, names in plan:
        wanted = dict.fromkeys(choice.subjects) or [one for one in names if choice.peers or one not in PEERS]
        computed = any(table.computed for table in WORKLOADS[name].tables)
        chosen = tuple(one for one in wanted if leg in able(one) and (one in HUBS or not computed))
        if chosen:
            found.append(Comparison(leg, WORKLOADS[name], chosen, _rows(leg, WORKLOADS[name], choice.rows)))
    return found


def _fits(leg: str, workload: str) -> bool:
    return (leg == "latency") == (WORKLOADS[workload].per_second > 0)


def _rows(leg: str, workload: Workload, rows: int | None) -> int:
    if leg == "latency":
        return max(workload.rows if rows is None else rows, 3 * workload.per_second)
    if rows is None:
        return SNAPSHOT_ROWS if leg == "snapshot" else workload.rows
    return rows * workload.scale


def run(
    comparisons: Sequence[Comparison],
    subjects: dict[str, Subject],
    servers: Servers,
    repeats: int,
    results: Path,
    commit: str,
) -> bool:
    """Make the comparisons on a commit; whether no run failed.

    Every result is appended to `results` as soon as it is known, and told.
    """
    good = True
    for comparison in comparisons:
        leg, workload = comparison.leg, comparison.workload
        try:
            for name in comparison.subjects:
                for number in range(WARM_UP_RUNS if subjects[name].warm_up() else 0):
                    told = f"{leg} {workload.name} {name}: warming up, {number + 1} of {WARM_UP_RUNS}"
                    print(told, file=sys.stderr, flush=True)
                    _measure(leg, workload, _warm_up_rows(comparison), subjects[name], servers)
            for number, name, which in _turns(comparison, repeats):
                figures = _measure(leg, workload, comparison.rows, subjects[name], servers)
                result = {
                    "leg": leg,
                    "workload": workload.name,
                    "subject": name,
                    "series": which,
                    "round": number,
                    "asked_rows": comparison.rows,
                    "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "commit": commit,
                } | figures
                append(results, result)
                print(line(result), flush=True)
                good &= result["ok"]
        finally:
            for name in comparison.subjects:
                subjects[name].close()
    return good


def _turns(comparison: Comparison, repeats: int) -> Iterator[tuple[int, str, str]]:
    """Round, subject and series of each run: all subjects in turn, in several rounds the first twice each."""
    first, *others = comparison.subjects
    series = [(first, ""), *((name, "") for name in others), (first, AGAIN)]
    for number in range(1, repeats + 1):
        for name, which in series if repeats > 1 else series[:-1]:
            yield number, name, which


def _warm_up_rows(comparison: Comparison) -> int:
    if comparison.workload.per_second:
        return 20 * comparison.workload.per_second
    return min(WARM_UP_ROWS, comparison.rows)


def _measure(leg: str, workload: Workload, rows: int, subject: Subject, servers: Servers) -> Figures:
    """One run. Whatever goes wrong in it is its result."""
    started = time.monotonic()
    figures: Figures = {}
    try:
        with servers.databases(workload, rows) as databases:
            session = subject.session(databases)
            try:
                figures = ALL_LEGS[leg](session, databases)
            finally:
                session.close()
    except Exception as error:  # a leg that fails is printed as failed, and the others go on
        _raise_interrupt(error)
        text = " ".join(str(error).split())
        figures = {"error": f"{type(error).__name__}: {text[:500]}"}
    wrong = figures.pop("error", "") or figures.pop("difference", "")
    return {"ok": not wrong, "error": wrong} | figures | {"whole_seconds": round(time.monotonic() - started, 1)}


def _raise_interrupt(error: BaseException) -> None:
    """Who interrupts may have interrupted servers as well: that cleaning up fails then must not hide it."""
    context = error.__context__
    while context:
        if not isinstance(context, Exception):
            raise context
        context = context.__context__


def append(results: Path, entry: dict[str, Any]) -> None:
    """One line of JSON more."""
    with results.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def line(result: dict[str, Any]) -> str:
    """A result for those who watch."""
    where = (
        f"{result['leg']:10} {result['workload']:5} {result['subject']:14} {result['round']}{result['series'][:1]:1}"
    )
    if not result["ok"]:
        return f"{where} FAILED: {result['error']}"
    latency = result.get("latency_ms")
    told = (
        " ".join(f"{name} {value}" for name, value in latency.items()) + " ms"
        if latency
        else f"{result['rows_per_second']:,} rows/s"
    )
    cost = (
        f", {result['cpu_us_per_row']} µs of CPU a row, {result['peak_mb']:,} MB" if "cpu_us_per_row" in result else ""
    )
    return f"{where} {told}{cost}; {result['rows']:,} rows, {result.get('note', 'equal')}"
