"""Incidents as the hub's store keeps them, and the messages about them that wait for their receivers.

Several supervisors may look after one store: whoever changes an incident first writes its messages, in the same
transaction, and whoever claims a message sends it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, Literal

import sqlalchemy as sa
from msgspec import Struct

from sync_hub import state_tables as stored
from sync_hub.store import Store

CLOSED_KEPT: Final = 1000
"""Closed incidents that are kept for people to look at."""
CLOSED_KEPT_SECONDS: Final = 30 * 86400.0
UNSENT_KEPT_SECONDS: Final = 7 * 86400.0
"""A message that its receiver has not taken by then is given up."""
CLAIM_SECONDS: Final = 60.0
"""Who claims a message has so long to send it; then another one may."""

FAILING: Final = "failing"

Kind = Literal["opened", "worsened", "recovered"]


class Incident(Struct, frozen=True):
    """A problem of health from its opening to its end; times are seconds since 1970.

    `severity` is the one that was last told. `seen_at` is when the problem was last there, to a few seconds, and
    `failing_at` when it was last failing (None: never). `closed_at` is when it was found to be over.
    """

    code: str
    subject: str
    severity: str
    message: str
    hint: str = ""
    command: str = ""
    affects: tuple[str, ...] = ()
    owner: str | None = None
    opened_at: float = 0.0
    seen_at: float = 0.0
    failing_at: float | None = None
    closed_at: float | None = None
    id: int = 0

    @property
    def identity(self) -> tuple[str, str]:
        """The same problem keeps it while it lasts."""
        return (self.code, self.subject)


class Text(Struct, frozen=True):
    """What a message says; `severity` is `failing`, `degraded` or `ok`."""

    kind: Kind
    severity: str
    title: str
    body: str


class Alert(Struct, frozen=True):
    """One message for one receiver. `next_at`: it is not to be tried before; `error`: why it was not taken."""

    id: int
    incident: int
    receiver: str
    text: Text
    written_at: float
    attempts: int
    next_at: float
    sent_at: float | None
    error: str


class AlertStore:
    """Part of `State`; every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def open(self, incident: Incident, text: Text, receivers: Iterable[str]) -> int | None:
        """Store a new incident with its messages; None when one of that identity is open already, which stays."""
        one = stored.incidents.c
        mine = (one.code == incident.code) & (one.subject == incident.subject) & one.closed_at.is_(None)
        with self._store.transaction(write=True) as connection:
            if connection.execute(sa.select(one.id).where(mine)).first() is not None:
                return None
            inserted = connection.execute(_insert_new(connection).values(**_values(incident)).returning(one.id))
            number = inserted.scalar()  # None: another supervisor was faster
            if number is not None:
                _write(connection, number, text, receivers, incident.opened_at)
            return number

    def worsen(self, incident: Incident, text: Text, receivers: Iterable[str], now: float) -> bool:
        """An open incident is failing from now on; False when another supervisor has said so."""
        one = stored.incidents.c
        values = {"severity": FAILING, "failing_at": now, "seen_at": now}
        values |= {"message": incident.message, "hint": incident.hint, "command": incident.command}
        where = (one.id == incident.id) & one.closed_at.is_(None) & (one.severity != FAILING)
        return self._change(incident, where, values, (text, receivers, now))

    def ease(self, incident: Incident, severity: str) -> None:
        """An open incident has long been less than failing: nobody is told, but they are if it is failing again."""
        one = stored.incidents.c
        where = (one.id == incident.id) & one.closed_at.is_(None) & (one.failing_at == incident.failing_at)
        self._change(incident, where, {"severity": severity})

    def close(self, incident: Incident, text: Text, receivers: Iterable[str], now: float) -> bool:
        """An incident is over; False when another supervisor has closed it, or has seen the problem meanwhile."""
        one = stored.incidents.c
        where = (one.id == incident.id) & one.closed_at.is_(None) & (one.seen_at == incident.seen_at)
        return self._change(incident, where, {"closed_at": now}, (text, receivers, now))

    def seen(self, numbers: Collection[int], failing: Collection[int], now: float) -> None:
        """The problems of these open incidents are there now, and those of `failing` are failing."""
        one = stored.incidents.c
        with self._store.transaction(write=True) as connection:
            for chosen, values in ((numbers, {"seen_at": now}), (failing, {"failing_at": now})):
                where = one.id.in_(chosen) & one.closed_at.is_(None)
                connection.execute(sa.update(stored.incidents).where(where).values(**values))

    def open_incidents(self) -> list[Incident]:
        """What is not over, oldest first."""
        query = sa.select(stored.incidents).where(stored.incidents.c.closed_at.is_(None))
        with self._store.transaction(write=False) as connection:
            return [_incident(row) for row in connection.execute(query.order_by(stored.incidents.c.id))]

    def latest(self, limit: int) -> list[tuple[Incident, list[Alert]]]:
        """Incidents with their messages: those that are open, then those that are over; newest first."""
        one = stored.incidents.c
        query = sa.select(stored.incidents).order_by(
            one.closed_at.is_(None).desc(), one.opened_at.desc(), one.id.desc()
        )
        with self._store.transaction(write=False) as connection:
            found = [_incident(row) for row in connection.execute(query.limit(limit))]
            messages = sa.select(stored.alerts).where(stored.alerts.c.incident.in_([each.id for each in found]))
            rows = connection.execute(messages.order_by(stored.alerts.c.id)).all()
        alerts = [_alert(row) for row in rows]
        return [(each, [alert for alert in alerts if alert.incident == each.id]) for each in found]

    def due(self, receiver: str, now: float) -> Alert | None:
        """The message that is to be sent next to a receiver: of one incident in order, those least tried first."""
        one, earlier = stored.alerts.c, stored.alerts.alias()
        waits = (earlier.c.incident == one.incident) & (earlier.c.receiver == one.receiver)
        waits &= earlier.c.sent_at.is_(None) & (earlier.c.id < one.id)
        query = sa.select(stored.alerts).where(
            (one.receiver == receiver) & one.sent_at.is_(None) & (one.next_at <= now) & ~sa.exists().where(waits)
        )
        with self._store.transaction(write=False) as connection:
            row = connection.execute(query.order_by(one.attempts, one.id).limit(1)).first()
        return None if row is None else _alert(row)

    def claim(self, alert: Alert, now: float) -> bool:
        """Count an attempt and have it alone for a minute; False when another supervisor was faster."""
        values = {"attempts": alert.attempts + 1, "next_at": now + CLAIM_SECONDS}
        return self._change_alert(alert, stored.alerts.c.attempts == alert.attempts, values)

    def sent(self, alert: Alert, now: float) -> None:
        """The receiver has taken it."""
        self._change_alert(alert, sa.true(), {"sent_at": now, "error": ""})

    def refused(self, alert: Alert, next_at: float, error: str) -> None:
        """The receiver has not taken it; it is to be tried again then."""
        self._change_alert(alert, sa.true(), {"next_at": next_at, "error": error})

    def forget(self, receivers: Sequence[str], now: float) -> int:
        """Remove old incidents, and messages nobody takes; returns how many messages were given up as too old."""
        one, alert = stored.incidents.c, stored.alerts.c
        closed = sa.select(one.id).where(one.closed_at.is_not(None)).order_by(one.closed_at.desc(), one.id.desc())
        old = sa.select(one.id).where(one.closed_at < now - CLOSED_KEPT_SECONDS)
        unsent = sa.delete(stored.alerts).where(alert.sent_at.is_(None))
        with self._store.transaction(write=True) as connection:
            connection.execute(unsent.where(alert.receiver.not_in(receivers)))
            given_up = connection.execute(unsent.where(alert.written_at < now - UNSENT_KEPT_SECONDS)).rowcount
            numbers = set(list(connection.execute(closed).scalars())[CLOSED_KEPT:])
            numbers |= set(connection.execute(old).scalars())
            connection.execute(sa.delete(stored.incidents).where(one.id.in_(numbers)))
            connection.execute(sa.delete(stored.alerts).where(alert.incident.in_(numbers)))
        return given_up

    def _change(
        self,
        incident: Incident,
        where: sa.ColumnElement[bool],
        values: dict[str, Any],
        told: tuple[Text, Iterable[str], float] | None = None,
    ) -> bool:
        with self._store.transaction(write=True) as connection:
            changed = connection.execute(sa.update(stored.incidents).where(where).values(**values)).rowcount > 0
            if changed and told:
                _write(connection, incident.id, *told)
            return changed

    def _change_alert(self, alert: Alert, where: sa.ColumnElement[bool], values: dict[str, Any]) -> bool:
        where &= (stored.alerts.c.id == alert.id) & stored.alerts.c.sent_at.is_(None)
        with self._store.transaction(write=True) as connection:
            return connection.execute(sa.update(stored.alerts).where(where).values(**values)).rowcount > 0


def _insert_new(connection: sa.Connection) -> Any:
    """An insert that does nothing where there is one already."""
    insert: Any
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert
    return insert(stored.incidents).on_conflict_do_nothing()


def _write(connection: sa.Connection, incident: int, text: Text, receivers: Iterable[str], now: float) -> None:
    for receiver in receivers:
        values = {"incident": incident, "receiver": receiver, "kind": text.kind, "severity": text.severity}
        values |= {"title": text.title, "body": text.body, "written_at": now}
        values |= {"attempts": 0, "next_at": 0.0, "error": ""}
        connection.execute(sa.insert(stored.alerts).values(**values))


def _values(incident: Incident) -> dict[str, Any]:
    values = {name: getattr(incident, name) for name in incident.__struct_fields__ if name != "id"}
    return values | {"affects": json.dumps(incident.affects)}


def _incident(row: Any) -> Incident:
    values = {name: getattr(row, name) for name in Incident.__struct_fields__}
    return Incident(**values | {"affects": tuple(json.loads(row.affects))})


def _alert(row: Any) -> Alert:
    text = Text(row.kind, row.severity, row.title, row.body)
    return Alert(
        row.id, row.incident, row.receiver, text, row.written_at, row.attempts, row.next_at, row.sent_at, row.error
    )
