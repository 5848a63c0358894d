"""Plots of a report, where matplotlib is installed (`sync-hub[bench]`)."""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.experiment import HUBS, SUBJECTS
from benchmarks.figures import Comparison
from benchmarks.goals import CPU, MEMORY, RATE, VALUES
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

COLOURS = dict(
    zip(SUBJECTS, ("#1b6ca8", "#5aa9e6", "#7fc8a9", "#9a9a9a", "#bdbdbd", "#d9d9d9", "#d1495b"), strict=True)
)
LEGS = ("capture", "deliver", "end-to-end", "snapshot")
GROWTH = ("a", "a10", "f", "g", "h1", "h2", "h4", "h8")
GROWN = "values (rows × columns) a second, all targets (more is better)"
WIDTH = 0.8
LETTERS, LEGEND = 10, 2.5
"""Of a title, in an inch; and how many inches the legend takes beside it."""


def draw(compared: Sequence[Comparison], out: Path) -> list[str]:
    """PNG files in a folder; their names. None without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    out.mkdir(parents=True, exist_ok=True)
    main = [one for one in compared if one.leg in LEGS and one.workload not in GROWTH[1:]]
    main.sort(key=lambda one: (LEGS.index(one.leg), one.workload))
    latency = sorted((one for one in compared if one.leg == "latency"), key=lambda one: one.workload)
    growth = _of_common_subjects([one for one in compared if one.leg == "end-to-end" and one.workload in GROWTH])
    growth.sort(key=lambda one: GROWTH.index(one.workload))
    names = [
        _bars(out / "throughput.png", "rows a second (more is better)", RATE, main),
        _bars(out / "cpu.png", "CPU of the subject's own processes, µs a row (less is better)", CPU, main),
        _bars(out / "memory.png", "peak memory of the subject's own processes, MB (less is better)", MEMORY, main),
        _latencies(out / "latency.png", latency),
        _bars(out / "growth.png", GROWN, VALUES, growth) if len(growth) > 1 else "",
    ]
    return [name for name in names if name]


def _of_common_subjects(compared: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with only those subjects that all of them have."""
    common = set.intersection(*(set(one.cells) for one in compared)) if compared else set()
    return [replace(one, cells={name: one.cells[name] for name in one.cells if name in common}) for one in compared]


def _bars(path: Path, title: str, metric: str, compared: Sequence[Comparison]) -> str:
    """One group of bars a comparison, one bar a subject; whiskers from the smallest to the largest run."""
    compared = [one for one in compared if any(cell.values.get(metric) for cell in one.cells.values())]
    if not compared:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6, 1.7 * len(compared)), 4.5), layout="constrained")
    axes = figure.subplots()
    subjects = [
        name for name in SUBJECTS if any(name in one.cells and one.cells[name].values.get(metric) for one in compared)
    ]
    for place, one in enumerate(compared):
        shown = [cell for cell in one.cells.values() if cell.values.get(metric)]
        for number, cell in enumerate(shown):
            values, median = cell.values[metric], cell.median(metric) or 0
            width = WIDTH / len(shown)
            spread = [[median - min(values)], [max(values) - median]] if len(values) > 1 else None
            centre = place - WIDTH / 2 + (number + 0.5) * width
            axes.bar(centre, median, width, color=COLOURS[cell.subject], yerr=spread, capsize=2)
    axes.set_xticks(range(len(compared)), [f"{one.leg}\n{one.workload}" for one in compared])
    axes.set_title(textwrap.fill(title, round(LETTERS * (figure.get_figwidth() - LEGEND))))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _legend(axes, subjects)
    figure.savefig(path, dpi=110)
    return path.name


def _latencies(path: Path, compared: Sequence[Comparison]) -> str:
    """One line a subject over the percentiles, one plot a rate."""
    compared = [one for one in compared if any(cell.values.get("latency_ms.p50") for cell in one.cells.values())]
    if not compared:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(compared), 4.5), layout="constrained")
    figure.suptitle("latency from insert to insert, ms, logarithmic (less is better)")
    shapes = ("p50", "p95", "p99", "max")
    for axes, one in zip(figure.subplots(1, len(compared), squeeze=False)[0], compared, strict=True):
        for cell in one.cells.values():
            values = [cell.median(f"latency_ms.{name}") for name in shapes]
            if None not in values:
                axes.plot(shapes, values, marker="o", color=COLOURS[cell.subject])
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(WORKLOADS[one.workload].title)
        axes.grid(axis="y", alpha=0.3)
    subjects = [name for name in SUBJECTS if any(name in one.cells for one in compared)]
    figure.legend(handles=_patches(subjects), loc="outside lower center", ncols=len(subjects), frameon=False)
    figure.savefig(path, dpi=110)
    return path.name


def _patches(subjects: Sequence[str]) -> list[Patch]:
    from matplotlib.patches import Patch

    return [Patch(color=COLOURS[name], label=f"hub, {name}" if name in HUBS else name) for name in subjects]


def _legend(axes: Axes, subjects: Sequence[str]) -> None:
    axes.legend(handles=_patches(subjects), frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
