"""`sync-hub verify`: prove that views are what their mappings make of their sources, and mend what is not."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import print_json, print_table, say
from sync_hub.cli.progress import Step, follow
from sync_hub.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from sync_hub.settings import Settings
    from sync_hub.state import Pipeline, State
    from sync_hub.state_verifications import Verification

Names = Annotated[list[str] | None, typer.Argument(help="Pipelines, sources or targets; all without any.")]
Repair = Annotated[bool, typer.Option("--repair", help="Write what differs again, remove what is extra, verify again.")]
Sample = Annotated[int, typer.Option("--sample", metavar="N", min=0, help="Only about N rows of each, at random.")]
Keys = Annotated[
    str, typer.Option("--keys", metavar="KEYS", help="Only these: values with commas, or a JSON list of keys.")
]


def verify(
    context: typer.Context,
    names: Names = None,
    repair: Repair = False,
    sample: Sample = 0,
    keys: Keys = "",
    config: Config = None,
    json: Json = False,
) -> int:
    """Compare views with their sources, through their mappings, while everything goes on; exit 1 when one differs."""
    settings = load_settings(context, config)
    state = open_state(settings)
    try:
        chosen = chosen_pipelines(names or (), settings, state)
        _refuse_standing(state, chosen)
        asked = _ask(state, chosen, repair=repair, sample=sample, keys=keys)
        _wait(state, asked, quiet=json)
        finished = state.verifications.find([one.id for one in asked])
    except KeyboardInterrupt:
        state.verifications.cancel([one.id for one in asked])
        raise
    finally:
        state.close()
    if json:
        print_json([shown(one) for one in finished])
    else:
        _show(finished)
    failed = [one for one in finished if one.state != "done"]
    if failed:
        raise Unavailable(
            "verification_failed",
            f"{failed[0].pipeline}: {failed[0].error or failed[0].state}",
            hint="what was found before that is shown above",
            command=f"sync-hub status {failed[0].pipeline}",
        )
    return 1 if any(not one.report.agrees for one in finished) else 0


def chosen_pipelines(names: Sequence[str], settings: Settings, state: State) -> list[Pipeline]:
    """The pipelines that these names stand for, in order; all without any. Raises `ConfigError`."""
    from sync_hub.web import subjects

    pipelines = state.pipelines()
    if not names:
        return pipelines
    wanted: dict[str, None] = {}
    for name in names:
        full = subjects.subject(name, settings, [one.name for one in pipelines])
        wanted |= dict.fromkeys(subjects.scope(full, settings, pipelines)[0])
    return [one for one in pipelines if one.name in wanted]


def parsed_keys(text: str, table_key: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """`1,2,3`, or `[{"shop": 1, "number": "7"}]`, as event keys. Raises `ConfigError`."""
    problem = ConfigError(
        "bad_key",
        f"--keys {text!r} does not name rows by {', '.join(table_key)}",
        hint="write 1,2,3 where the key is one column, else a JSON list of objects",
    )
    if not text.lstrip().startswith("["):
        if len(table_key) != 1:
            raise problem
        return tuple({table_key[0]: value.strip()} for value in text.split(",") if value.strip())
    try:
        keys = json_module.loads(text)
    except ValueError as error:
        raise problem from error
    if not all(isinstance(key, dict) and key.keys() == set(table_key) for key in keys):
        raise problem
    return tuple(keys)


def shown(one: Verification) -> dict[str, Any]:
    """A verification as it is told in JSON."""
    report = msgspec.to_builtins(one.report)
    return {
        "id": one.id,
        "pipeline": one.pipeline,
        "reason": one.reason,
        "state": one.state,
        "at": one.finished_at,
        "seconds": None if one.finished_at is None or one.started_at is None else one.finished_at - one.started_at,
        "agrees": one.report.agrees,
        "error": one.error or None,
    } | dict(report)


def _ask(state: State, chosen: Sequence[Pipeline], *, repair: bool, sample: int, keys: str) -> list[Verification]:
    from sync_hub.state_snapshots import new_id
    from sync_hub.state_verifications import Verification, VerificationOptions

    asked = []
    for one in chosen:
        named: tuple[dict[str, Any], ...] = ()
        if keys:
            table = state.tables(one.source).get(one.table)
            named = parsed_keys(keys, table.key if table else ())
        options = VerificationOptions(repair=repair, sample=sample, keys=named)
        asked.append(Verification(new_id(), one.name, options=options, asked_at=time.time()))
    state.verifications.ask(asked)
    return asked


def _refuse_standing(state: State, chosen: Sequence[Pipeline]) -> None:
    """Probes go through the running hub."""
    fresh = {worker.name for worker in state.workers() if time.time() - worker.beat_at < FRESH_SECONDS}
    if "verify" not in fresh:
        raise Unavailable(
            "hub_not_running",
            "the hub does not run, so nothing can be verified",
            hint="start it",
            command="sync-hub run",
        )
    if not chosen:
        raise ConfigError("nothing_to_verify", "no mapping was applied yet", hint="sync-hub run applies them")


FRESH_SECONDS = 6.0


def _wait(state: State, asked: Sequence[Verification], *, quiet: bool) -> None:
    names = [one.id for one in asked]

    def look() -> list[Step]:
        return [
            Step(one.pipeline, one.report.rows_done, one.report.rows_estimated, one.state, one.finished_at is not None)
            for one in state.verifications.find(names)
        ]

    follow(look, quiet=quiet)


def _show(finished: Sequence[Verification]) -> None:
    headings = ("pipeline", "result", "matched", "different", "missing", "extra", "busy", "parked", "kept", "repaired")
    rows = [
        (
            one.pipeline,
            _result(one),
            *(getattr(one.report, name) for name in headings[2:]),
        )
        for one in finished
    ]
    print_table(headings, rows, right=tuple(range(2, len(headings))))
    for one in finished:
        if one.report.columns:
            said = ", ".join(f"{name} in {count}" for name, count in one.report.columns.items())
            say(f"{one.pipeline}: columns that differ: {said}")
        for example in one.report.examples:
            say(f"{one.pipeline}: {example}")


def _result(one: Verification) -> str:
    if one.state != "done":
        return one.state
    return "equal" if one.report.agrees else "differs"
