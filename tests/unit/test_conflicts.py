"""What a target says about a violated key leads to the changes that it is about."""

from __future__ import annotations

import pytest

from sync_hub.errors import Conflict
from sync_hub.model import ABSENT, RowChange
from sync_hub.runtime.conflicts import concerned
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
