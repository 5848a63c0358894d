from __future__ import annotations

import pytest

from connectors.sources.pgsnapshot import RECENT_KEYS, Chunk, Chunks, Visible, parse_snapshot
from sync_hub.model import ChunkRequest


def chunk(*keys: int, visible: str = "10:20:12", table: str = "public.t") -> Chunk:
    return Chunk(ChunkRequest("run", table, 1, ()), parse_snapshot(visible), {(key,): {"id": key} for key in keys})


def left(chunks: Chunks, mark: str = "m") -> list[int]:
    taken = chunks.take(mark)
    return [row["id"] for row in taken.rows.values()] if taken else []


@pytest.fixture
def chunks() -> Chunks:
    made = Chunks()
    made.track(parse_snapshot("10:10:"))
    return made


def test_snapshot_text_tells_what_is_visible() -> None:
    visible = parse_snapshot("10:20:10,14")
    assert [xid for xid in range(8, 22) if not visible.sees(xid)] == [10, 14, 20, 21]
    assert parse_snapshot("10:10:") == Visible(10, 10, frozenset())


@pytest.mark.parametrize(
    ("xmax", "xid", "wide"),
    [
        (20, 14, 14),
        ((5 << 32) + 20, 14, (5 << 32) + 14),
        ((5 << 32) + 20, 0xFFFFFFF0, (4 << 32) + 0xFFFFFFF0),
        ((5 << 32) + 0xFFFFFFF0, 3, (6 << 32) + 3),
    ],
)
def test_transaction_ids_are_widened_across_the_wraparound(xmax: int, xid: int, wide: int) -> None:
    assert Visible(0, xmax, frozenset()).widen(xid) == wide


def test_only_unseen_transactions_touch_a_chunk(chunks: Chunks) -> None:
    chunks.add("m", chunk(1, 2, 3, 4))
    chunks.touch(11, "public.t", (1,))  # visible: the row in the chunk is as new
    chunks.touch(12, "public.t", (2,))  # was running
    chunks.touch(25, "public.t", (3,))  # began later
    chunks.touch(25, "public.other", (4,))
    assert left(chunks) == [1, 4]


def test_transactions_streamed_before_the_snapshot_count_until_one_sees_them(chunks: Chunks) -> None:
    chunks.touch(12, "public.t", (2,))
    chunks.add("first", chunk(1, 2))
    assert left(chunks, "first") == [1]
    chunks.add("later", chunk(1, 2, visible="13:20:"))
    assert left(chunks, "later") == [1, 2]


def test_numbers_whose_hashes_collide_are_different_keys(chunks: Chunks) -> None:
    chunks.touch(12, "public.t", (-1,))
    chunks.add("m", chunk(-1, -2))
    assert left(chunks) == [-2]


def test_too_many_keys_of_one_transaction_mean_all(chunks: Chunks) -> None:
    for key in range(RECENT_KEYS + 1):
        chunks.touch(12, "public.t", (key,))
    chunks.add("m", chunk(-5))
    assert chunks.take_discarded() == (("run", 1),)
    assert left(chunks) == []
    chunks.add("m", chunk(-5, visible="13:20:"))
    assert left(chunks) == [-5]


def test_truncated_table_loses_its_chunks_and_later_ones_until_it_is_seen(chunks: Chunks) -> None:
    chunks.add("m", chunk(1))
    chunks.truncated(12, "public.t")
    chunks.add("n", chunk(1))
    assert chunks.take_discarded() == (("run", 1), ("run", 1))
    assert left(chunks, "m") + left(chunks, "n") == []


def test_forgetting_gives_up_what_is_outstanding(chunks: Chunks) -> None:
    chunks.add("m", chunk(1))
    chunks.forget()
    assert chunks.take_discarded() == (("run", 1),)
    assert not chunks.tracking
