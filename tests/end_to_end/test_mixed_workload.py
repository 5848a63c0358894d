"""The main job from end to end: every kind of change, every worker killed again and again, nothing lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sync_hub.envelope import decode
from sync_hub.model import TopicPartition
from tests.end_to_end.hub import Hub, wait_until
from tests.end_to_end.workload import MAPPINGS, SCHEMA, Writer

KILLS = {"embedded": 10, "kafka": 6, "kafka-python": 3}
"""Of each worker: twice as many in all."""

AUDIT = """
create table writes (at bigserial, account bigint, event text);
create function audit() returns trigger language plpgsql as
    'begin insert into writes (account, event) values (new.account, new.event); return new; end';
create table account_view (account bigint primary key, title text, balance numeric(14,4), big text, event text);
create trigger audit after insert or update on account_view for each row execute function audit();
"""
ROWS = """
insert into accounts select n, 'before', n, repeat('z', 9000), true from generate_series(1, 30) n;
insert into orders select 1, n::text, n, null from generate_series(1, 2000) n;
"""
TRUTH = """
select xid::text, lsn - '0/0'::pg_lsn as lsn from pg_logical_slot_peek_changes(%s, null, null, 'skip-empty-xacts', '1')
where data like 'COMMIT%%'
"""


@pytest.fixture(params=["embedded", "kafka", "kafka-python"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The broker's part of the configuration."""
    if request.param == "embedded":
        return f"{{type: embedded, path: {tmp_path}/log.db, partitions: 3}}"
    address = request.getfixturevalue("kafka_address")
    client = "confluent" if request.param == "kafka" else "kafka-python"
    return f"{{type: kafka, bootstrap_servers: ['{address}'], client: {client}, partitions: 3, replication_factor: 1}}"


@pytest.fixture
def hub(tmp_path: Path, source_dsn: str, target_dsn: str, broker: str) -> Iterator[Hub]:
    """A hub between two databases; the source's name is unique, so topics and slots are."""
    source = f"s{uuid.uuid4().hex[:8]}"
    config = f"""
hub: {{name: {source}, state: "sqlite:///{tmp_path}/state.db"}}
broker: {broker}
sources:
  {source}:
    type: postgres
    dsn: "{source_dsn}"
    heartbeat_seconds: 0.5
    tables: [public.accounts, public.orders]
targets:
  crm: {{type: postgres, dsn: "{target_dsn}"}}
mappings: [{tmp_path}/mappings]
http: {{port: 0}}
"""
    with psycopg.connect(source_dsn) as connection:
        connection.execute(SCHEMA)
        connection.execute(ROWS)
    with psycopg.connect(target_dsn) as connection:
        connection.execute(AUDIT)
    hub = Hub(tmp_path, config, MAPPINGS.format(source=source, target="crm"))
    yield hub
    hub.close()


def test_kills_at_random_moments_lose_and_double_nothing(
    hub: Hub, source_dsn: str, target_dsn: str, request: pytest.FixtureRequest
) -> None:
    truth = f"truth_{uuid.uuid4().hex[:8]}"
    hub.start()
    writers = [Writer(source_dsn, seed) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    wait_until(lambda: hub.state.position(next(iter(hub.settings.sources))), "the log is open")
    with psycopg.connect(source_dsn, autocommit=True) as connection:
        connection.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", (truth,))
    chance, topics = random.Random(7), _Topics(hub)
    killed: set[int] = set()
    for _ in range(KILLS[request.node.callspec.params["broker"]]):
        pids = [
            wait_until(lambda name=name: _running(hub, name, killed), f"{name} works again")
            for name in ("capture", "deliver")
        ]
        for pid in chance.sample(pids, 2):
            killed.add(pid)
            threading.Event().wait(chance.random() * 0.3)  # a random moment, not a wait for something
            os.kill(pid, signal.SIGKILL)
        _assert_acknowledged_is_durable(hub, topics, source_dsn, truth)
    topics.close()
    done = sum((writer.stop() for writer in writers), start=writers[0].done.__class__())
    assert len(done) >= 10, done
    hub.settle()
    comparisons = hub.compare()
    for comparison in comparisons:
        assert comparison.agrees, comparison
    assert sum(comparison.matched for comparison in comparisons) > 0
    _assert_no_event_applied_twice(target_dsn)
    assert hub.stop() == 0


def _running(hub: Hub, kind: str, killed: set[int]) -> int | None:
    """The process of a worker that works and was not killed yet."""
    for worker in hub.state.workers():
        if worker.name.startswith(kind) and worker.state == "running" and worker.pid not in killed:
            return worker.pid
    return None


def _assert_acknowledged_is_durable(hub: Hub, topics: _Topics, dsn: str, truth: str) -> None:
    """Every transaction that the source may forget is in the topics."""
    source = next(iter(hub.settings.sources))
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "select confirmed_flush_lsn - '0/0'::pg_lsn from pg_replication_slots where slot_name = %s",
            (f"sync_hub_{hub.settings.hub.name}_{source}",),
        ).fetchone()
        assert row is not None
        commits = [xid for xid, lsn in connection.execute(TRUTH, (truth,)) if lsn <= row[0]]
        changed = _changed_by(connection, truth, set(commits))
    assert changed <= topics.transactions(), "acknowledged, and not in the topics"


def _changed_by(connection: psycopg.Connection[Any], truth: str, commits: set[str]) -> set[str]:
    """Of these transactions, those that changed a captured table."""
    rows = connection.execute(
        "select xid::text from pg_logical_slot_peek_changes(%s, null, null) where data like 'table public.%%'", (truth,)
    )
    return {xid for (xid,) in rows} & commits


class _Topics:
    """The ids of all transactions in the topics, read on from where it stood."""

    def __init__(self, hub: Hub) -> None:
        self._broker = hub.settings.new_broker()
        self._topics = [f"{next(iter(hub.settings.sources))}.public.{name}" for name in ("accounts", "orders")]
        self._next: dict[TopicPartition, int] = {}
        self._found: set[str] = set()
        self._subscription = self._broker.subscribe(
            self._topics, f"check-{uuid.uuid4().hex}", on_assign=lambda parts: dict.fromkeys(parts, 0)
        )

    def transactions(self) -> set[str]:
        """All that are there by now."""
        ends = self._broker.end_offsets(self._topics)

        def read() -> bool:
            for record in self._subscription.poll(0.1, 5000):
                event = decode(record)
                if event is not None and event.transaction is not None:
                    self._found.add(event.transaction.id)
                self._next[TopicPartition(record.topic, record.partition)] = record.offset + 1
            return all(self._next.get(place, 0) >= end for place, end in ends.items())

        wait_until(read, "all topics read")
        return self._found

    def close(self) -> None:
        self._subscription.close()
        self._broker.close()


def _assert_no_event_applied_twice(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        twice = connection.execute(
            "select account, event, count(*) from writes group by account, event having count(*) > 1"
        ).fetchall()
        total = connection.execute("select count(*) from writes").fetchone()
    assert twice == []
    assert total is not None
    assert total[0] > 10
