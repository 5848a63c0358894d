"""What messages say. Pure."""

from __future__ import annotations

from sync_hub.state_alerts import Incident, Kind, Text
from sync_hub.web.facts import iso
from sync_hub.web.problems import short
from sync_hub.web.reader import one_line

LONGEST_SIGNS = 1500
"""Longer messages of a problem are cut: chats refuse them."""


def written(hub: str, kind: Kind, incident: Incident) -> Text:
    """The message about an incident that opened, got worse or is over."""
    severity = "ok" if kind == "recovered" else incident.severity
    head = {"opened": incident.severity, "worsened": f"now {incident.severity}", "recovered": "recovered"}[kind]
    title = f"[{hub}] {head}: {incident.code} ({incident.subject})"
    return Text(kind, severity, one_line(title), "\n".join(_lines(kind, incident)))


def trial(hub: str) -> Text:
    """The message of `sync-hub alerts test`."""
    return Text("opened", "ok", f"[{hub}] test", f"This is a test of the hub {hub}: its alerts arrive here.")


def _lines(kind: Kind, incident: Incident) -> list[str]:
    message = one_line(incident.message)
    lines = [message if len(message) <= LONGEST_SIGNS else f"{message[:LONGEST_SIGNS]}…"]
    if kind == "recovered":
        return [f"over: {lines[0]}", f"from {_moment(incident.opened_at)} to about {_moment(incident.seen_at)}"]
    lines += [one_line(incident.hint)] if incident.hint else []
    lines += [f"run: {incident.command}"] if incident.command else []
    lines += [f"affects: {', '.join(incident.affects)}"] if incident.affects else []
    lines += [f"owner: {incident.owner}"] if incident.owner else []
    return [*lines, f"seen at {_moment(incident.seen_at)}"]


def _moment(seconds: float) -> str:
    return short(iso(seconds))
