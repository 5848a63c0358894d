"""What pipelines find when a session begins: topics, and how far each has come, asked for all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sync_hub.errors import ConfigError, Fatal, Rejected
from sync_hub.model import Offset, TopicInfo, TopicPartition
from sync_hub.ports import Broker, Sink


class Found(NamedTuple):
    """One pipeline's topic, and its offset rows in the target.

    `starts` were read before `rows`, `ends` after them: whoever moves on meanwhile leaves them in this order.
    """

    info: TopicInfo
    starts: Mapping[TopicPartition, int]
    rows: list[Offset]
    ends: Mapping[TopicPartition, int]


def find(topics: Mapping[str, str], sink: Sink, broker: Broker) -> dict[str, Found | Exception]:
    """What each pipeline finds; `topics` are theirs, which are made where missing. What is wrong is its own answer."""
    if not topics:
        return {}
    try:
        infos = broker.create_topics(list(topics.values()))
        starts = broker.start_offsets(infos)
        rows = sink.load_offsets(list(topics))
        ends = broker.end_offsets(infos)
    except (ConfigError, Fatal, Rejected) as error:
        if len(topics) == 1:
            return dict.fromkeys(topics, error)
        listed, half = list(topics.items()), len(topics) // 2
        return find(dict(listed[:half]), sink, broker) | find(dict(listed[half:]), sink, broker)
    of_pipeline: dict[str, list[Offset]] = {name: [] for name in topics}
    for row in rows:
        of_pipeline[row.pipeline].append(row)
    return {name: Found(infos[topic], starts, of_pipeline[name], ends) for name, topic in topics.items()}
