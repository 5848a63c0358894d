"""The target's offsets are the only truth: what does not fit them has no effect, or stops and says what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.local_postgres import LocalPostgres
from sync_hub.model import TopicPartition
from sync_hub.runtime.supervise import housekeeping, lowest_offsets
from sync_hub.settings import Topics
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, frozen, query
from tests.servers.postgres import database

SCHEMA = """
create table accounts (id bigint primary key, name text);
create table orders (shop integer, number text, total numeric, note text, primary key (shop, number));
"""
MAPPINGS = """
mapping: audited
from: {source: {source}, table: public.accounts}
to: {target: crm, table: audited}
key: [id]
fields: {id: id, name: name, event: _event_id}
---
mapping: hashed
from: {source: {source}, table: public.accounts}
to: {target: crm, table: hashed, create: true}
key: [id]
fields:
  id: id
  name: hmac_sha256(name, secret('LAB_KEY'))
---
mapping: unproven
from: {source: {source}, table: public.accounts}
to: {target: crm, table: unproven, create: true}
key: [id]
copy: all
---
mapping: forgotten
from: {source: {source}, table: public.accounts}
to: {target: crm, table: forgotten, create: true}
key: [id]
copy: all
---
mapping: incomplete
from: {source: {source}, table: public.accounts}
to: {target: crm, table: incomplete, create: true}
key: [id]
copy: all
---
mapping: orders_to_crm
from: {source: {source}, table: public.orders}
to: {target: crm, table: orders, create: true}
key: [shop, number]
copy: all
---
mapping: orders_to_wh
from: {source: {source}, table: public.orders}
to: {target: wh, table: orders, create: true}
key: [shop, number]
copy: all
"""
AUDIT = """
create table audited (id bigint primary key, name text, event text);
create table writes (at bigserial, id bigint, event text);
create function audit() returns trigger language plpgsql as
    'begin insert into writes (id, event) values (new.id, new.event); return new; end';
create trigger audit after insert or update on audited for each row execute function audit();
"""
TWICE = "select id, event, count(*) from writes group by 1, 2 having count(*) > 1"


@pytest.fixture(scope="module")
def lab(
    source_server: LocalPostgres, target_server: LocalPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """One hub for all tests of this file."""
    with database(source_server) as source, database(target_server) as target:
        execute(source, SCHEMA)
        execute(target, AUDIT)
        lab = Lab(tmp_path_factory.mktemp("offsets"), "offs", source, target, MAPPINGS)
        lab.environment["LAB_KEY"] = "right"
        lab.start()
        execute(source, "insert into accounts select n, 'a' from generate_series(1, 100) n")
        execute(source, "insert into orders select 1, n, n, null from generate_series(1, 100) n")
        lab.until([(100, 100)], "select (select count(*) from audited), (select count(*) from orders)")
        yield lab
        lab.close()


def test_a_worker_that_wakes_up_after_another_took_over_has_no_effect(lab: Lab, tmp_path: Path) -> None:
    lab.agrees()
    zombie = lab.pids()["deliver:crm"]
    other = Lab(tmp_path, lab.name, lab.source, lab.target, MAPPINGS, home=lab.folder)
    other.environment["LAB_KEY"] = "right"
    try:
        with frozen(zombie):
            execute(lab.source, "update accounts set name = 'b'")
            other.start("--only", "deliver:crm")
            lab.until([(100,)], "select count(*) from audited where name = 'b'")
            execute(lab.source, "update accounts set name = 'c' where id > 50")
            lab.until([(50,)], "select count(*) from audited where name = 'c'")
            assert other.stop() == 0
        wait_until(lambda: f"{zombie} offsets_moved" in lab.log(), "the one that slept notices")
        execute(lab.source, "update accounts set name = 'd' where id = 1")
        lab.until([("d",)], "select name from audited where id = 1")
    finally:
        other.close()
    lab.agrees()
    assert query(lab.target, "select count(*) from writes") == [(100 + 100 + 50 + 1,)]
    assert query(lab.target, TWICE) == []


def test_offsets_that_do_not_fit_stop_their_pipeline_and_say_why(lab: Lab) -> None:
    """Another secret; an offset whose record is not the one applied last; no offsets; one that is missing."""
    lab.agrees()
    before = query(lab.target, "select * from hashed order by id")
    assert lab.stop() == 0
    execute(
        lab.target,
        "create table kept as select * from sync_hub_offsets",
        "update sync_hub_offsets set last_version = '000000000001-' where pipeline = 'unproven'",
        "delete from sync_hub_offsets where pipeline = 'forgotten'",
        "delete from sync_hub_offsets where pipeline = 'incomplete' and partition = 1",
    )
    lab.environment["LAB_KEY"] = "wrong"
    execute(lab.source, "update accounts set name = 'e'")
    lab.start()
    for pipeline, code, says in (
        ("hashed", "mapping_differs", "secret"),
        ("unproven", "offset_unproven", "offs.public.accounts/"),
        ("forgotten", "offsets_lost", "no longer knows"),
        ("incomplete", "partitions_changed", "has 3 partitions"),
    ):
        error = lab.becomes(pipeline, "failed")["error"]
        assert error["code"] == code
        assert says in error["message"]
        assert error["hint"]
    lab.until([(100,)], "select count(*) from audited where name = 'e'")
    assert query(lab.target, "select * from hashed order by id") == before
    for table in ("unproven", "forgotten", "incomplete"):
        assert query(lab.target, f"select count(*) from {table} where name = 'e'") == [(0,)]
    mended = "pipeline in ('unproven', 'forgotten', 'incomplete')"
    execute(
        lab.target,
        f"delete from sync_hub_offsets where {mended}",
        f"insert into sync_hub_offsets select * from kept where {mended}",
    )
    lab.resume("crm")
    for pipeline in ("unproven", "forgotten", "incomplete"):
        lab.becomes(pipeline, "running")
    lab.environment["LAB_KEY"] = "right"
    assert lab.stop() == 0
    lab.start()
    lab.becomes("hashed", "running")
    lab.agrees()


def _told(lab: Lab, topic: str) -> dict[TopicPartition, int]:
    """The lowest offsets of a topic that its pipelines need; nothing while one of them has not told its own."""
    return {place: offset for place, offset in lowest_offsets(lab.state).items() if place.topic == topic}


def test_retention_leaves_what_a_paused_pipeline_has_not_read(lab: Lab) -> None:
    keep_nothing = lab.settings.model_copy(update={"topics": Topics(keep=0)})
    assert lab.cli("pause", "orders_to_wh").returncode == 0
    lab.becomes("orders_to_wh", "paused")
    read = wait_until(lambda: _told(lab, "offs.public.orders"), "the workers tell how far they are")
    execute(
        lab.source,
        "update accounts set name = 'f'",
        "delete from orders where shop = 3",
        "insert into orders select 3, n, n, null from generate_series(1, 90) n",
    )
    lab.until([(90,)], "select count(*) from orders where shop = 3")
    broker = lab.settings.new_broker()
    try:
        ends = broker.end_offsets(["offs.public.accounts"])
        wait_until(lambda: ends.items() <= lowest_offsets(lab.state).items(), "the workers tell how far they are")
        housekeeping(keep_nothing, lab.state)
        assert broker.start_offsets(["offs.public.accounts"]) == ends, "what all have read goes"
        starts = broker.start_offsets(["offs.public.orders"])
        assert all(start <= read[place] for place, start in starts.items())
        assert sum(broker.end_offsets(["offs.public.orders"]).values()) >= sum(starts.values()) + 90
    finally:
        broker.close()
    lab.resume("orders_to_wh")
    lab.becomes("orders_to_wh", "running")
    lab.agrees()


def test_records_deleted_before_they_were_read_stop_their_reader_alone(lab: Lab) -> None:
    assert lab.cli("pause", "wh").returncode == 0
    lab.becomes("orders_to_wh", "paused")
    execute(lab.source, "insert into orders select 4, n, n, null from generate_series(1, 50) n")
    lab.until([(50,)], "select count(*) from orders where shop = 4")
    broker = lab.settings.new_broker()
    try:
        broker.retain(broker.end_offsets(["offs.public.orders"]), 0)
    finally:
        broker.close()
    lab.resume("wh")
    error = lab.becomes("orders_to_wh", "failed")["error"]
    assert error["code"] == "offset_gone"
    assert "load the pipeline again" in error["hint"]
    execute(lab.source, "insert into orders values (5, 'after', 1, null)")
    lab.until([(1,)], "select count(*) from orders where shop = 5")


def test_topics_that_were_made_again_are_not_taken_for_the_old_ones(lab: Lab) -> None:
    assert lab.stop() == 0
    with sqlite3.connect(lab.folder / "log.db") as log:
        for table in ("batches", "partitions", "topics"):
            log.execute(f"delete from {table}")
    lab.start()
    for pipeline in ("audited", "orders_to_crm"):
        error = lab.becomes(pipeline, "failed")["error"]
        assert error["code"] == "topic_recreated"
        assert "what was in it is lost" in error["hint"]
    assert query(lab.target, TWICE) == []
    assert lab.cli("status").returncode == 1
