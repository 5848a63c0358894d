"""Incidents in the hub's store: one is first, whatever many see; messages are sent by whoever claims them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sync_hub import state_alerts
from sync_hub.state import State
from sync_hub.state_alerts import (
    CLAIM_SECONDS,
    CLOSED_KEPT_SECONDS,
    UNSENT_KEPT_SECONDS,
    Incident,
    Text,
)

LOST = Incident(
    "worker_lost", "target:crm", "degraded", "it is silent", "look", "sync-hub status", ("a", "b"), "me", 100.0, 100.0
)
TEXT = Text("opened", "degraded", "title", "body")
OVER = Text("recovered", "ok", "over", "body")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that does not exist yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    return str(request.getfixturevalue("target_dsn"))


@pytest.fixture
def state(url: str) -> Iterator[State]:
    """A new store."""
    store = State(url)
    yield store
    store.close()


def opened(state: State, incident: Incident = LOST, receivers: tuple[str, ...] = ("r",)) -> Incident:
    number = state.alerts.open(incident, TEXT, receivers)
    assert number is not None
    return msgspec.structs.replace(incident, id=number)


def test_of_many_supervisors_that_see_a_problem_one_opens_it_and_one_closes_it(state: State, url: str) -> None:
    others = [State(url) for _ in range(6)]
    state.check()
    barrier, numbers, closed = threading.Barrier(len(others)), list[int | None](), list[bool]()

    def see(store: State) -> None:
        barrier.wait()
        numbers.append(store.alerts.open(LOST, TEXT, ["r"]))
        barrier.wait()
        (incident,) = store.alerts.open_incidents()
        barrier.wait()
        closed.append(store.alerts.close(incident, OVER, ["r"], 200.0))

    threads = [threading.Thread(target=see, args=(store,)) for store in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len([number for number in numbers if number is not None]) == 1
    assert closed.count(True) == 1
    ((incident, alerts),) = state.alerts.latest(10)
    assert (incident.closed_at, incident.affects, incident.owner) == (200.0, ("a", "b"), "me")
    assert [alert.text.kind for alert in alerts] == ["opened", "recovered"]
    for store in others:
        store.close()


def test_the_same_problem_may_open_again_after_it_was_closed(state: State) -> None:
    first = opened(state)
    assert state.alerts.open(LOST, TEXT, ["r"]) is None
    assert state.alerts.close(first, OVER, [], 200.0)
    assert not state.alerts.close(first, OVER, [], 201.0)
    assert opened(state).id != first.id


def test_a_problem_that_was_seen_meanwhile_is_not_closed(state: State) -> None:
    incident = opened(state)
    state.alerts.seen([incident.id], [], 150.0)
    assert not state.alerts.close(incident, OVER, ["r"], 200.0)
    (again,) = state.alerts.open_incidents()
    assert again.seen_at == 150.0
    assert state.alerts.close(again, OVER, ["r"], 220.0)


def test_it_worsens_once_and_again_only_after_it_was_better(state: State) -> None:
    incident = opened(state)
    assert state.alerts.worsen(incident, TEXT, ["r"], 110.0)
    assert not state.alerts.worsen(incident, TEXT, ["r"], 111.0)
    (failing,) = state.alerts.open_incidents()
    assert (failing.severity, failing.failing_at) == ("failing", 110.0)
    state.alerts.seen([], [incident.id], 120.0)
    state.alerts.ease(failing, "degraded")
    assert state.alerts.open_incidents()[0].severity == "failing", "it was failing again meanwhile"
    state.alerts.ease(state.alerts.open_incidents()[0], "degraded")
    assert state.alerts.open_incidents()[0].severity == "degraded"
    assert state.alerts.worsen(incident, TEXT, ["r"], 300.0)


def test_a_message_is_claimed_by_one_and_comes_back_when_that_one_dies(state: State) -> None:
    opened(state)
    alert = state.alerts.due("r", 100.0)
    assert alert is not None
    assert alert.text == TEXT
    assert state.alerts.claim(alert, 100.0)
    assert not state.alerts.claim(alert, 100.0)
    assert state.alerts.due("r", 100.0 + CLAIM_SECONDS - 1) is None
    again = state.alerts.due("r", 100.0 + CLAIM_SECONDS)
    assert again is not None
    assert (again.id, again.attempts) == (alert.id, 1)
    state.alerts.sent(again, 170.0)
    assert state.alerts.due("r", 1e9) is None


def test_messages_of_an_incident_keep_their_order_and_others_pass_one_that_is_refused(state: State) -> None:
    first = opened(state)
    state.alerts.close(first, OVER, ["r"], 200.0)
    other = opened(state, msgspec.structs.replace(LOST, subject="target:wh"), ("r", "slow"))
    alert = state.alerts.due("r", 200.0)
    assert alert is not None
    assert alert.incident == first.id
    state.alerts.claim(alert, 200.0)
    state.alerts.refused(alert, 205.0, "it answered 500")
    passed = state.alerts.due("r", 210.0)
    assert passed is not None
    assert passed.incident == other.id
    state.alerts.sent(passed, 210.0)
    refused = state.alerts.due("r", 210.0)
    assert refused is not None
    assert (refused.text.kind, refused.error) == ("opened", "it answered 500")
    state.alerts.sent(refused, 211.0)
    last = state.alerts.due("r", 211.0)
    assert last is not None
    assert last.text.kind == "recovered"
    assert state.alerts.due("slow", 211.0) is not None, "receivers do not wait for one another"


def test_what_is_old_is_forgotten_and_what_nobody_takes_given_up(state: State) -> None:
    for number in range(3):
        incident = opened(state, msgspec.structs.replace(LOST, subject=f"target:t{number}"), ("r", "gone"))
        if number:
            state.alerts.close(incident, OVER, ["r"], 100.0 * number)
    assert state.alerts.forget(["r"], 300.0) == 0
    assert state.alerts.due("gone", 1e9) is None, "a receiver that is no longer configured"
    assert state.alerts.due("r", 300.0) is not None
    assert state.alerts.forget(["r"], 300.0 + UNSENT_KEPT_SECONDS) == 5
    state.alerts.forget(["r"], 150.0 + CLOSED_KEPT_SECONDS)
    assert [one.subject for one, _ in state.alerts.latest(10)] == ["target:t0", "target:t2"]


def test_only_the_newest_are_kept(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_alerts, "CLOSED_KEPT", 3)
    for number in range(5):
        state.alerts.close(opened(state, receivers=()), OVER, (), 200.0 + number)
    still = opened(state)
    state.alerts.forget(["r"], 300.0)
    assert [one.closed_at for one, _ in state.alerts.latest(10)] == [None, 204.0, 203.0, 202.0]
    assert state.alerts.open_incidents()[0].id == still.id
