"""The API of parked records: look, have them tried again, discard."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import JSONResponse
from msgspec import to_builtins
from pydantic import BaseModel, ConfigDict, Field

from sync_hub.errors import ConfigError
from sync_hub.web import parked, parked_shown, requests
from sync_hub.web.reader import HealthReader, one_line

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


class Question(BaseModel):
    """Which records are to be listed."""

    model_config = ConfigDict(extra="forbid")

    pipeline: list[str] = Field(default=[], max_length=1000)
    code: str = Field(default="", max_length=200)
    key: str = Field(default="", max_length=10_000)
    since: str | None = Field(default=None, max_length=100)
    until: str | None = Field(default=None, max_length=100)
    closed: bool = False


class Discard(Choice):
    """Which records to give up, and why."""

    reason: str = Field(max_length=1000)


def routes(reader: HealthReader) -> APIRouter:
    """`/api/parked`."""
    router = APIRouter(prefix="/api/parked")

    @router.get("")
    def listed(asked: Annotated[Question, Query()]) -> JSONResponse:
        """What is parked or waits, oldest first; with `closed` also what is over. A thousand of `total` at most.

        503 where a target does not answer: it is named, and what the others hold is told.
        """
        choice = Choice(**asked.model_dump(exclude={"pipeline", "closed"}), pipelines=asked.pipeline)
        found = parked.look(reader.settings, reader.state, wanted(reader, choice, closed=asked.closed))
        silent = {
            target: {"code": error.code, "message": one_line(error.message), "hint": one_line(error.hint)}
            for target, error in found.silent.items()
        }
        answer = {"total": len(found.rows), "records": found.documents(found.rows[:MOST]), "silent": silent}
        return JSONResponse(answer, 503 if silent else 200)

    @router.get("/{name}")
    def one(name: str) -> Document:
        """One record with its event."""
        asked = parked.Filter(ids=(name,), closed=True)
        try:
            found = parked.find(reader.settings, reader.state, asked, records=True)
        except ConfigError as error:
            raise HTTPException(
                404, {"code": "unknown_parked", "message": error.message, "hint": error.hint}
            ) from error
        return found.documents(found.rows)[0]

    @router.post("/retry")
    def retry(request: Choice) -> Document:
        """Have records tried now, with all attempts before them; `held_up` are pipelines that try nothing now."""
        found = _chosen(reader, request)
        count = parked.retry(reader.settings, reader.state, found.rows)
        stand = parked_shown.standing(reader.document(), {row.pipeline for row in found.rows})
        return {"records": count, "held_up": [to_builtins(one) for one in stand.values()]}

    @router.post("/discard")
    def discard(request: Discard) -> Document:
        """Give records up; they are kept with the reason."""
        found = _chosen(reader, request)
        return {"records": parked.discard(reader.settings, reader.state, found.rows, request.reason)}

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


def _chosen(reader: HealthReader, choice: Choice) -> parked.Found:
    found = wanted(reader, choice)
    if found.names_some == choice.all:
        raise ConfigError(
            "nothing_chosen",
            "`all` means all, and a filter only some" if choice.all else "nothing says which records are meant",
            hint="send ids, pipelines, code, key, since, until; or all alone",
        )
    return parked.find(reader.settings, reader.state, found)
