"""What an event costs, as a ratio to a plain loop over the same bytes in the same process: no clock is asked.

The loop does what nobody could leave out: it takes every value out of the message, and writes or reads JSON with the
standard library. Both take turns; the cheapest turn of each counts. The bounds are wide; twice the cost exceeds them.
"""

from __future__ import annotations

import gc
import json
import struct
import time
from collections.abc import Callable
from typing import Any

from connectors.pgtypes import wire_converter
from connectors.sources.pgevents import EventAssembler, TableEvents
from connectors.sources.pgmessages import Begin, Rows
from connectors.sources.pgoutput import Decoder
from connectors.sources.pgrows import KeyMaker
from sync_hub.envelope import Encoder
from sync_hub.envelopes import decode_all
from sync_hub.model import Record

OID = 16384
EVENTS = 1000
TURNS = 15
CAPTURE_BOUND = 0.75
"""0.45 when this was written."""
READ_BOUND = 0.55
"""0.31 when this was written."""
COLUMNS = {
    "id": "bigint",
    "first_name": "text",
    "last_name": "text",
    "email": "text",
    "phone": "text",
    "balance": "numeric(12,2)",
    "country_code": "character(2)",
    "active": "boolean",
    "notes": "text",
    "created_at": "timestamp with time zone",
    "updated_at": "timestamp with time zone",
}
MOMENT = "2026-11-23 02:24:33.151664+00"


class Nobody:
    """Watches no key."""

    tracking = False

    def touch(self, *_: object) -> None: ...

    def truncated(self, *_: object) -> None: ...


def row(number: int) -> list[str]:
    name = [f"{part}{number}" for part in ("First", "Last")]
    mail = f"first.last{number}@example.com"
    return [str(number), *name, mail, f"+64 21 {number}", f"{number}.25", "NZ", "t", f"notes {number}", MOMENT, MOMENT]


def insert(number: int) -> bytes:
    values = b"".join(b"t" + struct.pack("!I", len(text)) + text.encode() for text in row(number))
    return b"I" + struct.pack("!I", OID) + b"N" + struct.pack("!H", len(COLUMNS)) + values


def relation() -> bytes:
    columns = b"".join(bytes([name == "id"]) + name.encode() + b"\0" + struct.pack("!Ii", 25, -1) for name in COLUMNS)
    return b"R" + struct.pack("!I", OID) + b"public\0customers\0d" + struct.pack("!H", len(COLUMNS)) + columns


MESSAGES = [insert(number) for number in range(EVENTS)]


def captured() -> list[Any]:
    """From the log's messages to records, as capture does it."""
    decoder = Decoder(lambda _: [(True, wire_converter(kind)) for kind in COLUMNS.values()])
    decoder.decode(relation())
    assembler = EventAssembler("erp", "erp_db", 1, Nobody())
    assembler.tables[OID] = TableEvents("public", "customers", KeyMaker(("id",), COLUMNS))
    assembler.begin(Begin(7, 1_763_864_673_151_664, 42))
    for start in range(0, EVENTS, 100):
        [message] = decoder.decode_all(MESSAGES[start : start + 100])
        assert isinstance(message, Rows)
        assembler.rows(message)
    return Encoder().encode(assembler.take()[0])


def captured_plainly() -> list[bytes]:
    """The same by a plain loop."""
    found = []
    for data in MESSAGES:
        values, place = {}, 8
        for name in COLUMNS:
            size = int.from_bytes(data[place + 1 : place + 5], "big")
            values[name] = data[place + 5 : place + 5 + size].decode()
            place += 5 + size
        found.append(json.dumps({"before": None, "after": values, "op": "c", "ts_ms": 1}).encode())
    return found


RECORDS = [Record("t", 0, place, one.key, one.value, [], 0) for place, one in enumerate(captured())]


def read() -> list[Any]:
    """From records to events, as deliver does it."""
    return decode_all(RECORDS)


def read_plainly() -> list[Any]:
    """The same by a plain loop."""
    return [json.loads(record.value or b"") for record in RECORDS]


def cost_ratio(ours: Callable[[], Any], plain: Callable[[], Any]) -> float:
    """What ours costs when the plain loop costs 1; processor time, so others on the machine do not count.

    Without collecting garbage: that costs by what else is in this process.
    """
    cheapest = [float("inf")] * 2
    gc.disable()
    for _ in range(TURNS):
        for place, work in enumerate((ours, plain)):
            before = time.process_time()
            work()
            cheapest[place] = min(cheapest[place], time.process_time() - before)
    gc.enable()
    return cheapest[0] / cheapest[1]


def test_capturing_an_event_costs_no_more_than_a_plain_loop() -> None:
    assert cost_ratio(captured, captured_plainly) < CAPTURE_BOUND


def test_reading_an_event_costs_less_than_its_json_alone_in_the_standard_library() -> None:
    assert cost_ratio(read, read_plainly) < READ_BOUND
