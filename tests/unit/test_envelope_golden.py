"""The bytes on the wire, as files: whoever changes them sees it.

`python -m tests.unit.test_envelope_golden` writes the files again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from sync_hub.envelope import Encoder, decode
from sync_hub.model import ChangeEvent, Outgoing, Record, Transaction, version_prefix, version_suffix
from tests.events import change_event

FOLDER = Path(__file__).parents[1] / "data" / "golden"
LSN = 0x16B374D848
ROW = {
    "id": 42,
    "balance": "10.50",
    "rate": -0.0,
    "infinite": "NaN",
    "active": True,
    "updated_at": "2026-11-23T02:24:33.151664Z",
    "tags": ["a", None, 'b"\\'],
    "notes": "ünïcode 🙂 \n\t\u0000",
    "missing": None,
}


def event(**changes: Any) -> ChangeEvent:
    common: dict[str, Any] = {
        "source": "erp",
        "schema": "public",
        "table": "customers",
        "operation": "update",
        "key": {"id": 42},
        "before": None,
        "after": ROW,
        "version": version_prefix(1764000000000, LSN) + version_suffix(1),
        "committed_at": 1763864673151664,
        "transaction": Transaction("771", 3, 1),
        "database": "erp_db",
        "lsn": LSN,
        "connector": "postgresql",
    }
    return change_event(**(common | changes))


PARTIAL = {name: value for name, value in ROW.items() if name != "notes"}
CASES = {
    "create": event(operation="create"),
    "update": event(),
    "update_with_before": event(before={"id": 42, "balance": "9.00"}),
    "delete": event(operation="delete", before={"id": 42}, after=None),
    "read": event(operation="read", snapshot=True, transaction=None, pipelines=("customer_to_crm",)),
    "truncate": event(operation="truncate", key=None, after=None),
    "key_change_delete": event(operation="delete", before={"id": 42}, after=None, new_key={"id": 43}),
    "key_change_create": event(operation="create", key={"id": 43}, old_key={"id": 42}),
    "composite_key": event(key={"region": "é", "number": 7}),
    "correlated": event(correlation_id="order-7", actor="ada", traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-01"),
    "fetched": event(fetched=("notes", "updated_at")),
    "unchanged": event(after=PARTIAL, unchanged=("notes",)),
    "oversize": event(after=None, oversize_bytes=5_000_000),
    "origin": event(origin="other_hub"),
    "no_transaction": event(transaction=None, lsn=0),
    "cloudevents": event(correlation_id="order-7", actor="ada", traceparent="00-ab-01"),
}


def encoded(name: str) -> Outgoing:
    with patch("sync_hub.envelope.__version__", "1.2.3"):
        (record,) = Encoder(cloudevents=name == "cloudevents").encode([CASES[name]])
    return record


def written(record: Outgoing) -> bytes:
    lines = [record.topic.encode(), record.key if record.key is not None else b"(no key)", record.value or b""]
    return b"\n".join(lines + [name.encode() + b": " + value for name, value in record.headers or []]) + b"\n"


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_of_the_file(name: str) -> None:
    assert written(encoded(name)) == (FOLDER / f"{name}.txt").read_bytes()


@pytest.mark.parametrize("name", CASES)
def test_the_file_decodes_to_the_event(name: str) -> None:
    topic, key, value, *headers = (FOLDER / f"{name}.txt").read_bytes().rstrip(b"\n").split(b"\n")
    pairs = [header.split(b": ", 1) for header in headers]
    found = decode(
        Record(
            topic.decode(),
            0,
            0,
            None if key == b"(no key)" else key,
            value,
            [(name.decode(), content) for name, content in pairs] or None,
            0,
        )
    )
    assert found == CASES[name]


def test_there_is_a_file_for_each_case_and_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == CASES.keys()


def test_values_are_plain_json() -> None:
    for name in CASES:
        value = msgspec.json.decode(encoded(name).value or b"")
        assert value.keys() == {"before", "after", "op", "transaction", "ts_ms", "source"}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        (FOLDER / f"{case}.txt").write_bytes(written(encoded(case)))
