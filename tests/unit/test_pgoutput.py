from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.pgtypes import wire_converter
from connectors.sources.pgmessages import (
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Origin,
    Relation,
    RelationColumn,
    Skipped,
    Truncate,
    Type,
    Update,
)
from connectors.sources.pgoutput import POSTGRES_EPOCH_MICROSECONDS, Decoder, MalformedMessage

COLUMNS = [("id", "integer", True), ("name", "text", False), ("big", "text", False), ("at", "boolean", False)]
OID = 16384


def relation(oid: int = OID, name: str = "people") -> bytes:
    columns = b"".join(
        struct.pack("!B", key) + n.encode() + b"\0" + struct.pack("!Ii", 25, -1) for n, _, key in COLUMNS
    )
    return b"R" + struct.pack("!I", oid) + b"public\0" + name.encode() + b"\0d" + struct.pack("!H", 4) + columns


def row(*values: str | type | None) -> bytes:
    """A tuple; `object` stands for an unchanged column."""
    parts = [struct.pack("!H", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif isinstance(value, str):
            parts.append(b"t" + struct.pack("!I", len(value.encode())) + value.encode())
        else:
            parts.append(b"u")
    return b"".join(parts)


def decoder(excluded: frozenset[str] = frozenset()) -> Decoder:
    def prepare(found: Relation) -> list[tuple[bool, Any]] | None:
        if found.name != "people":
            return None
        return [(name not in excluded, wire_converter(kind)) for name, kind, _ in COLUMNS]

    made = Decoder(prepare)
    made.decode(relation())
    return made


def change(kind: bytes, *parts: bytes, oid: int = OID) -> bytes:
    return kind + struct.pack("!I", oid) + b"".join(parts)


def test_begin_and_commit_carry_commit_lsn_and_time() -> None:
    assert decoder().decode(b"B" + struct.pack("!QqI", 7, 5, 42)) == Begin(7, 5 + POSTGRES_EPOCH_MICROSECONDS, 42)
    commit = decoder().decode(b"C\0" + struct.pack("!QQq", 7, 9, 5))
    assert commit == Commit(7, 9, 5 + POSTGRES_EPOCH_MICROSECONDS)


def test_relation_names_columns_types_and_key() -> None:
    found = Decoder(lambda _: None).decode(relation())
    assert isinstance(found, Relation)
    assert (found.oid, found.schema, found.name, found.identity) == (OID, "public", "people", "d")
    assert found.columns[0] == RelationColumn("id", 25, -1, True)
    assert [column.key for column in found.columns] == [True, False, False, False]


def test_insert_gives_wire_values() -> None:
    assert decoder().decode(change(b"I", b"N", row("1", "Zoë", None, "t"))) == Insert(
        OID, {"id": 1, "name": "Zoë", "big": None, "at": True}
    )


def test_text_of_any_length_and_script_is_kept() -> None:
    text = "ascii" * 200 + "Grüße 日本 😀"
    message = decoder().decode(change(b"I", b"N", row("1", text, "", None)))
    assert isinstance(message, Insert)
    assert message.new == {"id": 1, "name": text, "big": "", "at": None}


def test_unchanged_columns_are_missing_not_null() -> None:
    message = decoder().decode(change(b"U", b"N", row("1", "a", object, "f")))
    assert message == Update(OID, None, False, {"id": 1, "name": "a", "at": False}, ("big",))


def test_unchanged_columns_come_from_a_whole_old_row() -> None:
    old, new = row("1", "b", "large", None), row("1", "a", object, None)
    message = decoder().decode(change(b"U", b"O", old, b"N", new))
    assert isinstance(message, Update)
    assert message.new == {"id": 1, "name": "a", "big": "large", "at": None}
    assert list(message.new) == ["id", "name", "big", "at"]
    assert (message.unchanged, message.whole) == ((), True)


def test_old_key_has_only_key_columns() -> None:
    message = decoder().decode(change(b"U", b"K", row("1", None, None, None), b"N", row("2", "a", object, "t")))
    assert isinstance(message, Update)
    assert (message.old, message.whole, message.unchanged) == ({"id": 1}, False, ("big",))
    assert decoder().decode(change(b"D", b"K", row("1", None, None, None))) == Delete(OID, {"id": 1}, False)


def test_whole_old_row_of_a_delete() -> None:
    message = decoder().decode(change(b"D", b"O", row("1", "a", None, "t")))
    assert message == Delete(OID, {"id": 1, "name": "a", "big": None, "at": True}, True)


def test_large_key_left_out_of_the_new_row_comes_from_the_old_key() -> None:
    message = decoder().decode(change(b"U", b"K", row("1", None, None, None), b"N", row(object, "a", object, "t")))
    assert isinstance(message, Update)
    assert (message.new, message.unchanged) == ({"id": 1, "name": "a", "at": True}, ("big",))
    assert next(iter(message.new)) == "id"


def test_excluded_columns_are_in_no_row() -> None:
    made = decoder(frozenset({"name", "big"}))
    insert = made.decode(change(b"I", b"N", row("1", "secret", None, "t")))
    update = made.decode(change(b"U", b"O", row("1", "secret", "x", "t"), b"N", row("1", "secret", object, "t")))
    assert insert == Insert(OID, {"id": 1, "at": True})
    assert isinstance(update, Update)
    assert (update.old, update.new, update.unchanged) == ({"id": 1, "at": True}, {"id": 1, "at": True}, ())


def test_relation_not_wanted_is_skipped_without_decoding() -> None:
    made = decoder()
    made.decode(relation(oid=5, name="other"))
    assert isinstance(made.decode(change(b"I", b"N\xff\xff garbage", oid=5)), Skipped)


def test_changed_relation_takes_over_at_once() -> None:
    made = decoder()
    made.decode(relation(name="other"))
    assert isinstance(made.decode(change(b"I", b"N", row("1", "a", None, None))), Skipped)


def test_truncate_message_origin_and_type() -> None:
    made = decoder()
    assert made.decode(b"T" + struct.pack("!IB2I", 2, 1, 5, 6)) == Truncate((5, 6))
    content = b"M\x01" + struct.pack("!Q", 9) + b"sync_hub\0" + struct.pack("!I", 2) + b"{}"
    assert made.decode(content) == Message(True, 9, "sync_hub", b"{}")
    assert made.decode(b"O" + struct.pack("!Q", 9) + b"elsewhere\0") == Origin(9, "elsewhere")
    assert made.decode(b"Y" + struct.pack("!I", 9) + b"public\0mood\0") == Type(9, "public", "mood")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"?",
        b"B\0",
        b"I\0\0\0\0N\0\0",  # a relation that was never named
        change(b"I", b"N", row("1", "a")),  # too few columns
        change(b"I", b"N", row("1", object, None, None)),  # an insert cannot leave columns out
        change(b"I", b"N", row("one", "a", None, None)),  # not an integer
        change(b"I", b"N", row("1", "a", None, None), b"more"),
        change(b"I", b"N", row("1", "a", None, None))[:-3],
        change(b"I", b"N", b"\0\4t\xff\xff\xff\xff"),
        change(b"U", b"K", row("1", None, None, None)),
        b"M\x01" + struct.pack("!Q", 9) + b"sync_hub\0" + struct.pack("!I", 200) + b"{}",
    ],
)
def test_broken_message_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(MalformedMessage) as raised:
        decoder().decode(data)
    assert raised.value.code == "malformed_log_message"


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_message_or_a_typed_error(data: bytes) -> None:
    made = decoder()
    for kind in (b"", *(bytes([code]) for code in b"BCORYIUDTM")):
        try:
            made.decode(kind + data)
        except MalformedMessage as error:
            assert error.code == "malformed_log_message"


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_messages_never_escape_as_something_else(data: st.DataObject) -> None:
    valid = data.draw(
        st.sampled_from(
            [
                relation(),
                change(b"U", b"O", row("1", "a", "b", "t"), b"N", row("1", "ü", object, None)),
                change(b"D", b"K", row("1", None, None, None)),
                b"T" + struct.pack("!IB2I", 2, 1, 5, 6),
                b"M\x01" + struct.pack("!Q", 9) + b"sync_hub\0" + struct.pack("!I", 2) + b"{}",
            ]
        )
    )
    place = data.draw(st.integers(0, len(valid) - 1))
    cut = data.draw(st.integers(0, len(valid)))
    damaged = (valid[:place] + bytes([data.draw(st.integers(0, 255))]) + valid[place + 1 :])[:cut]
    try:
        decoder().decode(damaged)
    except MalformedMessage as error:
        assert "no pgoutput message" in error.message
