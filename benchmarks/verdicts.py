"""What became of each goal: what was measured, whether that is enough, and what has to be known about it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.figures import Cell, Comparison, Medians
from benchmarks.goals import GOALS, Goal


@dataclass(frozen=True)
class Verdict:
    """One goal; no value when a side of it has no good run, no answer when a side has no run at all."""

    goal: Goal
    value: float | None
    reached: bool | None
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For the table."""
        said = {None: "not measured", True: "reached", False: "**not reached**"}[self.reached]
        return ", ".join([said, *self.notes])


def verdicts(compared: Sequence[Comparison], goals: Sequence[Goal] = GOALS) -> list[Verdict]:
    """One a goal."""
    medians = Medians(compared)
    return [_verdict(goal, medians) for goal in goals]


def _verdict(goal: Goal, medians: Medians) -> Verdict:
    value = goal.value(medians)
    sides = [(workload, medians.cell(goal.leg, workload, subject)) for workload, subject in goal.sides]
    measured = [cell for _, cell in sides if cell]
    failed = [_failed(cell, f" on {workload}" if goal.beside else "") for workload, cell in sides if cell]
    notes = tuple(note for note in (*failed, _origins(measured)) if note)
    if len(measured) < len(sides) or (value is None and not any(failed)):
        return Verdict(goal, value, None, notes)
    mostly_good = all(2 * len(cell.failed) <= cell.runs for cell in measured)
    return Verdict(goal, value, value is not None and mostly_good and goal.reached(value), notes)


def _failed(cell: Cell, where: str) -> str:
    return f"{len(cell.failed)} of {cell.runs} runs of {cell.subject}{where} failed" if cell.failed else ""


def _origins(cells: Sequence[Cell]) -> str:
    """Nothing when all runs of all sides are of one commit and machine."""
    if len({origin for cell in cells for origin in cell.origins}) < 2:
        return ""
    return f"measured on {' : '.join(' and '.join(cell.origins) for cell in cells)}"
