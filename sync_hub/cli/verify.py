"""`sync-hub verify`: prove that views are what their mappings make of their sources, and mend what is not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import print_json, print_table, say
from sync_hub.cli.progress import SILENT_SECONDS, Step, follow
from sync_hub.errors import ConfigError, SyncHubError, Unavailable

if TYPE_CHECKING:
    from sync_hub.state import State
    from sync_hub.state_verifications import Verification

Names = Annotated[list[str] | None, typer.Argument(help="Pipelines, sources or targets; all without any.")]
Repair = Annotated[bool, typer.Option("--repair", help="Write what differs again, remove what is extra, verify again.")]
Sample = Annotated[int, typer.Option("--sample", metavar="N", min=0, help="Only about N rows of each, at random.")]
Keys = Annotated[
    str | None, typer.Option("--keys", metavar="KEYS", help="Only these: values with commas, or a JSON list of keys.")
]


def verify(
    context: typer.Context,
    names: Names = None,
    repair: Repair = False,
    sample: Sample = 0,
    keys: Keys = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Compare views with their sources, through their mappings, while everything goes on; exit 1 when one differs."""
    from sync_hub.web import requests

    settings = load_settings(context, config)
    state = open_state(settings)
    try:
        chosen = requests.chosen_pipelines(names or (), settings, state)
        _refuse_standing(state)
        asked = requests.to_verify(state, chosen, repair=repair, sample=sample, keys=keys)
        _wait(state, asked, quiet=json)
        finished = state.verifications.find([one.id for one in asked])
    except KeyboardInterrupt:
        state.verifications.cancel([one.id for one in asked])
        raise
    finally:
        state.close()
    failure = next((_failure(one) for one in finished if one.state != "done"), None)
    differs = any(one.state == "done" and not one.report.agrees for one in finished)
    if json:
        print_json([requests.shown_verification(one) for one in finished])
        return 1 if differs else failure.exit_code if failure else 0
    _show(finished)
    if failure is not None and not differs:
        raise failure
    return 1 if differs else 0


def _failure(one: Verification) -> SyncHubError:
    """Why a verification came to no end."""
    code, _, message = one.error.partition(": ")
    if code == "bad_key":
        return ConfigError("bad_key", f"{one.pipeline}: {message}", hint="name rows by key, each value of its type")
    return Unavailable(
        "verification_failed",
        f"{one.pipeline}: {one.error or one.state}",
        hint="what was found before that is shown above",
        command=f"sync-hub status {one.pipeline}",
    )


def _refuse_standing(state: State) -> None:
    """Probes go through the running hub."""
    from sync_hub.runtime.control import LOST_SECONDS

    if _silent_seconds(state) > LOST_SECONDS:
        raise Unavailable(
            "hub_not_running",
            "the hub does not run, so nothing can be verified",
            hint="start it",
            command="sync-hub run",
        )


def _silent_seconds(state: State) -> float:
    """How long ago the worker that verifies was heard of."""
    return time.time() - max((one.beat_at for one in state.workers() if one.name == "verify"), default=0.0)


def _wait(state: State, asked: Sequence[Verification], *, quiet: bool) -> None:
    names = [one.id for one in asked]

    def look() -> list[Step]:
        found = state.verifications.find(names)
        if any(one.finished_at is None for one in found) and _silent_seconds(state) > SILENT_SECONDS:
            raise Unavailable(
                "hub_not_running",
                "the hub does not run any more: it verifies when it does",
                hint="start it, and look at what was found with sync-hub status",
                command="sync-hub run",
            )
        return [
            Step(one.pipeline, one.report.rows_done, one.report.rows_estimated, one.state, one.finished_at is not None)
            for one in found
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
    if not one.report.agrees:
        return "differs"
    unknown = [f"{count} {word}" for word in ("parked", "busy") if (count := getattr(one.report, word))]
    return ", ".join(["equal", *unknown])
