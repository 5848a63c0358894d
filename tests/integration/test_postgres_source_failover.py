"""A standby is promoted: it is read from only when it has all that was published."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from sync_hub.errors import Fatal
from sync_hub.testing.source import Collector
from tests.integration.conftest import Capture, Database
from tests.servers.standby import Pair, pair


@pytest.fixture
def servers(server_folder: Path, unique: Callable[[str], str]) -> Iterator[Pair]:
    with pair(server_folder / unique("pair")) as servers:
        yield servers


@pytest.fixture
def db(servers: Pair) -> Iterator[Database]:
    """A connection of the application to the primary."""
    with psycopg.connect(servers.primary.dsn(), autocommit=True) as connection:
        connection.execute("create table t (id int primary key, name text)")
        yield connection


def published(log: Collector) -> list[object]:
    return [next(iter((event.key or {}).values())) for event in log.events]


@pytest.fixture
def log(servers: Pair, db: Database, capture: Capture) -> Collector:
    """Two rows were published before the slot went over to the standby."""
    log = capture(servers.primary.dsn(), "t")
    db.execute("insert into t values (1), (2)")
    log.settle()
    log.acknowledge()
    servers.sync_slots(lambda: (log.settle(), log.acknowledge()))
    return log


def test_promoted_standby_that_has_everything_goes_on_under_a_higher_epoch(
    servers: Pair, db: Database, log: Collector, capture: Capture
) -> None:
    db.execute("insert into t values (3)")
    log.settle()
    position = log.acknowledge()
    db.execute("insert into t values (4)")  # not published yet
    servers.catch_up()
    log.source.close()
    promoted = servers.fail_over()
    again = capture(promoted.dsn(), "t", position=position)
    with psycopg.connect(promoted.dsn(), autocommit=True) as new:
        new.execute("insert into t values (5)")
    events = again.settle()
    assert published(again) == [4, 5]
    opened, before = json.loads(again.position or ""), json.loads(position)
    assert (before["timeline"], opened["timeline"]) == (1, 2)
    assert opened["epoch"] > before["epoch"]
    assert min(event.version for event in events) > max(event.version for event in log.events)
    assert again.source.status()["timeline_changed"] is True


@pytest.mark.parametrize("busy", [False, True], ids=["at once", "after as much was written"])
def test_promoted_standby_that_lacks_the_newest_is_refused(
    servers: Pair, db: Database, log: Collector, capture: Capture, busy: bool
) -> None:
    servers.part()
    db.execute("insert into t select i, repeat('x', 100) from generate_series(3, 100) i")
    log.settle()
    position = log.acknowledge()
    log.source.close()
    promoted = servers.fail_over()
    if busy:
        with psycopg.connect(promoted.dsn(), autocommit=True) as new:
            new.execute("insert into t select i, repeat('x', 100) from generate_series(1000, 2000) i")
            new.execute("insert into t values (5000)")
    again = capture(promoted.dsn(), "t", opened=False)
    with pytest.raises(Fatal) as raised:
        again.source.open(position)
        again.until(lambda: False)
    assert raised.value.code == "position_unproven"
    assert raised.value.command == "sync-hub recover erp"
    assert again.events == []
    assert [batch.position for batch in again.batches if batch.position] == []
    assert ("ends at" in raised.value.message) != busy
