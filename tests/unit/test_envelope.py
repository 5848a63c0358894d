"""Events to bytes and back, for any event and any bytes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_hub.envelope import Encoder, decode
from sync_hub.errors import Rejected
from sync_hub.model import ChangeEvent, Outgoing, Record, Transaction, version_prefix, version_suffix
from tests.events import change_event, with_source

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
ROWS = st.dictionaries(NAMES, VALUES, max_size=6)
KEYS = st.dictionaries(NAMES, st.integers(-(2**63), 2**63 - 1) | TEXT, min_size=1, max_size=3)
NAME_LISTS = st.lists(NAMES, max_size=3).map(tuple)


@st.composite
def events(draw: st.DrawFn) -> ChangeEvent:
    finite = st.floats(allow_nan=False, allow_infinity=False)
    values = st.recursive(st.none() | st.booleans() | TEXT | finite, lambda inner: st.lists(inner, max_size=3))
    rows = st.none() | st.dictionaries(NAMES, values | st.integers(-(2**63), 2**63 - 1), max_size=6)
    lsn = draw(st.integers(0, 2**63 - 1))
    return change_event(
        source=draw(TEXT),
        schema=draw(TEXT),
        table=draw(TEXT),
        operation=draw(st.sampled_from(["create", "update", "delete", "read", "truncate"])),
        key=draw(st.none() | KEYS),
        before=draw(rows),
        after=draw(rows),
        version=version_prefix(draw(st.integers(0, 2**48 - 1)), lsn) + version_suffix(draw(st.integers(0, 2**40 - 1))),
        committed_at=draw(st.integers(0, 2**53)),
        transaction=draw(st.none() | st.builds(Transaction, TEXT, st.integers(0, 2**40), st.integers(0, 2**40))),
        unchanged=draw(NAME_LISTS),
        fetched=draw(NAME_LISTS),
        old_key=draw(st.none() | KEYS),
        new_key=draw(st.none() | KEYS),
        pipelines=draw(NAME_LISTS),
        snapshot=draw(st.booleans()),
        database=draw(TEXT),
        lsn=lsn,
        connector=draw(TEXT),
        correlation_id=draw(TEXT),
        traceparent=draw(TEXT),
        actor=draw(TEXT),
        origin=draw(TEXT),
        oversize_bytes=draw(st.integers(0, 2**40)),
    )


def received(record: Outgoing) -> Record:
    return Record(record.topic, 0, 0, record.key, record.value, record.headers, 0)


@given(events())
def test_every_event_comes_back_as_it_was(event: ChangeEvent) -> None:
    (record,) = Encoder().encode([event])
    assert repr(decode(received(record))) == repr(event)


@given(st.lists(events(), min_size=2, max_size=4))
def test_events_of_one_call_do_not_mix(several: list[ChangeEvent]) -> None:
    same_source = [with_source(e, name="erp", database="db", connector="c") for e in several]
    together = Encoder().encode(same_source)
    assert together == [Encoder().encode([event])[0] for event in same_source]
    assert [decode(received(record)) for record in together] == same_source


@given(st.binary(max_size=300), st.none() | st.binary(max_size=50))
def test_any_bytes_are_an_event_or_rejected(value: bytes, key: bytes | None) -> None:
    refused_or_event(Record("t", 0, 0, key, value, None, 0))


JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=4))
SOURCE_FIELDS = ("name", "connector", "snapshot", "db", "schema", "table", "ts_ms", "ts_us", "lsn", "syncVersion")
SOURCES = st.fixed_dictionaries({}, optional=dict.fromkeys(SOURCE_FIELDS, JSON))
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "before": JSON,
        "after": JSON | ROWS,
        "op": JSON | st.sampled_from("crudt"),
        "source": JSON | SOURCES,
        "transaction": JSON,
        "payload": JSON,
    },
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["correlationid", "actor", "newkey", "oldkey", "fetched", "unchanged", "pipelines", "oversize", "other"]
        ),
        st.binary(max_size=10) | JSON.map(msgspec.json.encode),
    ),
    max_size=4,
)


@settings(max_examples=300)
@given(ENVELOPES, st.none() | JSON, HEADERS)
def test_any_json_is_an_event_or_rejected(value: Any, key: Any, headers: list[tuple[str, bytes]]) -> None:
    refused_or_event(Record("t", 0, 0, msgspec.json.encode(key), msgspec.json.encode(value), headers, 0))


def refused_or_event(record: Record) -> None:
    try:
        event = decode(record)
    except Rejected as error:
        assert error.code == "not_an_envelope"
        assert "t/0@0" in error.message
        assert "\n" not in error.message
        return
    if event is None:
        return
    assert isinstance(event, ChangeEvent)
    assert all(isinstance(names, tuple) for names in (event.unchanged, event.fetched, event.pipelines))
    assert all(isinstance(name, str) for name in event.unchanged + event.fetched + event.pipelines)
    assert all(
        isinstance(text, str) for text in (event.source.name, event.source.schema, event.source.table, event.version)
    )
    assert isinstance(event.source.committed_at, int)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"op":"u","source":null}',
        b'{"op":"x","source":{"table":"t"}}',
        b'{"op":"u","source":{"table":5}}',
        b'{"op":"u","after":[],"source":{"table":"t"}}',
        b'{"payload":{"payload":{}}}',
        b"[" * 100_000,
        b'{"op":"u","after":{"a":' + b"[" * 100_000,
        b'{"op":"u","source":{"table":"\xff"}}',
    ],
    ids=lambda value: value[:40].decode(errors="replace"),
)
def test_what_is_no_envelope_is_rejected(value: bytes) -> None:
    with pytest.raises(Rejected, match="not_an_envelope"):
        decode(Record("t", 0, 0, b'{"id":1}', value, None, 0))


@pytest.mark.parametrize(
    "moment", ['"ts_ms":1000000000000000', '"ts_us":-1000000000000000000', '"ts_ms":9000000000000000000']
)
def test_what_is_no_time_is_no_event(moment: str) -> None:
    """A mapping that uses `_committed_at` could not be applied to it, nor to anything else."""
    value = f'{{"after":{{"id":1}},"op":"c","source":{{"name":"erp","table":"t",{moment}}}}}'
    with pytest.raises(Rejected, match="is no time"):
        decode(Record("t", 0, 0, b'{"id":1}', value.encode(), None, 0))


def test_tombstone_is_no_event() -> None:
    assert decode(Record("t", 0, 0, b'{"id":1}', None, None, 0)) is None
    assert decode(Record("t", 0, 0, b'{"id":1}', b'{"schema":null,"payload":null}', None, 0)) is None


def test_key_columns_may_be_called_schema_and_payload() -> None:
    event = change_event(
        source="erp",
        schema="",
        table="t",
        operation="delete",
        key={"schema": "a", "payload": "b"},
        before=None,
        after=None,
        version="v",
        committed_at=0,
        database="db",
    )
    (record,) = Encoder().encode([event])
    assert decode(received(record)) == event


def test_without_anything_to_say_there_are_no_headers() -> None:
    event = change_event(
        source="s",
        schema="p",
        table="t",
        operation="update",
        key={"id": 1},
        before=None,
        after={},
        version="v",
        committed_at=0,
    )
    (record,) = Encoder().encode([event])
    assert record.headers is None
    assert record.topic == "s.p.t"
