"""Topics that Debezium itself wrote: bytes recorded from version 3.5 by `tests/data/debezium/record.py`."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from sync_hub import debezium
from sync_hub.envelope import decode
from sync_hub.model import ChangeEvent, Record

FOLDER = Path(__file__).parents[1] / "data" / "debezium"
NOTES = "ab" * 1100


def records(file: str) -> list[Record]:
    found = []
    for line in (FOLDER / file).read_text().splitlines():
        fields = json.loads(line)
        for name in ("key", "value"):
            fields[name] = None if fields[name] is None else b64decode(fields[name])
        fields["headers"] = [(name, b64decode(value)) for name, value in fields["headers"]]
        found.append(Record(**fields))
    return found


def of_table(file: str, table: str) -> list[ChangeEvent | None]:
    return [decode(record) for record in records(file) if record.topic.endswith(f".{table}")]


def told(event: ChangeEvent | None) -> tuple[str, Any] | None:
    return event and (event.operation, event.key)


CUSTOMERS = of_table("plain.jsonl", "customers")
FULL_ROWS = of_table("plain.jsonl", "full_rows")
ORDERS = of_table("schema.jsonl", "orders")
TOASTED = of_table("plain.jsonl", "toasted")


def customer(index: int) -> ChangeEvent:
    event = CUSTOMERS[index]
    assert event is not None
    return event


def test_operations_and_keys_in_order() -> None:
    assert [told(event) for event in CUSTOMERS] == [
        ("read", {"id": 1}),
        ("read", {"id": 2}),
        ("create", {"id": 3}),
        ("update", {"id": 2}),
        ("update", {"id": 3}),
        ("delete", {"id": 3}),
        None,
        ("create", {"id": 30}),
        ("delete", {"id": 1}),
        None,
        ("update", {"id": 2}),
        ("read", {"id": 2}),
        ("read", {"id": 30}),
    ]
    assert told(FULL_ROWS[-1]) == ("truncate", None)


def test_schema_block_makes_no_difference() -> None:
    assert [told(event) for event in ORDERS] == [
        ("read", {"id": 1}),
        ("create", {"id": 2}),
        ("update", {"id": 1}),
        ("delete", {"id": 2}),
        None,
        ("create", {"id": 3}),
        ("delete", {"id": 1}),
        None,
    ]
    created, deleted = ORDERS[5], ORDERS[3]
    assert created is not None
    assert created.after == {"id": 3, "total": "0.00", "placed": "2024-03-02T00:00:00.000000Z"}
    assert created.old_key == {"id": 2}
    assert deleted is not None
    assert deleted.new_key == {"id": 3}
    assert deleted.before == {"id": 2}


def test_facts_of_the_source() -> None:
    for event in filter(None, CUSTOMERS):
        assert (event.source.name, event.source.schema, event.source.table) == ("plain", "public", "customers")
        assert (event.source.database, event.source.connector) == ("postgres", "postgresql")
        assert event.version == "", "it is not ours, so it has no version of ours"
        assert 1_700_000_000_000_000 < event.source.committed_at < 4_000_000_000_000_000
        assert event.correlation_id == event.actor == event.traceparent == event.source.origin == ""
    inserted = customer(2)
    assert inserted.source.lsn > 0
    assert inserted.transaction is not None
    assert (inserted.transaction.total_order, inserted.transaction.table_order) == (1, 1)


@pytest.mark.parametrize(
    ("index", "snapshot"), [(0, True), (1, True), (2, False), (11, True)], ids=["first", "last", "false", "incremental"]
)
def test_every_kind_of_snapshot_is_recognised(index: int, snapshot: bool) -> None:
    assert customer(index).source.snapshot is snapshot


def test_values_come_as_debezium_has_them() -> None:
    after = customer(0).after
    assert after == {
        "id": 1,
        "small": -32768,
        "number": 2147483647,
        "flag": True,
        "amount": "10.50",
        "any_numeric": "0.1000",
        "single": 1.5,
        "double": 0.0,
        "name": "Ada Lovelace",
        "short": "ada",
        "fixed": "ab   ",
        "born": "2024-02-29Z",
        "at_time": "23:59:59.999999Z",
        "at_time_tz": "10:00:00Z",
        "created": "2024-02-29T13:14:15.123456Z",
        "updated": "2024-02-29T13:14:15.123456Z",
        "waiting": "P1Y2M3DT4H5M6S",
        "uid": "6f0b9f9e-6b1f-4f0e-8d33-1f2f3a4b5c6d",
        "data": '{"a": [1, 2.50]}',
        "raw": '{"b":1,"b":2}',
        "bytes": "AP8=",
        "feeling": "happy",
        "tags": ["x", None, "z"],
        "numbers": [1, 2],
        "address": "10.0.0.1/8",
        "notes": None,
    }
    nulls = customer(1)
    assert nulls.after == {name: 2 if name == "id" else None for name in after}
    assert nulls.unchanged == ()


def test_value_that_the_log_did_not_carry_is_absent_not_null() -> None:
    assert customer(2).after and customer(2).after["notes"] == NOTES
    update = customer(4)
    assert update.unchanged == ("notes",)
    assert update.after is not None
    assert "notes" not in update.after
    assert update.after["amount"] == "21.00"


def test_marks_of_every_type_are_absent() -> None:
    created, updated = TOASTED
    assert created is not None
    assert created.unchanged == ()
    assert created.after is not None
    assert len(created.after["numbers"]) == 600
    assert updated is not None
    assert updated.unchanged == ("body", "doc", "words", "numbers", "uids")
    assert updated.after == {"id": 1, "n": 2}


def test_old_row_with_only_the_key_says_nothing_about_other_columns() -> None:
    assert customer(5).before == {"id": 3}
    assert customer(8).before == {"id": 1}


def test_whole_old_row_is_kept() -> None:
    deleted = FULL_ROWS[1]
    assert deleted is not None
    assert deleted.before == {"id": 1, "part": "a", "notes": NOTES}
    assert deleted.new_key == {"id": 1, "part": "b"}
    created = FULL_ROWS[3]
    assert created is not None
    assert created.after == {"id": 1, "part": "b", "notes": NOTES}
    assert created.old_key == {"id": 1, "part": "a"}


def test_changed_key_is_tied_by_headers() -> None:
    assert customer(5).new_key == {"id": 30}
    assert customer(7).old_key == {"id": 3}
    assert customer(7).unchanged == ("notes",)


def test_values_that_only_look_like_marks_are_kept() -> None:
    row = {"a": "__debezium", "b": [95], "c": [], "d": 95, "e": ["__debezium_unavailable_value", "x"]}
    assert debezium.available(row) == (row, ())


def test_old_row_of_nothing_but_key_columns_is_whole() -> None:
    assert debezium.known({"id": 1}, {"id": 1}) == {"id": 1}
    assert debezium.known({"id": None, "x": None}, None) == {"id": None, "x": None}
    assert debezium.known({"id": 1, "x": 2, "y": None}, {"id": 1}) == {"id": 1, "x": 2, "y": None}
