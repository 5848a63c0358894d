"""Progress of long work in the hub: bars at a terminal, one line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sync_hub.cli.output import note

LOOK_SECONDS = 0.2
LINE_SECONDS = 5.0
SILENT_SECONDS = 15.0
"""After how long without a word from the worker that works for us we stop waiting."""


class Step(NamedTuple):
    """One piece of work: `done` of about `total` rows, and a word on what it is doing."""

    name: str
    done: int
    total: int
    what: str
    finished: bool


def follow(look: Callable[[], Sequence[Step]], *, quiet: bool = False) -> None:
    """Show what `look` tells until everything in it is finished. Ctrl-C ends only the looking."""
    if not quiet and sys.stderr.isatty():
        _bars(look)
        return
    told_at, began = time.monotonic(), time.monotonic()
    while True:
        steps = look()
        if all(step.finished for step in steps):
            return
        if not quiet and time.monotonic() - told_at >= LINE_SECONDS:
            told_at = time.monotonic()
            for step in steps:
                if not step.finished:
                    note(
                        f"{step.name}: {step.done} of about {max(step.total, step.done)} rows, {step.what}"
                        f"{_left(step, told_at - began)}"
                    )
        time.sleep(LOOK_SECONDS)


def _left(step: Step, seconds: float) -> str:
    if not step.done or step.total <= step.done or seconds <= 0:
        return ""
    rate = step.done / seconds
    return f", {rate:.0f} rows/s, {(step.total - step.done) / rate:.0f} s left"


def _bars(look: Callable[[], Sequence[Step]]) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} rows/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}", style="dim"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = {}
        while True:
            steps = look()
            for step in steps:
                if step.name not in tasks:
                    tasks[step.name] = progress.add_task(step.name, total=None, what="", rate="–")
                task = tasks[step.name]
                speed = next(one.speed for one in progress.tasks if one.id == task)
                total = step.done if step.finished else max(step.total, step.done) or None
                progress.update(
                    task, completed=step.done, total=total, what=step.what, rate=f"{speed:,.0f}" if speed else "–"
                )
            if all(step.finished for step in steps):
                return
            time.sleep(LOOK_SECONDS)
