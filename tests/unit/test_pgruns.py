"""Which messages of the log are read together."""

from __future__ import annotations

import struct

from connectors.sources.pgmessages import Insert, Relation, Rows
from connectors.sources.pgoutput import Decoder
from connectors.sources.pgruns import Run, decode_all
from connectors.sources.pgtuple import TOO_LONG


def relation(oid: int) -> bytes:
    column = b"\1a\0" + struct.pack("!Ii", 25, -1)
    return b"R" + struct.pack("!I", oid) + b"s\0t\0d" + struct.pack("!H", 1) + column


def insert(oid: int, text: bytes) -> bytes:
    return b"I" + struct.pack("!I", oid) + b"N" + struct.pack("!H", 1) + b"t" + struct.pack("!I", len(text)) + text


def test_a_row_that_is_too_long_is_read_by_itself_and_the_others_together() -> None:
    decoder = Decoder(lambda relation: [(True, str)] * len(relation.columns))
    long = "x" * TOO_LONG
    texts = ["a", "b", "c", "d", "e", long, "f", "g", "h", "i", long, "j"]
    first, *others = decoder.decode_all([relation(1), *(insert(1, text.encode()) for text in texts)])
    assert isinstance(first, Relation)
    assert [type(message) for message in others] == [Rows, Insert, Rows, Insert, Insert]
    read = [row for message in others for row in (message.rows if isinstance(message, Rows) else [message.new])]
    assert [row["a"] for row in read] == texts


def test_nothing_behind_a_relation_is_looked_at_before_it_was_decoded() -> None:
    """Which would take a time that grows with the square of the number of tables."""
    decoder, looked = Decoder(lambda relation: [(True, str)] * len(relation.columns)), 0

    def run_of(head: bytes) -> Run | None:
        nonlocal looked
        looked += 1
        return decoder._runs.get(head)

    messages = [message for oid in range(500) for message in (relation(oid), insert(oid, b"a"))]
    assert len(list(decode_all(messages, run_of, decoder.decode))) == len(messages)
    assert looked < 4 * len(messages)
