"""What the hub knows: positions, pipelines, snapshots, verifications, incidents, beats, requests, pauses.

Every method is one transaction. Safe to use from several processes, and from several threads. Raises `Unavailable` when
the store does not answer.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from msgspec.structs import replace

from sync_hub import state_tables as stored
from sync_hub.errors import Unavailable
from sync_hub.model import Table
from sync_hub.state_alerts import AlertStore
from sync_hub.state_snapshots import Snapshot, SnapshotStore
from sync_hub.state_verifications import VerificationStore
from sync_hub.store import Store, upsert

NO_ROWS = frozenset({"new", "starting"})
"""Phases in which a pipeline has no rows in its target."""
PROGRESS_KEPT = 500
"""Progress records kept in full for each source; older ones are thinned to one a minute."""


class Progress(Struct, frozen=True):
    """Everything committed at the source before `source_time` lies below `offsets` (topic → one a partition)."""

    source: str
    position: str
    source_time: float
    stored_at: float
    offsets: dict[str, list[int]]


class Pipeline(Struct, frozen=True):
    """A mapping that was applied. `bundle` is what it was compiled from.

    `phase`: `new` and `starting` (no offsets in the target yet), `adopting` (loaded again: its offsets are to be fitted
    to the mapping and the topic as they are now), `copying` (existing rows go straight to the view), `ready` (offsets
    written; capture may send existing rows), `loading`, `loaded`. `loaded_at`: when all its existing rows were in the
    topic or in the view; only progress stored later proves anything.
    `unproven` says why the view may differ from its source until it is verified; empty: nothing is known against it.
    `reloads` counts how often it was asked to be loaded again, so that nobody takes one for another.
    """

    name: str
    source: str
    table: str
    target: str
    bundle: str
    applied_at: float
    phase: str
    loaded_at: float | None = None
    unproven: str = ""
    reloads: int = 0


class Step(Struct, frozen=True):
    """One pipeline's part of a plan: what the plan rests on (None: never applied), and what is to be.

    `after` None: it is forgotten. Of one that has begun only the `bundle` is taken. `reload` says why all its rows are
    written again; empty: they are not.
    """

    name: str
    planned: Pipeline | None
    after: Pipeline | None
    reload: str = ""

    def rests_on(self, known: Pipeline | None) -> bool:
        """Whether the pipeline is what was planned on, or a hub that started meanwhile took the same file."""
        planned, after = self.planned, self.after
        if known is None:
            return planned is None
        if after is not None and known.phase == "new" and known.bundle == after.bundle:
            return True
        if planned is None or (known.bundle, known.reloads) != (planned.bundle, planned.reloads):
            return False
        return planned.phase not in NO_ROWS or known.phase == planned.phase


class Worker(Struct, frozen=True):
    """The last beat of a worker. `since` is when its state last changed, in seconds since 1970, as `beat_at` is."""

    name: str
    host: str
    pid: int
    state: str
    detail: dict[str, Any]
    since: float
    beat_at: float


class Request(Struct, frozen=True):
    """Something a worker is asked to do."""

    id: int
    worker: str
    action: str
    arguments: dict[str, Any]


class Pause(Struct, frozen=True):
    """`subject` is `source:erp`, `target:crm` or `pipeline:customer_to_crm`; `until` None means until resumed."""

    subject: str
    reason: str
    since: float
    until: float | None


class State:
    """One store. Construction does not connect; the first use creates what is missing."""

    def __init__(self, url: str) -> None:
        self._store = Store(url)
        self.snapshots = SnapshotStore(self._store)
        self.verifications = VerificationStore(self._store)
        self.alerts = AlertStore(self._store)

    def check(self) -> None:
        """Raise `Unavailable` when the store cannot be written."""
        with self._store.transaction(write=True) as connection:
            connection.execute(sa.select(sa.func.count()).select_from(stored.positions))

    # Positions and progress

    def position(self, source: str) -> str | None:
        """The stored position of a source."""
        with self._store.transaction(write=False) as connection:
            return connection.execute(
                sa.select(stored.positions.c.position).where(stored.positions.c.source == source)
            ).scalar()

    def save_position(
        self,
        source: str,
        position: str,
        *,
        after: str | None,
        progress: Progress | None = None,
        snapshots: Sequence[Snapshot] = (),
    ) -> None:
        """Move the position on from `after`, None for the first, and store what is proven by it, in one transaction.

        Raises `Unavailable` where it is another one by now: a worker that slept, or began late, must not take it back.
        """
        with self._store.transaction(write=True) as connection:
            _move_position(connection, source, position, after)
            if progress:
                values = {
                    "position": progress.position,
                    "source_time": progress.source_time,
                    "stored_at": progress.stored_at,
                }
                values |= {"source": progress.source, "offsets": json.dumps(progress.offsets)}
                connection.execute(sa.insert(stored.progress).values(**values))
            for snapshot in snapshots:
                self.snapshots.advance(connection, snapshot)

    def begin_position(self, source: str, position: str) -> None:
        """Store the position of a log that is read anew, in place of a lost one and of all that was proven by it."""
        values = {"source": source, "position": position, "saved_at": time.time()}
        with self._store.transaction(write=True) as connection:
            connection.execute(sa.delete(stored.progress).where(stored.progress.c.source == source))
            upsert(connection, stored.positions, ("source",), values)

    def progress(self, source: str, *, limit: int | None = None) -> list[Progress]:
        """The kept progress of a source, newest first; `limit` leaves out what is older."""
        query = (
            sa.select(stored.progress)
            .where(stored.progress.c.source == source)
            .order_by(stored.progress.c.id.desc())
            .limit(limit)
        )
        with self._store.transaction(write=False) as connection:
            rows = connection.execute(query).all()
        return [
            Progress(row.source, row.position, row.source_time, row.stored_at, json.loads(row.offsets)) for row in rows
        ]

    def thin_progress(self, source: str) -> None:
        """Keep the newest `PROGRESS_KEPT` records; of older ones one a minute, and after a day one an hour."""
        query = sa.select(stored.progress.c.id, stored.progress.c.source_time).where(stored.progress.c.source == source)
        with self._store.transaction(write=True) as connection:
            rows = connection.execute(query.order_by(stored.progress.c.id.desc()).offset(PROGRESS_KEPT)).all()
            spans: set[tuple[int, int]] = set()
            surplus = []
            for row in rows:
                width = 60 if rows[0].source_time - row.source_time < 86400 else 3600
                span = (width, int(row.source_time // width))
                if span in spans:
                    surplus.append(row.id)
                spans.add(span)
            if surplus:
                connection.execute(sa.delete(stored.progress).where(stored.progress.c.id.in_(surplus)))

    # Tables of sources

    def save_tables(self, source: str, tables: Sequence[Table]) -> None:
        """Store the catalog of a source's captured tables, replacing what was stored."""
        with self._store.transaction(write=True) as connection:
            connection.execute(sa.delete(stored.tables).where(stored.tables.c.source == source))
            for table in tables:
                description = msgspec.json.encode(table).decode()
                connection.execute(
                    sa.insert(stored.tables).values(source=source, table_name=table.full_name, description=description)
                )

    def tables(self, source: str) -> dict[str, Table]:
        """The stored catalog of a source's captured tables, by full name; empty before capture has looked."""
        with self._store.transaction(write=False) as connection:
            rows = connection.execute(sa.select(stored.tables).where(stored.tables.c.source == source)).all()
        return {row.table_name: msgspec.json.decode(row.description, type=Table) for row in rows}

    # Pipelines

    def add_pipeline(self, pipeline: Pipeline) -> bool:
        """Store a pipeline that was never applied; False when there is one of that name, which stays as it is."""
        one = stored.pipelines.c
        with self._store.transaction(write=True) as connection:
            known = connection.execute(sa.select(one.name).where(one.name == pipeline.name)).scalar()
            if known is None:
                connection.execute(sa.insert(stored.pipelines).values(**_values(pipeline)))
            return known is None

    def pipelines(self) -> list[Pipeline]:
        """All applied pipelines, by name."""
        with self._store.transaction(write=False) as connection:
            return _pipelines(connection)

    def phase(self, name: str) -> str:
        """The phase of one pipeline; empty where there is none of this name."""
        one = stored.pipelines.c
        with self._store.transaction(write=False) as connection:
            return connection.execute(sa.select(one.phase).where(one.name == name)).scalar() or ""

    def apply(self, steps: Sequence[Step]) -> list[str]:
        """Carry a plan out: all steps, or none where pipelines are not what it rests on; returns the names of these."""
        with self._store.transaction(write=True) as connection:
            if connection.dialect.name == "postgresql":  # what is not there yet cannot be locked by itself
                connection.exec_driver_sql("lock table sync_hub_loads, sync_hub_pipelines in share row exclusive mode")
            known = {pipeline.name: pipeline for pipeline in _pipelines(connection)}
            outdated = [step.name for step in steps if not step.rests_on(known.get(step.name))]
            if not outdated:
                for step in steps:
                    self._carry_out(connection, step, known.get(step.name))
            return outdated

    def _carry_out(self, connection: sa.Connection, step: Step, known: Pipeline | None) -> None:
        after, begun = step.after, known is not None and known.phase != "new"
        if after is None or step.reload or not begun:
            self.snapshots.leave(connection, [step.name])
        if after is None:
            connection.execute(sa.delete(stored.pipelines).where(stored.pipelines.c.name == step.name))
            return
        if known is not None and begun:
            after = replace(known, bundle=after.bundle, applied_at=time.time())
            if step.reload:
                reloads = known.reloads + 1
                after = replace(after, phase="adopting", unproven=step.reload, loaded_at=None, reloads=reloads)
        upsert(connection, stored.pipelines, ("name",), _values(after))

    def remove_pipeline(self, name: str) -> None:
        """Forget a pipeline whose mapping is gone, and what was begun to load for it."""
        with self._store.transaction(write=True) as connection:
            self.snapshots.leave(connection, [name])
            connection.execute(sa.delete(stored.pipelines).where(stored.pipelines.c.name == name))

    def advance_phase(self, names: Sequence[str], phase: str, *, only_from: Sequence[str]) -> None:
        """Move pipelines to a phase if they are in one of `only_from`."""
        one = stored.pipelines.c
        where = one.name.in_(names) & one.phase.in_(only_from)
        with self._store.transaction(write=True) as connection:
            connection.execute(sa.update(stored.pipelines).where(where).values(phase=phase))

    def reload(self, names: Sequence[str], reason: str) -> None:
        """Have these pipelines loaded again and verified (`guarantees.md` §7). Loading that was begun is given up."""
        one = stored.pipelines.c
        again = {"phase": "adopting", "unproven": reason, "loaded_at": None, "reloads": one.reloads + 1}
        with self._store.transaction(write=True) as connection:
            self.snapshots.leave(connection, names)
            connection.execute(sa.update(stored.pipelines).where(one.name.in_(names)).values(**again))

    def adopted(self, pipeline: Pipeline) -> None:
        """Its offsets are fitted, for this reload; where another one was asked for meanwhile, that is still to do."""
        one = stored.pipelines.c
        where = (one.name == pipeline.name) & (one.phase == "adopting") & (one.reloads == pipeline.reloads)
        with self._store.transaction(write=True) as connection:
            connection.execute(sa.update(stored.pipelines).where(where).values(phase="ready"))

    def doubt(self, names: Sequence[str], reason: str) -> None:
        """Have these pipelines verified and repaired; a reason that is there already stays."""
        one = stored.pipelines.c
        where = one.name.in_(names) & (one.unproven == "")
        with self._store.transaction(write=True) as connection:
            connection.execute(sa.update(stored.pipelines).where(where).values(unproven=reason))

    def prove(self, pipeline: Pipeline) -> bool:
        """Its view was verified and is equal; False when it was loaded again or put in doubt meanwhile."""
        one = stored.pipelines.c
        same = (one.name == pipeline.name) & (one.unproven == pipeline.unproven) & (one.phase == pipeline.phase)
        same &= one.loaded_at == pipeline.loaded_at if pipeline.loaded_at is not None else one.loaded_at.is_(None)
        with self._store.transaction(write=True) as connection:
            return connection.execute(sa.update(stored.pipelines).where(same).values(unproven="")).rowcount > 0

    # Workers, requests, pauses

    def beat(self, name: str, state: str, detail: Mapping[str, Any]) -> None:
        """Store a worker's beat: its state and figures, now."""
        now = time.time()
        with self._store.transaction(write=True) as connection:
            host = socket.gethostname()
            mine = (stored.workers.c.name == name) & (stored.workers.c.host == host)
            query = sa.select(stored.workers.c.since, stored.workers.c.state, stored.workers.c.pid).where(mine)
            known = connection.execute(query).first()
            same = known is not None and known.state == state and known.pid == os.getpid()
            values = {"name": name, "host": host, "pid": os.getpid(), "state": state, "beat_at": now}
            values |= {"detail": json.dumps(detail), "since": known.since if known is not None and same else now}
            upsert(connection, stored.workers, ("name", "host"), values)

    def workers(self) -> list[Worker]:
        """The last beat of every worker, by name and host."""
        with self._store.transaction(write=False) as connection:
            rows = connection.execute(sa.select(stored.workers).order_by(stored.workers.c.name)).all()
        return [
            Worker(row.name, row.host, row.pid, row.state, json.loads(row.detail), row.since, row.beat_at)
            for row in rows
        ]

    def forget_workers(self, names: Sequence[str]) -> None:
        """Remove workers that are no longer configured."""
        with self._store.transaction(write=True) as connection:
            connection.execute(sa.delete(stored.workers).where(stored.workers.c.name.in_(names)))

    def ask(self, worker: str, action: str, arguments: Mapping[str, Any]) -> int:
        """Ask a worker to do something; returns the request's id."""
        values = {"worker": worker, "action": action, "arguments": json.dumps(arguments), "asked_at": time.time()}
        with self._store.transaction(write=True) as connection:
            return int(
                connection.execute(
                    sa.insert(stored.requests).values(**values).returning(stored.requests.c.id)
                ).scalar_one()
            )

    def wishes(self, worker: str) -> tuple[list[Pause], list[Request]]:
        """What people want: pauses in force, and what a worker is asked and has not done, oldest first."""
        query = (
            sa.select(stored.requests)
            .where((stored.requests.c.worker == worker) & stored.requests.c.done_at.is_(None))
            .order_by(stored.requests.c.id)
        )
        with self._store.transaction(write=False) as connection:
            pauses, rows = _pauses_in_force(connection), connection.execute(query).all()
        return pauses, [Request(row.id, row.worker, row.action, json.loads(row.arguments)) for row in rows]

    def finish_request(self, number: int, result: Mapping[str, Any]) -> None:
        """Store what came of a request."""
        with self._store.transaction(write=True) as connection:
            where = stored.requests.c.id == number
            connection.execute(
                sa.update(stored.requests).where(where).values(done_at=time.time(), result=json.dumps(result))
            )

    def forget_answered(self, before: float) -> None:
        """Remove requests that were done before a time, in seconds since 1970."""
        with self._store.transaction(write=True) as connection:
            connection.execute(sa.delete(stored.requests).where(stored.requests.c.done_at < before))

    def result(self, number: int) -> dict[str, Any] | None:
        """What came of a request; None while it is open."""
        with self._store.transaction(write=False) as connection:
            text = connection.execute(
                sa.select(stored.requests.c.result).where(stored.requests.c.id == number)
            ).scalar()
        return None if text is None else json.loads(text)

    def pause(self, subject: str, *, reason: str = "", until: float | None = None) -> None:
        """Pause a source, target or pipeline; `until` in seconds since 1970."""
        with self._store.transaction(write=True) as connection:
            values = {"subject": subject, "reason": reason, "since": time.time(), "until": until}
            upsert(connection, stored.pauses, ("subject",), values)

    def resume(self, subject: str) -> bool:
        """Take back a pause; False when there was none."""
        with self._store.transaction(write=True) as connection:
            return connection.execute(sa.delete(stored.pauses).where(stored.pauses.c.subject == subject)).rowcount > 0

    def pauses(self) -> list[Pause]:
        """Pauses in force now."""
        with self._store.transaction(write=False) as connection:
            return _pauses_in_force(connection)

    def close(self) -> None:
        """Let go of connections."""
        self._store.close()


def _move_position(connection: sa.Connection, source: str, position: str, after: str | None) -> None:
    columns = stored.positions.c
    known = connection.execute(
        sa.select(columns.position).where(columns.source == source).with_for_update()
    ).scalar_one_or_none()
    if known != after:
        raise position_moved(source)
    values = {"position": position, "saved_at": time.time()}
    if known is None:
        connection.execute(sa.insert(stored.positions).values(source=source, **values))
    else:
        connection.execute(sa.update(stored.positions).where(columns.source == source).values(**values))


def position_moved(source: str) -> Unavailable:
    """What a worker meets that does not know the newest position of its source."""
    return Unavailable(
        "position_moved",
        f"source {source}: another worker has moved the stored position on",
        hint="two hubs ran for a moment, or this worker stood still: it reads the position again",
    )


def _pipelines(connection: sa.Connection) -> list[Pipeline]:
    rows = connection.execute(sa.select(stored.pipelines).order_by(stored.pipelines.c.name)).all()
    return [
        Pipeline(
            row.name,
            row.source,
            row.table_name,
            row.target,
            row.bundle,
            row.applied_at,
            row.phase,
            row.loaded_at,
            row.unproven,
            row.reloads,
        )
        for row in rows
    ]


def _values(pipeline: Pipeline) -> dict[str, Any]:
    values = msgspec.structs.asdict(pipeline)
    values["table_name"] = values.pop("table")
    return values


def _pauses_in_force(connection: sa.Connection) -> list[Pause]:
    rows = connection.execute(sa.select(stored.pauses).order_by(stored.pauses.c.subject)).all()
    now = time.time()
    return [
        Pause(row.subject, row.reason, row.since, row.until) for row in rows if row.until is None or row.until > now
    ]
