"""`sync-hub topics`: what lies at the broker."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sync_hub.cli.options import Config, Json, load_settings
from sync_hub.cli.output import print_json, print_table, say
from sync_hub.errors import ConfigError

if TYPE_CHECKING:
    from sync_hub.model import TopicInfo
    from sync_hub.ports import Broker


def topics(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One topic: its partitions.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List the topics and how many records they hold; or one topic's partitions."""
    settings = load_settings(context, config)
    broker = settings.new_broker()
    try:
        found = broker.topics()
        answer = _partitions(broker, known_topic(found, name)) if name else _topics(broker, found)
    finally:
        broker.close()
    if json:
        print_json(answer)
    elif not answer:
        say("no topics yet")
    else:
        headings = list(answer[0])
        right = [index for index, heading in enumerate(headings) if heading not in ("topic", "id")]
        print_table(headings, [list(row.values()) for row in answer], right=right)


def known_topic(found: dict[str, TopicInfo], name: str) -> str:
    """The name, if there is such a topic. Raises `ConfigError` with a suggestion."""
    if name in found:
        return name
    close = difflib.get_close_matches(name, found, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]}?" if close else f"known are: {', '.join(sorted(found)[:20]) or 'none'}"
    raise ConfigError("unknown_topic", f"there is no topic {name!r}", hint=hint)


def _topics(broker: Broker, found: dict[str, TopicInfo]) -> list[dict[str, Any]]:
    rows = []
    for name, info in sorted(found.items()):
        records = sum(row["records"] for row in _partitions(broker, name))
        rows.append({"topic": name, "partitions": info.partitions, "records": records, "id": info.id})
    return rows


def _partitions(broker: Broker, name: str) -> list[dict[str, Any]]:
    starts, ends = broker.start_offsets([name]), broker.end_offsets([name])
    return [
        {"partition": place.partition, "start": starts[place], "end": end, "records": end - starts[place]}
        for place, end in sorted(ends.items())
    ]
