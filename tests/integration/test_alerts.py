"""Messages and calls to real receivers: refused, hanging, gone and back, other supervisors, secrets."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from sync_hub.alerts import heartbeat as heartbeat_module
from sync_hub.alerts.heartbeat import Heartbeat
from sync_hub.alerts.receivers import load, names
from sync_hub.alerts.sender import Sender
from sync_hub.alerts.texts import trial
from sync_hub.errors import ConfigError
from sync_hub.settings import Heartbeat as HeartbeatSettings
from sync_hub.state import State
from sync_hub.state_alerts import Incident, Text
from tests.hub_state import HubState
from tests.servers.receiver import Receiver, receiving, wait_until
from tests.web_server import served

SECRET = "canary-4711"
LOGIN = f"{SECRET}:{SECRET}@"
LOST = Incident("worker_lost", "target:crm", "failing", "it is silent", opened_at=100.0, seen_at=100.0)
TEXT = Text("opened", "failing", "lost", "it is silent")
OVER = Text("recovered", "ok", "over", "it was silent")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """Everything that reaches the hub's log when it is told to log all."""
    root, handler, records = logging.getLogger(), logging.Handler(), list[logging.LogRecord]()
    handler.emit = records.append  # type: ignore[method-assign]
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield records
    root.setLevel(level)
    root.removeHandler(handler)


def text_of(records: list[logging.LogRecord]) -> str:
    return "\n".join(record.getMessage() for record in records)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    store = State(f"sqlite:///{tmp_path}/state.db")
    store.check()
    yield store
    store.close()


def sender(receiver: Receiver, state: State, path: str = f"/{SECRET}", **options: str) -> Sender:
    (one,) = load([receiver.address(path=path, **options)])
    return Sender(one, state.alerts)


def told(state: State, *senders: Sender, text: Text = TEXT) -> None:
    """An incident with its message, for each of the senders."""
    state.alerts.open(LOST, text, [one.receiver for one in senders])
    for one in senders:
        one.wake()


def test_a_message_arrives_with_its_kind_title_and_text(receiver: Receiver, state: State) -> None:
    one = sender(receiver, state)
    one.start()
    told(state, one)
    message = wait_until(lambda: receiver.taken, "it is taken")[0]
    assert (message["type"], message["title"], message["message"]) == ("failure", "lost", "it is silent")
    ((_, (alert,)),) = wait_until(
        lambda: [found for found in state.alerts.latest(1) if found[1][0].sent_at], "it is known to be taken"
    )
    assert (alert.attempts, alert.error) == (1, "")


def test_a_receiver_that_is_gone_gets_everything_in_order_when_it_is_back(
    receiver: Receiver, state: State, logged: list[logging.LogRecord]
) -> None:
    receiver.stop()
    one = sender(receiver, state, login=LOGIN)
    told(state, one)
    (incident,) = state.alerts.open_incidents()
    state.alerts.close(incident, OVER, [one.receiver], 200.0)
    one.start()
    error = wait_until(lambda: state.alerts.latest(1)[0][1][0].error, "it was tried")
    assert error == "no connection"
    receiver.start()
    wait_until(lambda: len(receiver.taken) == 2, "both are taken")
    assert receiver.titles == ["lost", "over"]
    wait_until(lambda: any("again" in record.getMessage() for record in logged), "the log says so")
    actions = [getattr(record, "action", "") for record in logged]
    assert actions.count("alert_not_taken") == actions.count("alert_taken") == 1, "once, not for each attempt"
    assert SECRET not in text_of(logged)


def test_what_one_process_did_not_send_the_next_one_sends(receiver: Receiver, tmp_path: Path) -> None:
    receiver.status = 503
    first = State(f"sqlite:///{tmp_path}/state.db")
    one = sender(receiver, first)
    told(first, one)
    assert one.turn() > 0
    first.close()
    receiver.status = 200
    with_clock = State(f"sqlite:///{tmp_path}/state.db")
    (again,) = load([receiver.address(path=f"/{SECRET}")])
    later = Sender(again, with_clock.alerts, clock=lambda: time.time() + 60)
    assert later.turn() == 0
    assert receiver.titles == ["lost"]
    assert with_clock.alerts.latest(1)[0][1][0].attempts == 2
    with_clock.close()


def test_one_that_hangs_delays_no_other_and_several_supervisors_send_once(state: State) -> None:
    with receiving() as hangs, receiving() as answers:
        hangs.hold.clear()
        slow, others = sender(hangs, state), [sender(answers, state) for _ in range(3)]
        slow.start()
        for one in others:
            one.start()
        began = time.monotonic()
        told(state, slow, others[0])
        for one in others:
            one.wake()
        wait_until(lambda: answers.taken, "the other has it", 3)
        assert time.monotonic() - began < 3
        wait_until(lambda: state.alerts.latest(1)[0][1][1].sent_at, "it is known to be taken")
        assert not hangs.taken
        assert answers.titles == ["lost"]


def test_a_message_that_cannot_be_stored_is_tried_again_from_memory(receiver: Receiver, state: State) -> None:
    receiver.status = 500
    one = sender(receiver, state)
    one.add(TEXT)
    assert one.turn() > 0
    receiver.status = 200
    assert one.turn() == 0
    assert receiver.titles == ["lost"]


def test_answers_that_lead_elsewhere_are_not_followed(receiver: Receiver) -> None:
    with receiving() as inner:
        receiver.status, receiver.location = 307, inner.address("http")
        (one,) = load([receiver.address()])
        assert one.send(trial("acme")) == "it answered 307"
        calls = Heartbeat(HeartbeatSettings(url=receiver.address("http")), lambda: "ok")
        calls.beat()
        assert inner.asked == []


def test_a_service_that_breaks_is_one_that_does_not_take(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = load([receiver.address()])
    monkeypatch.setattr(one._service, "send", None)
    assert one.send(trial("acme")) == "apprise failed with TypeError"


@pytest.mark.parametrize("address", [f"tgrm://{SECRET}", f"mailto://me:{SECRET}@", f"https://127.0.0.1/{SECRET}"])
def test_a_receiver_that_apprise_does_not_know_is_named_without_its_secret(
    address: str, logged: list[logging.LogRecord]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load([address])
    assert caught.value.code == "bad_receiver"
    assert SECRET not in str(caught.value) + text_of(logged)


class Calls:
    """A heartbeat whose clock and status a test sets."""

    def __init__(self, url: str, every: float = 60) -> None:
        self.now, self.status = 0.0, "ok"
        settings = HeartbeatSettings(url=url, every=every)
        self._heartbeat = Heartbeat(settings, lambda: self.status, lambda: self.now)

    def at(self, now: float, status: str = "ok") -> None:
        self.now, self.status = now, status
        self._heartbeat.beat()


def test_the_heartbeat_calls_while_nothing_is_failing(receiver: Receiver) -> None:
    calls = Calls(receiver.address("http", f"/{SECRET}"))
    calls.at(0, "failing")
    assert receiver.asked == []
    calls.at(1)
    calls.at(30, "degraded")
    assert receiver.asked == [f"/{SECRET}"]
    calls.at(61, "degraded")
    assert len(receiver.asked) == 2
    calls.at(200, "failing")
    assert len(receiver.asked) == 2
    calls.at(201)
    assert len(receiver.asked) == 3


def test_a_heartbeat_that_fails_is_logged_once_and_tried_again_soon(
    receiver: Receiver, logged: list[logging.LogRecord]
) -> None:
    calls = Calls(receiver.address("http", f"/{SECRET}"))
    receiver.status = 500
    calls.at(0)
    calls.at(heartbeat_module.AGAIN_SECONDS + 1)
    receiver.stop()
    calls.at(3 * heartbeat_module.AGAIN_SECONDS)
    receiver.start()
    receiver.status = 200
    calls.at(5 * heartbeat_module.AGAIN_SECONDS)
    said = [record.getMessage() for record in logged if getattr(record, "action", "") == "heartbeat"]
    assert said == ["heartbeat does not reach 127.0.0.1: it answered 500", "heartbeat reaches 127.0.0.1 again"]
    assert SECRET not in text_of(logged)


def test_a_heartbeat_nobody_answers_gives_up_soon(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat_module, "TIMEOUT_SECONDS", 0.2)
    receiver.hold.clear()
    calls = Calls(receiver.address("http"))
    began = time.monotonic()
    calls.at(0)
    assert time.monotonic() - began < 2


@contextmanager
def hub_with_an_incident(folder: Path) -> Iterator[HubState]:
    hub = HubState(folder)
    hub.pipeline()
    hub.well()
    hub.state.alerts.open(
        Incident("parked", "pipeline:x", "degraded", "x <b>holds</b> 3", opened_at=hub.now, seen_at=hub.now),
        TEXT,
        names([f"tgram://{SECRET}/12"]),
    )
    yield hub
    hub.state.close()


def test_incidents_are_in_the_api_and_on_the_console(tmp_path: Path) -> None:
    with (
        hub_with_an_incident(tmp_path) as hub,
        served(hub) as address,
        httpx.Client(base_url=address) as web,
    ):
        (one,) = web.get("/api/alerts").json()
        assert (one["state"], one["severity"], one["code"], one["closed_at"]) == ("open", "degraded", "parked", None)
        alert = {name: one["alerts"][0][name] for name in ("kind", "receiver", "sent_at", "attempts", "error")}
        assert alert == {"kind": "opened", "receiver": "tgram://…", "sent_at": None, "attempts": 0, "error": None}
        page = web.get("/fragment").text
        assert "1 open" in page
        assert "x &lt;b&gt;holds&lt;/b&gt; 3" in page
        assert "1 of 1 wait" in page
        (incident,) = hub.state.alerts.open_incidents()
        hub.state.alerts.close(incident, OVER, [], hub.now)
        assert web.get("/api/alerts?limit=1").json()[0]["state"] == "over"
        assert web.get("/api/alerts?limit=0").status_code == 422
        assert "0 open" in web.get("/fragment").text
        assert SECRET not in json.dumps(web.get("/api/alerts").json()) + page
