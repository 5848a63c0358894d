"""The report: Markdown and JSON of what a file of results holds, with plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.experiment import HUBS, Refused
from benchmarks.figures import LATENCIES, METRICS, Cell, Comparison, comparisons, ratios, title, too_small
from benchmarks.goals import CPU, MEMORY, RATE
from benchmarks.recorded import load
from benchmarks.verdicts import Verdict, verdicts

PLACE = "## What was measured\n"
PREAMBLE = """
- Every figure is the median of its runs; in brackets the smallest and the largest. Runs of the subjects take turns; the
  first subject of a comparison has two series, and the figures are of both.
- A figure counts when all rows have arrived and are equal: by counts and checksums of both databases, for capture by
  counting the topic's records, finding every key that was changed, and comparing each key's last state with the source.
  What failed is printed as failed; a goal is not reached when more than half of the runs of a side failed.
- What was measured on several commits says on which; a goal says so when its sides are of different ones.
- Noise shows in the brackets, and in how far the medians of the two series of one subject lie apart. Smaller
  differences between subjects mean nothing.
- The clock runs from the answer to START_REPLICATION (capture, end to end), from the target's first rows (deliver), or
  from when reading of existing rows has begun (snapshot): starting interpreters and virtual machines is left out.
  Debezium's sinks run before its source is read.
- CPU and memory are those of the subject's own processes: user and system time; VmHWM, in sum. Memory of one Connect
  worker is that of its whole JVM, which keeps the heap that runs before gave it.
- The hub's views are plain copies (`copy: all`) but in workload m. `confluent`, `kafka-python`, `embedded`: the hub,
  named after its broker client.
- All is on one machine, without TLS. Kafka is one broker, with one replica a topic, of 6 partitions (f: 1). Autovacuum
  is off on both PostgreSQL servers.
- The first three runs with a new Kafka or Connect do not count: their virtual machines get faster for minutes.
- `debezium` captures alone as JSON without schemas, the fastest it has; the JDBC sink needs schemas, so all other legs
  have them. One Connect worker (-Xmx2g) runs source and sink connectors; its producer lingers 20 ms, for latency not at
  all. All settings are in `benchmarks/debezium.py`.
- `postgres` is PostgreSQL's own logical replication with its defaults: it applies large transactions while it reads
  them.
- pgbench_history (workload d) has no key: it is written, but neither captured nor compared.
"""


def write(results: Path, out: Path, page: Path | None = None) -> Path:
    """Make `report.md`, `report.json` and plots in a folder from a file of results; the path of the first.

    With a page, what follows its heading `PLACE` is replaced by the figures; plots go to a folder beside it.
    """
    machines, found = load(results)
    compared = comparisons(found)
    above = _above(page) if page else "# What was measured\n"
    report, folder = (page, page.with_suffix("")) if page else (out / "report.md", out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_text(json.dumps(_document(machines, compared), indent=1) + "\n")
        pictures = plots.draw(compared, folder)
        figures = markdown(machines, compared, pictures, f"{page.stem}/" if page else "")
        report.write_text("\n".join([above, "\n\n".join(figures), ""]))
    except OSError as error:
        raise Refused(
            f"cannot write {error.filename or out}: {error.strerror}; give another folder with --out"
        ) from error
    return report


def doubt(results: Path) -> str:
    """Why the figures of a file of results are to be doubted, in one line; empty: they are not."""
    return _doubt(comparisons(load(results)[1]))


def _above(page: Path) -> str:
    """What stands in a page before the figures, the heading included."""
    try:
        kept, heading, _ = page.read_text().partition(PLACE)
    except OSError as error:
        raise Refused(f"cannot read {page}: {error.strerror}; give a page that is there with --page") from error
    if not heading:
        raise Refused(f"{page} has no heading {PLACE.strip()}; add it where the figures belong")
    return kept + heading


def markdown(
    machines: Sequence[dict[str, Any]], compared: Sequence[Comparison], pictures: Sequence[str], folder: str
) -> list[str]:
    """The report's paragraphs; plots are in `folder`."""
    small = _doubt(compared)
    parts = [_machines(machines, compared), f"**{small.capitalize()}.**" * bool(small), PREAMBLE.strip()]
    parts += _goals(compared)
    parts += [f"![{name.removesuffix('.png')}]({folder}{name})" for name in pictures]
    several = len(_commits(compared)) > 1
    for one in compared:
        reason = too_small(one)
        parts += [f"### {title(one)}", f"**No measurement:** {reason}." * bool(reason)]
        parts += [_origins(one) if several else "", _table(one)]
    return [part for part in parts if part]


def _machines(machines: Sequence[dict[str, Any]], compared: Sequence[Comparison]) -> str:
    lines, commits = [], _commits(compared)
    for number, machine in enumerate(machines, 1):
        hardware = machine["hardware"]
        lines.append(
            f"{f'Machine {number}, ' if len(machines) > 1 else ''}{machine['taken_at']}: {hardware['processor']}, "
            f"{hardware['cores']} cores, {hardware['memory_gb']} GB, {hardware['system']}."
        )
        versions = {name: said for name, said in machine["versions"].items() if name != "commit" or len(commits) < 2}
        lines.append(", ".join(f"{name} {said}" for name, said in versions.items()) + ".")
        settings = ", ".join(f"{name} = {value}" for name, value in machine["postgresql_settings"].items())
        lines.append(f"PostgreSQL: {settings}.")
    if len(commits) > 1:
        lines.append(f"Results of several commits: {', '.join(commits)}. Each comparison names its own.")
    return "\n\n".join(lines)


def _commits(compared: Sequence[Comparison]) -> list[str]:
    """On which commits, and machines where there are several, anything was measured."""
    return list(dict.fromkeys(origin for one in compared for origin in one.origins))


def _origins(one: Comparison) -> str:
    """On which commit a comparison was measured; when on several, which subject on which."""
    if len(one.origins) == 1:
        return f"Measured on commit {next(iter(one.origins))}."
    return f"Measured on commits: {'; '.join(f'{name} {_mixed(cell)}' for name, cell in one.cells.items())}."


def _mixed(cell: Cell) -> str:
    if len(cell.origins) == 1:
        return next(iter(cell.origins))
    told = ", ".join(f"{origin} ({runs} run{'s' * (runs > 1)})" for origin, runs in cell.origins.items())
    return f"**a median over several**, {told}"


def _doubt(compared: Sequence[Comparison]) -> str:
    small = [one for one in compared if too_small(one)]
    if not small:
        return ""
    which = "this shows" if len(small) == len(compared) else f"{len(small)} of {len(compared)} comparisons show"
    return f"{which} that it works, not how fast it is: {too_small(small[0])}"


def _verdicts(compared: Sequence[Comparison]) -> list[Verdict]:
    """What became of the goals; nothing, where too little was measured."""
    small = {(one.leg, one.workload) for one in compared if too_small(one)}
    return [
        replace(one, reached=None, notes=("too few rows or rounds",))
        if any((one.goal.leg, workload) in small for workload, _ in one.goal.sides)
        else one
        for one in verdicts(compared)
    ]


def _goals(compared: Sequence[Comparison]) -> list[str]:
    """Those that something was measured of."""
    rows = []
    for one in _verdicts(compared):
        if one.reached is not None or one.value is not None:
            value = "–" if one.value is None else f"{one.value:.3g}"
            rows.append(f"| {one.goal.text} | {one.goal.sign} {one.goal.bound:.3g} | {value} | {one.text} |")
    return ["### Goals", "\n".join(["| goal | bound | measured | |", "|---|---|---|---|", *rows])] if rows else []


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
    if (noise := one.noise(main[0])) is not None:
        lines.append(f"\nThe medians of the two series of {one.twice} differ by {100 * noise:.1f} %.")
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
    goals = [
        {
            "goal": one.goal.text,
            "bound": f"{one.goal.sign} {one.goal.bound:.3g}",
            "measured": one.value,
            "reached": one.reached,
            "notes": one.notes,
        }
        for one in _verdicts(compared)
    ]
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
                "commits": cell.origins,
            }
            for name, cell in one.cells.items()
        },
    }
