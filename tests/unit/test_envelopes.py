"""Envelopes read together say what each says alone, whatever lies beside it."""

from __future__ import annotations

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sync_hub.envelope import Encoder, decode
from sync_hub.envelopes import decode_all
from sync_hub.errors import Rejected
from sync_hub.model import ChangeEvent, Record
from tests.events import change_event, with_source
from tests.unit.test_envelope import ENVELOPES, HEADERS, JSON, events

Content = ChangeEvent | Rejected | None
KEY = b'{"id":1}'
BLOCK = b'{"name":"erp","table":"t","ts_us":5,"syncVersion":"000000000001-0000000000000007-0000000001%02d"}'
OWN = b'{"before":null,"after":{"id":1},"op":"c","transaction":null,"ts_ms":0,"source":' + BLOCK + b"}"
POISON = OWN[: -len('%02d"}}')].replace(b"000000000001-0000000000000007-0000000001", b'","table":"zzz","schema":"')
POISON += b"q" * (45 - len('","table":"zzz","schema":""}}')) + b'"}}'
PIECES = st.sampled_from(
    [
        b"}",
        b"{",
        b"\n",
        b'"',
        b",",
        b" ",
        b'"payload":{},',
        b'"source":null,',
        b',"source":{',
        b',"x":1',
        b"A",
        BLOCK % 7,
        OWN % 7,
        b"",
    ]
)


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    """Records of a few transactions of the hub, of others, of nobody; some are damaged."""
    made: list[Record] = []
    for event in draw(st.lists(events(), max_size=3)):
        versions = [event.version, *(event.version[:-2] + f"{number:02x}" for number in range(draw(st.integers(0, 4))))]
        alike = [msgspec.structs.replace(event, version=version) for version in versions]
        made += [Record(r.topic, 0, 0, r.key, r.value, r.headers, 0) for r in Encoder().encode(alike)]
    for value in draw(st.lists(ENVELOPES, max_size=2)):
        key = draw(st.none() | JSON.map(msgspec.json.encode))
        made.append(Record("t", 0, 0, key, msgspec.json.encode(value), draw(HEADERS), 0))
    made += [Record("t", 0, 0, KEY, OWN % number, None, 0) for number in range(draw(st.integers(0, 5)))]
    made += [Record("t", 0, 0, KEY, None, None, 0)] * draw(st.integers(0, 1))
    made = draw(st.permutations(made))
    return [damaged(draw, record) if draw(st.integers(0, 6)) == 0 else record for record in made]


def damaged(draw: st.DrawFn, record: Record) -> Record:
    field = draw(st.sampled_from(["key", "value"]))
    text = getattr(record, field) or b""
    ends = [len(text) - back for back in (0, 1, 2, 3, 42, 43, 44, len(BLOCK), len(BLOCK) + 1) if back <= len(text)]
    place = draw(st.integers(0, len(text)) | st.sampled_from(ends))
    changed = text[:place] + draw(PIECES | st.binary(max_size=2)) + text[place + draw(st.integers(0, 2)) :]
    return msgspec.structs.replace(record, **{field: changed})


def alone(record: Record) -> Content:
    try:
        return decode(record)
    except Rejected as error:
        return error


def told(content: Content) -> str:
    return f"{content.code}: {content.message}" if isinstance(content, Rejected) else repr(content)


def several(*values: bytes) -> list[Record]:
    return [Record("t", 0, 0, KEY, value, None, 0) for value in values]


@settings(max_examples=300)
@given(records())
@example(several(OWN % 0, OWN % 1, (OWN % 2)[:-1], (OWN % 3)[:-2] + b"]}", (OWN % 4).replace(b"-", b"\\")))
@example(several(OWN % 0, (OWN % 0).replace(b"01-", b"01\n"), OWN.replace(b"erp", b"crm") % 0, OWN % 1))
@example(several(OWN % 0, b'{"x":' + OWN % 1 + b"}", b'{"payload":' + OWN % 2 + b"}", b'{"after":' + OWN % 3 + b"}"))
@example(several(OWN % 0, b"{" + OWN[OWN.index(b',"source"') :] % 1, OWN.replace(b'"c"', b'"q"') % 2))
@example(several(OWN % 0, OWN % 1 + b"\n" + OWN % 1, b"", OWN % 2))
@example(several(OWN % 0, OWN.replace(b'"ts_ms"', b'"source":null,"ts_ms"') % 1))
@example(several(OWN % 0, OWN.replace(b'{"id":1}', b'{"id":1,"source":' + BLOCK % 0 + b"}") % 1))
@example([Record("t", 0, 0, key, OWN % 0, None, 0) for key in (KEY + b'{"id":9}', b'{"id":2}', b'{"id":3}', b"", b" ")])
@example(several(OWN % 0, b"[" + OWN % 1, b"]" + OWN % 2, OWN % 3 + OWN % 4, OWN % 5))
@example(
    [
        Record("t", 0, 0, key, value, headers, 0)
        for key, headers in ((None, None), (KEY, [("actor", b"x")]), (KEY, [("fetched", b"x")]))
        for value in (POISON, OWN % 1)
    ]
)
@example([Record("t", 0, 0, b'{"schema":1,"payload":{"id":3}}', OWN % 0, None, 0)])
@example([Record("t", 0, 0, key, OWN % 0, None, 0) for key in (KEY, b"", b"\n", KEY + b"\n" + KEY, b"[1]")])
def test_records_say_together_what_they_say_one_by_one(several: list[Record]) -> None:
    assert list(map(told, decode_all(several))) == [told(alone(record)) for record in several]


def test_what_events_share_is_read_once() -> None:
    made = [
        change_event(source="erp", schema="public", table="t", committed_at=5, **OF_EACH | {"version": v})
        for v in VERSIONS
    ]
    made[2] = with_source(made[2], table="u")
    found = decode_all([Record(r.topic, 0, 0, r.key, r.value, None, 0) for r in Encoder().encode(made)])
    assert found == made
    first, second, other, last = (event.source for event in found if isinstance(event, ChangeEvent))
    assert first is second
    assert other.table == "u"
    assert last == first


OF_EACH = {"operation": "update", "key": {"id": 1}, "before": None, "after": {"id": 1, "name": "é\n"}}
VERSIONS = [f"000000000001-0000000000000007-0000000001{number:02x}" for number in range(4)]
