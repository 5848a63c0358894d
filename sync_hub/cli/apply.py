"""`sync-hub apply`: make what the mapping files say what runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import note, print_json, say
from sync_hub.cli.plan import Names, document, look, show
from sync_hub.errors import ConfigError

if TYPE_CHECKING:
    from sync_hub.runtime.plan import Plan
    from sync_hub.settings import Settings


def apply(
    context: typer.Context,
    mappings: Names = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Apply changed mapping files: add columns, then have the hub write all rows again and verify them."""
    settings = load_settings(context, config)
    planned = look(settings, mappings or ())
    if not json:
        show(planned)
    _refuse(planned)
    if planned.changes and not (yes or _agreed(planned, json)):
        say("nothing was applied")
        raise typer.Exit(1)
    ddl = _carry_out(settings, planned)
    if json:
        print_json(document(planned) | {"applied": [change.mapping for change in planned.changes], "ddl": ddl})
        return
    for statement in ddl:
        say(f"done: {statement}")
    for line in _following(planned):
        say(line)


def apply_before_run(settings: Settings) -> None:
    """Apply what nobody has to agree to. Raises `ConfigError` at anything else: nothing was applied then."""
    planned = look(settings, ())
    _refuse(planned)
    for change in planned.changes:
        if change.key_changed or change.dropped:
            what = f"no longer writes {', '.join(change.dropped)}" if change.dropped else "has another key"
            raise _unconfirmed(f"the mapping {change.mapping} {what}", f"sync-hub apply {change.mapping}")
    for statement in _carry_out(settings, planned):
        note(f"done: {statement}")
    for line in _following(planned):
        note(line)


def _refuse(planned: Plan) -> None:
    from sync_hub.runtime.pipelines import refuse

    refuse(planned.errors)


def _agreed(planned: Plan, json: bool) -> bool:
    """Ask at a terminal; elsewhere nobody is asked, and what leaves something behind in the target needs `--yes`."""
    if sys.stdin.isatty() and sys.stdout.isatty() and not json:
        return typer.confirm("apply this?")
    for change in planned.changes:
        if change.dropped or change.kind == "gone":
            what = f"no longer writes {', '.join(change.dropped)}" if change.dropped else "is gone"
            raise _unconfirmed(f"the mapping {change.mapping} {what}", f"sync-hub apply {change.mapping} --yes")
    return True


def _unconfirmed(message: str, command: str) -> ConfigError:
    hint = "what was written before stays in the target as it is: apply it if you mean it"
    return ConfigError("confirmation_needed", message, hint=hint, command=command)


def _carry_out(settings: Settings, planned: Plan) -> list[str]:
    from sync_hub.runtime.plan import carry_out

    state = open_state(settings)
    try:
        return carry_out(settings, state, planned)
    finally:
        state.close()


def _following(planned: Plan) -> list[str]:
    """What happens next, for each mapping."""
    told: dict[str, Any] = {
        "new": "applied: its rows are loaded now, or when the hub runs next; see sync-hub status {name}",
        "changed": "applied: its rows are written again now, or when the hub runs next; see sync-hub status {name}",
        "text": "applied: nothing to load",
        "gone": "forgotten: its rows stay in the target",
    }
    return [f"{change.mapping} {told[change.kind].format(name=change.mapping)}" for change in planned.changes]
