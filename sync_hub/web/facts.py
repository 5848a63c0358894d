"""What the state holds about the running hub, read at one moment; everything that health shows is derived from it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from sync_hub.envelope import topic_name
from sync_hub.runtime import lag
from sync_hub.runtime.control import LOST_SECONDS
from sync_hub.settings import Settings
from sync_hub.state import Pause, Pipeline, Progress, State, Worker
from sync_hub.state_snapshots import Snapshot
from sync_hub.state_verifications import Verification

FORGET_REPLACED_SECONDS = 3600.0
"""For how long a lost worker is shown when another machine runs one of the same name."""

PROGRESS_READ = (60, 600)
"""How many records of progress are read first, and then for sources with a pipeline further behind; at last all."""


class Facts(Struct, frozen=True):
    """One reading of the state. `now` is never before anything that was stored, whatever this machine's clock says."""

    now: float
    workers: tuple[Worker, ...]
    pipelines: tuple[Pipeline, ...]
    pauses: tuple[Pause, ...]
    progress: dict[str, list[Progress]]
    snapshots: tuple[Snapshot, ...] = ()
    verifications: dict[str, list[Verification]] = {}
    """By pipeline; like snapshots oldest first, and those finished lately are among them."""

    def loading(self, source: str) -> list[Snapshot]:
        """Snapshots of a source that are not finished, oldest first."""
        return [one for one in self.snapshots if one.source == source and one.finished_at is None]

    def copying_waits(self, source: str) -> str:
        """Which transaction of a source holds up who copies its rows; empty: none."""
        names = [one.name for one in self.pipelines if one.source == source]
        told = [report.get("waiting") for name in names for _, report in self.reports(name)]
        return next(filter(None, told), "")

    def verifying(self, pipeline: str) -> Verification | None:
        """The verification of a pipeline that runs, else the one that waits."""
        mine = [one for one in self.verifications.get(pipeline, ()) if one.finished_at is None]
        return next((one for one in mine if one.state == "running"), next(iter(mine), None))

    def verified(self, pipeline: str, *states: str) -> Verification | None:
        """The last verification of a whole pipeline that ended in one of these states."""
        mine = [
            one
            for one in self.verifications.get(pipeline, ())
            if one.state in states and not (one.options.keys or one.options.sample)
        ]
        return max(mine, key=lambda one: one.finished_at or 0, default=None)

    def silent(self, worker: Worker) -> bool:
        """Whether a worker's last beat is too old to be believed."""
        return self.now - worker.beat_at > LOST_SECONDS

    def reports(self, pipeline: str) -> list[tuple[Worker, dict[str, Any]]]:
        """What the workers last said about a pipeline."""
        found = []
        for worker in self.workers:
            report = worker.detail.get("pipelines", {}).get(pipeline)
            if report is not None:
                found.append((worker, report))
        return found

    def applied(self, pipeline: str) -> dict[int, int]:
        """Next offset a partition as the target has it, by every worker that can be believed now."""
        merged: dict[int, int] = {}
        for worker, report in self.reports(pipeline):
            if not self.silent(worker):
                for partition, offset in report.get("offsets", {}).items():
                    merged[int(partition)] = max(merged.get(int(partition), 0), offset)
        return merged

    def told_at(self, pipeline: str) -> float | None:
        """When the workers that can be believed told what they have applied: the one whose words are oldest."""
        return min((worker.beat_at for worker, _ in self.reports(pipeline) if not self.silent(worker)), default=None)

    def topic(self, pipeline: Pipeline) -> str:
        """The topic that a pipeline reads."""
        return topic_name(pipeline.source, pipeline.table)

    def far_behind(self, read: int) -> set[str]:
        """Sources with a pipeline that reports, and that not even the oldest of the `read` newest records proves."""
        found = set()
        for pipeline in self.pipelines:
            entries, applied = self.progress.get(pipeline.source, []), self.applied(pipeline.name)
            if len(entries) >= read and applied and not lag.passed(entries[-1], self.topic(pipeline), applied):
                found.add(pipeline.source)
        return found

    def shown(self, settings: Settings) -> list[Worker]:
        """The workers of what is configured; rows left behind on other machines go after a while."""
        fresh = {worker.name for worker in self.workers if not self.silent(worker)}
        return [worker for worker in self.workers if self._shown(worker, settings, fresh)]

    def _shown(self, worker: Worker, settings: Settings, fresh: set[str]) -> bool:
        if not self.silent(worker):
            return True
        kind, _, name = subject_of(worker.name).partition(":")
        if kind != "hub" and name not in (settings.sources if kind == "source" else settings.targets):
            return False
        replaced = worker.name in fresh or worker.state == "stopped"
        return not (replaced and self.now - worker.beat_at > FORGET_REPLACED_SECONDS)


def read(settings: Settings, state: State, now: float) -> Facts:
    """Read everything. Raises `Unavailable` when the state does not answer."""
    workers, pipelines, pauses = tuple(state.workers()), tuple(state.pipelines()), tuple(state.pauses())
    progress = {name: state.progress(name, limit=PROGRESS_READ[0]) for name in settings.sources}
    stamps = [worker.beat_at for worker in workers]
    stamps += [entries[0].stored_at for entries in progress.values() if entries]
    verifications: dict[str, list[Verification]] = {}
    for one in state.verifications.all():
        verifications.setdefault(one.pipeline, []).append(one)
    snapshots = tuple(state.snapshots.all())
    facts = Facts(max([now, *stamps]), workers, pipelines, pauses, progress, snapshots, verifications)
    for read_so_far, limit in zip(PROGRESS_READ, (*PROGRESS_READ[1:], None), strict=True):
        for name in facts.far_behind(read_so_far):
            progress[name] = state.progress(name, limit=limit)
    return facts


def running_here(workers: Iterable[Worker], now: float, host: str) -> list[Worker]:
    """The workers that have just beaten; of those on this machine, `host`, only such whose process is there."""
    return [
        worker
        for worker in workers
        if worker.state != "stopped"
        and now - worker.beat_at <= LOST_SECONDS
        and (worker.host != host or _alive(worker.pid))
    ]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def subject_of(worker: str) -> str:
    """What a worker works for: `capture:erp` → `source:erp`, `deliver:crm:2` → `target:crm`, `verify` → `hub`."""
    kind, _, rest = worker.partition(":")
    if not rest:
        return "hub"
    return f"{'source' if kind == 'capture' else 'target'}:{rest.partition(':')[0]}"


def iso(seconds: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601 in UTC, with milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def number(value: Any, default: float = 0.0) -> float:
    """A figure from a beat as a number; beats of other versions may lack it."""
    return float(value) if isinstance(value, int | float) else default
