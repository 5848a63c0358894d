"""The API of what views are made of and proven by: snapshots and verifications."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from sync_hub.errors import ConfigError
from sync_hub.state import Pipeline
from sync_hub.state_snapshots import Snapshot
from sync_hub.state_verifications import Verification
from sync_hub.web import requests
from sync_hub.web.facts import iso
from sync_hub.web.reader import HealthReader

Document = dict[str, Any]
Keys = str | list[dict[str, Any]]


class SnapshotRequest(BaseModel):
    """Whose rows to send again: a pipeline's, or a table's for all its pipelines; `reload` loads the views again."""

    model_config = ConfigDict(extra="forbid")

    pipeline: str = Field(default="", max_length=200)
    table: str = Field(default="", max_length=200)
    where: str | None = Field(default=None, max_length=10_000)
    keys: Keys | None = None
    reload: bool = False


class VerificationRequest(BaseModel):
    """Which pipelines to verify (none named: all), and how; `sample` 0: all rows."""

    model_config = ConfigDict(extra="forbid")

    pipelines: list[str] = Field(default=[], max_length=1000)
    repair: bool = False
    sample: int = Field(default=0, ge=0)
    keys: Keys | None = None


class Nothing(BaseModel):
    """A request that says all in its address."""

    model_config = ConfigDict(extra="forbid")


def routes(reader: HealthReader) -> APIRouter:
    """`/api/snapshots` and `/api/verifications`."""
    router = APIRouter(prefix="/api")
    _snapshots(router, reader)
    _verifications(router, reader)
    return router


def _snapshots(router: APIRouter, reader: HealthReader) -> None:
    @router.get("/snapshots")
    def snapshots() -> list[Document]:
        """What is not finished, and the last that are; oldest first."""
        return [_snapshot(one) for one in reader.state.snapshots.all()]

    @router.post("/snapshots")
    def send(request: SnapshotRequest) -> Document:
        """Have existing rows sent again, or views loaded again; capture begins within a second."""
        pipelines = _wanted(request, reader)
        if request.reload:
            names = [one.name for one in pipelines]
            reader.state.reload(names, requests.LOADED_AGAIN)
            reader.fresh()
            return {"reload": names}
        name = request.pipeline or request.table
        asked = requests.rows_to_send(reader.state, pipelines, name, request.where, request.keys)
        if asked.condition and not reader.settings.http.token:
            raise ConfigError(
                "condition_refused",
                "`where` is SQL that the source runs: without a token everybody on this machine could send some",
                hint="set http.token, or use sync-hub snapshot --where",
            )
        reader.state.snapshots.ask(asked)
        reader.fresh()
        return _snapshot(asked)

    @router.post("/snapshots/{name}/{action}")
    def look_after(name: str, action: Literal["pause", "resume", "cancel"], _: Nothing) -> Document:
        """Let a snapshot rest, go on with it, or give it up."""
        one = requests.look_after(reader.state, name, action)
        reader.fresh()
        return _snapshot(one)


def _verifications(router: APIRouter, reader: HealthReader) -> None:
    @router.get("/verifications")
    def verifications(pipeline: str | None = None) -> list[Document]:
        """What waits, runs and was found lately; oldest first."""
        return [_verification(one) for one in reader.state.verifications.all(pipeline)]

    @router.post("/verifications")
    def verify(request: VerificationRequest) -> list[Document]:
        """Have views verified, one after the other."""
        names = [f"pipeline:{name}" for name in request.pipelines]
        chosen = requests.chosen_pipelines(names, reader.settings, reader.state)
        asked = requests.to_verify(
            reader.state, chosen, repair=request.repair, sample=request.sample, keys=request.keys
        )
        reader.fresh()
        return [_verification(one) for one in asked]

    @router.post("/verifications/{name}/cancel")
    def cancel(name: str, _: Nothing) -> Document:
        """Give up a verification that waits or runs."""
        if not reader.state.verifications.cancel([name]):
            raise ConfigError(
                "unknown_verification",
                f"no verification {name!r} waits or runs",
                hint="GET /api/verifications shows them",
            )
        reader.fresh()
        return {"id": name, "state": "cancelled"}


def _wanted(request: SnapshotRequest, reader: HealthReader) -> list[Pipeline]:
    if bool(request.pipeline) == bool(request.table):
        raise ConfigError("usage", "say of which pipeline or of which table", hint="one of the two")
    if sum([request.where is not None, request.keys is not None, request.reload]) > 1:
        raise ConfigError("usage", "where, keys and reload exclude one another", hint="choose one of them")
    if request.pipeline:
        return requests.chosen_pipelines([f"pipeline:{request.pipeline}"], reader.settings, reader.state)
    found = requests.pipelines_of_table(request.table, reader.state)
    if not found:
        raise ConfigError("unknown_name", f"no pipeline reads a table {request.table!r}", hint="GET /api/pipelines")
    return found


def _snapshot(one: Snapshot) -> Document:
    return _dated(requests.shown_snapshot(one), "asked_at", "started_at", "finished_at")


def _verification(one: Verification) -> Document:
    return _dated(requests.shown_verification(one), "at")


def _dated(values: Document, *names: str) -> Document:
    """Moments as the rest of the API tells them."""
    return values | {name: iso(values[name]) for name in names}
