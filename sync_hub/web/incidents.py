"""Incidents as the API, the command line and the console show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sync_hub.state_alerts import Alert, Incident
from sync_hub.web.facts import iso

Document = dict[str, Any]


def shown(incident: Incident, alerts: Sequence[Alert]) -> Document:
    """One incident with what became of its messages; `severity` is the worst it had."""
    return {
        "id": incident.id,
        "state": "open" if incident.closed_at is None else "over",
        "severity": incident.severity if incident.failing_at is None else "failing",
        "code": incident.code,
        "subject": incident.subject,
        "message": incident.message,
        "hint": incident.hint,
        "command": incident.command,
        "affects": list(incident.affects),
        "owner": incident.owner,
        "opened_at": iso(incident.opened_at),
        "seen_at": iso(incident.seen_at),
        "closed_at": iso(incident.closed_at),
        "alerts": [_alert(one) for one in alerts],
    }


def _alert(alert: Alert) -> Document:
    return {
        "kind": alert.text.kind,
        "receiver": alert.receiver,
        "written_at": iso(alert.written_at),
        "sent_at": iso(alert.sent_at),
        "attempts": alert.attempts,
        "error": alert.error or None,
    }
