"""From single results to medians, spread and noise. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.experiment import AGAIN, SUBJECTS
from benchmarks.goals import CPU, MEMORY, RATE, VALUES
from benchmarks.workloads import WORKLOADS

FEWEST_ROUNDS = 2
FEWEST_ROWS = 100_000
"""A comparison of fewer, unless its workload has fewer of its own, only shows that it works."""
LATENCIES = ("p50", "p95", "p99", "max")
METRICS = (RATE, VALUES, CPU, MEMORY, "seconds", *(f"latency_ms.{name}" for name in LATENCIES))
KNOWN = {
    *("leg", "workload", "subject", "series", "round", "asked_rows", "at", "commit", "machine"),
    *("ok", "error", "rows", "note"),
    *(RATE, VALUES, CPU, MEMORY, "seconds", "latency_ms", "whole_seconds"),
}


@dataclass
class Cell:
    """All runs of one subject in one comparison: what is good of each metric, and why the others failed."""

    subject: str
    values: dict[str, list[float]] = field(default_factory=dict)
    other: dict[str, list[float]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    note: str = ""
    origins: Counter[str] = field(default_factory=Counter)
    """How many runs were measured on which commit, and machine where there are several."""

    @property
    def runs(self) -> int:
        """Good and failed ones."""
        return len(self.rows) + len(self.failed)

    def median(self, metric: str) -> float | None:
        """None when there is no good run."""
        found = self.values.get(metric) or self.other.get(metric)
        return statistics.median(found) if found else None

    def add(self, result: Mapping[str, Any]) -> None:
        """One run."""
        self.origins[_origin(result)] += 1
        if not result["ok"]:
            self.failed.append(result["error"])
            return
        self.rows.append(result["rows"])
        self.note = result.get("note", "")
        for metric in METRICS:
            value = _value(result, metric)
            if value is not None:
                self.values.setdefault(metric, []).append(value)
        for name in result.keys() - KNOWN:
            self.other.setdefault(name, []).append(result[name])


@dataclass
class Comparison:
    """One leg on one workload with so many rows."""

    leg: str
    workload: str
    asked_rows: int
    cells: dict[str, Cell] = field(default_factory=dict)
    """All runs of each subject."""
    series: dict[tuple[str, str], Cell] = field(default_factory=dict)
    """The same by subject and series, of which the first subject has two."""

    @property
    def origins(self) -> Counter[str]:
        """Those of all its runs."""
        return sum((cell.origins for cell in self.cells.values()), Counter())

    @property
    def twice(self) -> str:
        """The subject with two series; empty: none has."""
        return next((name for name, series in self.series if series == AGAIN and (name, "") in self.series), "")

    def noise(self, metric: str) -> float | None:
        """What the medians of the two series of the same subject differ by, as a part of their mean."""
        one, other = (self.series[self.twice, part].median(metric) if self.twice else None for part in ("", AGAIN))
        return abs(one - other) / ((one + other) / 2) if one and other else None


def comparisons(results: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    """In the order in which they were first measured, subjects in the order of their list."""
    found: dict[tuple[str, str, int], Comparison] = {}
    for result in results:
        key = (result["leg"], result["workload"], result["asked_rows"])
        one = found.setdefault(key, Comparison(*key))
        subject, series = result["subject"], result["series"]
        one.cells.setdefault(subject, Cell(subject)).add(result)
        one.series.setdefault((subject, series), Cell(subject)).add(result)
    for one in found.values():
        one.cells = {name: one.cells[name] for name in SUBJECTS if name in one.cells}
    return list(found.values())


def too_small(one: Comparison) -> str:
    """Why a comparison shows nothing about speed; empty: it does."""
    said = []
    if min(cell.runs for cell in one.cells.values()) < FEWEST_ROUNDS:
        said.append("one round tells nothing about noise")
    if one.asked_rows < min(FEWEST_ROWS, WORKLOADS[one.workload].rows):
        said.append(f"with fewer than {FEWEST_ROWS:,} rows starting weighs more than rows")
    return ", and ".join(said)


class Medians:
    """Medians by leg, workload, subject and metric; of several numbers of rows the largest counts."""

    def __init__(self, found: Sequence[Comparison]) -> None:
        self._by = {(one.leg, one.workload): one for one in sorted(found, key=lambda one: one.asked_rows)}

    def __call__(self, leg: str, workload: str, subject: str, metric: str) -> float | None:
        """None when there is none."""
        cell = self.cell(leg, workload, subject)
        return cell.median(metric) if cell else None

    def cell(self, leg: str, workload: str, subject: str) -> Cell | None:
        """The runs that a median is of; None when there are none."""
        one = self._by.get((leg, workload))
        return one.cells.get(subject) if one else None


def title(one: Comparison) -> str:
    """What was compared."""
    return f"{one.leg}, workload {one.workload}: {WORKLOADS[one.workload].title} ({one.asked_rows:,} rows asked for)"


def _value(result: Mapping[str, Any], metric: str) -> float | None:
    name, _, part = metric.partition(".")
    value = result.get(name)
    if part and value is not None:
        value = value.get(part)
    return None if value is None else float(value)


def ratios(one: Comparison, cell: Cell, against: Iterable[str], metric: str) -> Iterator[float | None]:
    """The cell's median divided by that of each of these subjects."""
    own = cell.median(metric)
    for name in against:
        other = one.cells[name].median(metric)
        yield own / other if own and other else None


def _origin(result: Mapping[str, Any]) -> str:
    machine = result.get("machine", 1)
    return f"{result.get('commit', 'unknown')}{f' on machine {machine}' if machine > 1 else ''}"
