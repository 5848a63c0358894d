"""`sync-hub tail`: the records of a topic as they come, on every broker alike."""

from __future__ import annotations

import json as jsonlib
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sync_hub.cli.options import Config, Json, load_settings
from sync_hub.cli.output import one_line, paint, print_json_line, say_now, unread
from sync_hub.cli.topics import known_topic
from sync_hub.errors import ConfigError, Rejected
from sync_hub.model import TopicPartition

if TYPE_CHECKING:
    from sync_hub.model import Record
    from sync_hub.ports import Broker

POLL_SECONDS = 0.25
POLL_RECORDS = 500
MOST_BACK = 10_000
IDLE_POLLS = 12
"""Empty polls after which the end counts as reached: other writers' transactions leave offsets without records."""

OP_COLOURS = {"create": "green", "update": "yellow", "delete": "red", "read": "blue", "truncate": "magenta"}


def tail(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="A topic, as `sync-hub topics` lists them.")],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="K", help='Only this key: 42, or {"id": 42} where it has more columns.'),
    ] = None,
    start: Annotated[
        str, typer.Option("--from", metavar="PLACE", help="beginning, end, an offset, or -N: the last N records.")
    ] = "-10",
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Stop after N records.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for new records, or stop at the end.")
    ] = True,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show the records of a topic and follow it until --limit or Ctrl-C. Disturbs nobody: it commits nothing."""
    from sync_hub.runtime import parked_topic

    settings = load_settings(context, config)
    told = parked_topic.HEADER if topic == parked_topic.topic_name(settings.hub.name) else ""
    back = _last_records(start)
    broker = settings.new_broker()
    try:
        known_topic(broker.topics(), topic)
        reader = _Reader(broker, topic, start, back)
        for shown, record in enumerate(reader.records(follow=follow, wanted=_key_filter(key)), start=1):
            if json:
                print_json_line(_described(record))
            else:
                _show(_described(record), told)
            if shown == limit:
                break
    finally:
        broker.close()


class _Reader:
    """Reads one topic from a place on, in a group of its own."""

    def __init__(self, broker: Broker, topic: str, start: str, back: int | None) -> None:
        self._broker = broker
        self._topic = topic
        self._back = back
        self._assigned_once = False
        self._idle_polls = 0
        self._ends = broker.end_offsets([topic])
        starts = broker.start_offsets([topic])
        self._next = {
            place: max(starts[place], _begin(start, back, starts[place], end)) for place, end in self._ends.items()
        }

    def records(self, *, follow: bool, wanted: Callable[[Record], bool]) -> Iterator[Record]:
        """What is there, then what comes. Of the last N records, those of all partitions are put in order of time."""
        group = f"sync-hub-tail-{uuid.uuid4().hex[:12]}"
        subscription = self._broker.subscribe([self._topic], group, on_assign=self._assigned)
        try:
            backlog: list[Record] = []
            while not self._caught_up() and self._idle_polls < IDLE_POLLS:
                found = [record for record in self._poll(subscription) if wanted(record)]
                if self._back is None:
                    yield from found
                else:
                    backlog += found
            backlog.sort(key=lambda record: (record.timestamp_ms, record.partition, record.offset))
            if self._back:
                yield from backlog[-self._back :]
            while follow and not unread():
                yield from (record for record in self._poll(subscription) if wanted(record))
        finally:
            subscription.close()

    def _poll(self, subscription: Any) -> list[Record]:
        records: list[Record] = subscription.poll(POLL_SECONDS, POLL_RECORDS)
        for record in records:
            self._next[TopicPartition(self._topic, record.partition)] = record.offset + 1
        self._idle_polls = self._idle_polls + 1 if self._assigned_once and not records else 0
        return records

    def _assigned(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        self._assigned_once = True
        return {place: self._next.get(place, 0) for place in partitions}

    def _caught_up(self) -> bool:
        return all(self._next[place] >= end for place, end in self._ends.items())


def _last_records(start: str) -> int | None:
    """N of `-N`; None for every other place. Raises `ConfigError` for what is no place."""
    if start in ("beginning", "end") or start.isdecimal():
        return None
    if start.startswith("-") and start[1:].isdecimal() and 0 < int(start[1:]) <= MOST_BACK:
        return int(start[1:])
    raise ConfigError(
        "bad_place",
        f"--from {start!r} is no place in a topic",
        hint=f"beginning, end, an offset, or -1 to -{MOST_BACK}",
    )


def _begin(start: str, back: int | None, first: int, end: int) -> int:
    if back is not None:
        return end - back
    if start in ("beginning", "end"):
        return first if start == "beginning" else end
    return min(int(start), end)


def _key_filter(key: str | None) -> Callable[[Record], bool]:
    """Whether a record has this key: its JSON object, or the one value of a key of one column."""
    if key is None:
        return lambda _: True
    wanted = _json(key)

    def has_key(record: Record) -> bool:
        found = _json(record.key.decode(errors="replace")) if record.key is not None else None
        if isinstance(found, dict) and isinstance(found.get("payload"), dict):
            found = found["payload"]
        if isinstance(found, dict) and not isinstance(wanted, dict):
            values = list(found.values())
            return len(values) == 1 and (values[0] == wanted or str(values[0]) == key)
        return bool(found == wanted)

    return has_key


def _json(text: str) -> Any:
    try:
        return jsonlib.loads(text)
    except ValueError:
        return text


def _described(record: Record) -> dict[str, Any]:
    from sync_hub.envelope import decode

    shown: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "time": datetime.fromtimestamp(record.timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")[:23] + "Z",
        "key": None if record.key is None else _json(record.key.decode(errors="replace")),
        "headers": {name: value.decode(errors="replace") for name, value in record.headers or []},
    }
    try:
        event = decode(record)
    except Rejected as error:
        return shown | {
            "op": "unreadable",
            "error": error.message,
            "value": (record.value or b"").decode(errors="replace"),
        }
    if event is None:
        return shown | {"op": "tombstone"}
    shown |= {"key": event.key, "op": event.operation, "before": event.before, "after": event.after}
    shown |= {"version": event.version, "snapshot": event.source.snapshot}
    for name in (
        "unchanged",
        "fetched",
        "old_key",
        "new_key",
        "correlation_id",
        "actor",
        "traceparent",
        "oversize_bytes",
    ):
        if value := getattr(event, name):
            shown[name] = value
    return shown


def _show(record: dict[str, Any], told: str) -> None:
    """One line; where `told` is not empty a second one, with the headers whose names begin with it."""
    operation = record["op"]
    place = paint(f"{record['time'][:23]}  {record['partition']}/{record['offset']}", "dim")
    row = record.get("after") if operation != "delete" else record.get("before")
    parts = [place, paint(f"{operation:<8}", OP_COLOURS.get(operation, "magenta")), _compact(record["key"])]
    say_now("  ".join([*parts, _compact(row if row is not None else record.get("error", ""))]))
    headers = {name: value for name, value in record["headers"].items() if told and name.startswith(told)}
    if headers:
        say_now(
            "    " + "  ".join(f"{paint(one_line(name), 'dim')}={_compact(value)}" for name, value in headers.items())
        )


def _compact(value: Any) -> str:
    return jsonlib.dumps(value, ensure_ascii=True, separators=(",", ":")) if value not in ("", None) else ""
