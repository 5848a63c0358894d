"""Capture's proof: which keys a workload has changed, and that each of them is in the topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.databases import Databases, Servers
from benchmarks.topics import BrokerTopics, difference
from benchmarks.workloads import CUSTOMERS, WORKLOADS
from connectors.brokers.embedded import EmbeddedBroker, EmbeddedOptions
from sync_hub.model import Outgoing

ROWS = f"select {CUSTOMERS.names} from customers".encode()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, server_folder: Path) -> Iterator[Servers]:
    folder = server_folder / "benchmarks"
    folder.mkdir()
    servers = Servers(folder)
    yield servers
    servers.close()


def rows_of(connection: Any) -> dict[int, tuple[Any, ...]]:
    return {row[0]: row for row in connection.execute(ROWS)}


@pytest.mark.parametrize("workload", ["a", "b", "c"])
def test_changed_keys_are_those_whose_rows_are_other_than_before(servers: Servers, workload: str) -> None:
    with servers.databases(WORKLOADS[workload], 300) as databases:
        before = rows_of(databases.source)
        databases.change()
        after = rows_of(databases.source)
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert databases.changed_keys(CUSTOMERS) == changed
        assert (len(changed) < len(before.keys() | after.keys())) == (workload == "c")


def records(databases: Databases, keys: Sequence[int]) -> list[Outgoing]:
    rows = rows_of(databases.source)
    return [
        Outgoing(
            f"b.public.{CUSTOMERS.name}",
            msgspec.json.encode({"id": key}),
            msgspec.json.encode(
                {"op": "c", "after": dict(zip((name for name, _ in CUSTOMERS.columns), rows[key], strict=True))}
            ),
        )
        for key in keys
    ]


@pytest.mark.parametrize("doubled", [False, True])
def test_a_lost_and_a_doubled_record_are_noticed(servers: Servers, tmp_path: Path, doubled: bool) -> None:
    with servers.databases(WORKLOADS["a"], 3) as databases:
        events = databases.change()
        keys = sorted(rows_of(databases.source))
        if doubled:
            keys[2] = 2
        broker = EmbeddedBroker("broker", EmbeddedOptions(path=tmp_path / "log.db", partitions=1), "test")
        broker.create_topics([f"b.public.{CUSTOMERS.name}"])
        broker.publish(records(databases, keys))
        broker.flush(5)
        said = difference(BrokerTopics(broker), "b", databases, events)
        broker.close()
    assert said == ("b.public.customers: 1 changed keys have no record, 3 for one" if doubled else "")
