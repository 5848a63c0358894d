"""The console at `/`: problems first, then every pipeline, source and worker; login when a token is set."""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sync_hub.errors import SyncHubError, Unavailable
from sync_hub.model import Parked
from sync_hub.web import api_parked, incidents, parked, parked_shown
from sync_hub.web.health import WORST_FIRST
from sync_hub.web.problems import size
from sync_hub.web.reader import HealthReader
from sync_hub.web.security import COOKIE, LOGIN, Gate, cookie_settings

Document = dict[str, Any]

TEMPLATES = Path(__file__).parent / "templates"
REFRESH_SECONDS = 2
INCIDENTS_SHOWN = 10
RECORDS_SHOWN = 100
BYTES_SHOWN = 2_000_000
_BOOT = secrets.token_hex(4)
"""Changes with the process: a page that outlives it loads itself again."""

_SEVERITIES = {"failing": 0, "degraded": 1}


def routes(reader: HealthReader, gate: Gate) -> APIRouter:
    """The page, the part of it that refreshes, and the login."""
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"size": size, "count": count, "lasting": lasting, "rate": rate, "pretty": pretty}

    def render(template: str, **values: object) -> str:
        return environment.get_template(template).render(boot=_BOOT, login=gate.token_required, **values)

    @router.get("/")
    def page() -> HTMLResponse:
        view = _view(reader)
        return HTMLResponse(render("page.html", view=view, csrf=gate.csrf, refresh_seconds=REFRESH_SECONDS))

    @router.get("/fragment")
    def fragment() -> HTMLResponse:
        return HTMLResponse(render("live.html", view=_view(reader)))

    @router.get("/parked")
    def records(pipeline: str = "", code: str = "", key: str = "", closed: bool = False) -> HTMLResponse:
        shown = _parked(reader, api_parked.Choice(pipelines=[pipeline] if pipeline else [], code=code, key=key), closed)
        names = [one.name for one in reader.state.pipelines()]
        chosen = {"pipeline": pipeline, "code": code, "key": key, "closed": closed, "pipelines": names}
        return HTMLResponse(render("parked.html", hub=reader.settings.hub.name, csrf=gate.csrf, **shown, **chosen))

    @router.get(LOGIN)
    def login() -> Response:
        if not gate.token_required:
            return RedirectResponse("/", 303)
        return HTMLResponse(render("login.html", hub=reader.settings.hub.name, wrong=False))

    @router.post(LOGIN)
    async def enter(request: Request) -> Response:
        given = parse_qs((await request.body()).decode(errors="replace")).get("token", [""])[0]
        if not gate.token_required or not gate.token_valid(given.strip()):
            return HTMLResponse(render("login.html", hub=reader.settings.hub.name, wrong=True), 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, gate.session(), **cookie_settings(request.url.scheme))
        return answer

    @router.post("/logout")
    def leave() -> Response:
        answer = Response(status_code=204)
        answer.delete_cookie(COOKIE, path="/")
        return answer

    return router


def _view(reader: HealthReader) -> Document:
    """The document with what the templates need beside it: order, ages, words."""
    document = reader.document()
    now = _seconds(document["time"])
    severity = dict.fromkeys(document["pipelines"], "ok")
    for problem in sorted(document["problems"], key=lambda each: -_SEVERITIES[each["severity"]]):
        severity |= dict.fromkeys((name for name in problem["affects"] if name in severity), problem["severity"])
    pipelines = [{"name": name, "severity": severity[name], **part} for name, part in document["pipelines"].items()]
    pipelines.sort(key=lambda part: (_SEVERITIES.get(part["severity"], 2), part["name"]))
    return {
        "document": document,
        "pipelines": pipelines,
        "sources": [{"name": name, **part} for name, part in sorted(document["sources"].items())],
        "targets": [
            {"name": name, "type": target.type, **_target(name, document)}
            for name, target in sorted(reader.settings.targets.items())
        ],
        "applied_per_second": sum(part["applied_per_second"] for part in pipelines),
        "events_per_second": sum(part["events_per_second"] for part in document["sources"].values()),
        "unreadable": any(problem["code"] == "state_unavailable" for problem in document["problems"]),
        "incidents": _incidents(reader),
        "ago": lambda moment: (
            "never" if moment is None else f"{lasting(float(int(max(0.0, now - _seconds(moment)))))} ago"
        ),
        "until": lambda moment: lasting(float(int(max(0.0, _seconds(moment) - now)))),
        "clock": document["time"][11:19],
    }


def _parked(reader: HealthReader, choice: api_parked.Choice, closed: bool) -> Document:
    """Parked records with their events, the oldest first; and what went wrong: targets that do not answer, say."""
    now = time.time()
    view: Document = {
        "failed": [], "total": 0, "records": [], "open_ids": [], "stand": {},
        "ago": lambda moment: f"{lasting(float(int(max(0.0, now - _seconds(moment)))))} ago",
        "until": lambda moment: lasting(float(int(max(0.0, _seconds(moment) - now)))),
    }  # fmt: skip
    try:
        wanted = api_parked.wanted(reader, choice, closed=closed)
        found = parked.look(reader.settings, reader.state, wanted)
        view["failed"] = [f"{target} does not answer: {error.message}" for target, error in found.silent.items()]
        ids = tuple(row.id for row in on_one_page(found.rows))
        if not ids:
            return view
        whole = parked.look(reader.settings, reader.state, msgspec.structs.replace(wanted, ids=ids), records=True)
    except SyncHubError as error:
        return view | {"failed": [f"{error.message} {error.hint}"]}
    return view | {
        "total": len(found.rows),
        "records": whole.documents(whole.rows),
        "open_ids": [row.id for row in whole.rows if row.is_open],
        "stand": parked_shown.standing(reader.document(), {row.pipeline for row in whole.rows}),
    }


def on_one_page(rows: Sequence[Parked]) -> list[Parked]:
    """The first of these records that a browser can show with their events; one at least."""
    sizes = itertools.accumulate(row.record_bytes for row in rows[:RECORDS_SHOWN])
    return [row for row, size in zip(rows, sizes, strict=False) if size <= BYTES_SHOWN or row is rows[0]]


def _incidents(reader: HealthReader) -> list[Document]:
    """The newest incidents; none where the state does not answer, which is a problem that the page shows."""
    try:
        return [incidents.shown(*found) for found in reader.state.alerts.latest(INCIDENTS_SHOWN)]
    except Unavailable:
        return []


def _target(name: str, document: Document) -> Document:
    """A target as its pipelines do together: the worst state, the most lag, and unknown where one is unknown."""
    mine = [part for part in document["pipelines"].values() if part["target"] == name]
    lags = [part["lag_seconds"] for part in mine]
    pauses = [part["paused"] for part in mine if part["paused"] and part["paused"]["subject"] == f"target:{name}"]
    workers = [worker["state"] for worker in document["workers"] if worker["subject"] == f"target:{name}"]
    states = {part["state"] for part in mine} | {state for state in workers if state in WORST_FIRST}
    return {
        "state": next((state for state in WORST_FIRST if state in states), "running" if workers else "stopped"),
        "pipelines": len(mine),
        "failed": sum(part["state"] == "failed" for part in mine),
        "lag_seconds": None if None in lags else max(lags, default=None),
        "applied_per_second": sum(part["applied_per_second"] for part in mine),
        "last_applied_at": max((part["last_applied_at"] or "" for part in mine), default="") or None,
        "paused": pauses[0] if pauses else None,
    }


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def lasting(seconds: float | None) -> str:
    """A duration in the unit that a person would choose: `0 s`, `1.4 s`, `12 m`, `3 h`, `2 d`."""
    if seconds is None:
        return "unknown"
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds and seconds != int(seconds) else f"{seconds:.0f} s"
    for limit, unit, divisor in ((90, "s", 1), (5400, "m", 60), (129600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def count(number: float | None) -> str:
    """A whole number with narrow spaces between thousands."""
    return "unknown" if number is None else f"{number:,.0f}".replace(",", "\u202f")


def pretty(value: Any, indent: int | None = 2) -> str:
    """A document as people read it."""
    return json.dumps(value, indent=indent, ensure_ascii=False)


def rate(number: float) -> str:
    """A rate a second: one decimal where it is small."""
    return f"{number:.1f}" if 0 < number < 10 else count(number)
