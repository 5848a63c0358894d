"""`sync-hub resume`: take a pause back, or have what failed tried again."""

from __future__ import annotations

import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import print_json, say
from sync_hub.cli.pause import Name


def resume(context: typer.Context, name: Name, config: Config = None, json: Json = False) -> None:
    """Let a paused source, target or pipeline go on, or one that failed try again."""
    from sync_hub.web import subjects

    settings = load_settings(context, config)
    state = open_state(settings)
    try:
        full = subjects.subject(name, settings, [pipeline.name for pipeline in state.pipelines()])
        unpaused, failed = subjects.resume(full, settings, state)
    finally:
        state.close()
    if json:
        print_json({"subject": full, "paused": False, "changed": unpaused, "tried_again": failed})
    else:
        say(f"{full} {'is tried again' if failed else 'goes on' if unpaused else 'was not paused'}")
