"""`sync-hub pause`: hold a source, target or pipeline."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import print_json, say

Name = Annotated[str, typer.Argument(metavar="NAME", help="A source, target or pipeline: erp, or source:erp.")]


def pause(
    context: typer.Context,
    name: Name,
    duration: Annotated[
        str, typer.Option("--for", metavar="TIME", help="For how long: 30m, 2h. Else until resumed.")
    ] = "",
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; health shows it.")] = "",
    config: Config = None,
    json: Json = False,
) -> None:
    """Hold a source, target or pipeline. Nothing is lost: it goes on where it stood. Survives restarts."""
    from sync_hub.web.facts import iso
    from sync_hub.web.subjects import pause_until, subject

    settings = load_settings(context, config)
    until = pause_until(duration, time.time())
    state = open_state(settings)
    try:
        full = subject(name, settings, [pipeline.name for pipeline in state.pipelines()])
        state.pause(full, reason=reason, until=until)
    finally:
        state.close()
    if json:
        print_json({"subject": full, "paused": True, "until": iso(until), "reason": reason})
    else:
        say(f"{full} is paused{f' until {iso(until)}' if until else ''}")
