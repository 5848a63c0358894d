"""Parked records over HTTP and on their page: what is shown, tried again and discarded is in the target itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from sync_hub.web import api_parked
from sync_hub.web.console import RECORDS_SHOWN, on_one_page
from tests.hub_state import CONFIG, HubState
from tests.integration.test_web_browser import browser, pytestmark, watch
from tests.parked_rows import FIRST_AT, PIPELINE, hold, row
from tests.web_server import served, wait_until

__all__ = ["browser", "pytestmark", "watch"]


@pytest.fixture
def hub(tmp_path: Path) -> HubState:
    """A hub whose target holds three records."""
    world = HubState(tmp_path)
    world.pipeline()
    world.well()
    hold(world, [row(1), row(2, next_at=FIRST_AT + 5, attempts=2), row(3, code="odd", key='{"id":3}')])
    return world


@pytest.fixture
def address(hub: HubState) -> Iterator[str]:
    """Where it is served."""
    with served(hub) as address:
        yield address


def states(hub: HubState) -> dict[int, str]:
    """What the target says of each record."""
    sink = hub.settings.sink("crm")
    found = {one.seq: one.state for one in sink.find_parked([PIPELINE], closed=True)}
    sink.close()
    return found


def test_records_are_found_shown_tried_again_and_discarded(hub: HubState, address: str) -> None:
    with httpx.Client(base_url=f"{address}/api") as client:
        answer = client.get("/parked").json()
        assert (answer["total"], answer["silent"]) == (3, {})
        listed = answer["records"]
        assert [one["id"] for one in listed] == [f"{PIPELINE}:0-{number}" for number in (1, 2, 3)]
        assert "event" not in listed[0]
        assert (listed[0]["target"], listed[0]["table"]) == ("crm", "public.customers")
        for query, count in (
            ({"code": "odd"}, 1),
            ({"key": "2"}, 1),
            ({"pipeline": PIPELINE}, 3),
            ({"until": "1h"}, 3),
        ):
            assert client.get("/parked", params=query).json()["total"] == count, query
        one = client.get(f"/parked/{PIPELINE}:0-1").json()
        assert one["event"]["after"] == {"id": 1, "name": "<b>Ada 1</b>"}
        assert client.post("/parked/retry", json={"ids": [f"{PIPELINE}:0-1"]}).json() == {"records": 1, "held_up": []}
        assert client.post("/parked/discard", json={"code": "odd", "reason": "not ours"}).json() == {"records": 1}
        assert states(hub) == {1: "parked", 2: "parked", 3: "discarded"}
        again = client.get(f"/parked/{PIPELINE}:0-1").json()
        assert (again["attempts"], again["next_at"] is not None) == (0, True)
        assert client.get("/parked", params={"closed": True}).json()["records"][2]["reason"] == "not ours"
        for path, body, code in (
            ("/retry", {}, "nothing_chosen"),
            ("/retry", {"all": True, "code": "x"}, "nothing_chosen"),
            ("/discard", {"all": True, "reason": " "}, "reason_missing"),
            ("/retry", {"ids": ["nobody:0-1"]}, "unknown_parked"),
        ):
            answer = client.post(f"/parked{path}", json=body)
            assert (answer.status_code, answer.json()["code"]) == (400, code)
        assert client.post("/parked/discard", json={"all": True}).status_code == 422
        assert client.get("/parked", params={"pipeline": "nobody"}).status_code == 400
        assert client.post("/parked/retry", json={"all": True}).json() == {"records": 2, "held_up": []}
    (request,) = {one.action for one in hub.state.wishes("deliver:crm")[1]}
    assert request == "parked", "its worker is told"


def test_the_page_shows_events_and_their_errors_and_acts(
    hub: HubState, address: str, watch: Callable[..., Page]
) -> None:
    page = watch(f"{address}/parked?pipeline={PIPELINE}")
    assert page.locator("li.problem").count() == 3
    first = page.locator(f'[id="parked-{PIPELINE}:0-1"]')
    assert "waits for a person" in first.inner_text()
    first.locator("summary").click()
    assert '"name": "<b>Ada 1</b>"' in first.locator("pre").inner_text()
    first.get_by_role("button", name="Discard").click()
    page.get_by_label("Reason").fill("it is wrong")
    page.locator("#confirm-verb").click()
    wait_until(lambda: states(hub)[1] == "discarded")
    expect(page.locator("li.problem")).to_have_count(2)
    page.get_by_role("button", name="Try all 2 shown again").click()
    page.locator("#confirm-verb").click()
    wait_until(lambda: hub.settings.sink("crm").find_parked([PIPELINE])[0].attempts == 0)
    page.get_by_label("Error code").fill("nothing")
    page.get_by_role("button", name="Show", exact=True).click()
    assert "Nothing is parked that fits" in page.locator("main").inner_text()


def test_enter_in_the_dialog_discards_and_cancel_leaves_it(
    hub: HubState, address: str, watch: Callable[..., Page]
) -> None:
    page = watch(f"{address}/parked")
    button = page.get_by_role("button", name=f"Discard {PIPELINE}:0-1")
    button.click()
    page.locator("#confirm").get_by_role("button", name="Cancel").click()
    page.locator("#confirm").wait_for(state="hidden")
    button.click()
    page.get_by_label("Reason").press("Enter")
    assert page.locator("#confirm").is_visible(), "a reason is asked for"
    page.get_by_label("Reason").fill("it is wrong")
    assert states(hub)[1] == "parked"
    page.get_by_label("Reason").press("Enter")
    wait_until(lambda: states(hub)[1] == "discarded")


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_page(address: str, watch: Callable[..., Page], width: int) -> None:
    page = watch(f"{address}/parked", width=width)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def broken(hub: HubState, target: str) -> None:
    """Have a target not answer."""
    path = hub.settings.targets[target].options.path
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.fixture
def two(tmp_path: Path) -> HubState:
    """A hub with two targets; the first holds a record, the other does not answer."""
    world = HubState(tmp_path, CONFIG.replace("mappings:", "  wh: {type: sqlite, path: wh.db}\nmappings:"))
    world.pipeline()
    world.pipeline("customer_to_wh", target="wh")
    world.well()
    hold(world, [row(1)])
    broken(world, "wh")
    return world


def test_a_target_that_does_not_answer_hides_nothing_of_others(two: HubState) -> None:
    with served(two) as address:
        answer = httpx.get(f"{address}/api/parked")
        assert answer.status_code == 503
        assert [one["id"] for one in answer.json()["records"]] == [f"{PIPELINE}:0-1"]
        assert answer.json()["silent"]["wh"]["code"]
        page = httpx.get(f"{address}/parked").text
        assert "wh does not answer" in page
        assert f"{PIPELINE}:0-1" in page
        other = httpx.get(f"{address}/parked", params={"pipeline": "customer_to_wh"}).text
        assert "wh does not answer" in other
        assert "Nothing is parked" not in other, "nobody knows"
        assert httpx.get(f"{address}/api/parked", params={"pipeline": PIPELINE}).status_code == 200
        refused = httpx.post(f"{address}/api/parked/retry", json={"all": True})
        assert refused.status_code == 503, "all means all: nothing was changed"
        assert httpx.post(f"{address}/api/parked/retry", json={"pipelines": [PIPELINE]}).json()["records"] == 1


def test_more_than_a_thousand_are_counted(hub: HubState, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_parked, "MOST", 2)
    answer = httpx.get(f"{address}/api/parked").json()
    assert (answer["total"], len(answer["records"])) == (3, 2)


def test_what_cannot_be_asked_is_one_line(hub: HubState, address: str) -> None:
    with httpx.Client(base_url=f"{address}/api/parked") as client:
        for params in ({"limit": 5}, {"closed": "perhaps"}, {"code": "x" * 201}):
            answer = httpx.get(f"{address}/api/parked", params=params)
            assert (answer.status_code, answer.json()["code"]) == (422, "bad_request"), params
            assert next(iter(params)) in answer.json()["message"]
        for body in (b"{", b"", b"\xff", b"[" * 60_000):
            answer = client.post("/retry", content=body, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()["code"]) == (422, "bad_request"), body[:3]
        assert answer.json()["message"] == "the body is no JSON"
        assert client.get("/nobody:0-1").status_code == 404


def test_what_is_over_is_told(hub: HubState, address: str, watch: Callable[..., Page]) -> None:
    with httpx.Client(base_url=f"{address}/api/parked") as client:
        client.post("/discard", json={"ids": [f"{PIPELINE}:0-1"], "reason": "not ours"})
        for path in ("/retry", "/discard"):
            answer = client.post(path, json={"ids": [f"{PIPELINE}:0-1"]} | ({"reason": "x"} if "dis" in path else {}))
            assert answer.json()["code"] == "unknown_parked"
            assert answer.json()["message"].startswith(f"{PIPELINE}:0-1 is over: discarded 20")
            assert answer.json()["message"].endswith("Z: not ours")
    page = watch(f"{address}/parked?closed=true")
    edge = "getComputedStyle(document.querySelector('[id=\"parked-customer_to_crm:0-%d\"]')).borderLeftColor"
    assert page.evaluate(edge % 1) != page.evaluate(edge % 2), "what is over is marked as nothing to look after"
    assert "over" in page.locator(f'[id="parked-{PIPELINE}:0-1"]').inner_text()


def test_a_pipeline_that_tries_nothing_is_told_with_what_to_type(
    hub: HubState, address: str, watch: Callable[..., Page]
) -> None:
    hub.deliver(pipelines={PIPELINE: {"state": "failed", "waiting_for": "person"}})
    answer = httpx.post(f"{address}/api/parked/retry", json={"ids": [f"{PIPELINE}:0-1"]}).json()
    held = {"pipeline": PIPELINE, "state": "failed", "command": f"sync-hub resume pipeline:{PIPELINE}"}
    assert answer == {"records": 1, "held_up": [held]}
    page = watch(f"{address}/parked")
    assert "its pipeline has stopped: a person is needed" in page.locator(f'[id="parked-{PIPELINE}:0-2"]').inner_text()
    assert f"sync-hub resume pipeline:{PIPELINE}" in page.locator(".banner", has_text="nothing of it").inner_text()


def test_the_console_leads_to_the_page_also_when_nothing_is_parked(tmp_path: Path, watch: Callable[..., Page]) -> None:
    world = HubState(tmp_path)
    world.pipeline()
    world.well()
    with served(world) as address:
        page = watch(address)
        page.get_by_role("link", name="Parked records").click()
        assert "Nothing is parked." in page.locator("main").inner_text()


def test_a_page_has_no_more_records_than_a_browser_can_show() -> None:
    sizes = [1_000_000, 900_000, 200_000, 1]
    rows = [row(number, record_bytes=size) for number, size in enumerate(sizes)]
    assert on_one_page(rows) == rows[:2]
    assert on_one_page([row(1, record_bytes=50_000_000), *rows]) == [row(1, record_bytes=50_000_000)]
    assert len(on_one_page([row(number) for number in range(500)])) == RECORDS_SHOWN
    assert on_one_page([]) == []
