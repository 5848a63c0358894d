"""What can be paused, found by the name that a person types, and for how long."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sync_hub.errors import ConfigError
from sync_hub.runtime.worker import names as worker_names
from sync_hub.settings import Settings, duration_seconds
from sync_hub.state import Pipeline, State, Worker
from sync_hub.web.mappings import Mappings

KINDS = ("source", "target", "pipeline")


class Resumed(NamedTuple):
    """What a resume met: whether there was a pause to take back, and whether something had failed or waited."""

    unpaused: bool
    failed: bool


def subject(name: str, settings: Settings, pipelines: Iterable[str]) -> str:
    """`erp` or `source:erp` → `source:erp`. Raises `ConfigError` when nothing, or more than one, has that name."""
    known = [
        *(f"source:{source}" for source in settings.sources),
        *(f"target:{target}" for target in settings.targets),
        *(f"pipeline:{pipeline}" for pipeline in pipelines),
    ]
    if name in known:
        return name
    found = [full for full in known if full.partition(":")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError("ambiguous_name", f"{name!r} is more than one thing", hint=f"say {' or '.join(found)}")
    names = sorted({full.partition(":")[2] for full in known})
    close = difflib.get_close_matches(name, [*names, *known], n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are: {', '.join(names[:20]) or 'none'}"
    raise ConfigError("unknown_name", f"there is no source, target or pipeline {name!r}", hint=hint)


def resume(full: str, settings: Settings, state: State) -> Resumed:
    """Take a pause back, and have what failed tried again: a worker, or a pipeline in it, that waits for a person."""
    kind, _, name = full.partition(":")
    target = next((one.target for one in state.pipelines() if kind == "pipeline" and one.name == name), name)
    mine = f"capture:{name}" if kind == "source" else f"deliver:{target}"
    workers = [worker for worker in worker_names(settings) if worker == mine or worker.startswith(f"{mine}:")]
    arguments = {"pipeline": name} if kind == "pipeline" else {}
    failed = any(_failed(worker, arguments.get("pipeline")) for worker in state.workers() if worker.name in workers)
    unpaused = state.resume(full)
    for worker in workers:
        state.ask(worker, "retry", arguments)
    return Resumed(unpaused, failed)


def _failed(worker: Worker, pipeline: str | None) -> bool:
    reports = worker.detail.get("pipelines", {})
    chosen = reports.values() if pipeline is None else [reports.get(pipeline, {})]
    states = {worker.state, *(report.get("state") for report in chosen)}
    return not states.isdisjoint(("failed", "backing_off"))


def scope(full: str, settings: Settings, pipelines: Sequence[Pipeline]) -> tuple[list[str], list[str]]:
    """The pipelines that a subject stands for; and those of them whose mapping's file waits to be applied."""
    kind, _, name = full.partition(":")
    mine = [one for one in pipelines if name == {"source": one.source, "target": one.target}.get(kind, one.name)]
    statuses, _ = Mappings(settings).read(mine)
    return [one.name for one in mine], [one.name for one in mine if statuses[one.name].pending]


def pause_until(duration: str, now: float) -> float | None:
    """When a pause of `2h` ends; None for an empty one. Raises `ConfigError`."""
    if not duration:
        return None
    try:
        seconds = duration_seconds(duration)
    except ValueError as error:
        raise ConfigError("bad_duration", str(error), hint="for example 30m or 2h") from error
    if not 0 < seconds <= 10 * 365 * 86400 or not math.isfinite(seconds):
        raise ConfigError("bad_duration", f"{duration!r} is too short or too long", hint="for example 30m or 2h")
    return now + seconds
