"""`sync-hub run`: start the hub, or parts of it, and stay until it is told to stop."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import note, print_json_line
from sync_hub.errors import Unavailable

if TYPE_CHECKING:
    from sync_hub.settings import Settings


def run(
    context: typer.Context,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="WORKER", help="A part: capture:erp, deliver:crm. Repeatable.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="First apply changed mappings; stop at a dropped field or a changed key.")
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Start the hub and stay until Ctrl-C or SIGTERM; both let it finish what it has begun."""
    settings = load_settings(context, config)
    from sync_hub.runtime.supervise import run as supervise

    if apply:
        from sync_hub.cli.apply import apply_before_run

        apply_before_run(settings)
    running = _running(settings, only or ())

    def ready(address: str) -> None:
        if running:
            note(f"this hub runs already: {running}; of two, one only waits")
        if json:
            print_json_line({"ready": True, "address": address})
        else:
            note(f"sync-hub {settings.hub.name} runs: {address}")

    try:
        code = supervise(settings, only or (), ready)
    except Unavailable as error:
        if error.code != "port_in_use" or not running:
            raise
        hint = "stop that hub first, or let it be the one that runs"
        raise Unavailable("port_in_use", f"{error.message}; this hub runs already: {running}", hint=hint) from error
    raise typer.Exit(code)


def _running(settings: Settings, only: Sequence[str]) -> str:
    """Who runs this hub's workers already: of two hubs with one state, one only waits."""
    from sync_hub.web.facts import running_here

    state = open_state(settings)
    try:
        beating = running_here(state.workers(), time.time(), socket.gethostname())
    finally:
        state.close()
    mine = [one for one in beating if not only or one.name in only or one.name.rpartition(":")[0] in only]
    return ", ".join(f"{one.name} is process {one.pid} on {one.host}" for one in mine)
