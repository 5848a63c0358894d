"""`sync-hub status`: health from the state itself, whether or not the web application runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import STATE_COLOURS, paint, print_json, print_table, say
from sync_hub.errors import ConfigError, Unavailable

Document = dict[str, Any]


def status(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One source, target or pipeline.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show what is wrong, and how every pipeline and source does. Exit 1 when something is failing."""
    from sync_hub.web.reader import HealthReader

    settings = load_settings(context, config)
    state = open_state(settings)
    try:
        document = HealthReader(settings, state).document()
    finally:
        state.close()
    for problem in document["problems"]:
        if problem["code"] == "state_unavailable":
            raise Unavailable("state_unavailable", problem["message"], hint=problem["hint"])
    if name:
        document = _part(document, name, settings.targets)
    if json:
        print_json(document)
    else:
        _show(document)
    if document["status"] == "failing":
        raise typer.Exit(1)


def _part(document: Document, name: str, targets: Any) -> Document:
    """The document with only what belongs to one source, target or pipeline."""
    kind, _, bare = name.rpartition(":")
    pipelines = {
        key: part
        for key, part in document["pipelines"].items()
        if (kind in ("", "pipeline") and key == bare)
        or (kind in ("", "source") and part["source"] == bare)
        or (kind in ("", "target") and part["target"] == bare)
    }
    sources = {
        key: part
        for key, part in document["sources"].items()
        if (kind in ("", "source") and key == bare) or (kind in ("", "pipeline") and _feeds(pipelines, key, bare))
    }
    if not pipelines and not sources and bare not in targets:
        hint = f"known are: {', '.join([*document['sources'], *targets, *document['pipelines']])}"
        raise ConfigError("unknown_name", f"there is no source, target or pipeline {name!r}", hint=hint)
    subjects = {f"{each}:{bare}" for each in ("source", "target", "pipeline") if kind in ("", each)}
    problems = [
        problem
        for problem in document["problems"]
        if problem["subject"] in subjects or pipelines.keys() & set(problem["affects"])
    ]
    severities = {problem["severity"] for problem in problems}
    own = {worker["subject"] for worker in document["workers"]} & (
        subjects | {f"source:{key}" for key in sources} | {f"target:{part['target']}" for part in pipelines.values()}
    )
    return document | {
        "status": next((level for level in ("failing", "degraded") if level in severities), "ok"),
        "problems": problems,
        "workers": [worker for worker in document["workers"] if worker["subject"] in own],
        "sources": sources,
        "pipelines": pipelines,
    }


def _feeds(pipelines: Document, source: str, pipeline: str) -> bool:
    return pipeline in pipelines and pipelines[pipeline]["source"] == source


def _show(document: Document) -> None:
    level = document["status"]
    say(f"{document['hub']}: {paint(level, STATE_COLOURS[level])}")
    for problem in document["problems"]:
        tag = paint(problem["severity"], STATE_COLOURS[problem["severity"]])
        say(f"  {tag}  {problem['code']}  {problem['message']}")
        if problem["hint"]:
            say(f"           {problem['hint']}")
        if problem["command"]:
            say(f"           {paint(problem['command'], 'cyan')}")
    if document["pipelines"]:
        print_table(
            ("pipeline", "source", "target", "state", "lag", "waiting", "applied/s", "applied", "waits for"),
            [_pipeline_row(name, part) for name, part in document["pipelines"].items()],
            right=(4, 5, 6, 7),
        )
    if document["sources"]:
        print_table(
            ("source", "state", "lag", "events/s", "events", "retained log", "loading"),
            [_source_row(name, part) for name, part in document["sources"].items()],
            right=(2, 3, 4, 5),
        )
    if document["workers"]:
        print_table(
            ("worker", "state", "machine", "process", "last beat"),
            [[part[key] for key in ("name", "state", "host", "pid", "seen_at")] for part in document["workers"]],
            right=(3,),
        )


def _pipeline_row(name: str, part: Document) -> list[Any]:
    return [
        name,
        f"{part['source']} {part['table']}",
        part["target"],
        part["state"],
        _seconds(part["lag_seconds"]),
        part["lag_events"],
        part["applied_per_second"],
        part["applied_total"],
        part["waiting_for"] or "",
    ]


def _source_row(name: str, part: Document) -> list[Any]:
    snapshot = part["snapshot"]
    loading = f"{snapshot['table']}: {snapshot['rows_done']} of {snapshot['rows_estimated']} rows" if snapshot else ""
    return [
        name,
        part["state"],
        _seconds(part["lag_seconds"]),
        part["events_per_second"],
        part["events_total"],
        part["retained_log_bytes"],
        loading,
    ]


def _seconds(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds:.1f} s"
