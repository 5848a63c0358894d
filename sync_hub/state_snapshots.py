"""Snapshots as the hub's store keeps them: what is to be loaded for whom, and how far it came."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import sqlalchemy as sa
from msgspec import Struct

from sync_hub import state_tables as stored
from sync_hub.store import Store

FINISHED_KEPT: Final = 100
"""Finished snapshots that are kept for people to look at."""

CANCELLED: Final = "cancelled"
RECOVERY: Final = "recovery"
PROMOTED: Final = "a standby became the primary"
"""Why a view is in doubt. A cancelled one is left to a person: only they know whether it is to be verified."""

Reason = Literal["new", "reload", "asked"]
SnapshotState = Literal["waiting", "running", "paused", "done", "cancelled", "failed"]


class Snapshot(Struct, frozen=True):
    """The loading of existing rows of one table for some pipelines; `last_key` is None before the first chunk.

    `reason`: the pipelines are `new`, they are loaded again (`reload`), or someone `asked` for these rows. `condition`
    and `keys` leave only some of the rows. Times are seconds since 1970. `error` says why it failed. `copied`: the rows
    go straight to the view, and its target knows how far they are; else capture sends them through the topic.
    """

    id: str
    source: str
    table: str
    pipelines: tuple[str, ...]
    reason: Reason = "new"
    state: SnapshotState = "waiting"
    condition: str = ""
    keys: tuple[dict[str, Any], ...] = ()
    last_key: tuple[Any, ...] | None = None
    rows_done: int = 0
    rows_estimated: int = 0
    asked_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    error: str = ""
    copied: bool = False


def new_id() -> str:
    """A name for a snapshot or verification that nobody else uses."""
    return uuid.uuid4().hex[:12]


_OPEN: Final = ("waiting", "running", "paused")
_LOADING: Final = ("new", "reload")
"""Reasons whose pipelines are not loaded before the snapshot is done."""


class SnapshotStore:
    """Part of `State`; every method without a connection is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self, source: str | None = None) -> list[Snapshot]:
        """Unfinished snapshots and the newest finished ones, oldest first."""
        return self._found(sa.true() if source is None else stored.snapshots.c.source == source)

    def unfinished(self, source: str) -> list[Snapshot]:
        """What capture is to send and is waiting, running or paused, oldest first."""
        one = stored.snapshots.c
        return self._found((one.source == source) & one.state.in_(_OPEN) & ~one.copied)

    def copying(self, wanted: Snapshot) -> Snapshot:
        """The copying for the same pipelines that is under way; if there is none, the one that is wanted begins."""
        one = stored.snapshots.c
        values = _values(wanted)
        where = one.state.in_(_OPEN) & one.copied & (one.pipelines == values["pipelines"])
        with self._store.transaction(write=True) as connection:
            row = connection.execute(sa.select(stored.snapshots).where(where)).first()
            if row is not None:
                return _snapshot(row)
            connection.execute(sa.insert(stored.snapshots).values(**values))
            return wanted

    def copied(self, name: str, rows_done: int) -> None:
        """Note for people how many rows were copied."""
        with self._store.transaction(write=True) as connection:
            where = stored.snapshots.c.id == name
            connection.execute(sa.update(stored.snapshots).where(where).values(rows_done=rows_done))

    def send_instead(self, name: str, error: str) -> None:
        """Rows cannot be copied: capture is to send them to these pipelines."""
        one = stored.snapshots.c
        with self._store.transaction(write=True) as connection:
            where = (one.id == name) & one.state.in_(_OPEN)
            values = {"state": "failed", "finished_at": time.time(), "error": error}
            if connection.execute(sa.update(stored.snapshots).where(where).values(**values)).rowcount:
                row = connection.execute(sa.select(one.pipelines).where(one.id == name)).one()
                named = stored.pipelines.c.name.in_(json.loads(row.pipelines)) & (stored.pipelines.c.phase == "copying")
                connection.execute(sa.update(stored.pipelines).where(named).values(phase="ready"))

    def find(self, name: str) -> Snapshot | None:
        """One snapshot by its id."""
        return next(iter(self._found(stored.snapshots.c.id == name)), None)

    def begin_ready(self, source: str, rows_estimated: Mapping[str, int]) -> None:
        """One snapshot for each of these tables that has pipelines in phase `ready`, which are `loading` from now."""
        one = stored.pipelines.c
        now = time.time()
        with self._store.transaction(write=True) as connection:
            where = (one.source == source) & (one.phase == "ready") & one.table_name.in_(list(rows_estimated))
            found: dict[tuple[str, Reason], list[str]] = {}
            for row in connection.execute(sa.select(stored.pipelines).where(where).order_by(one.name)):
                reason: Reason = "reload" if row.unproven else "new"
                found.setdefault((row.table_name, reason), []).append(row.name)
            for (table, reason), names in found.items():
                estimate = rows_estimated[table]
                snapshot = Snapshot(
                    new_id(), source, table, tuple(names), reason, rows_estimated=estimate, asked_at=now
                )
                connection.execute(sa.insert(stored.snapshots).values(**_values(snapshot)))
                changed = {"phase": "loading", "loaded_at": None}
                still = one.name.in_(names) & (one.phase == "ready")
                connection.execute(sa.update(stored.pipelines).where(still).values(**changed))

    def ask(self, snapshot: Snapshot) -> None:
        """Have existing rows sent again; capture begins within a second."""
        with self._store.transaction(write=True) as connection:
            connection.execute(sa.insert(stored.snapshots).values(**_values(snapshot)))

    def start(self, name: str) -> None:
        """It is running now, unless it was paused or cancelled meanwhile."""
        one = stored.snapshots.c
        values = {"state": "running", "started_at": sa.func.coalesce(one.started_at, time.time())}
        with self._store.transaction(write=True) as connection:
            where = (one.id == name) & (one.state == "waiting")
            connection.execute(sa.update(stored.snapshots).where(where).values(**values))

    def advance(self, connection: sa.Connection, snapshot: Snapshot) -> None:
        """Store how far it came, together with the position that proves it."""
        values = {"last_key": _json_key(snapshot.last_key), "rows_done": snapshot.rows_done}
        connection.execute(sa.update(stored.snapshots).where(stored.snapshots.c.id == snapshot.id).values(**values))

    def finish(self, name: str, error: str = "") -> None:
        """All its rows are in the topic, or it failed; its pipelines are `loaded` when nothing else loads them."""
        one = stored.snapshots.c
        values = {"state": "failed" if error else "done", "finished_at": time.time(), "error": error}
        with self._store.transaction(write=True) as connection:
            where = (one.id == name) & one.state.in_(_OPEN)
            if connection.execute(sa.update(stored.snapshots).where(where).values(**values)).rowcount:
                self._loaded(connection, name, unproven=error)
            _forget_old(connection)

    def pause(self, name: str) -> bool:
        """Let it rest until `resume`; False when it is not under way."""
        return self._move(name, "paused", ("waiting", "running"))

    def resume(self, name: str) -> bool:
        """Go on with a paused snapshot where it stood; False when it is not paused."""
        return self._move(name, "waiting", ("paused",))

    def cancel(self, name: str) -> bool:
        """Give it up; a view that it was to load is then in doubt. False when it is finished."""
        values = {"state": "cancelled", "finished_at": time.time()}
        where = (stored.snapshots.c.id == name) & stored.snapshots.c.state.in_(_OPEN)
        with self._store.transaction(write=True) as connection:
            if not connection.execute(sa.update(stored.snapshots).where(where).values(**values)).rowcount:
                return False
            self._loaded(connection, name, unproven=CANCELLED)
            return True

    def leave(self, connection: sa.Connection, pipelines: Sequence[str]) -> None:
        """These pipelines want nothing of what is loading now; what nobody wants is cancelled."""
        for row in connection.execute(sa.select(stored.snapshots).where(stored.snapshots.c.state.in_(_OPEN))).all():
            wanted = json.loads(row.pipelines)
            left = [name for name in wanted if name not in pipelines]
            if left != wanted:
                values: dict[str, Any] = {"pipelines": json.dumps(left)}
                if not left:
                    values = {"state": "cancelled", "finished_at": time.time()}
                connection.execute(sa.update(stored.snapshots).where(stored.snapshots.c.id == row.id).values(**values))

    def _found(self, where: sa.ColumnElement[bool]) -> list[Snapshot]:
        one = stored.snapshots.c
        query = sa.select(stored.snapshots).where(where).order_by(one.asked_at, one.id)
        with self._store.transaction(write=False) as connection:
            return [_snapshot(row) for row in connection.execute(query)]

    def _move(self, name: str, state: SnapshotState, only_from: Sequence[SnapshotState]) -> bool:
        where = (stored.snapshots.c.id == name) & stored.snapshots.c.state.in_(only_from)
        with self._store.transaction(write=True) as connection:
            return connection.execute(sa.update(stored.snapshots).where(where).values(state=state)).rowcount > 0

    def _loaded(self, connection: sa.Connection, name: str, *, unproven: str = "") -> None:
        """Set the pipelines of a finished snapshot to `loaded`; with a reason to doubt them, if it was not complete."""
        row = connection.execute(sa.select(stored.snapshots).where(stored.snapshots.c.id == name)).one()
        if row.reason not in _LOADING:
            return
        one = stored.pipelines.c
        values: dict[str, Any] = {"phase": "loaded", "loaded_at": time.time()}
        if unproven:
            values["unproven"] = unproven
        where = one.name.in_(json.loads(row.pipelines)) & one.phase.in_(("loading", "copying"))
        connection.execute(sa.update(stored.pipelines).where(where).values(**values))


def _forget_old(connection: sa.Connection) -> None:
    one = stored.snapshots.c
    query = sa.select(one.id).where(one.state.not_in(_OPEN)).order_by(one.finished_at.desc()).offset(FINISHED_KEPT)
    old = [row.id for row in connection.execute(query)]
    if old:
        connection.execute(sa.delete(stored.snapshots).where(one.id.in_(old)))


def _json_key(key: tuple[Any, ...] | None) -> str | None:
    return None if key is None else json.dumps(key)


def _values(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "source": snapshot.source,
        "table_name": snapshot.table,
        "pipelines": json.dumps(snapshot.pipelines),
        "reason": snapshot.reason,
        "state": snapshot.state,
        "condition": snapshot.condition,
        "row_keys": json.dumps(snapshot.keys),
        "last_key": _json_key(snapshot.last_key),
        "rows_done": snapshot.rows_done,
        "rows_estimated": snapshot.rows_estimated,
        "asked_at": snapshot.asked_at,
        "started_at": snapshot.started_at,
        "finished_at": snapshot.finished_at,
        "error": snapshot.error,
        "copied": snapshot.copied,
    }


def _snapshot(row: Any) -> Snapshot:
    return Snapshot(
        row.id,
        row.source,
        row.table_name,
        tuple(json.loads(row.pipelines)),
        row.reason,
        row.state,
        row.condition,
        tuple(json.loads(row.row_keys)),
        None if row.last_key is None else tuple(json.loads(row.last_key)),
        row.rows_done,
        row.rows_estimated,
        row.asked_at,
        row.started_at,
        row.finished_at,
        row.error,
        row.copied,
    )
