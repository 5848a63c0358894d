"""How many rows are asked for in a block: by time, and by what fits."""

from __future__ import annotations

from sync_hub.ports import BLOCK_BYTES
from sync_hub.runtime.copying import BLOCK_SECONDS, FIRST_ROWS, MOST_ROWS, BlockSize


def test_grows_and_shrinks_by_the_time_that_blocks_take() -> None:
    size = BlockSize()
    assert size.rows == FIRST_ROWS
    size.took(FIRST_ROWS, 1000, BLOCK_SECONDS / 100)
    assert size.rows == 4 * FIRST_ROWS
    size.took(size.rows, 1000, 2 * BLOCK_SECONDS)
    assert size.rows == 2 * FIRST_ROWS
    for _ in range(9):
        size.took(size.rows, 1000, 0)
    assert size.rows == MOST_ROWS


def test_a_block_that_was_cut_is_not_asked_for_again() -> None:
    size = BlockSize()
    size.took(1600, BLOCK_BYTES, 0)
    for _ in range(3):
        assert size.rows == 1500
        size.took(1500, BLOCK_BYTES * 15 // 16, 0)


def test_narrow_rows_behind_a_wide_one_come_in_large_blocks_again() -> None:
    size = BlockSize()
    size.took(1, 3 * BLOCK_BYTES, 9)
    assert size.rows == 1
    for _ in range(9):
        size.took(size.rows, 100 * size.rows, 0)
    assert size.rows == BLOCK_BYTES // 100 * 15 // 16


def test_a_size_that_was_given_stays() -> None:
    size = BlockSize(7)
    size.took(7, 1, 0)
    size.took(3, 9 * BLOCK_BYTES, 99)
    assert size.rows == 7
