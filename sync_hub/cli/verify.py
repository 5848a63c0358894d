"""`sync-hub verify`: prove that views are what their mappings make of their sources, and mend what is not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import print_json, print_table, say
from sync_hub.cli.progress import Step, follow
from sync_hub.errors import Unavailable

if TYPE_CHECKING:
    from sync_hub.state import State
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
    from sync_hub.web import requests

    settings = load_settings(context, config)
    state = open_state(settings)
    try:
        chosen = requests.chosen_pipelines(names or (), settings, state)
        _refuse_standing(state)
        asked = requests.to_verify(state, chosen, repair=repair, sample=sample, keys=keys or None)
        _wait(state, asked, quiet=json)
        finished = state.verifications.find([one.id for one in asked])
    except KeyboardInterrupt:
        state.verifications.cancel([one.id for one in asked])
        raise
    finally:
        state.close()
    if json:
        print_json([requests.shown_verification(one) for one in finished])
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


def _refuse_standing(state: State) -> None:
    """Probes go through the running hub."""
    from sync_hub.runtime.control import LOST_SECONDS

    fresh = {worker.name for worker in state.workers() if time.time() - worker.beat_at < LOST_SECONDS}
    if "verify" not in fresh:
        raise Unavailable(
            "hub_not_running",
            "the hub does not run, so nothing can be verified",
            hint="start it",
            command="sync-hub run",
        )


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
