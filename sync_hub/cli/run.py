"""`sync-hub run`: start the hub, or parts of it, and stay until it is told to stop."""

from __future__ import annotations

from typing import Annotated

import typer

from sync_hub.cli.options import Config, Json, load_settings
from sync_hub.cli.output import note, print_json_line


def run(
    context: typer.Context,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="WORKER", help="A part: capture:erp, deliver:crm. Repeatable.")
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Start the hub and stay until Ctrl-C or SIGTERM; both let it finish what it has begun."""
    settings = load_settings(context, config)
    from sync_hub.runtime.supervise import run as supervise

    def ready(address: str) -> None:
        if json:
            print_json_line({"ready": True, "address": address})
        else:
            note(f"sync-hub {settings.hub.name} runs: {address}")

    raise typer.Exit(supervise(settings, only or (), ready))
