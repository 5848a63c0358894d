"""Topics that Debezium wrote, with what else may lie in them: each bad record is held by itself, and is told."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sync_hub.model import Outgoing
from tests.end_to_end.lab import execute, query
from tests.end_to_end.test_parking import Parks

SCHEMA = "create table orders (id int primary key, total numeric, note text)"
TARGET = (
    "create table order_view (id int primary key, total numeric check (total >= 0), note text, at timestamptz)",
)  # fmt: skip
MAPPING = """
mapping: orders
from: {source: {source}, table: public.orders}
to: {target: crm, table: order_view}
key: [id]
fields: {id: id, total: total, note: note, at: _committed_at}
"""
UNAVAILABLE = "__debezium_unavailable_value"
GOOD = "select id, total::int, note from order_view order by 1"


@pytest.fixture(params=["embedded", "kafka"])
def lab(request: pytest.FixtureRequest, tmp_path: Path, source_dsn: str, target_dsn: str) -> Iterator[Parks]:
    broker = ""
    if request.param == "kafka":
        address = request.getfixturevalue("kafka_address")
        broker = f"{{type: kafka, bootstrap_servers: ['{address}'], partitions: 3, replication_factor: 1}}"
    execute(source_dsn, SCHEMA)
    execute(target_dsn, *TARGET)
    name, tables = f"f{uuid.uuid4().hex[:8]}", "public.orders"
    lab = Parks(tmp_path, name, source_dsn, target_dsn, MAPPING, broker=broker, tables=tables)
    lab.config.write_text(lab.config.read_text() + "retry: {first: 0.5s, factor: 1, attempts: 1000}\n")
    try:
        lab.start()
        lab.settle()
        yield lab
    finally:
        lab.close()


def publish(lab: Parks, *records: tuple[bytes | None, bytes | None], partition: int | None = None) -> None:
    broker = lab.settings.new_broker()
    try:
        broker.publish([Outgoing(f"{lab.name}.public.orders", key, value, None, partition) for key, value in records])
        assert broker.flush(10)
    finally:
        broker.close()


def wrapped(part: Any) -> bytes:
    """As Debezium writes it with `schemas.enable`."""
    return json.dumps({"schema": {"type": "struct", "optional": False}, "payload": part}).encode()


def written(op: str, id_: Any, total: str | None = None, note: str | None = None, **source: Any) -> bytes:
    """An envelope as Debezium writes it, without a version of ours."""
    row = {"id": id_, "total": total, "note": note}
    gone = {"id": id_, "total": None, "note": None}
    where = {
        "name": "erp",
        "connector": "postgresql",
        "schema": "public",
        "table": "orders",
        "ts_ms": 1_750_000_000_000,
    }
    before, after = (gone, None) if op == "d" else (None, row)
    return wrapped({"before": before, "after": after, "op": op, "source": where | source})


def key(id_: Any) -> bytes:
    return wrapped({"id": id_})


def test_a_rejected_row_holds_its_key_until_it_is_mended(lab: Parks) -> None:
    publish(
        lab,
        (key(1), written("c", 1, "1", "one")),
        (key(2), written("c", 2, "-2", "two")),
        (key(2), written("u", 2, "-3", UNAVAILABLE)),
        (key(3), written("c", 3, "3", "three")),
        (key(3), written("d", 3)),
        (key(3), None),
        (key(4), written("c", 4, "-4", "four")),
        (key(4), written("d", 4)),
        (key(4), None),
    )
    lab.until([(1, 1, "one")], GOOD)
    lab.holds("orders", {"id": 2}, {"id": 2})
    execute(lab.target, "alter table order_view drop constraint order_view_total_check")
    lab.until([(1, 1, "one"), (2, -3, "two")], GOOD)
    assert lab.parked("orders") == []


def test_records_without_a_key_are_told_apart_by_their_rows(lab: Parks) -> None:
    publish(lab, (None, written("c", 1, "-1", "one")), (None, written("c", 2, "2", "two")), partition=0)
    lab.until([(2, 2, "two")], GOOD)
    lab.holds("orders", {"id": 1})
    publish(lab, (None, written("u", 2, "3", "two")), (None, written("c", 5, "-5", "five")), partition=0)
    lab.until([(2, 3, "two")], GOOD)
    lab.holds("orders", {"id": 1}, {"id": 5})
    publish(lab, (None, written("u", 1, "1", "one")), (None, written("d", 5)), partition=0)
    lab.until([(1, 1, "one"), (2, 3, "two")], GOOD)
    lab.holds("orders")
    publish(lab, (None, written("c", None, "1", "nobody")), (None, written("c", None, "2", "nobody")), partition=0)
    publish(lab, (None, written("u", 2, "4", "two")), partition=0)
    lab.until([(4,)], "select total::int from order_view where id = 2")
    assert [(row.code, row.key[0]) for row in lab.parked("orders")] == [("key_incomplete", "@")] * 2


def test_a_row_that_moves_to_another_key_without_all_its_columns_is_not_lost_in_silence(lab: Parks) -> None:
    """Debezium reads nothing again: the new row lacks what the log left out, and there is no row to put it on."""
    publish(
        lab,
        (key(1), written("c", 1, "1", "long")),
        (key(1), written("d", 1)),
        (key(1), None),
        (key(2), written("c", 2, "1", UNAVAILABLE)),
        (key(3), written("c", 3, "3", "three")),
    )
    lab.until([(3, 3, "three")], GOOD)
    (row,) = lab.holds("orders", {"id": 2})
    assert (row.code, row.state) == ("row_incomplete", "parked")
    publish(lab, (key(2), written("u", 2, "2", "long")))
    lab.until([(2, 2, "long"), (3, 3, "three")], GOOD)
    lab.holds("orders")


def test_what_is_no_event_of_a_row_is_parked_and_the_worker_goes_on(lab: Parks) -> None:
    scaled = {"scale": 0, "value": "BQ=="}  # as Debezium writes a numeric key with decimal.handling.mode=precise
    pids = lab.pids()
    publish(
        lab,
        (key(1), written("c", 1, "1", "one")),
        (key(1), b"no event"),
        (key(scaled), written("c", scaled, "5", "five")),
        (key(6), written("c", 6, "6", "six", ts_ms=10**15)),
        (key(7), written("c", 7, "7", "seven", ts_ms=-(2**60))),
        (key(8), written("c", 8, "8", "eight")),
    )
    lab.until([(1, 1, "one"), (8, 8, "eight")], GOOD)
    lab.holds("orders", {"id": 1}, {"id": scaled}, {"id": 6}, {"id": 7})
    assert lab.pids() == pids, lab.log()
    publish(lab, (key(1), written("u", 1, "2", "one")))
    lab.holds("orders", {"id": scaled}, {"id": 6}, {"id": 7})
    assert query(lab.target, "select total::int from order_view where id = 1") == [(2,)]
    lab.becomes("orders", "running")
