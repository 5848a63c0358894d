"""What is told of a problem and when: once, with its recovery, however it flaps, and however many look at it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sync_hub.alerts import watch
from sync_hub.alerts.receivers import names
from sync_hub.alerts.watch import OVER_SECONDS, Watch
from sync_hub.state import Pause, State
from sync_hub.state_alerts import Text
from sync_hub.web.reader import HealthReader
from tests.hub_state import CONFIG, HubState


class Named:
    """A receiver that only has a name: what is told is read from the state, or from `unstored`."""

    def __init__(self, receiver: str = "json://r") -> None:
        self.receiver = receiver
        self.unstored: list[Text] = []
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    def add(self, text: Text) -> None:
        self.unstored.append(text)


class Watched:
    """A hub that is well, and a supervisor that watches it."""

    def __init__(self, folder: Path, state: str = "") -> None:
        config = CONFIG.replace("sqlite:///state.db", state) if state else CONFIG
        self.hub = HubState(folder, config)
        self.hub.pipeline()
        self.hub.well()
        self.sender = Named()
        self.watch = self.another()

    def another(self) -> Watch:
        """One more supervisor, with a connection of its own."""
        reader = HealthReader(self.hub.settings, State(self.hub.settings.hub.state), self.hub.clock)
        return Watch(reader, reader.state.alerts, [self.sender], lambda: self.hub.now)  # type: ignore[list-item]

    def passes(self, seconds: float, *, well: bool = True, watches: tuple[Watch, ...] = ()) -> None:
        """Time passes, with a look every second, or every five where it is long."""
        end = self.hub.now + seconds
        while self.hub.now < end:
            self.hub.now += 5 if end - self.hub.now > 10 else 1
            if well:
                self.hub.well()
            for one in watches or (self.watch,):
                one._reader.fresh()
                one.look()

    def told(self) -> list[str]:
        """Titles of the messages for the receiver, in order."""
        alerts = [alert for _, found in self.hub.state.alerts.latest(1000) for alert in found]
        return [f"{one.text.kind} {one.text.title}" for one in sorted(alerts, key=lambda one: one.id)]


@pytest.fixture
def world(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


PAUSED = "[acme] degraded: paused (source:erp)"


def test_a_problem_is_told_once_and_its_end_a_minute_after(world: Watched, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sync_hub.alerts.watch")
    world.passes(5)
    assert world.told() == []
    world.hub.state.pause("source:erp", reason="move\nhouse")
    world.passes(3)
    assert world.told() == [f"opened {PAUSED}"]
    assert world.sender.woken == 1
    world.passes(100)
    world.hub.state.resume("source:erp")
    world.passes(OVER_SECONDS - 5)
    assert world.told() == [f"opened {PAUSED}"]
    world.passes(7)
    assert world.told() == [f"opened {PAUSED}", "recovered [acme] recovered: paused (source:erp)"]
    world.passes(100)
    ((incident, (opening, recovery)),) = world.hub.state.alerts.latest(10)
    assert incident.affects == ("customer_to_crm",)
    assert opening.text.body.splitlines() == [
        "the source erp is paused: move house", "resume it when it may go on", "run: sync-hub resume source:erp",
        "affects: customer_to_crm", "owner: customer_to_crm@example.com", "seen at 2027-01-15 08:00:08 UTC",
    ]  # fmt: skip
    assert recovery.text.body.startswith("over: the source erp is paused: move house\nfrom 2027-01-15 08:00:08 UTC to")
    lines = [record for record in caplog.records if getattr(record, "action", "") == "alert"]
    assert [record.levelname for record in lines] == ["WARNING", "INFO"]
    assert [record.getMessage() for record in lines] == [
        "alert opened, degraded: paused source:erp: the source erp is paused: move house",
        "alert recovered: paused source:erp: the source erp is paused: move house",
    ]
    assert [getattr(record, "kind", "") for record in lines] == ["opened", "recovered"]
    assert {getattr(record, "incident", 0) for record in lines} == {incident.id}


def test_what_is_gone_after_a_moment_is_told_to_nobody(world: Watched) -> None:
    for _ in range(10):
        world.hub.state.pause("source:erp")
        world.passes(1)
        world.hub.state.resume("source:erp")
        world.passes(2)
    assert world.told() == []


def test_a_problem_that_comes_and_goes_is_one_incident(world: Watched) -> None:
    for _ in range(6):
        world.hub.state.pause("source:erp")
        world.passes(4)
        world.hub.state.resume("source:erp")
        world.passes(30)
    assert len(world.told()) == 1
    world.passes(OVER_SECONDS)
    assert len(world.told()) == 2
    assert len(world.hub.state.alerts.latest(10)) == 1


def test_it_is_told_that_a_problem_worsens_and_again_only_if_it_was_better_for_long(world: Watched) -> None:
    def parked(count: int, seconds: float) -> None:
        for _ in range(int(seconds)):
            world.hub.now += 1
            world.hub.well()
            world.hub.deliver(pipelines={"customer_to_crm": {"parked": count, "parked_since": world.hub.now - 1}})
            world.watch._reader.fresh()
            world.watch.look()

    subject = "parked (pipeline:customer_to_crm)"
    parked(3, 5)
    parked(100, 5)
    assert world.told() == [f"opened [acme] degraded: {subject}", f"worsened [acme] now failing: {subject}"]
    for _ in range(4):
        parked(3, 10)
        parked(100, 5)
    assert len(world.told()) == 2
    parked(3, OVER_SECONDS + 10)
    parked(100, 5)
    assert world.told()[2:] == [f"worsened [acme] now failing: {subject}"]


def test_a_new_supervisor_knows_what_was_told(world: Watched) -> None:
    world.hub.state.pause("source:erp")
    world.passes(4)
    world.watch = world.another()
    world.passes(20)
    assert len(world.told()) == 1
    world.hub.state.resume("source:erp")
    world.passes(1)
    world.watch = world.another()
    world.passes(OVER_SECONDS + 6)
    assert [one.split()[0] for one in world.told()] == ["opened", "recovered"]


def test_several_supervisors_tell_everything_once(tmp_path: Path, target_dsn: str) -> None:
    world = Watched(tmp_path, target_dsn)
    watches = (world.watch, world.another(), world.another())
    world.hub.state.pause("source:erp")
    world.passes(20, watches=watches)
    world.hub.state.resume("source:erp")
    world.passes(OVER_SECONDS + 10, watches=watches)
    assert [one.split()[0] for one in world.told()] == ["opened", "recovered"]


def test_what_only_one_supervisor_sees_is_not_closed_by_the_others(world: Watched) -> None:
    sees, blind = world.another(), world.watch
    world.hub.state.pause("source:erp")
    world.passes(4, watches=(sees,))
    world.hub.state.resume("source:erp")
    pauses = sees._reader.state.pauses
    sees._reader.state.pauses = lambda: [Pause("source:erp", "", 1.0, None)]  # type: ignore[method-assign]
    world.passes(2 * OVER_SECONDS, watches=(sees, blind))
    assert len(world.told()) == 1
    sees._reader.state.pauses = pauses  # type: ignore[method-assign]
    world.passes(OVER_SECONDS + 6, watches=(sees, blind))
    assert len(world.told()) == 2


def test_workers_that_are_just_being_started_are_no_news(tmp_path: Path) -> None:
    world = Watched(tmp_path)
    for name in ("capture:erp", "deliver:crm", "verify"):
        world.hub.execute("update sync_hub_workers set state = 'stopped' where name = :name", name=name)
    world.watch = world.another()
    world.passes(6, well=False)
    assert world.told() == []
    world.passes(30)
    assert world.told() == []
    world.hub.execute("update sync_hub_workers set state = 'stopped' where name = 'capture:erp'")
    world.watch = world.another()
    world.passes(watch.STARTING_SECONDS + 3, well=False)
    assert "opened [acme] failing: worker_stopped (source:erp)" in world.told(), "but not for ever"


def test_a_state_that_does_not_answer_is_told_from_memory(world: Watched) -> None:
    world.passes(3)
    file = world.hub.file.parents[1] / "state.db"
    file.rename(f"{file}.away")
    world.passes(3, well=False)
    assert [text.title for text in world.sender.unstored] == ["[acme] failing: state_unavailable (hub)"]
    world.passes(8, well=False)
    Path(f"{file}.away").rename(file)
    world.passes(3, well=False)
    world.passes(4)
    assert len(world.sender.unstored) == 1
    assert world.told() == [], "workers could not beat: nobody has lost them"
    world.passes(OVER_SECONDS)
    assert [text.kind for text in world.sender.unstored] == ["opened", "recovered"]
    assert world.told() == []


def test_of_an_address_only_scheme_and_host_are_shown() -> None:
    secret = "canary"
    addresses = {
        f"json://{secret}:{secret}@hooks.example.com:8443/{secret}?token={secret}": "json://hooks.example.com:8443",
        f"JSONS://hooks.example.com/{secret}": "jsons://hooks.example.com",
        f"jsons://[::1]:99/{secret}": "jsons://[::1]:99",
        f"mailto://me:{secret}@example.com": "mailto://example.com",
        f"mailto://me:{secret}/x@example.com": "mailto://…",
        f"mailto://me:{secret}#x@example.com": "mailto://…#2",
        f"json://me:99/{secret}@example.com": "json://…",
        f"json://me:{secret}:{secret}": "json://…#2",
        f"tgram://{secret}/12": "tgram://…",
        f"slack://{secret}/{secret}/{secret}": "slack://…",
        f"json://hooks.example.com:8443/{secret}2": "json://hooks.example.com:8443#2",
        f"https://{secret}.example.com/{secret}": "https://…",
    }
    assert names(list(addresses)) == list(addresses.values())
    assert secret not in str(names(list(addresses)))
