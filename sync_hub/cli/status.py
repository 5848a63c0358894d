"""`sync-hub status`: health from the state itself, whether or not the web application runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import STATE_COLOURS, narrow, paint, print_json, print_table, say, say_finding
from sync_hub.errors import ConfigError, Unavailable
from sync_hub.web.problems import short, size

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
        _show(document, name)
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


def _show(document: Document, name: str | None) -> None:
    """The verdict first; with a `name` that of this part, and also how far each view is loaded and verified."""
    level = document["status"]
    say(f"{name or document['hub']}: {paint(level, STATE_COLOURS[level])}")
    for problem in document["problems"]:
        say_finding(problem["severity"], problem["subject"], problem["code"], problem)
    for one in [key for key, part in document["pipelines"].items() if part["mapping"]["pending"]]:
        say(f"{paint('pending', 'yellow')} pipeline:{one}: its file has changed; the hub runs on with what was applied")
        say(f"    {paint(f'sync-hub plan {one}', 'cyan')}")
    if document["pipelines"]:
        _show_pipelines(document["pipelines"])
        if name:
            _show_proof(document["pipelines"])
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
        say(paint("applied and events are counted since their workers started", "dim"))


def _show_pipelines(pipelines: Document) -> None:
    """One line a pipeline; on a narrow terminal its way and what it waits for stand in lines of their own."""
    figures = ["lag", "waiting", "applied/s", "applied"]
    if any(_held(part) for part in pipelines.values()):
        figures.append("parked")
    if narrow():
        tall = [_tall_row(name, part, figures) for name, part in pipelines.items()]
        print_table(("pipeline", "state", *figures), tall, right=range(2, 2 + len(figures)))
    else:
        wide = [_wide_row(name, part, figures) for name, part in pipelines.items()]
        headings = ("pipeline", "source", "target", "state", *figures, "waits for")
        print_table(headings, wide, right=range(4, 4 + len(figures)))


def _show_proof(pipelines: Document) -> None:
    """What is known of whether views agree with their sources."""
    rows = [
        (name, _share(part["loading"], part["phase"]), _verified(part["verified"]), _doubt(part))
        for name, part in pipelines.items()
    ]
    print_table(("pipeline", "existing rows", "verified", "in doubt"), rows)


def _share(loading: Document | None, phase: str) -> str:
    if loading is None:
        return phase
    return f"{loading['state']}: {loading['rows_done']} of {loading['rows_estimated']}"


def _verified(found: Document | None) -> str:
    from sync_hub.web.health import OUTCOMES

    if found is None:
        return "never"
    counts = ", ".join(f"{found[name]} {name}" for name in OUTCOMES if found[name])
    return f"{short(found['at'])}: {'equal' if found['agrees'] else 'differs'} ({counts or 'no rows'})"


def _doubt(part: Document) -> str:
    running = part["verifying"]
    progress = f"verifying {running['rows_done']} of {running['rows_estimated']}" if running else ""
    return "; ".join(said for said in (part["unproven"], progress) if said) or "no"


def _tall_row(name: str, part: Document, figures: Sequence[str]) -> list[Any]:
    state = (part["state"], f"waits: {part['waiting_for']}") if part["waiting_for"] else part["state"]
    return [(name, f"{part['source']} {part['table']} → {part['target']}"), state, *_figures(part, figures)]


def _wide_row(name: str, part: Document, figures: Sequence[str]) -> list[Any]:
    way = (f"{part['source']} {part['table']}", part["target"])
    return [name, *way, part["state"], *_figures(part, figures), part["waiting_for"] or ""]


def _figures(part: Document, wanted: Sequence[str]) -> list[Any]:
    figures = {
        "lag": _seconds(part["lag_seconds"]), "waiting": part["lag_events"], "applied/s": part["applied_per_second"],
        "applied": part["applied_total"], "parked": _held(part),
    }  # fmt: skip
    return [figures[name] for name in wanted]


def _held(part: Document) -> str:
    """`3`, or `3, 2 wait` where rows wait for others."""
    waiting = (
        f"{part['waiting_rows']} {'waits' if part['waiting_rows'] == 1 else 'wait'}" if part["waiting_rows"] else ""
    )
    return ", ".join(text for text in (str(part["parked"] or ""), waiting) if text)


def _source_row(name: str, part: Document) -> list[Any]:
    snapshot = part["snapshot"]
    loading = f"{snapshot['table']}: {snapshot['rows_done']} of {snapshot['rows_estimated']} rows" if snapshot else ""
    return [
        name,
        part["state"],
        _seconds(part["lag_seconds"]),
        part["events_per_second"],
        part["events_total"],
        None if part["retained_log_bytes"] is None else size(part["retained_log_bytes"]),
        loading,
    ]


def _seconds(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds:.1f} s"
