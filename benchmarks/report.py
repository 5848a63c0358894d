"""The report: Markdown and JSON of what a file of results holds, with plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.experiment import HUBS
from benchmarks.figures import LATENCIES, METRICS, Cell, Comparison, Medians, comparisons, ratios, read, title
from benchmarks.goals import CPU, GOALS, MEMORY, RATE

PLACE = "## What was measured\n"
PREAMBLE = """
- Every figure is the median of its runs; in brackets the smallest and the largest. Runs of the subjects take turns.
- A figure counts when all rows have arrived and are equal: by counts and checksums of both databases, for capture by
  counting the topic's records and comparing each key's last state with the source. What failed is printed as failed.
- *Noise* is how far the medians of two series of the same subject, measured in turn with the others, lie apart:
  differences below it mean nothing.
- The clock runs from the answer to START_REPLICATION (capture, end to end), from the target's first rows (deliver), or
  from when reading of existing rows has begun (snapshot): starting interpreters and virtual machines is left out.
- CPU and memory are those of the subject's own processes: user and system time; VmHWM, in sum. Memory of one Connect
  worker is that of its whole JVM.
- Autovacuum is off on both servers. `confluent`, `kafka-python`, `embedded`: the hub, named after its broker client.
- Servers are warm: the first runs of a comparison on a new virtual machine do not count.
- `debezium` captures alone as JSON without schemas, the fastest it has; the JDBC sink needs schemas, so all other legs
  have them. One Connect worker (-Xmx2g) runs source and sink connectors, with the settings their documentation advises.
- `postgres` is PostgreSQL's own logical replication with its defaults: it applies large transactions while it reads
  them.
- pgbench_history (workload d) has no key: it is written, but neither captured nor compared.
"""


def write(results: Path, out: Path, page: Path | None = None) -> Path:
    """Make `report.md`, `report.json` and plots in a folder from a file of results; the path of the first.

    With a page, what follows its heading `PLACE` is replaced by the figures; plots go to a folder beside it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with results.open() as file:
        machines, found = read(file)
    compared = comparisons(found)
    (out / "report.json").write_text(json.dumps(_document(machines, compared), indent=1) + "\n")
    report = page or out / "report.md"
    pictures = plots.draw(compared, out if page is None else page.with_suffix(""))
    if page is None:
        report.write_text("\n\n".join(["# What was measured", *markdown(machines, compared, pictures, "")]) + "\n")
    else:
        kept, heading, _ = page.read_text().partition(PLACE)
        if not heading:
            raise ValueError(f"{page} has no heading {PLACE.strip()}")
        figures = "\n\n".join(markdown(machines, compared, pictures, f"{page.stem}/"))
        page.write_text(f"{kept}{heading}\n{figures}\n")
    return report


def markdown(
    machines: Sequence[dict[str, Any]], compared: Sequence[Comparison], pictures: Sequence[str], folder: str
) -> list[str]:
    """The report's paragraphs; plots are in `folder`."""
    parts = [_machine(machines), PREAMBLE.strip(), "### Goals", _goals(compared)]
    parts += [f"![{name.removesuffix('.png')}]({folder}{name})" for name in pictures]
    for one in compared:
        parts += [f"### {title(one)}", _table(one)]
    return [part for part in parts if part]


def _machine(machines: Sequence[dict[str, Any]]) -> str:
    lines = []
    for machine in machines[-1:]:
        hardware = machine["hardware"]
        lines.append(
            f"{machine['taken_at']}: {hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gb']} GB, "
            f"{hardware['system']}."
        )
        lines.append(", ".join(f"{name} {said}" for name, said in machine["versions"].items()) + ".")
        settings = ", ".join(f"{name} = {value}" for name, value in machine["postgresql_settings"].items())
        lines.append(f"PostgreSQL: {settings}.")
    return "\n\n".join(lines)


def _goals(compared: Sequence[Comparison]) -> str:
    median = Medians(compared)
    rows = ["| goal | bound | measured | |", "|---|---|---|---|"]
    for goal in GOALS:
        value = goal.value(median)
        bound = f"{goal.sign} {goal.bound:.3g}"
        if value is None:
            rows.append(f"| {goal.text} | {bound} | – | not measured |")
        else:
            rows.append(
                f"| {goal.text} | {bound} | {value:.3g} | {'reached' if goal.reached(value) else '**not reached**'} |"
            )
    return "\n".join(rows)


def _table(one: Comparison) -> str:
    against = [name for name in one.cells if name not in HUBS]
    main = [f"latency_ms.{name}" for name in LATENCIES] if one.leg == "latency" else [RATE]
    head = ["subject", *(name.replace("latency_ms.", "ms, ").replace("_per_second", "/s") for name in main)]
    head += [f"/ {name}" for name in against] + ["µs CPU a row", "peak MB", "rows, proof"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for cell in one.cells.values():
        values = [_told(cell, metric) for metric in main]
        values += ["–" if ratio is None else f"{ratio:.2f}" for ratio in ratios(one, cell, against, main[0])]
        lines.append(f"| {' | '.join([cell.subject, *values, _told(cell, CPU), _told(cell, MEMORY), _proof(cell)])} |")
    if (noise := one.noise(main[0])) is not None and one.again is not None:
        lines.append(f"\nNoise, from two series of {one.again.subject}: {100 * noise:.1f} %.")
    for cell in one.cells.values():
        if cell.other:
            told = ", ".join(
                f"{name.replace('_', ' ')} {_short(cell.median(name) or 0)}" for name in sorted(cell.other)
            )
            lines.append(f"\n{cell.subject}: {told}.")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _told(cell: Cell, metric: str) -> str:
    values = cell.values.get(metric)
    if not values:
        return "–"
    median = cell.median(metric)
    assert median is not None
    form = ",.0f" if median >= 1000 else ".1f"
    spread = f" ({min(values):{form}} – {max(values):{form}})" if len(values) > 1 else ""
    return f"{median:{form}}{spread}"


def _proof(cell: Cell) -> str:
    parts = []
    if cell.rows:
        parts.append(f"{' / '.join(f'{rows:,}' for rows in sorted(set(cell.rows)))}, {cell.note or 'equal'}")
    if cell.failed:
        reason = cell.failed[0].replace("|", "/")
        parts.append(f"**failed** {len(cell.failed)} ×: {reason}")
    return "; ".join(parts)


def _document(machines: Sequence[dict[str, Any]], compared: Sequence[Comparison]) -> dict[str, Any]:
    median = Medians(compared)
    goals = []
    for goal in GOALS:
        value = goal.value(median)
        goals.append(
            {
                "goal": goal.text,
                "bound": f"{goal.sign} {goal.bound:.3g}",
                "measured": value,
                "reached": None if value is None else goal.reached(value),
            }
        )
    return {"machines": list(machines), "goals": goals, "comparisons": [_compared(one) for one in compared]}


def _compared(one: Comparison) -> dict[str, Any]:
    return {
        "leg": one.leg,
        "workload": one.workload,
        "asked_rows": one.asked_rows,
        "noise": {metric: noise for metric in METRICS if (noise := one.noise(metric)) is not None},
        "subjects": {
            name: {
                "rows": cell.rows,
                "proof": cell.note or "equal",
                "medians": {metric: cell.median(metric) for metric in (*cell.values, *cell.other)},
                "runs": cell.values,
                "failed": cell.failed,
            }
            for name, cell in one.cells.items()
        },
    }
