"""docs/reference/events.md against what the hub writes: envelope, fields, headers, and the values of real rows."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from connectors.sources.postgres import PostgresSource
from sync_hub import envelope
from sync_hub.model import ChangeEvent, Record, Transaction, version_prefix, version_suffix
from tests.docs.pages import DOCS, blocks, codes, section, table_rows
from tests.events import change_event

PAGE = DOCS / "reference" / "events.md"
ROW = {"id": 42, "balance": "10.50", "updated_at": "2025-11-23T02:24:33.151664Z"}
LSN = 0x16B374D848
EVENT = change_event(
    source="erp",
    schema="public",
    table="customers",
    operation="update",
    key={"id": 42},
    before=None,
    after=ROW,
    version=version_prefix(1764000000000, LSN) + version_suffix(1),
    committed_at=1763864673151664,
    transaction=Transaction("771", 1, 1),
    database="erp",
    lsn=LSN,
    connector="postgresql",
)


def example(note: str) -> Any:
    (block,) = [block for block in blocks(PAGE) if block.note == note]
    return json.loads(block.text)


def test_the_example_is_what_is_written_byte_for_byte() -> None:
    (record,) = envelope.Encoder().encode([EVENT])
    assert record.topic == "erp.public.customers"
    assert record.headers is None
    assert record.key == json.dumps(example("key"), separators=(",", ":")).encode()
    assert record.value == json.dumps(example("update"), separators=(",", ":")).encode()


def test_every_field_is_explained() -> None:
    stated = {name for row in table_rows(section(PAGE, "Value")) if len(row) == 2 for name in codes(row[0])}
    value = example("update")
    assert stated == {*value.keys() - {"source"}, *(f"source.{name}" for name in value["source"])}


def test_every_operation_is_explained() -> None:
    stated = {codes(row[0])[0] for row in table_rows(section(PAGE, "Value")) if len(row) == 4}
    assert stated == set(envelope.OP_CODES.values())


def test_the_version_has_the_parts_and_widths_that_are_named() -> None:
    parts = example("update")["source"]["syncVersion"].split("-")
    stated = [int(row[1].split()[0]) for row in table_rows(section(PAGE, "Version"))]
    assert [len(part) for part in parts] == stated
    assert int(parts[1], 16) == example("update")["source"]["lsn"]


def test_every_header_is_explained_and_written_as_said() -> None:
    rows = {codes(row[0])[0]: row[1] for row in table_rows(section(PAGE, "Headers"))}
    everything: dict[str, Any] = {
        "correlation_id": "order-7",
        "traceparent": "00-…",
        "actor": "ada",
        "new_key": {"id": 1},
        "old_key": {"id": 2},
        "fetched": ("notes",),
        "unchanged": ("phone",),
        "pipelines": ("customer_to_crm",),
        "check": "4f3a",
        "repair": True,
        "oversize_bytes": 5,
    }
    event = msgspec.structs.replace(EVENT, **everything)
    written = dict(envelope.Encoder().encode([event])[0].headers or [])
    assert written.keys() == rows.keys()
    forms: dict[str, type] = {"JSON object": dict, "JSON list": list, "a number": int}
    for name, stated in rows.items():
        form = next((form for text, form in forms.items() if stated.startswith(text)), None)
        assert form is None or isinstance(json.loads(written[name]), form), name
    cloud = dict(envelope.Encoder(cloudevents=True).encode([event])[0].headers or []).keys() - written.keys()
    assert cloud <= set(codes(section(PAGE, "Headers")))
    named = {name for name in codes(section(PAGE, "Headers")) if name.startswith("ce_")}
    assert named == cloud - {"content-type"}


def test_what_debezium_wrote_is_read_as_said() -> None:
    value = {
        "schema": {},
        "payload": {
            "before": None,
            "after": {"id": 1, "notes": "__debezium_unavailable_value"},
            "op": "u",
            "source": {"name": "erp", "schema": "public", "table": "customers", "ts_ms": 5, "snapshot": "last"},
        },
    }
    headers = [("__debezium.oldkey", b'{"id":9}')]
    record = Record("erp.public.customers", 0, 0, b'{"id":1}', json.dumps(value).encode(), headers, 0)
    event = envelope.decode(record)
    assert event is not None
    assert (event.after, event.unchanged, event.old_key, event.version) == ({"id": 1}, ("notes",), {"id": 9}, "")


VALUES = [(*codes(row[0]), codes(row[1])[0], codes(row[2])[0]) for row in table_rows(section(PAGE, "Values"))]


@pytest.fixture
def read(source_dsn: str) -> dict[str, Any]:
    """All values of the page, written and read by a real server."""
    columns = ", ".join(f"c{number} {kind}" for number, (kind, _, _) in enumerate(VALUES))
    with psycopg.connect(source_dsn, autocommit=True) as connection:
        connection.execute("set lc_monetary = 'C'; set time zone 'Asia/Tokyo'")
        connection.execute(f"create table everything (id int primary key, {columns})".encode())
        connection.execute(f"insert into everything values (1, {', '.join(sql for _, sql, _ in VALUES)})".encode())
        database = conninfo_to_dict(source_dsn)["dbname"]
        connection.execute(f"alter database {database} set datestyle = 'German'".encode())
    source = PostgresSource("erp", PostgresSource.Options(dsn=source_dsn, tables=["public.everything"]), "docs")
    try:
        (row,) = source.read_rows("public.everything")
    finally:
        source.close()
    return row


def test_values_of_every_type_are_as_the_page_shows(read: dict[str, Any]) -> None:
    found = {f"{kind} {sql}": json.loads(wire) for kind, sql, wire in VALUES}
    shown = {f"{kind} {sql}": read[f"c{number}"] for number, (kind, sql, _) in enumerate(VALUES)}
    assert {name: repr(value) for name, value in shown.items()} == {name: repr(value) for name, value in found.items()}
    assert len(VALUES) > 25


def test_the_message_of_the_page_reaches_the_event(source_dsn: str) -> None:
    (statement,) = [block.text for block in blocks(PAGE) if block.note == "message"]
    with psycopg.connect(source_dsn, autocommit=True) as connection:
        connection.execute("create table customers (id int primary key)")
    options = PostgresSource.Options(dsn=source_dsn, tables=["public.customers"])
    source = PostgresSource("erp", options, f"docs_{conninfo_to_dict(source_dsn)['dbname']}")
    try:
        source.open(None)
        with psycopg.connect(source_dsn) as connection:
            connection.execute(statement.encode())
            connection.execute("insert into customers values (1)")
        events: list[ChangeEvent] = []
        for _ in range(100):
            events += source.read(0.1).events
            if events:
                break
        assert [(event.correlation_id, event.actor) for event in events] == [("order-7", "ada")]
    finally:
        source.drop()
