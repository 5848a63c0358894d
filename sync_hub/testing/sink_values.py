"""What a sink does with values: every wire type lands equal and reads back equal, names and text of any kind."""

from __future__ import annotations

from typing import Any

import pytest

from sync_hub.errors import Rejected
from sync_hub.model import Column, RowChange, Table, TableWrite
from sync_hub.testing.sink_case import Writer

HOSTILE_TEXTS = [
    "",
    " ",
    "NULL",
    "null",
    r"\N",
    r"\.",
    "\\",
    "a\tb\nc\rd",
    "'\"`;--",
    "%s %(x)s $1 ?1 {}",
    "日本語 🎉",
    "é",
    "x" * 100_000,
]

VALUES: list[tuple[str, list[Any]]] = [
    ("smallint", [0, -32768, 32767]),
    ("integer", [0, -(2**31), 2**31 - 1]),
    ("bigint", [0, -(2**63), 2**63 - 1]),
    ("oid", [0, 2**32 - 1]),
    ("boolean", [True, False]),
    ("real", [0, 1.5, -0.25, "NaN", "Infinity", "-Infinity"]),
    ("double precision", [0, 0.1, 1e300, -2.5e-300, 1 / 3, "NaN", "Infinity", "-Infinity"]),
    ("numeric", ["0", "-1.50", "NaN", "Infinity", "-Infinity", "9" * 40 + "." + "1" * 40, "0.000000000000000000001"]),
    ("numeric(12,2)", ["10.50", "-9999999999.99", "NaN"]),
    ("money", ["-1234.50", "0.01"]),
    ("text", HOSTILE_TEXTS),
    ("character varying(20)", ["", "ten chars ", "日本語"]),
    ("character(5)", ["ab   ", "12345"]),
    ("uuid", ["b1f8b0f2-2c0a-4c0e-9e2f-0123456789ab"]),
    ("date", ["2024-02-29", "0044-03-15 BC", "infinity", "-infinity", "9999-12-31", "0001-01-01"]),
    ("time without time zone", ["00:00:00", "23:59:59.999999", "24:00:00"]),
    ("time with time zone", ["12:00:00+13:45", "23:59:59.5-08"]),
    ("timestamp without time zone", ["2026-11-23T02:24:33.151664", "infinity", "0044-03-15 00:00:00 BC"]),
    ("timestamp with time zone", ["2026-11-23T02:24:33.151664Z", "1970-01-01T00:00:00Z", "-infinity"]),
    ("interval", ["P1Y2M3DT4H5M6.5S", "PT0S", "P-1D"]),
    ("bytea", ["", "AAEC/w==", "aGVsbG8="]),
    ("json", ['{"a": [1, 2.50, null], "a": "twice"}', "null", '"text"', "5", "1.0"]),
    ("jsonb", ['{"a": [1, 2.50, null]}', "7"]),
    ("enum", ["small", "weird'value"]),
    ("integer[]", [[], [1, None, -3], [[1, 2], [3, 4]], "[0:1]={5,6}"]),
    ("text[]", [["a", 'q"uote', "back\\slash", "com,ma", "{}", "", None, "NULL", "日本"], []]),
    ("boolean[]", [[True, False, None]]),
    ("numeric(10,2)[]", [["1.50", "NaN"]]),
    ("bytea[]", [["AAEC", ""]]),
    ("timestamp with time zone[]", [["2026-11-23T02:24:33Z"]]),
    ("inet", ["192.168.0.1/24", "::1"]),
    ("int4range", ["[1,10)", "empty"]),
    ("tsvector", ["'cat':2 'dog':1"]),
    ("bit(3)", ["101"]),
]


ZERO = "00000000-0000-0000-0000-000000000000"


class SinkValuesContract:
    """Part of `SinkContract`."""

    @pytest.mark.parametrize(("type_name", "values"), VALUES, ids=[name for name, _ in VALUES])
    def test_values_land_and_read_back_equal(self, writer: Writer, type_name: str, values: list[Any]) -> None:
        columns = (Column("id", "integer", nullable=False), Column("value", type_name))
        writer.sink.create(Table("", "typed", columns, ("id",)))
        rows = [*enumerate(values), (len(values), None)]
        for _ in range(2):
            changes = [RowChange("upsert", (number,), (number, value)) for number, value in rows]
            writer.write(TableWrite("customers", "typed", ("id",), ("id", "value"), changes))
            assert sorted(writer.sink.read_rows("typed", ("id", "value")), key=lambda row: row[0]) == rows
        for number, value in rows:
            [found] = writer.sink.find_rows("typed", ["value"], ["id"], [(number,)])
            (read,) = found or ()
            assert (read, type(read)) == (value, type(value)) or isinstance(value, int | float)

    @pytest.mark.parametrize(
        ("type_name", "key"),
        [
            ("text", r"\N"),
            ("text", "日本語"),
            ("bigint", 2**62),
            ("numeric", "1.50"),
            ("uuid", "b1f8b0f2-2c0a-4c0e-9e2f-0123456789ab"),
            ("timestamp with time zone", "2026-11-23T02:24:33.151664Z"),
            ("date", "2024-02-29"),
            ("bytea", "AAEC/w=="),
            ("boolean", True),
            ("character(5)", "ab   "),
            ("character varying(9)", "ab"),
            ("double precision", 0.1),
        ],
    )
    def test_rows_are_found_by_keys_of_any_type(self, writer: Writer, type_name: str, key: Any) -> None:
        columns = (Column("key", type_name, nullable=False), Column("value", "text"))
        writer.sink.create(Table("", "keyed", columns, ("key",)))

        def keyed(*changes: RowChange) -> TableWrite:
            return TableWrite("customers", "keyed", ("key",), ("key", "value"), list(changes))

        for value in ("first", "second"):
            writer.write(keyed(RowChange("upsert", (key,), (key, value))))
        writer.write(keyed(RowChange("update", (key,), (key, "third"))))
        assert writer.sink.find_rows("keyed", ["key", "value"], ["key"], [(key,)]) == [(key, "third")]
        writer.write(keyed(RowChange("delete", (key,), new_key=(key,))))
        assert writer.rows("keyed", "value") == [("third",)]
        writer.write(keyed(RowChange("delete", (key,))))
        assert writer.rows("keyed", "value") == []

    @pytest.mark.parametrize(
        ("type_name", "key", "strange"),
        [("integer", 7, 2**40), ("smallint", 7, "seven"), ("date", "2024-02-29", "2024-02-30"), ("uuid", ZERO, "zero")],
    )
    def test_a_key_that_its_column_cannot_hold_has_no_row(
        self, writer: Writer, type_name: str, key: Any, strange: Any
    ) -> None:
        writer.sink.create(Table("", "keyed", (Column("key", type_name, nullable=False),), ("key",)))
        writer.write(TableWrite("customers", "keyed", ("key",), ("key",), [RowChange("upsert", (key,), (key,))]))
        found = writer.sink.find_rows("keyed", ["key"], ["key"], [(strange,), (key,), (strange,)])
        assert found == [None, (key,), None]

    @pytest.mark.parametrize(
        "name", ["Mixed Case", 'quo"te', "select", "naïve_日本", "per%cent", "%s", "semi;colon", "back\\slash", "$1"]
    )
    def test_names_of_any_kind(self, writer: Writer, name: str) -> None:
        columns = (Column(f"{name} key", "integer", nullable=False), Column(name, "text"))
        writer.sink.create(Table("", name, columns, (f"{name} key",)))
        names = tuple(column.name for column in columns)

        def write(*changes: RowChange, **more: Any) -> TableWrite:
            return TableWrite(name, name, names[:1], names, list(changes), mark_columns=names[1:], **more)

        writer.sink.share(name, [name])
        writer.write(write(RowChange("upsert", (1,), (1, "a")), RowChange("upsert", (2,), (2, "b")), shared=True))
        writer.write(write(RowChange("update", (1,), (1, "c")), RowChange("mark", (2,), ("d",)), shared=True))
        assert writer.rows(name, *names) == [(1, "c"), (2, "d")]
        writer.write(write(RowChange("delete", (1,)), shared=True))
        writer.write(write(truncate="delete", shared=True))
        assert writer.rows(name, *names) == []

    def test_long_mapping_names_have_flags_of_their_own(self, writer: Writer) -> None:
        columns = (Column("id", "integer", nullable=False), Column("a", "text"), Column("b", "text"))
        writer.sink.create(Table("", "longs", columns, ("id",)))
        names = ["m" * 70 + "_one", "m" * 70 + "_two"]
        writer.sink.share("longs", names)
        for name, column in zip(names, "ab", strict=True):
            changes = [RowChange("upsert", (1,), (1, name))]
            writer.write(TableWrite(name, "longs", ("id",), ("id", column), changes, shared=True))
        writer.write(TableWrite(names[0], "longs", ("id",), ("id", "a"), [RowChange("delete", (1,))], shared=True))
        assert writer.rows("longs", "id", "a", "b") == [(1, None, names[1])]

    @pytest.mark.parametrize(
        ("type_name", "value"),
        [
            ("integer", "abc"),
            ("integer", 2**70),
            ("bigint", 2**63),
            ("boolean", "maybe"),
            ("double precision", "1,5"),
            ("bytea", "not base64!"),
            ("text", "half of a pair: \ud83d"),
        ],
    )
    def test_a_value_that_the_type_cannot_mean_is_rejected(self, writer: Writer, type_name: str, value: Any) -> None:
        columns = (Column("id", "integer", nullable=False), Column("value", type_name))
        writer.sink.create(Table("", "typed", columns, ("id",)))
        changes = [RowChange("upsert", (1,), (1, value))]
        with pytest.raises(Rejected):
            writer.write(TableWrite("customers", "typed", ("id",), ("id", "value"), changes))
        assert writer.rows("typed", "id") == []
