"""The console in a real browser: it refreshes itself, says when it is stale, and works at every width."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, sync_playwright

from tests.hub_state import CONFIG, HubState
from tests.servers.kafka import unavailable
from tests.web_server import served, wait_until

pytestmark = pytest.mark.timeout(100)
"""A browser that does not end is no reason to wait longer."""

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
LONG = "a_pipeline_whose_name_is_far_longer_than_anybody_would_like_it_to_be_on_a_telephone"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    path = os.environ.get("SYNC_HUB_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        unavailable("the console's tests need Chromium (Debian package chromium), or SYNC_HUB_TEST_CHROMIUM=path")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


class Watched:
    """A page, and everything that its scripts and policies complained about."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", self._broke)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error" and "ERR_CONNECTION_REFUSED" not in message.text:
            self.complaints.append(message.text)

    def _broke(self, error: Error) -> None:
        self.complaints.append(str(error))


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages; in the end none of their scripts may have failed, and no policy been broken."""
    opened: list[tuple[BrowserContext, Watched]] = []

    def open_page(address: str, *, width: int = 1400, dark: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", timezone_id="UTC"
        )
        watched = Watched(context)
        opened.append((context, watched))
        watched.page.goto(address)
        return watched.page

    yield open_page
    for context, watched in opened:
        assert watched.complaints == []
        context.close()


@pytest.fixture
def hub(tmp_path: Path) -> HubState:
    """A hub where all is well."""
    world = HubState(tmp_path)
    world.pipeline()
    world.well()
    return world


def test_it_shows_what_is_and_refreshes_itself(hub: HubState, watch: Callable[..., Page]) -> None:
    with served(hub) as address:
        page = watch(address)
        assert page.locator("h1").inner_text() == "All is well"
        assert page.title() == "ok – acme – sync-hub"
        row = page.locator("#pipeline-customer_to_crm")
        assert "running" in row.inner_text()
        page.locator("summary", has_text="Workers").click()
        row.get_by_role("button", name="Pause").focus()
        hub.capture(state="failed", error={"code": "slot_gone", "message": "<b>gone</b>", "hint": "", "command": "x"})
        page.locator(".problem").wait_for(timeout=6000)
        assert page.locator("h1").inner_text() == "Failing"
        assert "slot_gone: <b>gone</b>" in page.locator(".problem .what").inner_text()
        assert page.title().startswith("failing")
        problems, pipelines = page.locator("#problems").bounding_box(), page.locator("#pipelines").bounding_box()
        assert problems
        assert pipelines
        assert problems["y"] < pipelines["y"], "problems come first"
        assert page.locator("#workers-details").get_attribute("open") is not None, "what was opened stays open"
        focused = page.evaluate("document.activeElement.dataset.name")
        assert focused == "pipeline:customer_to_crm", "focus stays where it was"


def test_it_says_when_the_hub_does_not_answer_and_recovers(hub: HubState, watch: Callable[..., Page]) -> None:
    with served(hub) as address:
        page = watch(address)
        assert page.locator("#stale").is_hidden()
    page.locator("#stale").wait_for(state="visible", timeout=15_000)
    assert "does not answer" in page.locator("#stale").inner_text()
    assert page.title() == "no answer – sync-hub"
    assert float(page.evaluate("getComputedStyle(document.getElementById('live')).opacity")) < 1
    with served(hub, port=int(address.rpartition(":")[2])):
        page.locator("#stale").wait_for(state="hidden", timeout=15_000)
        assert page.locator("h1").inner_text() == "All is well"


def test_it_says_when_the_state_cannot_be_read(hub: HubState, watch: Callable[..., Page]) -> None:
    hub.execute("drop table sync_hub_workers")
    with served(hub) as address:
        page = watch(address)
        assert page.locator("h1").inner_text() == "Failing"
        assert "cannot be read" in page.locator("#live").inner_text()
        assert page.locator("table.pipelines").count() == 0, "nothing stale is shown as if it were true"


def test_pause_and_resume_by_hand(hub: HubState, watch: Callable[..., Page]) -> None:
    with served(hub) as address:
        page = watch(address)
        page.get_by_role("button", name="Pause pipeline customer_to_crm").click()
        page.get_by_label("For").select_option("2h")
        page.get_by_label("Why").fill("moving <house>")
        page.locator("dialog button[value=pause]").click()
        resume = page.get_by_role("button", name="Resume pipeline customer_to_crm", exact=True)
        resume.wait_for(timeout=6000)
        (pause,) = hub.state.pauses()
        assert (pause.subject, pause.reason) == ("pipeline:customer_to_crm", "moving <house>")
        assert "moving <house>" in page.locator("#problems").inner_text()
        resume.click()
        page.get_by_role("button", name="Pause pipeline customer_to_crm").wait_for(timeout=6000)
        assert hub.state.pauses() == []


def test_enter_in_the_dialog_pauses_and_cancel_leaves_it(hub: HubState, watch: Callable[..., Page]) -> None:
    with served(hub) as address:
        page = watch(address)
        pause = page.get_by_role("button", name="Pause pipeline customer_to_crm")
        pause.click()
        page.locator("#pause").get_by_role("button", name="Cancel").click()
        page.locator("#pause").wait_for(state="hidden")
        pause.click()
        page.get_by_label("Why").fill("a move")
        page.get_by_label("Why").press("Enter")
        page.get_by_role("button", name="Resume pipeline customer_to_crm", exact=True).wait_for(timeout=6000)
        assert [one.reason for one in hub.state.pauses()] == ["a move"]


def test_login_by_token(tmp_path: Path, watch: Callable[..., Page]) -> None:
    hub = HubState(tmp_path, CONFIG + "http: {token: 'a long token'}\n")
    hub.pipeline()
    hub.well()
    with served(hub) as address:
        page = watch(address + "/login")
        page.get_by_label("Token").fill("a long token")
        page.get_by_role("button", name="Log in").click()
        page.locator("h1", has_text="All is well").wait_for()
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Token").wait_for()


def test_a_view_is_verified_and_repaired_by_hand(hub: HubState, watch: Callable[..., Page]) -> None:
    hub.verification("v1", age=120, report={"different": 3})
    with served(hub) as address:
        page = watch(address)
        proof = page.locator("#pipeline-customer_to_crm .proof")
        assert "differs" in proof.inner_text()
        assert "verified 2 m ago, 3 different" in " ".join(proof.inner_text().split())
        page.get_by_role("button", name="Repair customer_to_crm", exact=True).click()
        page.locator("#confirm").get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Repair customer_to_crm", exact=True).click()
        page.locator("#confirm-verb", has_text="Repair").click()
        stop = page.get_by_role("button", name="Stop verifying customer_to_crm")
        stop.wait_for(timeout=6000)
        (asked,) = [one for one in hub.state.verifications.all() if one.state == "waiting"]
        assert asked.options.repair, "once, and only when it was confirmed"
        stop.click()
        page.get_by_role("button", name="Verify customer_to_crm", exact=True).click()
        page.locator("#said", has_text="customer_to_crm is verified").wait_for()
        (asked,) = [one for one in hub.state.verifications.all() if one.state == "waiting"]
        assert not asked.options.repair
        hub.state.verifications.cancel([asked.id])
        hub.verification("v2", age=0)
        proof.get_by_text("equal").wait_for(timeout=6000)
        assert page.get_by_role("button", name="Repair customer_to_crm", exact=True).count() == 0


def test_loading_is_paused_resumed_and_given_up_by_hand(hub: HubState, watch: Callable[..., Page]) -> None:
    hub.state.reload(["customer_to_crm"], "asked")
    hub.state.advance_phase(["customer_to_crm"], "loading", only_from=["adopting"])
    hub.deliver(pipelines={"customer_to_crm": {"state": "reloading"}})
    hub.snapshot("s1", reason="reload")
    with served(hub) as address:
        page = watch(address)
        row = page.locator("#pipeline-customer_to_crm")
        assert "reloading" in row.locator(".state").inner_text()
        assert "5 of about 10 rows" in row.inner_text()
        assert page.get_by_role("button", name="Verify customer_to_crm", exact=True).count() == 0, (
            "not while it is loaded"
        )
        loading = page.locator("#snapshot-s1")
        assert loading.locator("progress").get_attribute("value") == "5"
        for action, state in (("Pause", "paused"), ("Resume", "waiting")):
            loading.get_by_role("button", name=action).click()
            loading.get_by_text(state).wait_for(timeout=6000)
        loading.get_by_role("button", name="Cancel").click()
        page.locator("#confirm-verb", has_text="Give up").click()
        loading.wait_for(state="detached", timeout=6000)
        (snapshot,) = hub.state.snapshots.all()
        assert snapshot.state == "cancelled"
        assert "its loading was given up" in page.locator("#problems").inner_text()


def crowd(hub: HubState, count: int) -> None:
    for number in range(count):
        hub.pipeline(f"pipeline_{number:03d}")
    hub.pipeline(LONG)
    names = ["customer_to_crm", LONG, *(f"pipeline_{number:03d}" for number in range(count))]
    failed = {"state": "failed", "error": {"code": "23502", "message": "x" * 300, "hint": "y " * 60, "command": LONG}}
    hub.deliver(pipelines={name: failed if name == LONG else {} for name in names})
    hub.capture(snapshot={"id": "s1", "table": "public." + LONG, "rows_done": 3, "rows_estimated": 9, "eta_seconds": 8})
    hub.snapshot("s1", LONG)
    hub.snapshot("s2", *names, reason="asked", state="paused")
    hub.verification("v1", age=60, report=dict.fromkeys(("different", "missing", "extra", "busy", "repaired"), 10**9))
    hub.verification("v2", pipeline=LONG, age=None)


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("pipelines", [0, 1, 200])
def test_nothing_overflows_at_any_width(hub: HubState, watch: Callable[..., Page], width: int, pipelines: int) -> None:
    if pipelines:
        crowd(hub, pipelines)
    else:
        hub.state.remove_pipeline("customer_to_crm")
    with served(hub) as address:
        page = watch(address, width=width, dark=width == 400)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        too_wide = """[...document.querySelectorAll('#live *')].filter(e => !e.closest('.hidden, thead, details'))
            .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120))"""
        assert page.evaluate(too_wide) == []
        rows = page.locator("table.pipelines tbody tr")
        assert rows.count() == (pipelines + 2 if pipelines else 0)
        if not pipelines:
            assert "No pipelines yet" in page.locator("#pipelines").inner_text()
        else:
            assert rows.first.get_attribute("id") == f"pipeline-{LONG}", "what fails comes first"
        if pipelines == 200:
            page.get_by_label("Filter pipelines").fill("pipeline_19")
            wait_until(lambda: page.locator("table.pipelines tbody tr:visible").count() == 10)
            page.get_by_label("Filter pipelines").fill("none like this")
            assert page.locator("#nothing").is_visible()


def test_everything_can_be_reached_and_read_without_seeing(hub: HubState, watch: Callable[..., Page]) -> None:
    crowd(hub, 10)
    with served(hub) as address:
        page = watch(address)
        unnamed = """[...document.querySelectorAll('button, input, select, progress, a[href]')].filter(e =>
            !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"""
        assert page.evaluate(unnamed) == []
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.locator("main").count() == 1
        assert page.locator("h1").count() == 1
        names = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(names) == len(set(names)), "ids are unique"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast(hub: HubState, watch: Callable[..., Page], dark: bool) -> None:
    crowd(hub, 1)
    hub.state.pause("source:erp", reason="why not")
    measure = """() => {
      const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
      const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const ground = (e) => { for (; e; e = e.parentElement) {
        const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
      const poor = [];
      for (const e of document.querySelectorAll('body *')) {
        if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
        const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
        const ratio = (a + .05) / (b + .05);
        if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${e.className} ${e.textContent.trim().slice(0, 40)}`);
      }
      return poor;
    }"""
    with served(hub) as address:
        page = watch(address, dark=dark)
        assert page.evaluate(measure) == []


def test_targets_are_shown_and_what_failed_is_tried_again_by_hand(hub: HubState, watch: Callable[..., Page]) -> None:
    hub.pipeline("other_to_crm")
    error = {"code": "check_violated", "message": "no", "hint": "mend it", "command": ""}
    failed = {"state": "failed", "waiting_for": "person", "error": error}
    hub.deliver(pipelines={"customer_to_crm": failed, "other_to_crm": {}})
    with served(hub) as address:
        page = watch(address)
        assert "What customer_to_crm is for" in page.locator("#pipeline-customer_to_crm").inner_text()
        target = page.locator("#target-crm")
        assert "failed" in target.locator(".state").inner_text()
        target.get_by_role("button", name="Try target crm again").wait_for()
        page.get_by_role("button", name="Try pipeline other_to_crm again").wait_for(state="detached")
        page.get_by_role("button", name="Try pipeline customer_to_crm again").click()
        page.locator("#said", has_text="pipeline customer_to_crm is tried again").wait_for()
        (asked,) = hub.state.wishes("deliver:crm")[1]
        assert (asked.action, asked.arguments) == ("retry", {"pipeline": "customer_to_crm"})
        target.get_by_role("button", name="Pause target crm").click()
        page.locator("dialog button[value=pause]").click()
        row = page.locator("#pipeline-customer_to_crm")
        row.get_by_role("button", name="Resume target crm").wait_for()
        assert row.get_by_role("button").inner_text() == "Resume target crm", "it says that more than this one goes on"
        row.get_by_role("button").click()
        page.locator("#said", has_text="2 pipelines").wait_for()
