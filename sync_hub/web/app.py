"""The web application: health, metrics, API and console, behind one guard."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from sync_hub import __version__
from sync_hub.errors import ConfigError, SyncHubError, Unavailable
from sync_hub.settings import Settings
from sync_hub.state import State
from sync_hub.web import api, api_parked, api_views, console, metrics
from sync_hub.web.reader import HealthReader, one_line
from sync_hub.web.security import RESPONSE_HEADERS, Gate, Guard, refusal

LOG = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"


def create(
    settings: Settings, state: State, *, clock: Callable[[], float] = time.time, reader: HealthReader | None = None
) -> FastAPI:
    """The application. It reads and changes only the state; workers need not run in this process."""
    reader, gate = reader or HealthReader(settings, state, clock), Gate(settings.http, clock)
    app = FastAPI(title="sync-hub", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.include_router(api.health_routes(reader))
    app.include_router(api.api_routes(reader))
    app.include_router(api_views.routes(reader))
    app.include_router(api_parked.routes(reader))
    app.include_router(metrics.routes(reader))
    app.include_router(console.routes(reader, gate))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_middleware(Guard, gate=gate)
    app.add_exception_handler(SyncHubError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unknown)
    return app


async def _known(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SyncHubError)  # noqa: S101 - registered for it
    status = 503 if isinstance(error, Unavailable) else 400 if isinstance(error, ConfigError) else 500
    return refusal(status, error.code, one_line(error.message), one_line(error.hint))


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _no_json()
    place = ".".join(str(step) for step in first["loc"] if step != "body")
    return refusal(422, "bad_request", one_line(f"{place}: {first['msg']}" if place else first["msg"]))


def _no_json() -> JSONResponse:
    return refusal(422, "bad_request", "the body is no JSON", "send an object in JSON, in UTF-8")


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if isinstance(error.detail, dict):
        return JSONResponse(error.detail, error.status_code)
    if error.status_code == 400:  # of all requests only one whose body is no text in UTF-8, or nested without end
        return _no_json()
    return refusal(
        error.status_code, "not_found" if error.status_code == 404 else "http", f"{error.detail}: {request.url.path}"
    )


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    LOG.error("%s %s failed", request.method, request.url.path, exc_info=error, extra={"action": "web"})
    answer = refusal(500, "internal", "the hub could not answer", "its log has the reason")
    answer.headers.update(RESPONSE_HEADERS)  # this answer is made outside the guard
    return answer
