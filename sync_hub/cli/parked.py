"""`sync-hub parked`: look at records that were rejected, have them tried again, discard them, export them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import to_builtins

from sync_hub.cli.options import Config, Json, load_settings, open_state
from sync_hub.cli.output import note, one_line, paint, print_json, print_json_line, say, say_finding
from sync_hub.errors import ConfigError, Unavailable
from sync_hub.web.problems import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sync_hub.model import Parked
    from sync_hub.settings import Settings
    from sync_hub.state import State
    from sync_hub.web.parked import Filter, Found
    from sync_hub.web.parked_shown import Stands

SHOWN = 100
"""Records that `list` shows where nobody says how many."""

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
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Show the oldest N; without it 100, with --json all.")
]
All = Annotated[bool, typer.Option("--all", help="Everything that is open.")]


@app.command("list")
def list_(
    context: typer.Context, names: Names = None, error: Code = "", key: Key = "", since: Since = None,
    until: Until = None, closed: Closed = False, limit: Limit = None, config: Config = None, json: Json = False,
) -> int:  # fmt: skip
    """What is parked, counted and then oldest first. Exit 1 when something is, 3 when a target does not answer."""
    from sync_hub.web import parked

    with _Hub(context, config) as hub:
        wanted = hub.filter(names, (), error, key, since, until, closed=closed)
        found = parked.look(hub.settings, hub.state, wanted)
        stand = {} if json else hub.standing(found.rows)
    if json:
        print_json(found.documents(found.rows[:limit]))
    else:
        _show_list(found, stand, limit or SHOWN)
    return _told_silent(found) or int(any(row.is_open for row in found.rows))


@app.command()
def show(
    context: typer.Context, record: Annotated[str, typer.Argument(help="A record, as `list` calls it.")],
    config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """One record: its event, its error, and what to do."""
    from sync_hub.web import parked

    with _Hub(context, config) as hub:
        wanted = hub.filter(None, (record,), "", "", None, None, closed=True)
        found = parked.find(hub.settings, hub.state, wanted, records=True)
        stand = {} if json else hub.standing(found.rows)
    (row,), (shown,) = found.rows, found.documents(found.rows)
    if json:
        print_json(shown)
        return
    told = {
        "message": row.message,
        "hint": row.hint,
        "command": f"sync-hub parked retry {row.id}" if row.is_open else "",
    }
    say_finding("error" if row.is_open else "info", f"{row.id} ({row.state})", row.code, told)
    for name, value in _facts(row, stand.get(row.pipeline)).items():
        say(f"{paint(name, 'dim')}: {value}")
    say(json_text(shown["event"] or shown["record"]))


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
        stand = hub.standing(rows)
    if json:
        print_json({"records": count, "held_up": [to_builtins(one) for one in stand.values()]})
        return
    say(f"{counted(count, 'record')} to be tried again")
    for one in stand.values():
        say(f"{paint('not now', 'yellow')}: the pipeline {one.pipeline} {one.said}")
        say(f"    {paint(one.command, 'cyan')}")


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
    if json:
        print_json({"records": count})
    else:
        say(f"{counted(count, 'record')} discarded")


@app.command()
def export(
    context: typer.Context, names: Names = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to.")] = None,
    error: Code = "", key: Key = "", since: Since = None, until: Until = None, closed: Closed = False,
    config: Config = None, as_json: Json = False,
) -> int:  # fmt: skip
    """Records with their events, one JSON object a line; with --json one list of them."""
    from sync_hub.web import parked

    with _Hub(context, config) as hub:
        wanted = hub.filter(names, (), error, key, since, until, closed=closed)
        found = parked.look(hub.settings, hub.state, wanted, records=True)
    documents = found.documents(found.rows)
    if output is None:
        if as_json:
            print_json(documents)
        else:
            for one in documents:
                print_json_line(one)
        return _told_silent(found)
    try:
        output.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in documents), encoding="utf-8")
    except OSError as reason:
        raise Unavailable("cannot_write", f"{output}: {reason.strerror}", hint="choose another file") from reason
    note(f"{counted(len(documents), 'record')} in {output}")
    return _told_silent(found)


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
        return parked.find(self.settings, self.state, wanted).rows

    def standing(self, rows: Sequence[Parked]) -> dict[str, Stands]:
        """The pipelines of these records that try nothing now."""
        from sync_hub.web.parked_shown import standing
        from sync_hub.web.reader import HealthReader

        return standing(HealthReader(self.settings, self.state).document(), {row.pipeline for row in rows})


def _show_list(found: Found, stand: dict[str, Stands], limit: int) -> None:
    from sync_hub.web.parked_shown import counts

    for line in counts(found.rows):
        say(line)
    for row in found.rows[:limit]:
        told = {"message": row.message, "hint": _state(row, stand.get(row.pipeline)), "command": ""}
        say_finding("error" if row.is_open else "info", f"{row.id} {row.key}", row.code, told)
    if len(found.rows) > limit:
        say(paint(f"the oldest {limit} of {len(found.rows)} are shown: --limit N shows more", "dim"))
    if not found.rows and not found.silent:
        say("nothing is parked")


def _told_silent(found: Found) -> int:
    """Name the targets that did not answer; the exit code that this makes."""
    for target, error in found.silent.items():
        note(paint(one_line(f"what {target} holds is not known: {error}"), "red", stream=sys.stderr))
    return Unavailable.exit_code if found.silent else 0


def _state(row: Parked, stands: Stands | None) -> str:
    """What has become of it, and what comes next, in one line."""
    from sync_hub.web.parked_shown import became, moment

    if not row.is_open:
        return became(row)
    so_far = f"{row.state} since {moment(row.first_at)}, {counted(row.attempts, 'attempt')}"
    return f"{so_far}, {'' if row.next_at is None or stands else 'next try '}{_next(row, stands)}"


def _next(row: Parked, stands: Stands | None) -> str:
    from sync_hub.web.parked_shown import moment

    if row.next_at is None:
        return "waits for a person"
    return f"the pipeline {stands.said}" if stands else moment(row.next_at)


def _facts(row: Parked, stands: Stands | None) -> dict[str, Any]:
    from sync_hub.web.parked_shown import moment

    facts = {
        "key": row.key, "topic": f"{row.topic}/{row.partition}@{row.offset}", "first": moment(row.first_at),
        "last": moment(row.last_at), "attempts": row.attempts, "next try": _next(row, stands) if row.is_open else "",
        row.state: "" if row.closed_at is None else moment(row.closed_at), "SQLSTATE": row.sqlstate,
        "correlation id": row.correlation_id, "reason": row.reason,
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value not in ("", None)}


def json_text(value: Any) -> str:
    """A document as people read it; what could steer their terminal is escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(one if one == "\n" or one.isprintable() else json.dumps(one)[1:-1] for one in text)
