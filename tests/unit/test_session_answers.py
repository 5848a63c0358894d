"""A target that cannot be compared stops nobody else: one key stays open, or one pipeline stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sync_hub import settings as configuration
from sync_hub.errors import Fatal, Rejected
from sync_hub.model import ChangeEvent, Offset, Record
from sync_hub.runtime import session as sessions
from sync_hub.runtime.batch import Item, Work
from sync_hub.runtime.control import Control
from sync_hub.runtime.pipelines import Delivery
from sync_hub.runtime.session import Session
from sync_hub.state import Pipeline, State
from sync_hub.state_verifications import Probe
from tests.events import change_event
from tests.unit.test_capture_proof import CONFIG

TOPIC = "erp.public.t"
RUN = "verification.1"


def offset(next_offset: int) -> Offset:
    return Offset("a", TOPIC, 0, "id", next_offset, f"v{next_offset}", "hash")


def item(number: int) -> Item:
    event = change_event(
        source="erp", schema="public", table="t", operation="read", key={"id": number}, before=None,
        after={"id": number}, version=f"v{number}", committed_at=0, check=RUN,
    )  # fmt: skip
    return Item(Record(TOPIC, 0, number, b"", b"", None, 0), event)


class Target:
    """Keeps how far it came."""

    def __init__(self) -> None:
        self.offset = offset(0)

    def write(self, batch: Any) -> None:
        """One transaction."""
        [(before, after)] = batch.offsets
        assert before == self.offset
        assert not batch.writes
        self.offset = after


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """Where answers are stored."""
    state = State(f"sqlite:///{tmp_path}/state.db")
    yield state
    state.close()


@pytest.fixture
def answer(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], tuple[Delivery, Target]]:
    """Have three probes answered by a session that compares in this way."""
    path = tmp_path / "hub.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    monkeypatch.setattr(sessions, "expectations", lambda mapping, events: [None] * len(events))
    monkeypatch.setattr(sessions, "repairs", lambda events, expected, probes: [])

    def run(judged: Any) -> tuple[Delivery, Target]:
        target = Target()
        session = Session("wh", target, None, state, configuration.load(path, {}), Control("deliver:wh"))  # type: ignore[arg-type]
        monkeypatch.setattr(session, "_judged", judged)
        one = Delivery(Pipeline("a", "erp", "public.t", "wh", "", 0.0, "loaded"))
        one.mapping, one.offsets = None, {0: target.offset}  # type: ignore[assignment]
        session.deliveries["a"] = one
        session._answer(one, Work({0: offset(0)}, {0: offset(3)}, [item(n) for n in range(3)], {}))
        return one, target

    return run


def test_a_key_that_cannot_be_compared_stays_open_and_the_others_are_answered(
    state: State, answer: Callable[[Any], tuple[Delivery, Target]]
) -> None:
    def judged(one: Delivery, events: Sequence[ChangeEvent], expected: Any) -> list[Probe]:
        if any((event.key or {})["id"] == 1 for event in events):
            raise Rejected("invalid_value", "out of range")
        return [Probe(event.key or {}, "matched") for event in events]

    one, target = answer(judged)
    answers = {probe.key["id"]: probe.outcome for probe in state.verifications.answers(RUN)}
    assert answers == {0: "matched", 1: "touched", 2: "matched"}
    assert one.error is None
    assert target.offset.next_offset == 3


def test_a_table_that_cannot_be_compared_stops_its_pipeline_alone(
    state: State, answer: Callable[[Any], tuple[Delivery, Target]]
) -> None:
    def judged(one: Delivery, events: Sequence[ChangeEvent], expected: Any) -> list[Probe]:
        raise Fatal("column_missing", "somebody took it away")

    one, target = answer(judged)
    assert one.error is not None
    assert one.error.code == "column_missing"
    assert state.verifications.answers(RUN) == []
    assert target.offset == offset(0)
