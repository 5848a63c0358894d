"""Health for machines and people, and the API: readings, pause and resume. What is asked of views is beside it."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from sync_hub.web import incidents, subjects
from sync_hub.web.reader import HealthReader, one_line
from sync_hub.web.subjects import pause_until, subject

Document = dict[str, Any]


class PauseRequest(BaseModel):
    """What to pause, for how long (`2h`; empty: until resumed) and why."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    name: str = Field(max_length=200)
    duration: str = Field(default="", alias="for", max_length=40)
    reason: str = Field(default="", max_length=500)


class ResumeRequest(BaseModel):
    """What to resume."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=200)


def health_routes(reader: HealthReader) -> APIRouter:
    """`/health…`: what load balancers, orchestrators and watchers ask."""
    routes = APIRouter()

    @routes.get("/health/live", response_class=PlainTextResponse)
    def live() -> str:
        """200 while this process serves. Says nothing else, and needs no token."""
        return "ok\n"

    @routes.get("/health/ready")
    def ready() -> JSONResponse:
        """200 when the state is readable and every worker has reported once."""
        missing = reader.ready()
        answer = {"ready": not missing} | ({"message": missing} if missing else {})
        return JSONResponse(answer, 503 if missing else 200)

    @routes.get("/health")
    def health() -> JSONResponse:
        """The whole hub; 503 when it is failing."""
        document = reader.document()
        return JSONResponse(document, 503 if document["status"] == "failing" else 200)

    @routes.get("/health/pipelines/{name}")
    def pipeline(name: str) -> JSONResponse:
        """One pipeline with its problems; 503 when one of them is failing."""
        return _part(reader.document(), "pipeline", name)

    @routes.get("/health/sources/{name}")
    def source(name: str) -> JSONResponse:
        """One source with its problems; 503 when one of them is failing."""
        return _part(reader.document(), "source", name)

    return routes


def api_routes(reader: HealthReader) -> APIRouter:
    """`/api/…`: the same figures in parts, and what a person may change."""
    routes = APIRouter(prefix="/api")

    @routes.get("/health")
    def health() -> Document:
        """The health document, always with status 200: for pages that read it."""
        return reader.document()

    @routes.get("/problems")
    def problems() -> list[Document]:
        """What is wrong, worst first."""
        return list(reader.document()["problems"])

    @routes.get("/pipelines")
    def pipelines() -> list[Document]:
        """All pipelines, by name."""
        return _named(_readable(reader.document())["pipelines"])

    @routes.get("/pipelines/{name}")
    def pipeline(name: str) -> Document:
        """One pipeline."""
        return {"name": name} | _one(_readable(reader.document()), "pipeline", name)

    @routes.get("/sources")
    def sources() -> list[Document]:
        """All sources, by name."""
        return _named(_readable(reader.document())["sources"])

    @routes.get("/sources/{name}")
    def source(name: str) -> Document:
        """One source."""
        return {"name": name} | _one(_readable(reader.document()), "source", name)

    @routes.get("/workers")
    def workers() -> list[Document]:
        """All workers, with their last beat."""
        return list(_readable(reader.document())["workers"])

    @routes.get("/alerts")
    def alerts(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> list[Document]:
        """Incidents with their messages: open ones first, then the newest."""
        return [incidents.shown(*found) for found in reader.state.alerts.latest(limit)]

    @routes.post("/pause")
    def pause(request: PauseRequest) -> Document:
        """Pause a source, target or pipeline; its worker follows within one beat."""
        full = _subject(reader, request.name)
        until = pause_until(request.duration, time.time())
        reader.state.pause(full, reason=one_line(request.reason), until=until)
        reader.fresh()
        return {"subject": full, "paused": True}

    @routes.post("/resume")
    def resume(request: ResumeRequest) -> Document:
        """Take a pause back, and have what failed tried again."""
        full = _subject(reader, request.name)
        unpaused, failed = subjects.resume(full, reader.settings, reader.state)
        reader.fresh()
        pipelines, pending = subjects.scope(full, reader.settings, reader.state.pipelines())
        answer = {"subject": full, "paused": False, "changed": unpaused, "tried_again": failed}
        return answer | {"pipelines": pipelines, "pending": pending}

    return routes


def _subject(reader: HealthReader, name: str) -> str:
    return subject(name, reader.settings, [pipeline.name for pipeline in reader.state.pipelines()])


def part(document: Document, kind: str, name: str) -> Document:
    """One pipeline or source of the document, with the problems that concern it. Raises KeyError."""
    own = dict(document[f"{kind}s"][name])
    found = [
        problem
        for problem in document["problems"]
        if problem["subject"] == f"{kind}:{name}" or (kind == "pipeline" and name in problem["affects"])
    ]
    severities = [problem["severity"] for problem in found]
    status = next((level for level in ("failing", "degraded") if level in severities), "ok")
    return {"status": status, "time": document["time"], "name": name, **own, "problems": found}


def _part(document: Document, kind: str, name: str) -> JSONResponse:
    _one(_readable(document), kind, name)
    found = part(document, kind, name)
    return JSONResponse(found, 503 if found["status"] == "failing" else 200)


def _one(document: Document, kind: str, name: str) -> Document:
    if name not in document[f"{kind}s"]:
        raise HTTPException(404, {"code": f"unknown_{kind}", "message": f"there is no {kind} {one_line(name)[:100]!r}"})
    return dict(document[f"{kind}s"][name])


def _readable(document: Document) -> Document:
    for problem in document["problems"]:
        if problem["code"] == "state_unavailable":
            raise HTTPException(503, {name: problem[name] for name in ("code", "message", "hint")})
    return document


def _named(parts: Document) -> list[Document]:
    return [{"name": name} | part for name, part in sorted(parts.items())]
