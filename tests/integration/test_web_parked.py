"""Parked records over HTTP and on their page: what is shown, tried again and discarded is in the target itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace
from playwright.sync_api import Page

from sync_hub.envelope import Encoder
from sync_hub.model import ChangeEvent, Offset, Parked, SinkBatch, version_prefix, version_suffix
from tests.hub_state import HubState
from tests.integration.test_web_browser import browser, watch
from tests.web_server import served, wait_until

__all__ = ["browser", "watch"]

PIPELINE = "customer_to_crm"
TOPIC = "erp.public.customers"
NOW = 1_795_000_000.0


def row(number: int, **changes: object) -> Parked:
    """The record of one customer."""
    event = ChangeEvent(
        source="erp",
        schema="public",
        table="customers",
        operation="update",
        key={"id": number},
        before=None,
        after={"id": number, "name": f"<b>Ada {number}</b>"},
        version=version_prefix(1, 7) + version_suffix(number),
        committed_at=1,
    )
    (record,) = Encoder().encode([event])
    parked = Parked(
        pipeline=PIPELINE,
        topic=TOPIC,
        partition=0,
        seq=number,
        offset=number,
        key=f'{{"id":{number}}}',
        version=event.version,
        state="parked",
        code="check_violated",
        message=f"public.customers {{'id': {number}}}: refused",
        hint="mend the row",
        attempts=8,
        first_at=NOW + number,
        last_at=NOW + number,
        record_key=record.key,
        record_value=record.value,
    )
    return replace(parked, **changes)


@pytest.fixture
def hub(tmp_path: Path) -> HubState:
    """A hub whose target holds three records."""
    world = HubState(tmp_path)
    world.pipeline()
    world.well()
    sink = world.settings.sink("crm")
    sink.open()
    before = Offset(PIPELINE, TOPIC, 0, "0" * 32, 9, "", "hash")
    sink.start_offsets([before])
    parked = [row(1), row(2, next_at=NOW + 5, attempts=2), row(3, code="odd", key='{"id":3}')]
    sink.write(SinkBatch([(before, replace(before, parked_seq=4))], [], parked))
    sink.close()
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
        listed = client.get("/parked").json()
        assert [one["id"] for one in listed] == [f"{PIPELINE}:0-{number}" for number in (1, 2, 3)]
        assert "event" not in listed[0]
        for query, count in (
            ({"code": "odd"}, 1),
            ({"key": "2"}, 1),
            ({"pipeline": PIPELINE}, 3),
            ({"until": "1h"}, 3),
        ):
            assert len(client.get("/parked", params=query).json()) == count, query
        one = client.get(f"/parked/{PIPELINE}:0-1").json()
        assert one["event"]["after"] == {"id": 1, "name": "<b>Ada 1</b>"}
        assert client.post("/parked/retry", json={"ids": [f"{PIPELINE}:0-1"]}).json() == {"records": 1}
        assert client.post("/parked/discard", json={"code": "odd", "reason": "not ours"}).json() == {"records": 1}
        assert states(hub) == {1: "parked", 2: "parked", 3: "discarded"}
        again = client.get(f"/parked/{PIPELINE}:0-1").json()
        assert (again["attempts"], again["next_at"] is not None) == (0, True)
        assert client.get("/parked", params={"closed": True}).json()[2]["reason"] == "not ours"
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
        assert client.post("/parked/retry", json={"all": True}).json() == {"records": 2}
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
    page.wait_for_function("document.querySelectorAll('li.problem').length === 2")
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


def test_a_target_that_does_not_answer_is_told_on_the_page(hub: HubState, address: str) -> None:
    hub.settings.targets["crm"].options.path.unlink()
    hub.settings.targets["crm"].options.path.mkdir()
    answer = httpx.get(f"{address}/parked")
    assert answer.status_code == 200
    assert "banner failing" in answer.text
