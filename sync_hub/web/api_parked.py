"""The API of parked records: look, have them tried again, discard."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from sync_hub.errors import ConfigError
from sync_hub.model import Parked
from sync_hub.web import parked, requests
from sync_hub.web.reader import HealthReader

Document = dict[str, Any]

MOST = 1000
"""Records in one answer."""


class Choice(BaseModel):
    """Which records are meant: by id, by a filter, or `all` that are open."""

    model_config = ConfigDict(extra="forbid")

    ids: list[str] = Field(default=[], max_length=10_000)
    pipelines: list[str] = Field(default=[], max_length=1000)
    code: str = Field(default="", max_length=200)
    key: str = Field(default="", max_length=10_000)
    since: str | None = Field(default=None, max_length=100)
    until: str | None = Field(default=None, max_length=100)
    all: bool = False


class Discard(Choice):
    """Which records to give up, and why."""

    reason: str = Field(max_length=1000)


def routes(reader: HealthReader) -> APIRouter:
    """`/api/parked`."""
    router = APIRouter(prefix="/api/parked")

    @router.get("")
    def listed(
        pipeline: Annotated[list[str] | None, Query()] = None, code: str = "", key: str = "",
        since: str | None = None, until: str | None = None, closed: bool = False,
    ) -> list[Document]:  # fmt: skip
        """What is parked or waits, oldest first; with `closed` also what is over. A thousand at most."""
        choice = Choice(pipelines=pipeline or [], code=code, key=key, since=since, until=until)
        rows = parked.find(reader.settings, reader.state, wanted(reader, choice, closed=closed))
        return [parked.document(row) for row in rows[:MOST]]

    @router.get("/{name}")
    def one(name: str) -> Document:
        """One record with its event."""
        found = parked.Filter(ids=(name,), closed=True)
        try:
            (row,) = parked.find(reader.settings, reader.state, found, records=True)
        except ConfigError as error:
            raise HTTPException(
                404, {"code": "unknown_parked", "message": error.message, "hint": error.hint}
            ) from error
        return parked.document(row) | {"event": parked.event(row)}

    @router.post("/retry")
    def retry(request: Choice) -> Document:
        """Have records tried now, with all attempts before them."""
        return {"records": parked.retry(reader.settings, reader.state, _chosen(reader, request))}

    @router.post("/discard")
    def discard(request: Discard) -> Document:
        """Give records up; they are kept with the reason."""
        rows = _chosen(reader, request)
        return {"records": parked.discard(reader.settings, reader.state, rows, request.reason)}

    return router


def wanted(reader: HealthReader, choice: Choice, *, closed: bool = False) -> parked.Filter:
    """The filter that a request means. Raises `ConfigError`."""
    names = [one.name for one in requests.chosen_pipelines(choice.pipelines, reader.settings, reader.state)]
    now = time.time()
    return parked.Filter(
        tuple(choice.ids),
        tuple(names) if choice.pipelines else (),
        choice.code,
        choice.key,
        parked.moment(choice.since, now),
        parked.moment(choice.until, now),
        closed=closed,
    )


def _chosen(reader: HealthReader, choice: Choice) -> list[Parked]:
    found = wanted(reader, choice)
    if found.names_some == choice.all:
        raise ConfigError(
            "nothing_chosen",
            "`all` means all, and a filter only some" if choice.all else "nothing says which records are meant",
            hint="send ids, pipelines, code, key, since, until; or all alone",
        )
    return parked.find(reader.settings, reader.state, found)
