"""Verifications as the hub's store keeps them: what is to be compared, what was found, and the answers of probes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa
from msgspec import Struct

from sync_hub import state_tables as stored
from sync_hub.store import Store, upsert

FINISHED_KEPT: Final = 20
"""Finished verifications that are kept for each pipeline."""

VerificationState = Literal["waiting", "running", "done", "failed", "cancelled"]
EXAMPLES: Final = 10
"""So many rows that do not agree are named in a report."""

Outcome = Literal["matched", "absent", "kept", "different", "missing", "extra", "touched", "parked"]
"""`absent`: on neither side. `kept`: gone at the source, and the mapping keeps it. `touched`: it changed meanwhile."""


WRONG: Final = frozenset({"different", "missing", "extra"})
"""Outcomes that say that a view is not what its mapping makes of its source."""


ASKED: Final = "asked"
SCHEDULE: Final = "schedule"
"""Why a verification runs, when it is not because its view is in doubt."""


class VerificationOptions(Struct, frozen=True):
    """What to compare: all rows, one range in `sample` (0: every range), or the rows with these event keys.

    `repair`: what differs is written again and what is extra removed. `max_rows_per_second` 0: no limit.
    """

    repair: bool = False
    sample: int = 0
    keys: tuple[dict[str, Any], ...] = ()
    max_rows_per_second: int = 0


class Report(Struct, frozen=True):
    """What a verification found so far, in rows of the view.

    `different` rows have other values, in `columns` (name → rows), `missing` and `extra` ones are on one side only.
    `busy` ones changed whenever they were looked at; `parked` ones wait with an error; `kept` ones are gone at the
    source and stay because the mapping says so. `repaired` counts what was written again or removed. `examples` names
    some of what does not agree. `rows_done` and `rows_estimated` are rows of the source.
    """

    matched: int = 0
    different: int = 0
    missing: int = 0
    extra: int = 0
    busy: int = 0
    parked: int = 0
    kept: int = 0
    repaired: int = 0
    rows_done: int = 0
    rows_estimated: int = 0
    columns: dict[str, int] = {}
    examples: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether the view is what the mapping makes of its source, as far as was looked."""
        return not (self.different or self.missing or self.extra)


class Verification(Struct, frozen=True):
    """One verification of one pipeline. `reason`: `ASKED`, `SCHEDULE`, or why the view was in doubt."""

    id: str
    pipeline: str
    reason: str = ASKED
    state: VerificationState = "waiting"
    options: VerificationOptions = VerificationOptions()
    report: Report = Report()
    asked_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    error: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it came to its end and looked at all rows."""
        return self.state == "done" and not self.options.keys and not self.options.sample


class Probe(Struct, frozen=True):
    """The answer to one probe: `key` is the event key, `columns` those that differed, `seen` a digest of both sides."""

    key: dict[str, Any]
    outcome: Outcome
    columns: tuple[str, ...] = ()
    seen: str = ""


def counted(answers: Sequence[Probe]) -> dict[str, int]:
    """How many there are of each outcome."""
    counts: dict[str, int] = {}
    for answer in answers:
        counts[answer.outcome] = counts.get(answer.outcome, 0) + 1
    return counts


class VerificationStore:
    """Part of `State`; every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ask(self, verifications: Sequence[Verification]) -> None:
        """Have these pipelines verified; the worker begins within a second."""
        with self._store.transaction(write=True) as connection:
            for one in verifications:
                connection.execute(sa.insert(stored.verifications).values(**_values(one)))

    def all(self, pipeline: str | None = None) -> list[Verification]:
        """What waits, runs and was finished lately, oldest first."""
        query = sa.select(stored.verifications).order_by(stored.verifications.c.asked_at, stored.verifications.c.id)
        if pipeline is not None:
            query = query.where(stored.verifications.c.pipeline == pipeline)
        with self._store.transaction(write=False) as connection:
            return [_verification(row) for row in connection.execute(query)]

    def find(self, names: Iterable[str]) -> list[Verification]:
        """These verifications, those that are known."""
        wanted = set(names)
        return [one for one in self.all() if one.id in wanted]

    def latest(self) -> dict[str, Verification]:
        """The last verification that was done, by pipeline; only whole ones."""
        return {one.pipeline: one for one in sorted(self.all(), key=lambda one: one.finished_at or 0) if one.is_whole}

    def store(self, verification: Verification) -> bool:
        """Store state and report; False when it was cancelled meanwhile, which stays."""
        one = stored.verifications.c
        where = (one.id == verification.id) & (one.state != "cancelled")
        with self._store.transaction(write=True) as connection:
            values = _values(verification)
            known = connection.execute(sa.update(stored.verifications).where(where).values(**values)).rowcount
            if verification.finished_at is not None:
                connection.execute(
                    sa.delete(stored.probes).where(stored.probes.c.verification.startswith(verification.id))
                )
                _forget_old(connection, verification.pipeline)
            return known > 0

    def cancel(self, names: Sequence[str]) -> int:
        """Give up what waits or runs; returns how many were."""
        one = stored.verifications.c
        where = one.id.in_(names) & one.state.in_(["waiting", "running"])
        with self._store.transaction(write=True) as connection:
            values = {"state": "cancelled", "finished_at": time.time()}
            return connection.execute(sa.update(stored.verifications).where(where).values(**values)).rowcount

    def answer(self, run: str, probes: Sequence[Probe]) -> None:
        """Store the answers of probes of one run; a later answer of the same key replaces an earlier one."""
        with self._store.transaction(write=True) as connection:
            for probe in probes:
                values = {
                    "verification": run,
                    "key": key_text(probe.key),
                    "outcome": probe.outcome,
                    "columns": json.dumps(probe.columns),
                    "seen": probe.seen,
                }
                upsert(connection, stored.probes, ("verification", "key"), values)

    def forget_answers(self) -> None:
        """Remove answers to verifications that do not run, which came too late."""
        one = stored.verifications.c
        with self._store.transaction(write=True) as connection:
            running = [row.id for row in connection.execute(sa.select(one.id).where(one.state == "running"))]
            late = sa.and_(sa.true(), *(~stored.probes.c.verification.startswith(f"{name}.") for name in running))
            connection.execute(sa.delete(stored.probes).where(late))

    def answers(self, run: str) -> list[Probe]:
        """What is answered of one run so far."""
        query = sa.select(stored.probes).where(stored.probes.c.verification == run)
        with self._store.transaction(write=False) as connection:
            rows = connection.execute(query).all()
        return [Probe(json.loads(row.key), row.outcome, tuple(json.loads(row.columns)), row.seen) for row in rows]


def key_text(key: Mapping[str, Any]) -> str:
    """A key as text: the same for the same key."""
    return json.dumps(key, sort_keys=True)


def _forget_old(connection: sa.Connection, pipeline: str) -> None:
    """Keep the newest, and the last whole one, which says whether the view is proven."""
    one = stored.verifications.c
    finished = (one.pipeline == pipeline) & one.finished_at.is_not(None)
    query = sa.select(stored.verifications).where(finished).order_by(one.finished_at.desc())
    known = [_verification(row) for row in connection.execute(query)]
    last = next((found.id for found in known if found.is_whole), None)
    old = [found.id for found in known[FINISHED_KEPT:] if found.id != last]
    if old:
        connection.execute(sa.delete(stored.verifications).where(one.id.in_(old)))


def _values(verification: Verification) -> dict[str, Any]:
    return {
        "id": verification.id,
        "pipeline": verification.pipeline,
        "reason": verification.reason,
        "state": verification.state,
        "options": msgspec.json.encode(verification.options).decode(),
        "report": msgspec.json.encode(verification.report).decode(),
        "asked_at": verification.asked_at,
        "started_at": verification.started_at,
        "finished_at": verification.finished_at,
        "error": verification.error,
    }


def _verification(row: Any) -> Verification:
    return Verification(
        row.id,
        row.pipeline,
        row.reason,
        row.state,
        msgspec.json.decode(row.options, type=VerificationOptions),
        msgspec.json.decode(row.report, type=Report),
        row.asked_at,
        row.started_at,
        row.finished_at,
        row.error,
    )
