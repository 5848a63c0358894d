"""Parked records as people and programs see them: as JSON, counted, and with what holds up their next try. Pure."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from sync_hub.envelope import decode
from sync_hub.errors import Rejected
from sync_hub.model import Parked
from sync_hub.runtime import parking
from sync_hub.state import Pipeline

Document = dict[str, Any]

_STANDS = {
    "paused": "is paused", "failed": "has stopped: a person is needed", "stopped": "does not run",
}  # fmt: skip


class Stands(Struct, frozen=True):
    """A pipeline that tries nothing now: its `state`, and what to type for it to go on."""

    pipeline: str
    state: str
    command: str

    @property
    def said(self) -> str:
        """Why, for people: `is paused`."""
        return _STANDS[self.state]


def standing(health: Document, names: Iterable[str]) -> dict[str, Stands]:
    """Those of these pipelines that try nothing now, by the health document."""
    found = {}
    for name in sorted(set(names) & health["pipelines"].keys()):
        part = health["pipelines"][name]
        if part["state"] in _STANDS:
            command = "sync-hub run" if part["state"] == "stopped" else f"sync-hub resume {_subject(name, part)}"
            found[name] = Stands(name, part["state"], command)
    return found


def document(row: Parked, pipeline: Pipeline, *, whole: bool = False) -> Document:
    """A record as JSON for machines; `whole`: with what was in the topic, and the event that it is."""
    shown: Document = {
        "id": row.id, "pipeline": row.pipeline, "target": pipeline.target, "table": pipeline.table,
        "topic": row.topic, "partition": row.partition, "offset": row.offset,
        "key": parsed(row.key), "state": row.state, "code": row.code, "message": row.message,
        "sqlstate": row.sqlstate or None, "hint": row.hint or None, "attempts": row.attempts,
        "first_at": _iso(row.first_at), "last_at": _iso(row.last_at), "next_at": _iso(row.next_at),
        "correlation_id": row.correlation_id or None, "version": row.version or None,
        "reason": row.reason or None, "closed_at": _iso(row.closed_at),
    }  # fmt: skip
    if whole:
        shown["record"] = {"key": _shown(row.record_key), "value": _shown(row.record_value), "headers": _headers(row)}
        shown["event"] = event(row)
    return shown


def event(row: Parked) -> Document | None:
    """The event of a record that was read with it; None where it is no event."""
    try:
        found = decode(parking.record(row))
    except Rejected:
        return None
    if found is None:
        return None
    facts = {"operation": found.operation, "key": found.key, "before": found.before, "after": found.after}
    return facts | {"unchanged": list(found.unchanged), "committed_at": _iso(found.source.committed_at / 1_000_000)}


def counts(rows: Iterable[Parked]) -> list[str]:
    """One line a pipeline: how many open records of each code, the most frequent first, and how many are over."""
    codes: dict[str, Counter[str]] = {}
    over: Counter[str] = Counter()
    for row in rows:
        of_pipeline = codes.setdefault(row.pipeline, Counter())
        if row.is_open:
            of_pipeline[row.code] += 1
        else:
            over[row.pipeline] += 1
    lines = []
    for name, found in sorted(codes.items()):
        parts = [f"{count} {code}" for code, count in sorted(found.items(), key=lambda one: (-one[1], one[0]))]
        parts += [f"{over[name]} over"] if over[name] else []
        lines.append(f"{name}: {', '.join(parts)}")
    return lines


def became(row: Parked) -> str:
    """What has become of a closed record: `discarded 2026-11-23T09:30:02Z: not ours`."""
    at = row.last_at if row.closed_at is None else row.closed_at
    return f"{row.state} {moment(at)}" + (f": {row.reason}" if row.reason else "")


def moment(seconds: float) -> str:
    """A time for people, in UTC and to the second; commands take it back."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parsed(text: str) -> Any:
    """The value of JSON; the text itself where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _subject(name: str, part: Document) -> str:
    return part["paused"]["subject"] if part["state"] == "paused" and part["paused"] else f"pipeline:{name}"


def _shown(data: bytes | None) -> Any:
    if data is None:
        return None
    try:
        return parsed(data.decode())
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _headers(row: Parked) -> Document:
    return {name: _shown(value) for name, value in parking.record(row).headers or []}


def _iso(seconds: float | None) -> str | None:
    return (
        None
        if seconds is None
        else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
