"""Options that several commands share, and the way from `--config` to settings and state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sync_hub.settings import Settings
    from sync_hub.state import State

CONFIG_HELP = "The configuration. Else SYNC_HUB_CONFIG names it, else it is config/hub.yaml."

Config = Annotated[Path | None, typer.Option("--config", "-c", metavar="FILE", help=CONFIG_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


def load_settings(context: typer.Context, config: Path | None) -> Settings:
    """The settings that `-c` before or after the command names. Raises `ConfigError`."""
    from sync_hub.settings import config_file, load

    return load(config_file(config or context.find_root().params.get("config")))


def open_state(settings: Settings) -> State:
    """The hub's state; the caller closes it."""
    from sync_hub.state import State

    return State(settings.hub.state)
