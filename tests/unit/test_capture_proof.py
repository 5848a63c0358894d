"""When capture that began again works again: not by being opened, but by what becomes durable, or by a fresh heartbeat.

A source and topics in memory, beside the real session and state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sync_hub import settings as configuration
from sync_hub.errors import Unavailable
from sync_hub.model import Column, Heartbeat, Outgoing, SourceBatch, Table, TopicInfo, TopicPartition
from sync_hub.runtime import capture
from sync_hub.runtime.capture import Capture, Session
from sync_hub.runtime.control import Control
from sync_hub.runtime.retry import Backoff
from sync_hub.state import State
from tests.events import change_event

CONFIG = """
hub: {{name: t, state: "sqlite:///{folder}/state.db"}}
broker: {{type: embedded, path: {folder}/log.db}}
sources: {{erp: {{type: postgres, dsn: "host=nowhere", tables: [public.t]}}}}
targets: {{wh: {{type: sqlite, path: {folder}/wh.db}}}}
mappings: [{folder}]
"""
EVENT = change_event(
    source="erp", schema="public", table="t", operation="create", key={"id": 1}, before=None, after={"id": 1},
    version="0001-0001", committed_at=0,
)  # fmt: skip


class Log:
    """A source whose log holds these batches."""

    def __init__(self, *batches: SourceBatch) -> None:
        self.batches = list(batches)
        self.heartbeats = 0

    def tables(self) -> list[str]:
        """One."""
        return ["public.t"]

    def describe(self, name: str) -> Table:
        """A key and nothing else."""
        return Table("public", "t", (Column("id", "integer", nullable=False),), ("id",))

    def open(self, position: str | None, *, raise_epoch: bool) -> str:
        """Where it stood."""
        return position or "p0"

    def read(self, timeout_seconds: float) -> SourceBatch:
        """The next batch; then nothing comes."""
        return self.batches.pop(0) if self.batches else SourceBatch([])

    def heartbeat(self) -> None:
        """Counted."""
        self.heartbeats += 1

    def acknowledge(self, position: str) -> None:
        """Nothing is kept."""

    def status(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}

    def take_changed(self) -> dict[str, str]:
        """Nothing changed."""
        return {}


class Topics:
    """A broker that can always be opened, and takes records when it may."""

    def __init__(self) -> None:
        self.full = False

    def create_topics(self, names: Sequence[str]) -> dict[str, TopicInfo]:
        """They are there."""
        return {name: TopicInfo(name, "id", 1, 1_000_000) for name in names}

    def end_offsets(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """Empty."""
        return {TopicPartition(topic, 0): 0 for topic in topics}

    def publish(self, records: Sequence[Outgoing]) -> None:
        """Durable at once, or not at all."""
        if self.full and records:
            raise Unavailable("disk_full", "no room")

    def flush(self, timeout_seconds: float) -> bool:
        """As the embedded log: what it took is durable."""
        return True

    def published(self) -> dict[Any, int]:
        """Nothing is told."""
        return {}


def beat(number: int) -> SourceBatch:
    return SourceBatch([], f"p{number}", Heartbeat(f"p{number}", float(number)))


def events(number: int) -> SourceBatch:
    return SourceBatch([EVENT], f"p{number}")


class Hub:
    """What a session needs; `session` is a new one over the same state."""

    def __init__(self, folder: Path) -> None:
        path = folder / "hub.yaml"
        path.write_text(CONFIG.format(folder=folder))
        self.settings = configuration.load(path, {})
        self.state = State(self.settings.hub.state)
        self.control = Control("capture:erp")
        self.topics = Topics()

    def session(self, log: Log) -> Session:
        """Opened."""
        session = Session("erp", log, self.topics, self.state, self.settings, self.control)  # type: ignore[arg-type]
        session.open(raise_epoch=False)
        return session


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    """A hub without processes."""
    hub = Hub(tmp_path)
    yield hub
    hub.state.close()


def test_old_heartbeats_before_what_cannot_be_published_prove_nothing(hub: Hub) -> None:
    hub.topics.full = True
    session = hub.session(Log(beat(1), events(2)))
    session.turn()
    assert not session.proven
    with pytest.raises(Unavailable):
        session.turn()
    assert not session.proven


def test_what_became_durable_proves_it(hub: Hub) -> None:
    session = hub.session(Log(events(1)))
    session.turn()
    assert not session.proven, "it was handed over, no more"
    session.turn()
    assert session.proven


def test_a_heartbeat_after_a_moment_without_events_proves_it_and_is_asked_for_at_once(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "PROOF_SECONDS", 0.0)
    log = Log(SourceBatch([]), SourceBatch([]), beat(1))
    session = hub.session(log)
    session.turn()
    session.turn()
    assert log.heartbeats == 2
    assert not session.proven
    session.turn()
    assert session.proven
    session.turn()
    assert log.heartbeats == 3, "from now on as often as configured"


def test_the_error_stays_until_then(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(beat(1), events(2))
    session, backoff, seen = hub.session(log), Backoff(attempt=3), []

    def turn() -> int:
        seen.append((hub.control.state, backoff.attempt))
        if len(seen) == 4:
            hub.control.stopping.set()
        return Session.turn(session)

    monkeypatch.setattr(session, "turn", turn)
    monkeypatch.setattr(session, "drain", lambda: None)
    hub.control.backing_off(Unavailable("disk_full", "no room"))
    Capture("erp", hub.settings, hub.state, hub.control)._stream(session, backoff)
    assert seen == [("backing_off", 3), ("backing_off", 3), ("backing_off", 3), ("running", 0)]
