"""What a sink does with rows: upserts, partial rows, deletes, key changes, marks, shared rows, TRUNCATE."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import pytest

from sync_hub.errors import Rejected
from sync_hub.model import ABSENT, Column, RowChange, Table, TableWrite
from sync_hub.testing.sink_case import Writer, first_offset, upserts

PEOPLE = Table(
    "",
    "people",
    (
        Column("id", "integer", nullable=False),
        Column("name", "text"),
        Column("note", "text"),
        Column("email", "text"),
        Column("deleted", "boolean"),
        Column("deleted_at", "timestamp with time zone"),
    ),
    ("id",),
)
COLUMNS = ("id", "name", "note")
CONTACTS: dict[str, Any] = {"pipeline": "contacts", "columns": ("id", "email"), "shared": True}
"""A second mapping into `PEOPLE`, with a part of its own in the same rows."""


def change(
    kind: Literal["upsert", "update", "delete", "mark"], key: Any, *values: Any, new_key: Any = None
) -> RowChange:
    """A change of a row with a key of one column; `values` are those after the key."""
    row = (key, *values) if kind in ("upsert", "update") else values
    return RowChange(kind, (key,), row, None if new_key is None else (new_key,))


def people(
    *changes: RowChange, pipeline: str = "customers", columns: tuple[str, ...] = COLUMNS, **more: Any
) -> TableWrite:
    """Changes of one mapping on `PEOPLE`."""
    return TableWrite(pipeline, "people", ("id",), columns, list(changes), **more)


class SinkRowsContract:
    """Part of `SinkContract`."""

    @pytest.fixture
    @abstractmethod
    def case_insensitive_table(self) -> Callable[[str], None]:
        """Create a table `name (code <text compared without regard to case> primary key, note text)`."""

    @pytest.fixture
    @abstractmethod
    def demanding_table(self) -> Callable[[str], None]:
        """Create a table `name (id integer primary key, name text, owner text not null)`: `owner` has no default."""

    @pytest.fixture
    def table(self, writer: Writer) -> Writer:
        """A writer with the table `people`."""
        writer.sink.create(PEOPLE)
        return writer

    @pytest.fixture
    def shared(self, table: Writer) -> Writer:
        """The same, shared by the mappings `customers` (name, note) and `contacts` (email)."""
        table.sink.share("people", ["customers", "contacts"])
        table.sink.share("people", ["customers", "contacts"])
        return table

    def test_upsert_inserts_and_updates(self, table: Writer) -> None:
        table.write(people(change("upsert", 1, "Ada", "x"), change("upsert", 2, "Bob", None)))
        table.write(people(change("upsert", 2, "Robert", "y"), change("upsert", 3, None, None)))
        assert table.rows("people", *COLUMNS) == [(1, "Ada", "x"), (2, "Robert", "y"), (3, None, None)]

    def test_upsert_leaves_columns_of_others(self, table: Writer) -> None:
        table.write(people(RowChange("upsert", (1,), (1, "ada@x.io")), columns=("id", "email")))
        table.write(people(change("upsert", 1, "Ada", None)))
        assert table.rows("people", "id", "name", "email") == [(1, "Ada", "ada@x.io")]

    def test_update_changes_rows_that_are_there_and_never_inserts(self, table: Writer) -> None:
        table.write(people(change("upsert", 1, "Ada", "x")))
        table.write(people(change("update", 1, "Ada L.", "y"), change("update", 2, "ghost", "z")))
        assert table.rows("people", *COLUMNS) == [(1, "Ada L.", "y")]

    def test_absent_columns_are_never_written_as_null(self, table: Writer) -> None:
        table.write(
            people(change("upsert", 1, "Ada", "x"), change("upsert", 2, "Bob", "y"), change("upsert", 3, "C", "z"))
        )
        table.write(
            people(
                change("update", 1, ABSENT, "new"),
                change("update", 2, "Robert", ABSENT),
                change("update", 3, None, ABSENT),
                change("update", 4, ABSENT, ABSENT),
            )
        )
        assert table.rows("people", *COLUMNS) == [(1, "Ada", "new"), (2, "Robert", "y"), (3, None, "z")]

    def test_row_of_which_only_the_key_is_known_is_left_alone(self, table: Writer) -> None:
        table.write(people(change("upsert", 1, "Ada", "x")))
        table.write(people(change("update", 1, ABSENT, ABSENT)))
        assert table.rows("people", *COLUMNS) == [(1, "Ada", "x")]

    def test_mapping_of_key_columns_only(self, table: Writer) -> None:
        for _ in range(2):
            table.write(people(change("upsert", 1), change("upsert", 2), columns=("id",)))
        table.write(people(change("update", 1), change("delete", 2), columns=("id",)))
        assert table.rows("people", *COLUMNS) == [(1, None, None)]

    def test_delete_removes_the_row_and_only_it(self, table: Writer) -> None:
        table.write(people(change("upsert", 1, "Ada", "x"), change("upsert", 2, "Bob", "y")))
        table.write(people(change("delete", 1), change("delete", 99)))
        assert table.rows("people", *COLUMNS) == [(2, "Bob", "y")]

    def test_all_kinds_in_one_batch(self, table: Writer) -> None:
        table.write(people(*(change("upsert", key, "old", "old") for key in range(4))))
        table.write(
            people(
                change("delete", 0),
                change("update", 1, "new", ABSENT),
                change("upsert", 2, "new", None),
                change("mark", 3, True),
                change("upsert", 4, "new", "new"),
                mark_columns=("deleted",),
            )
        )
        assert table.rows("people", *COLUMNS, "deleted") == [
            (1, "new", "old", None),
            (2, "new", None, None),
            (3, "old", "old", True),
            (4, "new", "new", None),
        ]

    def test_a_deleted_row_gives_its_unique_value_to_a_new_one_in_the_same_batch(self, table: Writer) -> None:
        table.write(people(change("upsert", 1, "Ada", "x")))
        table.write(people(change("upsert", 2, "Ada", "x"), change("delete", 1)))
        assert table.rows("people", *COLUMNS) == [(2, "Ada", "x")]

    @pytest.mark.parametrize("delete_first", [True, False])
    def test_a_changed_key_moves_the_row_in_whichever_order_its_two_events_come(
        self, table: Writer, delete_first: bool
    ) -> None:
        table.write(people(change("upsert", 1, "Ada", "x")))
        parts = [people(change("delete", 1, new_key=7)), people(change("upsert", 7, "Ada", "x"))]
        for part in parts if delete_first else reversed(parts):
            table.write(part)
        assert table.rows("people", *COLUMNS) == [(7, "Ada", "x")]

    @pytest.mark.parametrize("delete_first", [True, False])
    def test_a_changed_key_that_the_target_finds_equal_keeps_the_row(
        self, writer: Writer, case_insensitive_table: Callable[[str], None], delete_first: bool
    ) -> None:
        case_insensitive_table("codes")

        def codes(*changes: RowChange) -> TableWrite:
            return TableWrite("customers", "codes", ("code",), ("code", "note"), list(changes))

        writer.write(codes(change("upsert", "ab", "first"), change("upsert", "other", "stays")))
        parts = [codes(change("delete", "ab", new_key="AB")), codes(change("upsert", "AB", "second"))]
        for part in parts if delete_first else reversed(parts):
            writer.write(part)
        assert writer.rows("codes", "code", "note") == [("AB", "second"), ("other", "stays")]
        writer.write(codes(change("delete", "AB", new_key="xy"), change("delete", "OTHER")))
        assert writer.rows("codes", "code") == []

    def test_keys_of_several_columns(self, writer: Writer) -> None:
        columns = (Column("country", "text", nullable=False), Column("number", "bigint", nullable=False))
        writer.sink.create(Table("", "places", (*columns, Column("name", "text")), ("country", "number")))

        def places(*changes: RowChange) -> TableWrite:
            return TableWrite(
                "customers", "places", ("country", "number"), ("name", "country", "number"), list(changes)
            )

        rows = [("a", "NZ", 1), ("b", "NZ", 2), ("c", "CH", 1)]
        writer.write(places(*(RowChange("upsert", row[1:], row) for row in rows)))
        writer.write(
            places(
                RowChange("delete", ("NZ", 1), new_key=("NZ", 3)),
                RowChange("upsert", ("NZ", 3), ("a", "NZ", 3)),
                RowChange("delete", ("NZ", 2), new_key=("NZ", 2)),
                RowChange("update", ("CH", 1), ("d", "CH", 1)),
            )
        )
        assert writer.rows("places", "country", "number", "name") == [("CH", 1, "d"), ("NZ", 2, "b"), ("NZ", 3, "a")]

    def test_mark_sets_columns_and_keeps_the_row(self, table: Writer) -> None:
        marks = ("deleted", "deleted_at")
        at = "2026-11-23T02:24:33.151664Z"
        table.write(people(change("upsert", 1, "Ada", "x"), change("upsert", 2, "Bob", "y")))
        table.write(people(change("mark", 1, True, at), change("mark", 9, True, at), mark_columns=marks))
        table.write(people(change("mark", 2, True, None, new_key=2), mark_columns=marks))
        assert table.rows("people", "id", "name", *marks) == [(1, "Ada", True, at), (2, "Bob", None, None)]

    def test_a_row_comes_back_after_a_mark(self, table: Writer) -> None:
        columns = (*COLUMNS, "deleted")
        for came in (
            change("upsert", 1, "Ada", "x", False),
            change("mark", 1, True),
            change("upsert", 1, "Ada", "y", False),
        ):
            table.write(people(came, columns=columns, mark_columns=("deleted",)))
        assert table.rows("people", *columns) == [(1, "Ada", "y", False)]

    @pytest.mark.parametrize(
        ("truncate", "left"),
        [
            ("delete", [(9, "new", None, None)]),
            ("mark", [(1, "Ada", "x", True), (2, "Bob", "y", True), (9, "new", None, None)]),
            ("keep", [(1, "Ada", "x", None), (2, "Bob", "y", None), (9, "new", None, None)]),
        ],
    )
    def test_truncate_comes_before_the_changes(self, table: Writer, truncate: Any, left: list[tuple[Any, ...]]) -> None:
        table.write(people(change("upsert", 1, "Ada", "x"), change("upsert", 2, "Bob", "y")))
        table.write(
            people(change("upsert", 9, "new", None), truncate=truncate, mark_columns=("deleted",), mark_values=(True,))
        )
        assert table.rows("people", *COLUMNS, "deleted") == left

    def test_truncate_without_changes(self, table: Writer) -> None:
        table.write(people(change("upsert", 1, "Ada", "x")))
        table.write(people(truncate="delete"))
        assert table.rows("people", "id") == []

    def test_rows_missing_a_column_of_others_are_updated_but_not_inserted(
        self, writer: Writer, demanding_table: Callable[[str], None]
    ) -> None:
        demanding_table("owned")
        whole = TableWrite(
            "customers", "owned", ("id",), ("id", "name", "owner"), [RowChange("upsert", (1,), (1, "a", "o"))]
        )
        writer.write(whole)
        part = [RowChange("upsert", (1,), (1, "b"))]
        writer.write(TableWrite("contacts", "owned", ("id",), ("id", "name"), part))
        assert writer.rows("owned", "id", "name", "owner") == [(1, "b", "o")]
        missing = [*part, RowChange("upsert", (2,), (2, "c"))]
        with pytest.raises(Rejected):
            writer.write(TableWrite("contacts", "owned", ("id",), ("id", "name"), missing))
        assert writer.rows("owned", "id", "name", "owner") == [(1, "b", "o")]

    def test_shared_row_lives_until_no_mapping_has_a_part(self, shared: Writer) -> None:
        shared.write(
            people(change("upsert", 1, "Ada", "x"), change("upsert", 2, "Bob", "y"), shared=True),
            people(change("upsert", 1, "ada@x.io"), change("upsert", 3, "c@x.io"), **CONTACTS),
        )
        columns = ("id", "name", "note", "email")
        assert shared.rows("people", *columns) == [
            (1, "Ada", "x", "ada@x.io"),
            (2, "Bob", "y", None),
            (3, None, None, "c@x.io"),
        ]
        shared.write(people(change("delete", 1), change("delete", 2), change("delete", 3), shared=True))
        assert shared.rows("people", *columns) == [(1, None, None, "ada@x.io"), (3, None, None, "c@x.io")]
        shared.write(people(change("delete", 1), **CONTACTS))
        assert shared.rows("people", *columns) == [(3, None, None, "c@x.io")]

    def test_rows_of_one_mapping_are_read_from_a_shared_table(self, shared: Writer) -> None:
        shared.write(
            people(change("upsert", 1, "Ada", "x"), change("upsert", 2, "Bob", "y"), shared=True),
            people(change("upsert", 1, "ada@x.io"), change("upsert", 3, "c@x.io"), **CONTACTS),
        )
        assert sorted(shared.sink.read_rows("people", ["id"], mapping="contacts")) == [(1,), (3,)]
        assert sorted(shared.sink.read_rows("people", ["id"], mapping="customers")) == [(1,), (2,)]
        read = shared.sink.find_rows("people", ["id"], ["id"], [(1,), (2,), (3,)], mapping="contacts")
        assert read == [(1,), None, (3,)]
        assert sorted(shared.sink.read_rows("people", ["id"])) == [(1,), (2,), (3,)]

    def test_partial_row_does_not_bring_back_a_part_that_was_deleted(self, shared: Writer) -> None:
        shared.write(people(change("upsert", 1, "ada@x.io"), **CONTACTS))
        shared.write(
            people(change("update", 1, "late", ABSENT), change("mark", 1, True), shared=True, mark_columns=("deleted",))
        )
        assert shared.rows("people", "id", "name", "deleted", "email") == [(1, None, None, "ada@x.io")]

    def test_changed_key_of_a_shared_row_moves_one_part(self, shared: Writer) -> None:
        shared.write(
            people(change("upsert", 1, "Ada", "x"), shared=True), people(change("upsert", 1, "ada@x.io"), **CONTACTS)
        )
        shared.write(people(change("delete", 1, new_key=2), change("upsert", 2, "Ada", "x"), shared=True))
        assert shared.rows("people", "id", "name", "email") == [(1, None, "ada@x.io"), (2, "Ada", None)]

    @pytest.mark.parametrize(
        ("truncate", "left"),
        [
            ("delete", [(1, None, "ada@x.io", None), (3, None, "c@x.io", None)]),
            ("mark", [(1, "Ada", "ada@x.io", True), (2, "Bob", None, True), (3, None, "c@x.io", None)]),
            ("keep", [(1, "Ada", "ada@x.io", None), (2, "Bob", None, None), (3, None, "c@x.io", None)]),
        ],
    )
    def test_truncate_of_shared_rows(self, shared: Writer, truncate: Any, left: list[tuple[Any, ...]]) -> None:
        shared.write(
            people(change("upsert", 1, "Ada", "x"), change("upsert", 2, "Bob", "y"), shared=True),
            people(change("upsert", 1, "ada@x.io"), change("upsert", 3, "c@x.io"), **CONTACTS),
        )
        shared.write(people(truncate=truncate, shared=True, mark_columns=("deleted",), mark_values=(True,)))
        assert shared.rows("people", "id", "name", "email", "deleted") == left

    def test_several_tables_and_mappings_in_one_batch(self, table: Writer) -> None:
        for number in range(12):
            columns = tuple(Column(f"c{place}", "integer") for place in range(number + 1))
            table.sink.create(Table("", f"wide{number}", (Column("id", "integer", nullable=False), *columns), ("id",)))
        writes = [
            TableWrite(
                "customers",
                f"wide{number}",
                ("id",),
                ("id", *(f"c{place}" for place in range(number + 1))),
                [RowChange("upsert", (row,), (row, *range(number + 1))) for row in range(3)],
            )
            for number in range(12)
        ]
        table.write(*writes, people(change("upsert", 1, "Ada", "x")))
        assert table.rows("people", "id") == [(1,)]
        assert table.rows("wide11", "id", "c0", "c11") == [(0, 0, 11), (1, 0, 11), (2, 0, 11)]

    def test_rows_of_two_partitions_in_one_batch(self, table: Writer) -> None:
        table.sink.start_offsets([first_offset(partition=1)])
        table.write(upserts((1, "Ada"), table="people"), upserts((2, "Bob"), table="people"))
        assert table.rows("people", "id", "name") == [(1, "Ada"), (2, "Bob")]
