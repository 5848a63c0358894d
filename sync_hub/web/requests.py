"""From what a person types to what is stored: rows to be sent, views to be verified. Shared by CLI and API."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from sync_hub.errors import ConfigError
from sync_hub.settings import Settings
from sync_hub.state import Pipeline, State
from sync_hub.state_snapshots import Snapshot, new_id
from sync_hub.state_verifications import Verification, VerificationOptions
from sync_hub.web import subjects

LOADED_AGAIN = "somebody had it loaded again"
"""Why a view is in doubt that is loaded again because a person asked for it."""

Keys = str | Sequence[Any]
"""Keys of rows: `1,2,3` or JSON as text, or the list of objects itself."""


def chosen_pipelines(names: Sequence[str], settings: Settings, state: State) -> list[Pipeline]:
    """The pipelines that these names stand for, in order; all without any. Raises `ConfigError`."""
    pipelines = state.pipelines()
    if not names:
        return pipelines
    wanted: dict[str, None] = {}
    for name in names:
        full = subjects.subject(name, settings, [one.name for one in pipelines])
        wanted |= dict.fromkeys(subjects.scope(full, settings, pipelines)[0])
    return [one for one in pipelines if one.name in wanted]


def pipelines_of_table(name: str, state: State) -> list[Pipeline]:
    """Those that read a table: `public.orders`, `orders` or `erp:public.orders`. None of an unknown one."""
    return [
        one
        for one in state.pipelines()
        if name in (one.table, one.table.removeprefix("public."), f"{one.source}:{one.table}")
    ]


def pipelines_named(name: str, settings: Settings, state: State) -> list[Pipeline]:
    """The pipelines that a name stands for, a table's too; at least one. Raises `ConfigError`."""
    if not any(one.name == name for one in state.pipelines()):
        found = pipelines_of_table(name, state)
        if found:
            return found
    found = chosen_pipelines([name], settings, state)
    if not found:
        raise ConfigError("unknown_name", f"no mapping of {name!r} was applied yet", hint="sync-hub run applies them")
    return found


def rows_to_send(
    state: State, pipelines: Sequence[Pipeline], name: str, where: str | None, keys: Keys | None
) -> Snapshot:
    """What to send for whom: rows of the one table that these pipelines read. Stores nothing. Raises `ConfigError`."""
    tables = sorted({f"{one.source}:{one.table}" for one in pipelines})
    if len(tables) != 1:
        raise ConfigError("ambiguous_name", f"{name!r} has more than one table", hint=f"say {' or '.join(tables)}")
    if where is not None and not where.strip():
        raise ConfigError("bad_where", "where is empty", hint="leave it out to send all rows")
    if where is not None and not _is_text(where):
        raise ConfigError("bad_where", "where is no text in Unicode", hint="write it in UTF-8")
    one = pipelines[0]
    described = state.tables(one.source).get(one.table)
    named = () if keys is None else parsed_keys(keys, described.key if described else ())
    return Snapshot(
        new_id(),
        one.source,
        one.table,
        tuple(pipeline.name for pipeline in pipelines),
        "asked",
        condition=where or "",
        keys=named,
        rows_estimated=len(named) or max(0, described.rows_estimated if described else 0),
        asked_at=time.time(),
    )


def to_verify(
    state: State, chosen: Sequence[Pipeline], *, repair: bool = False, sample: int = 0, keys: Keys | None = None
) -> list[Verification]:
    """One verification of each; stored, so that the worker begins within a second. Raises `ConfigError`."""
    if not chosen:
        raise ConfigError("nothing_to_verify", "no mapping was applied yet", hint="sync-hub run applies them")
    asked = []
    for one in chosen:
        table = state.tables(one.source).get(one.table) if keys is not None else None
        named = () if keys is None else parsed_keys(keys, table.key if table else ())
        options = VerificationOptions(repair=repair, sample=sample, keys=named)
        asked.append(Verification(new_id(), one.name, options=options, asked_at=time.time()))
    state.verifications.ask(asked)
    return asked


def look_after(state: State, name: str, action: Literal["pause", "resume", "cancel"]) -> Snapshot:
    """Let a snapshot rest, go on with it, or give it up. Raises `ConfigError` when that cannot be done."""
    done = {"pause": state.snapshots.pause, "resume": state.snapshots.resume, "cancel": state.snapshots.cancel}
    changed = done[action](name)
    one = state.snapshots.find(name)
    if not changed or one is None:
        raise ConfigError(
            "unknown_snapshot", f"there is no snapshot {name!r} for {action}", hint="sync-hub snapshot shows them"
        )
    return one


def parsed_keys(keys: Keys, table_key: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """`1,2,3`, or `[{"shop": 1, "number": "7"}]`, as event keys; at least one. Raises `ConfigError`."""
    problem = ConfigError(
        "bad_key",
        f"keys {str(keys)[:200]!r} do not name rows by {', '.join(table_key)}",
        hint="write 1,2,3 where the key is one column, else a JSON list of objects",
    )
    if isinstance(keys, str) and not keys.lstrip().startswith("["):
        if len(table_key) != 1:
            raise problem
        named = tuple({table_key[0]: value.strip()} for value in keys.split(",") if value.strip())
    else:
        try:
            parsed: Any = json.loads(keys) if isinstance(keys, str) else keys
        except (ValueError, RecursionError) as error:
            raise problem from error
        if not all(isinstance(key, dict) and key.keys() == set(table_key) for key in parsed):
            raise problem
        named = tuple(parsed)
    if not _is_text(named):
        raise problem
    if not named:
        raise ConfigError("bad_key", "keys names no row", hint="leave it out to take all rows")
    return named


def _is_text(value: Any) -> bool:
    """Whether all text in it is Unicode: half of a pair of surrogates, which JSON can hold, is none."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeError, RecursionError):
        return False
    return True


def shown_snapshot(one: Snapshot) -> dict[str, Any]:
    """A snapshot as it is told in JSON; times are seconds since 1970."""
    values = dict(msgspec.to_builtins(one))
    values["last_key"] = None if one.keys else values["last_key"]
    return values


def shown_verification(one: Verification) -> dict[str, Any]:
    """A verification as it is told in JSON; times are seconds since 1970."""
    report = msgspec.to_builtins(one.report)
    return {
        "id": one.id,
        "pipeline": one.pipeline,
        "reason": one.reason,
        "state": one.state,
        "at": one.finished_at,
        "seconds": None if one.finished_at is None or one.started_at is None else one.finished_at - one.started_at,
        "agrees": one.report.agrees if one.state == "done" else None,
        "error": one.error or None,
    } | dict(report)
