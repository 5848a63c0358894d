"""The fast way of reading source blocks, held against the plain one."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from sync_hub.source_block import SourceReader, read_source

TEXT = st.text(max_size=8) | st.sampled_from(['"syncVersion":"', "\\", '"}', "é", "\x00"])
HEX = st.text("0123456789abcdef", min_size=42, max_size=42)
VERSIONS = (
    st.builds(lambda a: f"{a[:12]}-{a[12:28]}-{a[28:40]}", HEX)
    | st.text(max_size=50)
    | st.text('0123456789abcdef-"\\}', min_size=42, max_size=42)
)
FACTS = st.fixed_dictionaries(
    {"name": TEXT, "table": TEXT, "ts_us": st.integers(0, 2**53)},
    optional={
        "schema": TEXT | st.none(),
        "db": TEXT | st.none(),
        "snapshot": st.sampled_from(["false", "incremental", True, None]),
        "lsn": st.integers(0, 2**63),
        "origin": TEXT,
        "connector": TEXT,
    },
)


@st.composite
def several(draw: st.DrawFn) -> list[bytes]:
    """Blocks of a few sources, each met with several versions; some are damaged."""
    sources = draw(st.lists(FACTS, min_size=1, max_size=3))
    blocks = []
    for _ in range(draw(st.integers(1, 8))):
        facts = draw(st.sampled_from(sources))
        block = msgspec.json.encode(facts | {"syncVersion": draw(VERSIONS)})
        if draw(st.integers(0, 4)) == 0:
            place = draw(st.integers(0, len(block)))
            block = block[:place] + draw(st.binary(max_size=3)) + block[place + draw(st.integers(0, 3)) :]
        blocks.append(block)
    return blocks


def outcome(read: Any, block: bytes) -> Any:
    try:
        return read(block)
    except (msgspec.DecodeError, ValueError) as error:
        return type(error)


PLAIN = b'{"name":"erp","table":"t","syncVersion":"000000000001-0000000000000007-0000000001%02d"}'


@given(several())
@example([PLAIN % 0, PLAIN % 1, (PLAIN % 2)[:-1], (PLAIN % 3)[:-2] + b"]}", (PLAIN % 4).replace(b"-", b"\\")])
@example([PLAIN % 0, (PLAIN % 0).replace(b"01-", b"01\n"), PLAIN.replace(b"erp", b"crm") % 0, PLAIN % 1])
def test_a_block_says_the_same_whatever_was_read_before_it(blocks: list[bytes]) -> None:
    reader = SourceReader()
    for block in blocks:
        assert outcome(reader.read, block) == outcome(read_source, block)


def test_what_events_share_is_read_once() -> None:
    reader = SourceReader()
    infos = [reader.read(PLAIN % number)[0] for number in range(3)]
    assert infos[0] is infos[1] is infos[2]
    assert reader.read((PLAIN % 4).replace(b"erp", b"crm"))[0].name == "crm"
