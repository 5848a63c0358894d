"""`sync-hub snapshot`: send existing rows again, load a view again, and look after what is loading."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import print_json, print_table, say
from sync_hub.cli.progress import SILENT_SECONDS, Step, follow
from sync_hub.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from sync_hub.state import Pipeline, State
    from sync_hub.state_snapshots import Snapshot


class Action(StrEnum):
    """What can be done about a snapshot that is under way."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


Name = Annotated[str, typer.Argument(help="A pipeline or a captured table; without one, what is loading is shown.")]
Where = Annotated[
    str | None, typer.Option("--where", metavar="SQL", help="Only rows that fulfil this, in the source's SQL.")
]
Keys = Annotated[
    str | None, typer.Option("--keys", metavar="KEYS", help="Only these: values with commas, or a JSON list of keys.")
]
Reload = Annotated[bool, typer.Option("--reload", help="Load the view again, remove what is extra, and verify it.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Show progress until it is done.")]
Do = Annotated[
    Action | None, typer.Option("--do", help="With the id of a snapshot: let it rest, go on with it, or give it up.")
]


def snapshot(
    context: typer.Context,
    name: Name = "",
    where: Where = None,
    keys: Keys = None,
    reload: Reload = False,
    wait: Wait = True,
    do: Do = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Send existing rows of a pipeline or table again, beside the changes that go on; or look after what is loading."""
    _refuse_mixed(name, chosen=[where is not None, keys is not None, reload, do is not None])
    from sync_hub.web import requests

    settings = load_settings(context, config)
    state = open_state(settings)
    try:
        if do:
            return _look_after(state, name, do, json=json)
        if not name:
            return _show_all(state, json=json)
        if reload:
            return _reload(state, requests.pipelines_named(name, settings, state), json=json)
        asked = requests.rows_to_send(state, requests.pipelines_named(name, settings, state), name, where, keys)
        if wait:
            _refuse_standing(state, asked.source)
        state.snapshots.ask(asked)
        if wait:
            _follow(state, asked, quiet=json)
        done = state.snapshots.find(asked.id) or asked
    finally:
        state.close()
    if done.state == "failed":
        code, _, message = done.error.partition(": ")
        raise ConfigError(code, message, hint="nothing more is sent")
    _say(done, json=json)
    return 1 if done.state == "cancelled" else 0


def _refuse_mixed(name: str, *, chosen: list[bool]) -> None:
    if sum(chosen) > 1:
        raise ConfigError("usage", "--where, --keys, --reload and --do exclude one another", hint="choose one of them")
    if any(chosen) and not name:
        raise ConfigError("usage", "say of which pipeline or table", hint="sync-hub snapshot NAME with these options")


def _refuse_standing(state: State, source: str) -> None:
    from sync_hub.runtime.control import LOST_SECONDS

    if _silent_seconds(state, source) > LOST_SECONDS:
        raise Unavailable(
            "hub_not_running",
            "the hub does not run, so nothing is sent",
            hint="start it; or ask with --no-wait, and it is sent once the hub runs",
            command="sync-hub run",
        )


def _silent_seconds(state: State, source: str) -> float:
    """How long ago the worker that sends these rows was heard of."""
    beats = [worker.beat_at for worker in state.workers() if worker.name == f"capture:{source}"]
    return time.time() - max(beats, default=0.0)


def _reload(state: State, chosen: Sequence[Pipeline], *, json: bool) -> int:
    from sync_hub.runtime.control import LOST_SECONDS
    from sync_hub.web.requests import LOADED_AGAIN

    names = [one.name for one in chosen]
    state.reload(names, LOADED_AGAIN)
    if json:
        print_json({"reload": names})
    else:
        stands = any(_silent_seconds(state, one.source) > LOST_SECONDS for one in chosen)
        when = " once the hub runs" if stands else ""
        say(f"{', '.join(names)}: loaded again{when}, then verified: sync-hub status")
    return 0


def _look_after(state: State, name: str, action: Action, *, json: bool) -> int:
    from sync_hub.web import requests

    one = requests.look_after(state, name, action.value)
    if json:
        print_json(requests.shown_snapshot(one))
    else:
        say(f"{name} {one.state}")
    return 0


def _show_all(state: State, *, json: bool) -> int:
    from sync_hub.web import requests

    snapshots = state.snapshots.all()
    if json:
        print_json([requests.shown_snapshot(one) for one in snapshots])
        return 0
    headings = ("id", "table", "for", "why", "state", "rows", "of about")
    rows = [
        (one.id, f"{one.source}: {one.table}", ", ".join(one.pipelines), one.reason, one.state, one.rows_done,
         max(one.rows_estimated, one.rows_done))
        for one in snapshots
    ]  # fmt: skip
    print_table(headings, rows, right=(5, 6))
    for one in snapshots:
        if one.error:
            say(f"{one.id} failed: {one.error}")
    return 0


def _follow(state: State, asked: Snapshot, *, quiet: bool) -> None:
    def look() -> list[Step]:
        one = state.snapshots.find(asked.id)
        if one is None:
            raise Unavailable(
                "snapshot_gone", f"snapshot {asked.id} is no longer known", hint="look at sync-hub status"
            )
        if one.finished_at is None and _silent_seconds(state, one.source) > SILENT_SECONDS:
            raise Unavailable(
                "hub_not_running",
                f"the hub does not run any more: snapshot {one.id} goes on when it does",
                hint="start it",
                command="sync-hub run",
            )
        return [Step(one.table, one.rows_done, one.rows_estimated, one.state, one.finished_at is not None)]

    follow(look, quiet=quiet)


def _say(one: Snapshot, *, json: bool) -> None:
    from sync_hub.web import requests

    if json:
        print_json(requests.shown_snapshot(one))
        return
    for_whom = ", ".join(one.pipelines)
    if one.state == "waiting":
        say(f"{one.id} asked for: rows of {one.table} for {for_whom}, as soon as the hub runs")
    else:
        say(f"{one.id} {one.state}: {one.rows_done} rows of {one.table} for {for_whom}")
