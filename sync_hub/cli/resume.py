"""`sync-hub resume`: take a pause back."""

from __future__ import annotations

import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import print_json, say
from sync_hub.cli.pause import Name


def resume(context: typer.Context, name: Name, config: Config = None, json: Json = False) -> None:
    """Let a paused source, target or pipeline go on."""
    from sync_hub.web.subjects import subject

    settings = load_settings(context, config)
    state = open_state(settings)
    try:
        full = subject(name, settings, [pipeline.name for pipeline in state.pipelines()])
        changed = state.resume(full)
    finally:
        state.close()
    if json:
        print_json({"subject": full, "paused": False, "changed": changed})
    else:
        say(f"{full} goes on" if changed else f"{full} was not paused")
