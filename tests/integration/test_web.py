"""The web application over HTTP: health for machines, metrics, the API, and who is let in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from sync_hub.model import Column, Table
from tests.hub_state import CONFIG, HubState
from tests.web_server import served

TOKEN = "token-canary-4711"
PIPELINE = "customer_to_crm"
METRICS = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


@pytest.fixture
def hub(tmp_path: Path) -> HubState:
    """A hub where all is well."""
    world = HubState(tmp_path)
    world.pipeline()
    world.well()
    return world


@pytest.fixture
def web(hub: HubState) -> Iterator[httpx.Client]:
    """A client of that hub, without a token."""
    with served(hub) as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a hub that wants a token."""
    world = HubState(tmp_path / "guarded", CONFIG + f'http: {{token: "{TOKEN}", hosts: [hub.example.com]}}\n')
    world.pipeline()
    world.well()
    with served(world) as address, httpx.Client(base_url=address) as client:
        yield client


def test_health_is_200_when_well_and_503_when_failing(hub: HubState) -> None:
    with served(hub) as address, httpx.Client(base_url=address) as web:
        assert web.get("/health/ready").status_code == 200
        answer = web.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
        assert web.get(f"/health/pipelines/{PIPELINE}").json()["lag_seconds"] == 0
        assert web.get("/health/sources/erp").json()["state"] == "streaming"
        hub.now += 60
    with served(hub) as address, httpx.Client(base_url=address) as web:
        for path in ("/health", f"/health/pipelines/{PIPELINE}", "/health/sources/erp", "/health/ready"):
            assert web.get(path).status_code == 503, path
        assert web.get("/api/health").status_code == 200
        assert web.get("/health/live").text == "ok\n"


@pytest.mark.parametrize("path", ["/health/pipelines/none", "/health/sources/none", "/api/pipelines/none", "/none"])
def test_what_there_is_not_is_one_line(web: httpx.Client, path: str) -> None:
    answer = web.get(path)
    assert answer.status_code == 404
    assert answer.json()["message"]
    assert len(answer.text.splitlines()) == 1


def test_the_api_reads_in_parts(web: httpx.Client) -> None:
    assert [part["name"] for part in web.get("/api/pipelines").json()] == [PIPELINE]
    assert web.get(f"/api/pipelines/{PIPELINE}").json()["topic"] == "erp.public.customers"
    assert [part["name"] for part in web.get("/api/sources").json()] == ["erp"]
    assert web.get("/api/sources/erp").json()["position"] == "0/16B3748"
    assert {part["name"] for part in web.get("/api/workers").json()} == {"capture:erp", "deliver:crm", "verify"}
    assert web.get("/api/problems").json() == []


def test_pause_and_resume_through_the_api(hub: HubState, web: httpx.Client) -> None:
    answer = web.post("/api/pause", json={"name": "erp", "for": "2h", "reason": "move\nhouse"})
    assert answer.json() == {"subject": "source:erp", "paused": True}
    (pause,) = hub.state.pauses()
    assert (pause.subject, pause.reason) == ("source:erp", "move house")
    assert pause.until is not None
    (problem,) = web.get("/api/problems").json()
    assert problem["code"] == "paused"
    assert web.post("/api/resume", json={"name": "source:erp"}).json()["changed"] is True
    assert web.post("/api/resume", json={"name": "source:erp"}).json()["changed"] is False
    assert hub.state.pauses() == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "er"}, 400, "unknown_name"),
        ({"name": "erp", "for": "soon"}, 400, "bad_duration"),
        ({"name": "erp", "for": "-2h"}, 400, "bad_duration"),
        ({"name": "erp", "for": "999999999d"}, 400, "bad_duration"),
        ({}, 422, "bad_request"),
        ({"name": 5}, 422, "bad_request"),
        ({"name": "erp", "forr": "2h"}, 422, "bad_request"),
        ([], 422, "bad_request"),
    ],
)
def test_bad_requests_are_one_line(web: httpx.Client, body: Any, status: int, code: str) -> None:
    answer = web.post("/api/pause", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "\n" not in answer.text.strip()


def described(hub: HubState) -> None:
    """Capture has told of the table: its key and how many rows there are about."""
    columns = (Column("id", "bigint"),)
    hub.state.save_tables("erp", [Table("public", "customers", columns, ("id",), rows_estimated=40)])


@pytest.mark.parametrize(
    "whose", [{"pipeline": PIPELINE}, {"table": "customers"}, {"table": "erp:public.customers"}], ids=str
)
def test_existing_rows_are_asked_for_and_looked_after(hub: HubState, web: httpx.Client, whose: Any) -> None:
    described(hub)
    refused = web.post("/api/snapshots", json=whose | {"where": "id < 7"})
    assert (refused.status_code, refused.json()["code"]) == (400, "condition_refused")
    asked = web.post("/api/snapshots", json=whose).json()
    assert (asked["table"], asked["pipelines"], asked["rows_estimated"]) == ("public.customers", [PIPELINE], 40)
    assert re.fullmatch(r"20\d\d-.+Z", asked["asked_at"])
    (stored,) = hub.state.snapshots.all()
    assert (stored.id, stored.reason, stored.condition, stored.state) == (asked["id"], "asked", "", "waiting")
    for action, state in (("pause", "paused"), ("resume", "waiting"), ("cancel", "cancelled")):
        assert web.post(f"/api/snapshots/{asked['id']}/{action}", json={}).json()["state"] == state
    assert [one["state"] for one in web.get("/api/snapshots").json()] == ["cancelled"]
    late = web.post(f"/api/snapshots/{asked['id']}/pause", json={})
    assert (late.status_code, late.json()["code"]) == (400, "unknown_snapshot")
    assert web.post(f"/api/snapshots/{asked['id']}/explode", json={}).status_code == 422


@pytest.mark.parametrize("keys", ["1, 2", [{"id": 1}, {"id": 2}], '[{"id": 1}, {"id": 2}]'])
def test_rows_are_asked_for_by_key(hub: HubState, web: httpx.Client, keys: Any) -> None:
    described(hub)
    assert web.post("/api/snapshots", json={"pipeline": PIPELINE, "keys": keys}).json()["rows_estimated"] == 2
    (asked,) = web.post("/api/verifications", json={"pipelines": [PIPELINE], "keys": keys}).json()
    (stored,) = hub.state.verifications.all()
    assert (stored.id, [int(key["id"]) for key in stored.options.keys]) == (asked["id"], [1, 2])


def test_a_view_is_loaded_again(hub: HubState, web: httpx.Client) -> None:
    assert web.get("/api/pipelines").json()[0]["phase"] == "loaded"
    answer = web.post("/api/snapshots", json={"pipeline": PIPELINE, "reload": True})
    assert answer.json() == {"reload": [PIPELINE]}
    shown = web.get(f"/api/pipelines/{PIPELINE}").json()
    assert (shown["phase"], shown["unproven"]) == ("adopting", "somebody had it loaded again")


def test_views_are_verified_and_verifications_given_up(hub: HubState, web: httpx.Client) -> None:
    hub.pipeline("other")
    asked = web.post("/api/verifications", json={"repair": True, "sample": 100}).json()
    assert [one["pipeline"] for one in asked] == [PIPELINE, "other"]
    assert {(one.options.repair, one.options.sample) for one in hub.state.verifications.all()} == {(True, 100)}
    (mine,) = web.get("/api/verifications", params={"pipeline": "other"}).json()
    assert (mine["id"], mine["state"], mine["at"]) == (asked[1]["id"], "waiting", None)
    address = f"/api/verifications/{mine['id']}/cancel"
    assert web.post(address, json={}).json() == {"id": mine["id"], "state": "cancelled"}
    late = web.post(address, json={})
    assert (late.status_code, late.json()["code"]) == (400, "unknown_verification")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("snapshots", {}, 400, "usage"),
        ("snapshots", {"pipeline": PIPELINE, "table": "customers"}, 400, "usage"),
        ("snapshots", {"pipeline": PIPELINE, "where": "true", "keys": "1"}, 400, "usage"),
        ("snapshots", {"pipeline": PIPELINE, "keys": "1", "reload": True}, 400, "usage"),
        ("snapshots", {"pipeline": "erp"}, 400, "unknown_name"),
        ("snapshots", {"table": "orders"}, 400, "unknown_name"),
        ("snapshots", {"pipeline": PIPELINE, "where": " "}, 400, "bad_where"),
        ("snapshots", {"pipeline": PIPELINE, "keys": "[{"}, 400, "bad_key"),
        ("snapshots", {"pipeline": PIPELINE, "keys": []}, 400, "bad_key"),
        ("snapshots", {"pipeline": PIPELINE, "keys": [{"name": 1}]}, 400, "bad_key"),
        ("snapshots", {"pipeline": PIPELINE, "keys": 5}, 422, "bad_request"),
        ("snapshots", {"pipeline": PIPELINE, "nothing": 5}, 422, "bad_request"),
        ("snapshots/none/cancel", {}, 400, "unknown_snapshot"),
        ("verifications", {"pipelines": ["erp"]}, 400, "unknown_name"),
        ("verifications", {"keys": "x,y,"}, 200, ""),
        ("verifications", {"keys": ","}, 400, "bad_key"),
        ("verifications", {"sample": -1}, 422, "bad_request"),
        ("verifications/none/cancel", {}, 400, "unknown_verification"),
    ],
)
def test_what_cannot_be_asked_of_views_is_one_line(
    hub: HubState, web: httpx.Client, path: str, body: Any, status: int, code: str
) -> None:
    described(hub)
    answer = web.post(f"/api/{path}", json=body)
    assert answer.status_code == status
    if code:
        assert answer.json()["code"] == code
        assert "\n" not in answer.text.strip()
        assert hub.state.snapshots.all() == []
        assert hub.state.verifications.all() == []


def test_without_its_state_the_hub_says_so(hub: HubState, web: httpx.Client) -> None:
    hub.execute("drop table sync_hub_workers")
    problem = web.get("/health").json()
    if problem["status"] == "ok":
        pytest.fail("an answer was kept though nothing had been asked before")
    assert web.get("/health").status_code == 503
    assert web.get("/health/ready").status_code == 503
    assert web.get("/api/pipelines").json()["code"] == "state_unavailable"
    assert web.get("/health/live").status_code == 200
    assert "cannot be read" in web.get("/").text


# Metrics


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Name → kind and labels, as the table says."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", METRICS.read_text(), re.MULTILINE)
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_metrics_are_those_that_are_documented(hub: HubState, web: httpx.Client) -> None:
    hub.deliver(pipelines={PIPELINE: {"parked": 1, "parked_since": hub.now - 60}})
    hub.capture(status={"retained_log_bytes": 5, "retained_log_limit_bytes": 10, "slot_status": "reserved"})
    hub.snapshot("s1")
    hub.snapshot("s2", "another", reason="asked")
    hub.verification(report={"different": 2})
    found: dict[str, tuple[str, frozenset[str]]] = {}
    answer = web.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    for family in parse_openmetrics(answer.text):
        for sample in family.samples:
            found[sample.name] = (family.type, frozenset(sample.labels))
    assert found == documented()


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Name and values of labels, in the order of the labels' names → value."""
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in parse_prometheus(text)
        for sample in family.samples
    }


def test_metrics_tell_what_is_loaded_and_what_was_verified(hub: HubState, web: httpx.Client) -> None:
    hub.snapshot("s1")
    hub.snapshot("s2", "another", reason="asked", rows_done=1)
    hub.verification("v1", age=90, report={"different": 2})
    hub.verification("v2", age=None)
    hub.state.doubt([PIPELINE], "a reason")
    values = samples(web.get("/metrics").text)
    assert values["sync_hub_source_snapshot_rows_done", "erp", "public.customers"] == 6, "two of one table together"
    assert values["sync_hub_pipeline_verified_rows", "different", PIPELINE, "erp", "crm"] == 2
    assert values["sync_hub_pipeline_verified_rows", "matched", PIPELINE, "erp", "crm"] == 12
    assert values["sync_hub_pipeline_verified_age_seconds", PIPELINE, "erp", "crm"] == 90
    assert values["sync_hub_pipeline_verifying", PIPELINE, "erp", "crm"] == 1
    assert values["sync_hub_pipeline_unproven", PIPELINE, "erp", "crm"] == 1


def test_what_is_parked_is_no_lag_but_has_an_age_of_its_own(hub: HubState) -> None:
    hub.deliver(pipelines={PIPELINE: {"parked": 1, "parked_since": hub.now - 900}})
    hub.progress([5, 7], age=40)
    hub.progress([6, 7])
    with served(hub) as address:
        values = samples(httpx.get(f"{address}/metrics").text)
        assert httpx.get(f"{address}/health").json()["pipelines"][PIPELINE]["lag_seconds"] == 900
    place = (PIPELINE, "erp", "crm")
    assert values["sync_hub_pipeline_parked_age_seconds", *place] == 900
    parts = [values[f"sync_hub_pipeline_{part}_seconds", *place] for part in ("lag_capture", "lag_deliver")]
    assert values["sync_hub_pipeline_lag_seconds", *place] == sum(parts) == 40
    assert values["sync_hub_pipeline_lag_known", PIPELINE] == 1


def test_metrics_speak_both_formats(web: httpx.Client) -> None:
    plain = web.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in parse_prometheus(plain.text)
        for sample in family.samples
    }
    assert values["sync_hub_status",] == 0
    assert values["sync_hub_pipeline_lag_seconds", "crm", PIPELINE, "erp"] == 0
    assert values["sync_hub_pipeline_state", PIPELINE, "running"] == 1
    assert values["sync_hub_worker_up", "capture:erp", "host-a"] == 1
    accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5"
    answer = web.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_what_is_unknown_is_no_metric(hub: HubState) -> None:
    hub.now += 60
    with served(hub) as address:
        text = httpx.get(f"{address}/metrics").text
    assert "sync_hub_pipeline_lag_seconds{" not in text
    assert f'sync_hub_pipeline_lag_known{{pipeline="{PIPELINE}"}} 0.0' in text
    assert "sync_hub_status 2.0" in text


# Who is let in

PATHS = (
    "/",
    "/fragment",
    "/health",
    "/health/ready",
    "/health/pipelines/customer_to_crm",
    "/health/sources/erp",
    "/metrics",
    "/api/health",
    "/api/problems",
    "/api/pipelines",
    "/api/pipelines/customer_to_crm",
    "/api/sources",
    "/api/sources/erp",
    "/api/workers",
    "/api/snapshots",
    "/api/verifications",
    "/api/alerts",
    "/api/parked",
    "/api/parked/p1",
    "/parked",
    "/api/openapi.json",
    "/none",
)
CHANGES = (
    "/api/pause", "/api/resume", "/api/snapshots", "/api/snapshots/s1/pause", "/api/snapshots/s1/resume",
    "/api/snapshots/s1/cancel", "/api/verifications", "/api/verifications/v1/cancel", "/logout",
    "/api/parked/retry", "/api/parked/discard",
)  # fmt: skip


def test_everything_but_liveness_wants_the_token(guarded: httpx.Client) -> None:
    wrong = [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": "x=y"},
        {"cookie": "sync_hub_session=9999999999.0"},
    ]
    for path in PATHS:
        for headers in wrong:
            answer = guarded.get(path, headers=headers)
            assert answer.status_code == 401, (path, headers)
            assert "canary" not in answer.text
        assert guarded.get(path, headers={"authorization": f"Bearer {TOKEN}"}).status_code in (200, 404)


def test_every_route_is_among_those_that_were_tried(hub: HubState, guarded: httpx.Client) -> None:
    from sync_hub.web.app import create

    described = create(hub.settings, hub.state).openapi()["paths"]
    tried = {*PATHS, *CHANGES, "/health/live"}
    names = {"pipelines": PIPELINE, "sources": "erp", "snapshots": "s1", "verifications": "v1", "parked": "p1"}
    filled = set()
    for path in described:
        kind = path.split("/")[2] if path.count("/") > 2 else ""
        mine = path.replace("{name}", names.get(kind, ""))
        filled |= {mine.replace("{action}", action) for action in ("pause", "resume", "cancel")}
    assert filled <= tried
    for path in CHANGES:
        assert guarded.post(path, json={"name": "erp"}).status_code == 401


def test_liveness_needs_no_token_and_says_nothing(guarded: httpx.Client) -> None:
    answer = guarded.get("/health/live", headers={"host": "anything.example"})
    assert (answer.status_code, answer.text) == (200, "ok\n")


def test_login_gives_a_cookie_that_ends(guarded: httpx.Client) -> None:
    first = guarded.get("/", headers={"accept": "text/html"})
    assert (first.status_code, first.headers["location"]) == (303, "/login")
    assert "Log in" in guarded.get("/login").text
    wrong = guarded.post("/login", data={"token": "wrong"})
    assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
    right = guarded.post("/login", data={"token": TOKEN})
    assert (right.status_code, right.headers["location"]) == (303, "/")
    cookie = right.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    assert guarded.get("/").status_code == 200, "the client sends the cookie"
    value = right.cookies["sync_hub_session"]
    ends, _, signature = value.partition(".")
    for forged in (f"{int(ends) + 1}.{signature}", f"{ends}.", f".{signature}", ends):
        answer = guarded.get("/health", headers={"cookie": f"sync_hub_session={forged}"})
        assert answer.status_code == 401, forged


def test_a_session_ends_after_twelve_hours(tmp_path: Path) -> None:
    hub = HubState(tmp_path, CONFIG + f"http: {{token: {TOKEN}}}\n")
    with served(hub) as address, httpx.Client(base_url=address) as client:
        client.post("/login", data={"token": TOKEN})
        assert client.get("/api/health").status_code == 200
        hub.now += 12 * 3600 + 1
        assert client.get("/api/health").status_code == 401


def test_only_known_host_names_are_answered(guarded: httpx.Client, web: httpx.Client) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", "10.0.0.7", ""):
        assert web.get("/health", headers={"host": host}).status_code == 421, host
    for host in ("localhost", "LOCALHOST:9", "127.0.0.1:8080", "[::1]:8080"):
        assert web.get("/health", headers={"host": host}).status_code == 200, host
    authorized = {"authorization": f"Bearer {TOKEN}"}
    assert guarded.get("/health", headers=authorized | {"host": "hub.example.com:8443"}).status_code == 200
    assert web.get("/health", headers={"host": "hub.example.com"}).status_code == 421


JSON = {"content-type": "application/json"}
PAUSE = b'{"name": "erp"}'


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (JSON, 200),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({}, 415),
        (JSON | {"origin": "http://evil.example"}, 403),
        (JSON | {"origin": "null"}, 403),
        (JSON | {"sec-fetch-site": "cross-site"}, 403),
        (JSON | {"sec-fetch-site": "same-site"}, 403),
        (JSON | {"sec-fetch-site": "same-origin"}, 403),
        (JSON | {"cookie": "a=b"}, 403),
        (JSON | {"sec-fetch-site": "same-origin", "x-csrf-token": "wrong"}, 403),
    ],
)
def test_another_page_cannot_make_a_browser_change_anything(
    hub: HubState, web: httpx.Client, headers: dict[str, str], status: int
) -> None:
    assert web.post("/api/pause", content=PAUSE, headers=headers).status_code == status
    assert bool(hub.state.pauses()) == (status == 200)


def test_the_pages_own_scripts_may_change(hub: HubState, web: httpx.Client) -> None:
    found = re.search(r'data-csrf="([^"]+)"', web.get("/").text)
    assert found
    origin = str(web.base_url).rstrip("/")
    headers = JSON | {"sec-fetch-site": "same-origin", "origin": origin, "x-csrf-token": found[1]}
    assert web.post("/api/pause", content=PAUSE, headers=headers).status_code == 200
    assert hub.state.pauses()


def test_another_page_cannot_log_a_browser_in(guarded: httpx.Client) -> None:
    answer = guarded.post("/login", data={"token": TOKEN}, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403


def test_large_and_unmeasured_bodies_are_refused(web: httpx.Client) -> None:
    assert web.post("/api/pause", content=b"x" * 70_000, headers=JSON).status_code == 413
    assert web.post("/api/pause", content=iter([b"x"] * 3), headers=JSON).status_code == 413


def test_every_answer_carries_the_headers_that_browsers_heed(web: httpx.Client) -> None:
    for path in ("/", "/health", "/metrics", "/static/console.js", "/none", "/login"):
        headers = web.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src 'self'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert path.startswith("/static") or headers["cache-control"] == "no-store"


def test_pages_carry_no_inline_script_style_or_foreign_address(web: httpx.Client) -> None:
    page = web.get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", page)
    assert not re.search(r"(src|href)=\"(https?:)?//", page)


def test_everything_shown_is_escaped(hub: HubState, web: httpx.Client) -> None:
    nasty = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    error = {"code": nasty, "message": nasty, "hint": nasty, "command": nasty}
    snapshot = {"table": nasty, "rows_done": 1, "rows_estimated": 2, "eta_seconds": None}
    hub.capture(state="failed", error=error, waiting=nasty, snapshot=snapshot, status={"slot_status": nasty})
    hub.state.pause("pipeline:customer_to_crm", reason=nasty)
    page = web.get("/").text
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    text = web.get("/metrics").text
    assert list(parse_prometheus(text))


def test_no_secret_is_in_any_answer(guarded: httpx.Client) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    for path in (*PATHS, "/login", "/static/console.js"):
        text = guarded.get(path, headers=headers).text
        assert "canary" not in text, path


def test_an_unexpected_error_shows_nothing_of_itself(hub: HubState, monkeypatch: pytest.MonkeyPatch) -> None:
    from sync_hub.web import health

    def broken(*_: object) -> None:
        raise RuntimeError("secret canary")

    monkeypatch.setattr(health, "document", broken)
    with served(hub) as address:
        answer = httpx.get(f"{address}/health")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "canary" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
