"""`sync-hub alerts …`: who was told of what, and whether receivers take messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import print_json, print_table, say
from sync_hub.errors import ConfigError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Try receivers of alerts; show what was told.")


@app.command("test")
def test(context: typer.Context, config: Config = None, json: Json = False) -> int:
    """Send a test message to every receiver of alerts; exit 1 when one does not take it."""
    from sync_hub.alerts.receivers import load
    from sync_hub.alerts.texts import trial

    settings = load_settings(context, config)
    receivers = load(settings.alerts.to)
    if not receivers:
        raise ConfigError(
            "no_receivers",
            "no receiver of alerts is configured",
            field="alerts.to",
            hint='write their addresses there: alerts: {to: ["${ALERT_URL:-}"]}; is the variable set?',
        )
    errors = {one.name: one.send(trial(settings.hub.name)) for one in receivers}
    if json:
        print_json([{"receiver": name, "taken": not error, "error": error or None} for name, error in errors.items()])
    else:
        print_table(("receiver", "result"), [(name, error or "taken") for name, error in errors.items()])
    return 1 if any(errors.values()) else 0


@app.command("list")
def list_alerts(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many incidents at most.")] = 20,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show incidents, those that are open first, and whether their messages were taken."""
    from sync_hub.web.incidents import shown

    state = open_state(load_settings(context, config))
    try:
        found = [shown(incident, alerts) for incident, alerts in state.alerts.latest(limit)]
    finally:
        state.close()
    if json:
        print_json(found)
    elif not found:
        say("nothing was ever wrong")
    else:
        headings = ("opened", "over", "severity", "problem", "subject", "told", "message")
        print_table(headings, [_row(one) for one in found])


def _row(one: dict[str, Any]) -> tuple[Any, ...]:
    return (
        _moment(one["opened_at"]),
        _moment(one["closed_at"] and one["seen_at"]) or "open",
        one["severity"],
        one["code"],
        one["subject"],
        _told(one["alerts"]),
        one["message"],
    )


def _moment(text: str | None) -> str:
    return "" if text is None else text[:19].replace("T", " ")


def _told(alerts: Sequence[dict[str, Any]]) -> str:
    """How many of the messages were taken, and what became of the first that was not."""
    if not alerts:
        return "log only"
    waiting = [one for one in alerts if one["sent_at"] is None]
    if not waiting:
        return f"{len(alerts)} taken"
    first = waiting[0]
    return f"{len(waiting)} of {len(alerts)} wait: {first['receiver']}: {first['error'] or 'not tried yet'}"
