"""Keys that events spell otherwise than rows: what is written must be what a delete looks for."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.pgtypes import canonical_key
from sync_hub.mapping.apply import CompiledMapping
from sync_hub.model import ABSENT, Column, RowChange, Table
from tests.unit.mapping.conftest import change, compiled

PLAIN = "key: [k]\ncopy: [k, note]\n"
EXPRESSION = "key: [k]\nfields: {k: \"'no ' || (k)::text\", note: note}\n"


def source(type_name: str, declared: str = "") -> Table:
    columns = (Column("k", type_name, nullable=False, declared=declared), Column("note", "text"))
    return Table("public", "items", columns, key=("k",))


def target(type_name: str, declared: str = "") -> Table:
    return Table("", "item_view", (Column("k", type_name, declared=declared), Column("note", "text")), key=("k",))


def fitted(body: str, source_table: Table, target_table: Table) -> CompiledMapping:
    mapping = compiled(body, table=source_table)
    mapping.fit(target_table)
    return mapping


def only(mapping: CompiledMapping, event: Any) -> RowChange:
    mapped = mapping.apply([event])
    assert not mapped.rejected, mapped.rejected
    (found,) = mapped.changes
    return found


@pytest.mark.parametrize(
    ("type_name", "row", "event"),
    [
        ("numeric(6,2)", "7.50", "7.5"),
        ("numeric", "7.00", "7"),
        ("character(6)", "c1    ", "c1"),
        ("bpchar", "c1 ", "c1"),
        ("citext", "Ada", "ada"),
        ("extensions.citext", "Ada", "ada"),
        ("interval", "P1M", "PT2592000S"),
        ("real", -0.0, 0),
        ("double precision", -0.0, 0),
        ("numeric(6,2)[]", ["7.50", None], ["7.5", None]),
        ("character(6)[]", ["c1    "], ["c1"]),
    ],
)
def test_a_key_kept_as_text_is_written_as_the_event_spells_it(type_name: str, row: Any, event: Any) -> None:
    convert = canonical_key(type_name)
    assert convert is not None and repr(convert(row)) == repr(event)
    mapping = fitted(PLAIN, source(type_name), target("text"))
    whole = change("update", {"k": row, "note": "n"}, key={"k": event})
    assert mapping.respells
    assert repr(only(mapping, whole)) == repr(RowChange("upsert", (event,), (event, "n"), operation="update"))
    partial = change("update", {"k": row}, key={"k": event}, unchanged=("note",))
    assert repr(only(mapping, partial)) == repr(RowChange("update", (event,), (event, ABSENT)))
    assert repr(mapping.map_row({"k": row, "note": "n"}, {"k": event})) == repr((event, "n"))
    assert only(mapping, change("delete", key={"k": event})).key == (event,)


@pytest.mark.parametrize(
    ("type_name", "taken"),
    [
        ("numeric(6,2)", "numeric(6,2)"),
        ("numeric(6,2)", "numeric"),
        ("character(6)", "character(10)"),
        ("interval", "interval"),
        ("citext", "extensions.citext"),
        ("real", "double precision"),
        ("numeric[]", "numeric[]"),
    ],
)
def test_a_key_that_the_target_compares_as_the_source_keeps_its_spelling(type_name: str, taken: str) -> None:
    assert not fitted(PLAIN, source(type_name), target(taken)).respells


@pytest.mark.parametrize(
    "type_name",
    [
        "numeric(6,2)", "character(6)", "bpchar", "citext", "public.citext", "interval", "interval(3)",
        "interval day to second", "real", "double precision", "numeric[]", "integer", "bigint", "text", "jsonb",
        "character varying(6)", '"char"', "uuid", "date", "timestamp with time zone", "boolean", "text[]", "bytea",
    ],
)  # fmt: skip
def test_all_types_that_events_spell_anew_are_known_and_no_others(type_name: str) -> None:
    mapping = fitted(PLAIN, source(type_name), target("unlike any source's"))
    assert mapping.respells == (canonical_key(type_name) is not None)


def test_arrays_that_a_target_keeps_as_text_are_respelled_although_their_elements_have_the_same_type() -> None:
    assert fitted(PLAIN, source("real[]", "real[]"), target("double precision[]", "REAL ARRAY")).respells


def test_an_expression_over_such_a_column_is_computed_from_the_events_key() -> None:
    mapping = fitted(EXPRESSION, source("numeric(6,2)"), target("text"))
    whole = change("create", {"k": "7.50", "note": "n"}, key={"k": "7.5"})
    assert only(mapping, whole) == RowChange("upsert", ("no 7.5",), ("no 7.5", "n"), operation="create")
    assert only(mapping, change("delete", key={"k": "7.5"})).key == ("no 7.5",)
    assert mapping.map_row({"k": "7.50", "note": "n"}, {"k": "7.5"}) == ("no 7.5", "n")
    assert mapping.map_row({"k": "7.50", "note": "n"}) == ("no 7.50", "n")
    assert not fitted(EXPRESSION, source("integer"), target("text")).respells


def test_only_the_keys_own_columns_are_respelled() -> None:
    columns = (Column("shop", "integer"), Column("k", "numeric(6,2)"), Column("size", "interval"))
    table = Table("public", "items", columns, key=("shop", "k"))
    body = "key: [k, shop]\nfields: {size: size, shop: shop, as_it_is: k, k: k, origin: _source}\n"
    taken = Table("", "item_view", tuple(Column(name, "text") for name in ("size", "shop", "as_it_is", "k", "origin")))
    mapping = fitted(body, table, taken)
    row = {"shop": 1, "k": "7.50", "size": "P1M"}
    found = only(mapping, change("update", row, key={"shop": 1, "k": "7.5"}))
    assert found == RowChange("upsert", ("7.5", 1), ("P1M", 1, "7.50", "7.5", "erp"), operation="update")


def test_rows_of_a_foreign_topic_keep_the_spelling_of_its_keys() -> None:
    mapping = fitted(PLAIN, source("numeric(6,2)"), target("text"))
    found = only(mapping, change("create", {"k": "7.50", "note": "n"}, key={"k": "7.50"}, version=""))
    assert found == RowChange("upsert", ("7.50",), ("7.50", "n"), operation="create")


def test_fitting_another_table_or_none_leaves_rows_and_hash_as_they_are() -> None:
    mapping = compiled(PLAIN, table=source("numeric(6,2)"))
    before = mapping.hash
    whole = change("create", {"k": "7.50", "note": "n"}, key={"k": "7.5"})
    assert only(mapping, whole).values == ("7.50", "n")
    mapping.fit(target("text"))
    assert (only(mapping, whole).values, mapping.hash) == (("7.5", "n"), before)
    mapping.fit(target("numeric(6,2)"))
    assert only(mapping, whole).values == ("7.50", "n")


def test_a_key_is_not_copied_where_a_domain_of_the_same_name_compares_otherwise() -> None:
    one, other = source("citext", "tag"), target("text", "tag")
    assert fitted(PLAIN, one, other).copied(("k",), other) == {}
    assert fitted(PLAIN, one, target("citext", "tag")).copied(("k",), target("citext", "tag")) == {"k": "k"}
