"""Turns readings of health into incidents: one for each problem, however often it comes and goes within a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sync_hub.alerts import texts
from sync_hub.alerts.sender import Sender
from sync_hub.errors import SyncHubError
from sync_hub.runtime.control import LOST_SECONDS
from sync_hub.state_alerts import AlertStore, Incident, Kind
from sync_hub.web.problems import FAILING, seconds
from sync_hub.web.reader import HealthReader

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 1.1
"""Just longer than a reading of health is kept for others."""
LASTS_SECONDS = 1.5
"""A problem that is gone before is told to nobody."""
OVER_SECONDS = 60.0
"""A problem that comes back within this time was never over; who worsens again within it was never better."""
REFRESH_SECONDS = 5.0
"""How exactly the state knows when a problem was last there."""
STARTING_SECONDS = 10.0
"""For so long workers that have not beaten since the supervisor started are no news."""
BEATING_SECONDS = LOST_SECONDS
"""For so long after the state did not answer, workers may not have been able to beat."""

_LEVELS = {"failing": logging.ERROR, "degraded": logging.WARNING, "ok": logging.INFO}
_UNREADABLE = "state_unavailable"


class Watch:
    """One a supervisor, one thread at a time. Several may watch one hub: whoever is first to store it tells it."""

    def __init__(
        self, reader: HealthReader, store: AlertStore, senders: Sequence[Sender],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._reader = reader
        self._store = store
        self._senders = senders
        self._monotonic = monotonic
        self._began_at: float | None = monotonic()
        self._first_seen: dict[tuple[str, ...], float] = {}
        self._outage: Incident | None = None
        self._unread_at = 0.0

    def look(self) -> None:
        """Read health once, and tell what is new."""
        if self._starting():
            return
        document = self._reader.document()
        now = seconds(document["time"]) or 0.0
        found = [_incident(problem, now) for problem in document["problems"]]
        lasting = self._lasting(found, now)
        try:
            self._watch_state(lasting, now)
            if any(one.code == _UNREADABLE for one in found):
                self._unread_at = now
            elif now - self._unread_at >= BEATING_SECONDS:
                self._compare(found, lasting, now)
        except SyncHubError as error:
            LOG.warning("%s", error, extra={"action": "alert", "code": error.code})

    def _starting(self) -> bool:
        """Whether workers may still be missing because they have just been started."""
        if self._began_at is not None:
            waited = self._monotonic() - self._began_at
            if waited < STARTING_SECONDS and self._reader.ready():
                return True
            self._began_at = None
        return False

    def _lasting(self, found: Sequence[Incident], now: float) -> list[Incident]:
        """Those that have been there for a moment, with this severity or a worse one."""
        seen = {key for one in found for key in _keys(one)}
        self._first_seen = {key: self._first_seen.get(key, now) for key in seen}
        return [one for one in found if now - self._first_seen[_keys(one)[-1]] >= LASTS_SECONDS]

    def _compare(self, found: Sequence[Incident], lasting: Sequence[Incident], now: float) -> None:
        """What is there now, with what is known: opened, worse, still there, better, over."""
        known = {one.identity: one for one in self._store.open_incidents()}
        for one in lasting:
            incident = known.get(one.identity)
            if incident is None:
                self._open(one)
            elif one.severity == FAILING != incident.severity:
                self._worsen(msgspec.structs.replace(one, id=incident.id, opened_at=incident.opened_at), now)
        present = {one.identity: one.severity for one in found}
        self._refresh([one for one in known.values() if one.identity in present], present, now)
        for incident in known.values():
            if incident.identity not in present and now - incident.seen_at >= OVER_SECONDS:
                self._close(incident, now)

    def _refresh(self, there: Sequence[Incident], present: dict[tuple[str, str], str], now: float) -> None:
        """Say now and then that problems are still there; who has been better for long may get worse again."""
        stale = [one.id for one in there if now - one.seen_at >= REFRESH_SECONDS]
        failing = [
            one.id
            for one in there
            if present[one.identity] == FAILING == one.severity and now - (one.failing_at or 0) >= REFRESH_SECONDS
        ]
        if stale or failing:
            self._store.seen(stale, failing, now)
        for one in there:
            better = present[one.identity] != FAILING == one.severity
            if better and now - (one.failing_at or 0) >= OVER_SECONDS:
                self._store.ease(one, present[one.identity])

    def _open(self, incident: Incident) -> None:
        text = texts.written(self._hub, "opened", incident)
        number = self._store.open(incident, text, self._receivers())
        if number is not None:
            self._told("opened", msgspec.structs.replace(incident, id=number))

    def _worsen(self, incident: Incident, now: float) -> None:
        text = texts.written(self._hub, "worsened", incident)
        if self._store.worsen(incident, text, self._receivers(), now):
            self._told("worsened", incident)

    def _close(self, incident: Incident, now: float) -> None:
        text = texts.written(self._hub, "recovered", incident)
        if self._store.close(incident, text, self._receivers(), now):
            self._told("recovered", incident)

    def _watch_state(self, lasting: Sequence[Incident], now: float) -> None:
        """Tell of a state that does not answer, from memory: every supervisor for itself."""
        current = next((one for one in lasting if one.code == _UNREADABLE), None)
        if current is not None and self._outage is None:
            self._outage = current
            self._tell_unstored("opened", current)
        elif current is not None and self._outage is not None:
            self._outage = msgspec.structs.replace(self._outage, seen_at=now)
        elif self._outage is not None and now - self._outage.seen_at >= OVER_SECONDS:
            self._tell_unstored("recovered", self._outage)
            self._outage = None

    def _tell_unstored(self, kind: Kind, incident: Incident) -> None:
        for sender in self._senders:
            sender.add(texts.written(self._hub, kind, incident))
        self._told(kind, incident)

    def _told(self, kind: Kind, incident: Incident) -> None:
        """One line in the log, and whoever sends is woken."""
        severity = "ok" if kind == "recovered" else incident.severity
        head = kind if kind == "recovered" else f"{kind}, {severity}"
        fields = {"code": incident.code, "subject": incident.subject, "severity": severity, "incident": incident.id}
        LOG.log(
            _LEVELS[severity], "alert %s: %s %s: %s", head, incident.code, incident.subject, incident.message,
            extra={"action": "alert", "kind": kind} | fields,
        )  # fmt: skip
        for sender in self._senders:
            sender.wake()

    def _receivers(self) -> list[str]:
        return [sender.receiver for sender in self._senders]

    @property
    def _hub(self) -> str:
        return self._reader.settings.hub.name


def _keys(incident: Incident) -> list[tuple[str, ...]]:
    """What is remembered of a problem: that it is there, and that it is failing."""
    return [incident.identity] + ([(*incident.identity, FAILING)] if incident.severity == FAILING else [])


def _incident(problem: dict[str, Any], now: float) -> Incident:
    names = ("code", "subject", "severity", "message", "hint", "command", "owner")
    values: dict[str, Any] = {name: problem[name] for name in names}
    failing_at = now if problem["severity"] == FAILING else None
    return Incident(affects=tuple(problem["affects"]), opened_at=now, seen_at=now, failing_at=failing_at, **values)
