"""`/metrics` for Prometheus: the same figures as health. Names are documented in `docs/reference/metrics.md`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from sync_hub.web.health import OUTCOMES
from sync_hub.web.reader import HealthReader

Document = dict[str, Any]

STATUS = {"ok": 0, "degraded": 1, "failing": 2}
SOURCE_STATES = ("snapshotting", "streaming", "paused", "stopped", "failed")
PIPELINE_STATES = (
    "snapshotting", "reloading", "catching_up", "running", "paused", "retrying", "stopped", "failed",
)  # fmt: skip

SOURCE_GAUGES = {
    "lag_seconds": ("lag_seconds", "From commit at the source to the topic; absent when unknown."),
    "retained_log_bytes": ("retained_log_bytes", "Log that the source keeps for the hub."),
    "retained_log_limit_bytes": ("retained_log_limit_bytes", "The source's own limit for it; absent when it has none."),
    "last_event_at": ("last_event_timestamp_seconds", "When the last event was captured."),
}
SNAPSHOT_GAUGES = {
    "rows_done": ("snapshot_rows_done", "Existing rows loaded so far; absent when nothing is loading."),
    "rows_estimated": ("snapshot_rows_estimated", "Existing rows to load, as the source estimates."),
}
PIPELINE_GAUGES = {
    "lag_proven_seconds": (
        "lag_seconds",
        "From commit at the source to commit in the target, without what is parked; absent when unknown.",
    ),
    "lag_capture_seconds": ("lag_capture_seconds", "The part of it before the topic."),
    "lag_deliver_seconds": ("lag_deliver_seconds", "The part of it after the topic."),
    "lag_events": ("lag_events", "Records in the topic that are not applied; absent when unknown."),
    "parked": ("parked", "Records held with their error."),
    "attempt": ("attempt", "How often the present batch has been tried again."),
    "last_applied_at": ("last_applied_timestamp_seconds", "When the last row was written."),
}


def routes(reader: HealthReader) -> APIRouter:
    """The one route: Prometheus text, or OpenMetrics when the caller accepts it."""
    router = APIRouter()

    @router.get("/metrics")
    def metrics(request: Request) -> Response:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(HealthCollector(reader.document()))
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return router


class HealthCollector(Collector):
    """Turns one health document into metric families. What is unknown is left out, never 0."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before it is collected."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families, those without samples too."""
        yield from self._hub()
        yield from self._workers()
        yield from _sources(self._document["sources"])
        yield from _pipelines(self._document["pipelines"], _timestamp(self._document["time"]))
        yield from _proof(self._document["pipelines"], _timestamp(self._document["time"]))

    def _hub(self) -> Iterator[Metric]:
        document = self._document
        info = InfoMetricFamily("sync_hub_build", "Which hub this is.")
        info.add_metric([], {"version": document["version"], "hub": document["hub"]})
        yield info
        status = GaugeMetricFamily("sync_hub_status", "0 ok, 1 degraded, 2 failing.")
        status.add_metric([], STATUS[document["status"]])
        yield status
        problems = GaugeMetricFamily("sync_hub_problems", "Open problems.", labels=["severity"])
        for severity in ("degraded", "failing"):
            count = sum(problem["severity"] == severity for problem in document["problems"])
            problems.add_metric([severity], count)
        yield problems

    def _workers(self) -> Iterator[Metric]:
        labels = ["worker", "host"]
        up = GaugeMetricFamily("sync_hub_worker_up", "1 while the worker runs and beats.", labels=labels)
        seen = GaugeMetricFamily("sync_hub_worker_seen_timestamp_seconds", "The worker's last beat.", labels=labels)
        restarts = GaugeMetricFamily(
            "sync_hub_worker_restarts_last_hour", "How often it was started again.", labels=labels
        )
        for worker in self._document["workers"]:
            values = [worker["name"], worker["host"]]
            up.add_metric(values, int(worker["state"] == "running"))
            seen.add_metric(values, _timestamp(worker["seen_at"]))
            restarts.add_metric(values, worker["restarts_last_hour"])
        yield from (up, seen, restarts)


def _sources(sources: Document) -> Iterator[Metric]:
    labels = ["source"]
    yield _states("sync_hub_source_state", "1 for the state the source is in.", "source", sources, SOURCE_STATES)
    yield _known("sync_hub_source_lag_known", "source", sources)
    events = CounterMetricFamily("sync_hub_source_events", "Events published since the worker started.", labels=labels)
    for name, source in sources.items():
        events.add_metric([name], source["events_total"])
    yield events
    for figure, (metric, text) in SOURCE_GAUGES.items():
        yield _gauge(
            f"sync_hub_source_{metric}", text, labels, {(name,): part[figure] for name, part in sources.items()}
        )
    for figure, (metric, text) in SNAPSHOT_GAUGES.items():
        rows: dict[tuple[str, str], int] = {}
        for name, part in sources.items():
            for snapshot in part["snapshots"]:
                place = (name, snapshot["table"])
                rows[place] = rows.get(place, 0) + snapshot[figure]
        yield _gauge(f"sync_hub_source_{metric}", text, ["source", "table"], rows)


def _pipelines(pipelines: Document, now: float) -> Iterator[Metric]:
    labels = ["pipeline", "source", "target"]
    values = {name: (name, part["source"], part["target"]) for name, part in pipelines.items()}
    yield _states("sync_hub_pipeline_state", "1 for the state it is in.", "pipeline", pipelines, PIPELINE_STATES)
    yield _known("sync_hub_pipeline_lag_known", "pipeline", pipelines)
    applied = CounterMetricFamily("sync_hub_pipeline_applied", "Rows written since the workers started.", labels=labels)
    for name, part in pipelines.items():
        applied.add_metric(values[name], part["applied_total"])
    yield applied
    for figure, (metric, text) in PIPELINE_GAUGES.items():
        samples = {values[name]: part[figure] for name, part in pipelines.items()}
        yield _gauge(f"sync_hub_pipeline_{metric}", text, labels, samples)
    since = {values[name]: part["parked_since"] for name, part in pipelines.items() if part["parked_since"]}
    ages = {place: max(0.0, now - _timestamp(moment)) for place, moment in since.items()}
    text = "Age of the oldest record that is held or waits for another row; absent when there is none."
    yield _gauge("sync_hub_pipeline_parked_age_seconds", text, labels, ages)


def _proof(pipelines: Document, now: float) -> Iterator[Metric]:
    """What is known of whether views agree with their sources."""
    labels = ["pipeline", "source", "target"]
    values = {name: (name, part["source"], part["target"]) for name, part in pipelines.items()}
    verified = {values[name]: part["verified"] for name, part in pipelines.items() if part["verified"]}
    rows = {(*place, outcome): found[outcome] for place, found in verified.items() for outcome in OUTCOMES}
    text = "Rows of the last whole verification, by what was found."
    yield _gauge("sync_hub_pipeline_verified_rows", text, [*labels, "outcome"], rows)
    ages = {place: max(0.0, now - _timestamp(found["at"])) for place, found in verified.items()}
    text = "Since the last whole verification; absent when there was none."
    yield _gauge("sync_hub_pipeline_verified_age_seconds", text, labels, ages)
    running = {values[name]: _running(part["verifying"]) for name, part in pipelines.items()}
    yield _gauge("sync_hub_pipeline_verifying", "1 while a verification runs.", labels, running)
    doubted = {values[name]: int(part["unproven"] is not None) for name, part in pipelines.items()}
    text = "1 while the view may differ from its source until it is verified."
    yield _gauge("sync_hub_pipeline_unproven", text, labels, doubted)


def _running(verifying: Document | None) -> int:
    return int(verifying is not None and verifying["state"] == "running")


def _gauge(name: str, text: str, labels: list[str], samples: Mapping[Any, Any]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, sample in samples.items():
        if sample is not None:
            family.add_metric(list(values), _timestamp(sample) if isinstance(sample, str) else float(sample))
    return family


def _states(name: str, text: str, label: str, parts: Document, states: Iterable[str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label, "state"])
    for part_name, part in parts.items():
        for state in states:
            family.add_metric([part_name, state], int(part["state"] == state))
    return family


def _known(name: str, label: str, parts: Document) -> Metric:
    family = GaugeMetricFamily(name, "1 when the lag is proven, 0 when nothing proves it: alert on 0.", labels=[label])
    for part_name, part in parts.items():
        family.add_metric([part_name], int(part["lag_seconds"] is not None))
    return family


def _timestamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
