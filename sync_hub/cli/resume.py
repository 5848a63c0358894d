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
        pipelines, pending = subjects.scope(full, settings, state.pipelines())
    finally:
        state.close()
    if json:
        answer = {"subject": full, "paused": False, "changed": unpaused, "tried_again": failed}
        print_json(answer | {"pipelines": pipelines, "pending": pending})
    else:
        of_them = "" if full.startswith("pipeline:") or not pipelines else f": {', '.join(pipelines)}"
        say(f"{full} {'is tried again' if failed else 'goes on' if unpaused else 'was not paused'}{of_them}")
        for changed in pending:
            say(f"the changed mapping {changed} still waits to be applied: sync-hub plan {changed}")
