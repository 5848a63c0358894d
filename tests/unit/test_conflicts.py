"""What a target says about a violated key leads to the changes that it is about."""

from __future__ import annotations

import pytest

from sync_hub.errors import Conflict
from sync_hub.model import ABSENT, RowChange
from sync_hub.runtime.conflicts import Moves, concerned, key_values, refused_by_others, texts, wanted
from tests.unit.mapping.conftest import compiled

MAPPING = compiled("key: [id]\nfields:\n  id: id\n  name: name\n  active: active\n  price: price\n")
TABLE = MAPPING.spec.target_table
CHANGES = [
    RowChange("upsert", (1,), (1, "a", True, "1.50")),
    RowChange("upsert", (2,), (2, "b  ", False, None)),
    RowChange("update", (3,), (3, "a", ABSENT, "1.50")),
    RowChange("delete", (4,)),
    RowChange("mark", (5,), ("now",)),
]


@pytest.mark.parametrize(
    ("columns", "values", "places"),
    [
        (("id",), ("1",), [0]),
        (("id",), ("4",), [3]),
        (("id",), ("5",), [4]),
        (("name",), ("a",), [0, 2]),
        (("name",), ("b ",), [1]),
        (("active",), ("t",), [0]),
        (("active",), ("f",), [1]),
        (("name", "price"), ("a", "1.50"), [0, 2]),
        (("name", "active"), ("a", "t"), [0]),
        (("price",), ("1.5",), []),
        (("elsewhere",), ("a",), []),
        (("id",), ("9",), []),
    ],
)
def test_changes_are_found_by_the_values_that_were_refused(
    columns: tuple[str, ...], values: tuple[str, ...], places: list[int]
) -> None:
    assert concerned(Conflict(TABLE, columns, values), MAPPING, CHANGES) == places


def test_another_table_is_not_concerned() -> None:
    assert concerned(Conflict("public.other", ("id",), ("1",)), MAPPING, CHANGES) == []
    schema, _, name = TABLE.rpartition(".")
    expected = [] if schema else [0]
    assert concerned(Conflict(f"anywhere.{name}", ("id",), ("1",)), MAPPING, CHANGES) == expected


def moves(*rows: tuple[int, int | None, int | None, int | None]) -> Moves:
    """Of (key, wants, has, holder)."""
    columns = [[None if value is None else (str(value),) for value in column] for column in zip(*rows, strict=True)]
    return Moves(*columns)


@pytest.mark.parametrize(
    ("rows", "refused"),
    [
        ([(1, 20, 10, 2), (2, 30, 20, 3), (3, 40, 30, None)], set()),
        ([(1, 20, 10, 2), (2, 30, 20, 3), (3, 40, 30, 9)], {0, 1, 2}),  # 40 is not given up, so 30 is kept, so 20
        ([(1, 20, 10, 2), (2, 10, 20, 1)], set()),  # a swap
        ([(1, 20, 10, 2), (2, 20, 20, 2)], {0}),  # the other one keeps it
        ([(1, 20, 10, 2), (2, None, 20, None)], set()),  # the other one is deleted
        ([(1, 20, None, None), (2, 20, None, None)], {0}),  # both are new: the last one has it
        ([(1, 10, 10, 1)], set()),
        ([(1, 10, None, 7)], {0}),
    ],
)
def test_what_a_unique_key_refuses_is_found_with_all_that_hangs_on_it(
    rows: list[tuple[int, int | None, int | None, int | None]], refused: set[int]
) -> None:
    assert set(refused_by_others(moves(*rows))) == refused


def test_values_of_a_key_are_those_that_the_target_compares() -> None:
    conflict = Conflict(TABLE, ("name", "active"), ("a", "t"))
    assert key_values(conflict, MAPPING, CHANGES) == [("a", "t"), ("b", "f"), None, None, None]
    assert key_values(Conflict(TABLE, ("elsewhere",), ("a",)), MAPPING, CHANGES) == [None] * 5
    assert wanted(conflict, MAPPING, CHANGES[0]) == ["a", True]
    assert wanted(conflict, MAPPING, CHANGES[3]) == [None, None]
    assert (texts(("x", 1)), texts(("x", None)), texts(None)) == (("x", "1"), None, None)
