"""`sync-hub snapshot`: send existing rows again, load a view again, and look after what is loading."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import print_json, print_table, say
from sync_hub.cli.progress import Step, follow
from sync_hub.cli.verify import chosen_pipelines, parsed_keys
from sync_hub.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from sync_hub.settings import Settings
    from sync_hub.state import State
    from sync_hub.state_snapshots import Snapshot


class Action(StrEnum):
    """What can be done about a snapshot that is under way."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


Name = Annotated[str, typer.Argument(help="A pipeline or a captured table; without one, what is loading is shown.")]
Where = Annotated[str, typer.Option("--where", metavar="SQL", help="Only rows that fulfil this, in the source's SQL.")]
Keys = Annotated[
    str, typer.Option("--keys", metavar="KEYS", help="Only these: values with commas, or a JSON list of keys.")
]
Reload = Annotated[bool, typer.Option("--reload", help="Load the view again, remove what is extra, and verify it.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Show progress until it is done.")]
Do = Annotated[
    Action | None, typer.Option("--do", help="With the id of a snapshot: let it rest, go on with it, or give it up.")
]


def snapshot(
    context: typer.Context,
    name: Name = "",
    where: Where = "",
    keys: Keys = "",
    reload: Reload = False,
    wait: Wait = True,
    do: Do = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Send existing rows of a pipeline or table again, beside the changes that go on; or look after what is loading."""
    settings = load_settings(context, config)
    state = open_state(settings)
    try:
        if do:
            return _look_after(state, name, do, json=json)
        if not name:
            return _show_all(state, json=json)
        if reload:
            return _reload(settings, state, name, json=json, alone=not (where or keys))
        asked = _asked(settings, state, name, where, keys)
        state.snapshots.ask(asked)
        if wait:
            _follow(state, asked.id, quiet=json)
        done = state.snapshots.find(asked.id) or asked
    finally:
        state.close()
    if done.state == "failed":
        code, _, message = done.error.partition(": ")
        raise ConfigError(code, message, hint="nothing more is sent")
    _say(done, json=json)
    return 0


def shown(one: Snapshot) -> dict[str, Any]:
    """A snapshot as it is told in JSON."""
    values = dict(msgspec.to_builtins(one))
    values["last_key"] = None if one.keys else values["last_key"]
    return values


def _asked(settings: Settings, state: State, name: str, where: str, keys: str) -> Snapshot:
    """What to send for whom. A table means all its pipelines."""
    from sync_hub.state_snapshots import Snapshot, new_id

    tables = {table: source for source in settings.sources for table in state.tables(source)}
    source, _, bare = name.partition(":")
    if name in tables or (source in settings.sources and bare in state.tables(source)):
        table = name if name in tables else bare
        pipelines = [one for one in state.pipelines() if one.table == table and one.source in (tables[table], source)]
    else:
        pipelines = chosen_pipelines([name], settings, state)
    if len({(one.source, one.table) for one in pipelines}) != 1:
        raise ConfigError(
            "unknown_table" if not pipelines else "ambiguous_name",
            f"{name!r} is no pipeline and no captured table that one reads",
            hint=f"known are: {', '.join(one.name for one in state.pipelines())}",
        )
    one = pipelines[0]
    described = state.tables(one.source)[one.table]
    named = parsed_keys(keys, described.key) if keys else ()
    return Snapshot(
        new_id(),
        one.source,
        one.table,
        tuple(pipeline.name for pipeline in pipelines),
        "asked",
        condition=where,
        keys=named,
        rows_estimated=len(named) or max(0, described.rows_estimated),
        asked_at=time.time(),
    )


def _reload(settings: Settings, state: State, name: str, *, json: bool, alone: bool) -> int:
    if not alone:
        raise ConfigError("usage", "--reload loads all rows", hint="leave out --where and --keys")
    chosen = chosen_pipelines([name], settings, state)
    state.reload([one.name for one in chosen], "asked")
    names = [one.name for one in chosen]
    if json:
        print_json({"reload": names})
    else:
        say(f"{', '.join(names)}: loaded again, then verified: sync-hub status")
    return 0


def _look_after(state: State, name: str, action: Action, *, json: bool) -> int:
    done = {"pause": state.snapshots.pause, "resume": state.snapshots.resume, "cancel": state.snapshots.cancel}
    if not done[action.value](name):
        raise ConfigError(
            "unknown_snapshot",
            f"there is no snapshot {name!r} for {action.value}",
            hint="sync-hub snapshot shows them",
        )
    one = state.snapshots.find(name)
    if json:
        print_json(shown(one) if one else {})
    else:
        say(f"{name} {one.state if one else ''}")
    return 0


def _show_all(state: State, *, json: bool) -> int:
    snapshots = state.snapshots.all()
    if json:
        print_json([shown(one) for one in snapshots])
        return 0
    headings = ("id", "table", "for", "why", "state", "rows", "of about")
    rows = [
        (one.id, f"{one.source}: {one.table}", ", ".join(one.pipelines), one.reason, one.state, one.rows_done,
         max(one.rows_estimated, one.rows_done))
        for one in snapshots
    ]  # fmt: skip
    print_table(headings, rows, right=(5, 6))
    return 0


def _follow(state: State, name: str, *, quiet: bool) -> None:
    def look() -> list[Step]:
        one = state.snapshots.find(name)
        if one is None:
            raise Unavailable("snapshot_gone", f"snapshot {name} is no longer known", hint="look at sync-hub status")
        return [Step(one.table, one.rows_done, one.rows_estimated, one.state, one.finished_at is not None)]

    follow(look, quiet=quiet)


def _say(one: Snapshot, *, json: bool) -> None:
    if json:
        print_json(shown(one))
        return
    for_whom = ", ".join(one.pipelines)
    say(f"{one.id} {one.state}: {one.rows_done} rows of {one.table} for {for_whom}")
