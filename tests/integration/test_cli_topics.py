"""`topics` and `tail` on every broker alike: what was published is shown, and nobody else is disturbed."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sync_hub.cli import main as cli_main
from sync_hub.envelope import Encoder
from sync_hub.model import ChangeEvent, Outgoing, version_prefix, version_suffix
from sync_hub.settings import load
from tests.events import change_event

OTHERS = """
sources: {erp: {type: postgres, dsn: "postgresql://u@127.0.0.1:1/x", tables: [public.t]}}
targets: {crm: {type: sqlite, path: crm.db}}
"""


def called(config: Path, *arguments: str) -> list[Any]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as caught:
        cli_main.main(["-c", str(config), *arguments, "--json"])
    assert caught.value.code == 0, out.getvalue()
    if arguments[0] == "tail":
        return [json.loads(line) for line in out.getvalue().splitlines()]
    return list(json.loads(out.getvalue()))


def event(table: str, number: int) -> ChangeEvent:
    deleted = number % 5 == 4
    row = {"id": number, "name": f"name {number}"}
    return change_event(
        source="erp",
        schema="public",
        table=table,
        operation="delete" if deleted else "create",
        key={"id": number},
        before=row if deleted else None,
        after=None if deleted else row,
        version=version_prefix(1, number) + version_suffix(1),
        committed_at=1_800_000_000_000_000,
        actor="ada",
    )


@pytest.mark.parametrize("broker_type", ["embedded", "kafka-python", "confluent"])
def test_topics_and_tail(
    broker_type: str, request: pytest.FixtureRequest, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    if broker_type == "embedded":
        broker_text = "broker: {type: embedded, partitions: 3}"
    else:
        address = request.getfixturevalue("kafka_address")
        broker_text = (
            f"broker: {{type: kafka, bootstrap_servers: ['{address}'], client: {broker_type}, partitions: 3, "
            "replication_factor: 1}"
        )
    config = tmp_path / "config" / "hub.yaml"
    config.parent.mkdir()
    config.write_text(f"hub: {{name: tails}}\n{broker_text}\n{OTHERS}")
    table = unique("customers")
    topic = f"erp.public.{table}"
    broker = load(config, {}).new_broker()
    try:
        broker.create_topics([topic])
        broker.publish(Encoder().encode([event(table, number) for number in range(30)]))
        broker.publish([Outgoing(topic, b'{"id":7}', None), Outgoing(topic, b'{"id":7}', b"no envelope")])
        assert broker.flush(30)
    finally:
        broker.close()

    listed = {row["topic"]: row for row in called(config, "topics")}[topic]
    assert (listed["partitions"], listed["records"]) == (3, 32)
    partitions = called(config, "topics", topic)
    assert [row["partition"] for row in partitions] == [0, 1, 2]
    assert sum(row["records"] for row in partitions) == 32

    records = called(config, "tail", topic, "--from", "beginning", "--no-follow")
    assert len(records) == 32
    events = {record["key"]["id"]: record for record in records if record["op"] in ("create", "delete")}
    assert set(events) == set(range(30))
    assert events[3]["after"] == {"id": 3, "name": "name 3"}
    assert (events[4]["op"], events[4]["before"]["name"], events[4]["actor"]) == ("delete", "name 4", "ada")
    offsets: dict[int, list[int]] = {}
    for record in records:
        offsets.setdefault(record["partition"], []).append(record["offset"])
    assert all(found == list(range(len(found))) for found in offsets.values()), "in order, without holes"

    sevens = called(config, "tail", topic, "--from", "beginning", "--no-follow", "--key", "7")
    assert [record["op"] for record in sevens] == ["create", "tombstone", "unreadable"]
    assert sevens[2]["value"] == "no envelope"
    assert len(called(config, "tail", topic, "--from", "-5", "--no-follow")) == 5
    assert len(called(config, "tail", topic, "--limit", "3")) == 3
    again = called(config, "tail", topic, "--from", "beginning", "--no-follow")
    assert sorted(map(str, again)) == sorted(map(str, records)), "it leaves no trace"
