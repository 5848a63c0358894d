"""What earlier runs left in the hub's state and in the targets: whether the next run could go on from it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from sync_hub.errors import Fatal, Unavailable
from sync_hub.model import Finding, Table, TopicInfo
from sync_hub.runtime.pipelines import BEGINNING, Delivery
from sync_hub.state import Pipeline, State, Worker

if TYPE_CHECKING:
    from sync_hub.settings import Settings

OFFSETS_TABLE = "sync_hub_offsets"


class Stored:
    """What the state holds, and nothing where no hub has run yet."""

    def __init__(self, settings: Settings) -> None:
        state = State(settings.hub.state)
        self.pipelines: dict[str, Pipeline] = {}
        self.positions: dict[str, str] = {}
        self.workers: list[Worker] = []
        try:
            if _exists(settings.hub.state):
                state.check()
                self.pipelines = {pipeline.name: pipeline for pipeline in state.pipelines()}
                found = {name: state.position(name) for name in settings.sources}
                self.positions = {name: position for name, position in found.items() if position is not None}
                self.workers = state.workers()
        finally:
            state.close()

    def lost_slot(self, source: str, status: dict[str, Any]) -> Iterator[Finding]:
        """A source that was read before, and whose log no longer goes on where reading stopped."""
        if source in self.positions and status.get("slot_status") == "lost":
            yield Finding(
                "slot_lost",
                "error",
                f"sources.{source}",
                "its log was read before, and no longer goes on there: the replication slot is gone or has lost log",
                "changes are missing: a new slot is made and everything is loaded again",
                f"sync-hub recover {source}",
            )

    def target_gone(self, name: str, target: str, table: str) -> None:
        """Raise `Fatal` for a pipeline that had rows in a table that is no longer there."""
        known = self.pipelines.get(name)
        if known is not None and known.phase not in BEGINNING:
            raise Fatal(
                "target_table_missing",
                f"pipeline {name}: the table {table} is gone from target {target}, and its rows with it",
                hint="restore it, or load the pipeline again",
                command=f"sync-hub snapshot {name} --reload",
            )

    def prove_offsets(self, name: str, sink: Any, topics: dict[str, TopicInfo], table: Table) -> None:
        """Raise `Fatal` when the target's offsets of a pipeline cannot be those of this state and these topics."""
        known = self.pipelines.get(name)
        rows = sink.load_offsets([name]) if sink.describe(OFFSETS_TABLE) is not None else []
        if known is None or known.phase == "new":
            if rows:
                raise Fatal(
                    "offsets_without_state",
                    f"pipeline {name} has offsets in its target, but this hub never applied it",
                    hint="another hub writes there, or this hub's state was lost: then load it again",
                    command=f"sync-hub snapshot {name} --reload",
                )
            return
        if not rows and known.phase not in BEGINNING:
            raise Fatal(
                "offsets_lost",
                f"target {known.target} no longer knows how far pipeline {name} has come",
                hint=f"it was restored from a backup, or {OFFSETS_TABLE} was emptied: load the pipeline again",
                command=f"sync-hub snapshot {name} --reload",
            )
        if rows:
            _prove(Delivery(known), rows, topics, table)


def _prove(delivery: Delivery, rows: Any, topics: dict[str, TopicInfo], table: Table) -> None:
    """The deliver worker's own proof: the same topic, all its partitions, the same mapping."""
    if delivery.topic not in topics:
        raise Fatal(
            "topic_missing",
            f"there is no topic {delivery.topic}, which pipeline {delivery.name} has read before",
            hint="it was deleted: what was in it is lost",
            command=f"sync-hub recover {delivery.pipeline.source}",
        )
    delivery.info = topics[delivery.topic]
    delivery.compile(table)
    delivery.load(rows, [])


def _exists(url: str) -> bool:
    """Whether a hub has used this state; asking creates nothing. Raises `Unavailable` when it could not be created.

    One that does not answer counts as used: using it says what is wrong.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        file = Path(parsed.database or "")
        if not file.exists():
            _refuse_uncreatable(file)
        return file.exists()
    engine = sa.create_engine(parsed.set(drivername="postgresql+psycopg"))
    try:
        with engine.connect() as connection:
            if sa.inspect(connection).has_table("sync_hub_positions"):
                return True
            if connection.execute(sa.text("select has_schema_privilege(current_schema(), 'CREATE')")).scalar():
                return False
    except DBAPIError:
        return True
    finally:
        engine.dispose()
    raise Unavailable(
        "state_unavailable",
        "the role of hub.state may not create the hub's tables",
        hint="grant create on schema public to it",
    )


def _refuse_uncreatable(file: Path) -> None:
    folder = file.absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Unavailable(
            "state_unavailable",
            f"the hub's state {file} cannot be created: {error.strerror}",
            hint="check that it is reachable and writable, and that the disk has room",
        ) from error
