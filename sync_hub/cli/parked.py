"""`sync-hub parked`: look at records that were rejected, have them tried again, discard them, export them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import note, paint, print_json, print_json_line, say, say_finding
from sync_hub.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from sync_hub.model import Parked
    from sync_hub.settings import Settings
    from sync_hub.state import State
    from sync_hub.web.parked import Filter

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look after records that a mapping or target rejected."
)

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAMES]...", help="Pipelines, sources or targets.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[IDS]...", help="Records, as `list` calls them.")]
Pipelines = Annotated[
    list[str] | None, typer.Option("--pipeline", metavar="NAME", help="Of these pipelines, sources or targets.")
]
Code = Annotated[str, typer.Option("--code", help="With this error code.")]
Key = Annotated[str, typer.Option("--key", help="With this key: its JSON, or the one value.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Parked since: a time, or 2h ago.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Parked until then.")]
Closed = Annotated[bool, typer.Option("--closed", help="Also what is over: superseded, applied, discarded.")]
All = Annotated[bool, typer.Option("--all", help="Everything that is open.")]


@app.command("list")
def list_(
    context: typer.Context, names: Names = None, error: Code = "", key: Key = "", since: Since = None,
    until: Until = None, closed: Closed = False, config: Config = None, json: Json = False,
) -> int:  # fmt: skip
    """What is parked, oldest first. Exit 1 when something is."""
    from sync_hub.web import parked

    with _Hub(context, config) as hub:
        wanted = hub.filter(names, (), error, key, since, until, closed=closed)
        rows = parked.find(hub.settings, hub.state, wanted)
    if json:
        print_json([parked.document(row) for row in rows])
    elif rows:
        for row in rows:
            told = {"message": row.message, "hint": _state(row), "command": ""}
            say_finding("error" if row.is_open else "info", f"{row.id} {row.key}", row.code, told)
    else:
        say("nothing is parked")
    return int(any(row.is_open for row in rows))


@app.command()
def show(
    context: typer.Context, record: Annotated[str, typer.Argument(help="A record, as `list` calls it.")],
    config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """One record: its event, its error, and what to do."""
    from sync_hub.web import parked

    with _Hub(context, config) as hub:
        wanted = hub.filter(None, (record,), "", "", None, None, closed=True)
        (row,) = parked.find(hub.settings, hub.state, wanted, records=True)
    if json:
        print_json(parked.document(row) | {"event": parked.event(row)})
        return
    told = {
        "message": row.message,
        "hint": row.hint,
        "command": f"sync-hub parked retry {row.id}" if row.is_open else "",
    }
    say_finding("error" if row.is_open else "info", f"{row.id} ({row.state})", row.code, told)
    for name, value in _facts(row).items():
        say(f"{paint(name, 'dim')}: {value}")
    say(json_text(parked.event(row) or parked.document(row).get("record")))


@app.command()
def retry(
    context: typer.Context, ids: Ids = None, pipeline: Pipelines = None, error: Code = "", key: Key = "",
    since: Since = None, until: Until = None, everything: All = False, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Have records tried again now, with all attempts before them."""
    from sync_hub.web import parked

    with _Hub(context, config) as hub:
        rows = hub.chosen(ids, pipeline, error, key, since, until, everything=everything)
        count = parked.retry(hub.settings, hub.state, rows)
    _told(count, "to be tried again", json)


@app.command()
def discard(
    context: typer.Context, ids: Ids = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept with the record.")] = "",
    pipeline: Pipelines = None, error: Code = "", key: Key = "", since: Since = None, until: Until = None,
    everything: All = False, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Give records up: they are not applied, and kept with the reason."""
    from sync_hub.web import parked

    with _Hub(context, config) as hub:
        rows = hub.chosen(ids, pipeline, error, key, since, until, everything=everything)
        count = parked.discard(hub.settings, hub.state, rows, reason)
    _told(count, "discarded", json)


@app.command()
def export(
    context: typer.Context, names: Names = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to.")] = None,
    error: Code = "", key: Key = "", since: Since = None, until: Until = None, closed: Closed = False,
    config: Config = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Records with their events, one JSON object a line; with --json one list of them."""
    from sync_hub.web import parked

    with _Hub(context, config) as hub:
        wanted = hub.filter(names, (), error, key, since, until, closed=closed)
        rows = parked.find(hub.settings, hub.state, wanted, records=True)
    documents = [parked.document(row) | {"event": parked.event(row)} for row in rows]
    if output is None:
        if as_json:
            print_json(documents)
        else:
            for one in documents:
                print_json_line(one)
        return
    try:
        output.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in documents), encoding="utf-8")
    except OSError as reason:
        raise Unavailable("cannot_write", f"{output}: {reason.strerror}", hint="choose another file") from reason
    note(f"{len(documents)} records in {output}")


class _Hub:
    """Settings and state of one command."""

    def __init__(self, context: typer.Context, config: Path | None) -> None:
        self.settings: Settings = load_settings(context, config)
        self.state: State = open_state(self.settings)

    def __enter__(self) -> _Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self.state.close()

    def filter(
        self, names: list[str] | None, ids: tuple[str, ...], error: str, key: str, since: str | None, until: str | None,
        *, closed: bool = False,
    ) -> Filter:  # fmt: skip
        from sync_hub.web import parked, requests

        chosen = [one.name for one in requests.chosen_pipelines(names, self.settings, self.state)] if names else []
        now = time.time()
        return parked.Filter(
            ids, tuple(chosen), error, key, parked.moment(since, now), parked.moment(until, now), closed=closed
        )

    def chosen(
        self, ids: list[str] | None, names: list[str] | None, error: str, key: str, since: str | None,
        until: str | None, *, everything: bool,
    ) -> list[Parked]:  # fmt: skip
        """What is to be changed. Raises `ConfigError` where nothing says what, or `--all` is not alone."""
        from sync_hub.web import parked

        wanted = self.filter(names, tuple(ids or ()), error, key, since, until)
        if wanted.names_some == everything:
            raise ConfigError(
                "nothing_chosen",
                "--all means all, and a filter only some" if everything else "nothing says which records are meant",
                hint="give their ids, or --pipeline, --code, --key, --since, --until; or --all alone",
            )
        return parked.find(self.settings, self.state, wanted)


def _state(row: Parked) -> str:
    """What has become of it, and what comes next, in one line."""
    attempts = "1 attempt" if row.attempts == 1 else f"{row.attempts} attempts"
    so_far = f"{row.state} since {_time(row.first_at)}, {attempts}"
    if not row.is_open:
        return so_far + (f": {row.reason}" if row.reason else "")
    return f"{so_far}, {_next(row) if row.next_at is None else f'next try {_next(row)}'}"


def _next(row: Parked) -> str:
    if not row.is_open:
        return ""
    return "waits for a person" if row.next_at is None else _time(row.next_at)


def _facts(row: Parked) -> dict[str, Any]:
    facts = {
        "key": row.key, "topic": f"{row.topic}/{row.partition}@{row.offset}", "first": _time(row.first_at),
        "last": _time(row.last_at), "attempts": row.attempts, "next try": _next(row), "SQLSTATE": row.sqlstate,
        "correlation id": row.correlation_id, "reason": row.reason,
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value not in ("", None)}


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def json_text(value: Any) -> str:
    """A document as people read it."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _told(count: int, what: str, as_json: bool) -> None:
    if as_json:
        print_json({"records": count})
    else:
        say(f"{count} {'record' if count == 1 else 'records'} {what}")
