"""`sync-hub recover`: begin a source anew whose place in the log cannot be proven, and load all its views again."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import print_json, print_table, say
from sync_hub.errors import ConfigError, SyncHubError

if TYPE_CHECKING:
    from sync_hub.settings import Settings
    from sync_hub.state import State

Source = Annotated[str, typer.Argument(help="A source of the configuration.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def recover(
    context: typer.Context, source: Source, yes: Yes = False, config: Config = None, json: Json = False
) -> None:
    """Give up a source's lost place in its log: new slot, new epoch, every view loaded again and verified."""
    settings = load_settings(context, config)
    name = source.removeprefix("source:")
    if name not in settings.sources:
        raise ConfigError(
            "unknown_source", f"there is no source {name!r}", hint=f"known are: {', '.join(sorted(settings.sources))}"
        )
    state = open_state(settings)
    try:
        gap = _gap(settings, state, name)
        if not json:
            _show(gap)
        if not yes and not json and sys.stdin.isatty():
            typer.confirm("Begin anew?", abort=True)
        elif not yes:
            raise ConfigError("not_confirmed", f"recovery of {name} was not confirmed", hint="add --yes")
        worker = f"capture:{name}"
        request = state.ask(worker, "recover", {})
        state.ask(worker, "retry", {})
    finally:
        state.close()
    if json:
        print_json(gap | {"request": request})
    else:
        say(f"capture of {name} begins anew as soon as it runs: sync-hub status {name}")


def _gap(settings: Settings, state: State, name: str) -> dict[str, Any]:
    """What is known of the lost place, and what is to be loaded again."""
    progress = next(iter(state.progress(name, limit=1)), None)
    beats = [worker for worker in state.workers() if worker.name == f"capture:{name}"]
    error = next((worker.detail.get("error") for worker in beats if worker.detail.get("error")), None)
    tables = state.tables(name)
    pipelines = [
        {
            "name": one.name,
            "table": one.table,
            "target": one.target,
            "rows_estimated": max(0, tables[one.table].rows_estimated) if one.table in tables else None,
        }
        for one in state.pipelines()
        if one.source == name
    ]
    return {
        "source": name,
        "position": state.position(name),
        "proven_until": progress.source_time if progress else None,
        "server": _server(settings, name),
        "error": error,
        "pipelines": pipelines,
    }


def _server(settings: Settings, name: str) -> dict[str, Any]:
    """What the source keeps for this hub now; or why it cannot be asked."""
    source = settings.source(name)
    try:
        return dict(source.status())
    except SyncHubError as error:
        return {"error": f"{error.code}: {error.message}"}
    finally:
        source.close()


def _show(gap: dict[str, Any]) -> None:
    until, server = gap["proven_until"], gap["server"]
    moment = "nothing yet" if until is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(until))
    say(f"captured: {moment}")
    if gap["error"]:
        say(f"stopped by: {gap['error']['code']}: {gap['error']['message']}")
    say(f"at the server: {server.get('error') or 'slot ' + str(server.get('slot_status') or 'gone')}")
    say("What changed at the source since then is read from its tables; what was deleted is removed from the views.")
    rows = [(one["name"], one["table"], one["target"], one["rows_estimated"]) for one in gap["pipelines"]]
    print_table(("pipeline", "table", "target", "rows, about"), rows, right=(3,))
