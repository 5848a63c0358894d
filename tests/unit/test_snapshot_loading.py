"""One snapshot's own account: which chunk comes next, how large it is, what is done, what begins again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sync_hub.model import ChunkDone, ChunkRead, ChunkRequest
from sync_hub.runtime.snapshot import CHUNK_SECONDS, FIRST_ROWS, KEYS_PER_CHUNK, MOST_ROWS, ROW_BYTES, Fence, Loading
from sync_hub.state_snapshots import Snapshot

WHOLE = Snapshot("s1", "erp", "public.t", ("p",))


def read(loading: Loading, number: int, last_key: Any, seconds: float = CHUNK_SECONDS, rows: int = 10) -> ChunkRequest:
    request = loading.request(number)
    loading.read(request, ChunkRead(rows, 1000, last_key, answered=len(request.keys)), seconds)
    return request


def done(loading: Loading, number: int, last_key: Any, rows: int = 10) -> bool:
    return loading.done(ChunkDone("s1", "public.t", number, rows, last_key))


@pytest.mark.parametrize("keys", [("a", "é", None), ("-1", "0", "7")])
def test_chunks_follow_one_another_and_are_done_in_order(keys: tuple[Any, ...]) -> None:
    loading = Loading(WHOLE, 0)
    loading.fence = Fence.PASSED
    assert (read(loading, 1, (keys[0],)).after, read(loading, 2, (keys[1],)).after) == (None, (keys[0],))
    assert not done(loading, 2, (keys[1],)), "a later one is not taken before the first"
    assert done(loading, 1, (keys[0],))
    assert (loading.snapshot.last_key, loading.snapshot.rows_done) == ((keys[0],), 10)
    assert read(loading, 3, None).after == (keys[1],)
    assert (loading.wants, loading.complete) == (False, False)
    assert done(loading, 2, (keys[1],))
    assert done(loading, 3, None)
    assert (loading.complete, loading.snapshot.last_key, loading.snapshot.rows_done) == (True, (keys[1],), 30)


def test_a_chunk_that_is_given_up_begins_again_with_all_that_came_after_it() -> None:
    loading = Loading(WHOLE, 0)
    for number, last_key in ((1, ("a",)), (2, ("b",)), (3, None)):
        read(loading, number, last_key)
    loading.given_up(2)
    loading.given_up(3)
    assert (loading.read_all, loading.request(4).after) == (False, ("a",))
    assert not done(loading, 3, None), "it came, but what is before it did not"
    assert done(loading, 1, ("a",))
    assert read(loading, 4, None).after == ("a",)
    assert done(loading, 4, None)
    assert loading.complete


def test_a_chunk_from_before_a_pause_counts_for_nothing() -> None:
    loading = Loading(msgspec.structs.replace(WHOLE, last_key=("k",), rows_done=5), 0)
    assert read(loading, 9, ("m",)).after == ("k",)
    assert not done(loading, 4, ("x",))
    loading.given_up(9)
    assert loading.request(10).after == ("k",)


def test_the_size_of_chunks_follows_the_time_they_take() -> None:
    loading = Loading(WHOLE, 0)
    assert loading.request(1).rows == FIRST_ROWS
    read(loading, 1, ("a",), CHUNK_SECONDS / 100)
    assert loading.request(2).rows == 2 * FIRST_ROWS, "at most twice as much"
    read(loading, 2, ("b",), CHUNK_SECONDS * 100)
    assert loading.request(3).rows == FIRST_ROWS, "at most half"
    for number in range(3, 20):
        read(loading, number, ("c",), CHUNK_SECONDS / 100)
    assert loading.request(20).rows == MOST_ROWS
    for number in range(20, 50):
        read(loading, number, ("c",), CHUNK_SECONDS * 100)
    assert loading.request(50).rows == 1
    fixed = Loading(WHOLE, 7)
    read(fixed, 1, ("a",), CHUNK_SECONDS / 100)
    assert fixed.request(2).rows == 7


def test_small_rows_count_for_more_than_their_values() -> None:
    loading = Loading(WHOLE, 0)
    read(loading, 1, ("a",), rows=1000)
    assert loading.asked[0].size_bytes == 1000 + 1000 * ROW_BYTES


def test_keys_are_asked_for_a_thousand_at_a_time_from_where_it_stood() -> None:
    keys = tuple({"id": number} for number in range(2 * KEYS_PER_CHUNK + 1))
    loading = Loading(msgspec.structs.replace(WHOLE, keys=keys, last_key=(KEYS_PER_CHUNK,)), 7)
    first = read(loading, 1, None)
    assert (first.keys, loading.read_all) == (keys[KEYS_PER_CHUNK : 2 * KEYS_PER_CHUNK], False)
    assert read(loading, 2, None).keys == keys[-1:]
    assert (loading.read_all, loading.complete) == (True, False)
    assert done(loading, 1, None)
    assert loading.snapshot.last_key == (2 * KEYS_PER_CHUNK,)
    assert done(loading, 2, None, rows=1)
    assert (loading.complete, loading.snapshot.rows_done) == (True, 11)


def test_keys_whose_rows_were_too_large_together_are_asked_for_in_the_next_chunk() -> None:
    keys = tuple({"id": number} for number in range(10))
    loading = Loading(msgspec.structs.replace(WHOLE, keys=keys), 7)
    request = loading.request(1)
    loading.read(request, ChunkRead(4, 9_000_000, None, answered=4), CHUNK_SECONDS)
    assert (request.keys, loading.read_all) == (keys, False)
    assert read(loading, 2, None).keys == keys[4:]
    assert loading.read_all
