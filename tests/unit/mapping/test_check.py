"""Mappings against both catalogs: every finding has a code, a place and what to do."""

from __future__ import annotations

import pytest

from sync_hub.mapping.check import check_mapping
from sync_hub.model import Column, Finding, Table
from tests.unit.mapping.conftest import HEAD, ITEMS, bundle, compiled

BODY = "key: [id]\nfields:\n  id: id\n  label: name\n  price: price\n"


def target(*columns: Column, unique: tuple[tuple[str, ...], ...] = (("id",),)) -> Table:
    known = {
        "id": Column("id", "bigint", nullable=False),
        "label": Column("label", "text"),
        "price": Column("price", "numeric(12,2)"),
    }
    known |= {column.name: column for column in columns}
    return Table("public", "item_view", tuple(known.values()), key=("id",), unique=unique)


def findings(body: str = BODY, table: Table | None = None, source: Table = ITEMS) -> list[Finding]:
    return check_mapping(compiled(body, table=source), source, table)


def one(body: str = BODY, table: Table | None = None) -> Finding:
    (found,) = findings(body, table)
    return found


def test_a_mapping_that_fits_has_no_findings() -> None:
    assert findings(table=target()) == []


def test_a_missing_target_table_is_an_error_unless_it_may_be_created() -> None:
    found = one()
    assert (found.code, found.severity, found.path) == ("target_table_missing", "error", "mappings/m.yaml:3:26")
    assert "create: true" in found.hint
    creating = bundle(BODY, head=HEAD.replace("item_view}", "item_view, create: true}"))
    assert check_mapping(creating, ITEMS, None) == []


def test_a_column_the_target_has_not() -> None:
    found = one("key: [id]\nfields:\n  id: id\n  labl: name\n", target())
    assert (found.code, found.path, found.hint) == (
        "unknown_target_column",
        "mappings/m.yaml:7:9",
        "did you mean label?",
    )


def test_a_column_that_only_a_delete_sets_must_take_null() -> None:
    columns = (*target().columns, Column("gone", "boolean", nullable=False, default=True))
    table = Table("public", "item_view", columns, key=("id",), unique=(("id",),))
    found = one(BODY + "on_delete: {set: {gone: true}}\n", table)
    assert found.code == "marked_column_not_null"
    assert not findings(
        BODY.replace("label: name", "label: name\n  gone: false") + "on_delete: {set: {gone: true}}\n", table
    )


def test_a_marked_column_is_checked_too() -> None:
    assert one(BODY + "on_delete: {set: {gone: true}}\n", target()).code == "unknown_target_column"


def test_a_column_the_target_computes() -> None:
    assert one(BODY, target(Column("label", "text", generated=True))).code == "target_column_generated"


@pytest.mark.parametrize(
    ("expression", "type_", "severity"),
    [
        ("name", "integer", "error"), ("name", "date", "error"), ("price", "integer", "error"),
        ("price", "boolean", "error"),
        ("updated_at", "date", "error"), ("active", "integer", "error"), ("data", "integer", "error"),
        ("stock", "smallint", "warning"), ("id", "integer", "warning"), ("price", "numeric(6,2)", "warning"),
        ("price * 2", "numeric(12,2)", "warning"), ("name", "character varying(5)", "warning"),
        ("price", "double precision", "warning"), ("stock", "boolean", "warning"),
        ("made_on::timestamp", "timestamp with time zone", "warning"),
        ("stock", "bigint", ""), ("stock", "numeric(12,2)", ""), ("price", "text", ""), ("data", "json", ""),
        ("made_on", "timestamp with time zone", ""), ("code", "character varying(10)", ""),
        ("price", "numeric(14,2)", ""),
        ("data", "text", ""), ("name", "mood", ""), ("price", "numeric", ""), ("{value: 5}", "bigint", ""),
        ("{value: '5'}", "bigint", ""),
    ],
)  # fmt: skip
def test_types_that_fit_and_types_that_do_not(expression: str, type_: str, severity: str) -> None:
    found = findings(f"key: [id]\nfields:\n  id: id\n  label: {expression}\n", target(Column("label", type_)))
    assert [item.severity for item in found] == ([severity] if severity else [])
    if severity == "error":
        assert found[0].code == "type_does_not_fit"
        assert found[0].hint.startswith("cast it")


def test_a_key_that_is_not_unique_in_the_target() -> None:
    found = one(BODY, target(unique=(("label",),)))
    assert (found.code, found.severity, found.hint) == ("key_not_unique", "error", "unique there: (label)")
    found = one(BODY, target(unique=()))
    assert "add primary key (id)" in found.hint


def test_the_order_of_a_key_does_not_matter() -> None:
    table = Table("public", "items", ITEMS.columns, key=("id", "code"))
    assert findings(
        "key: [code, id]\ncopy: [id, code]\n", target(Column("code", "character(4)"), unique=(("id", "code"),)),
        source=table
    ) == []  # fmt: skip


def test_a_key_that_leaves_out_a_key_column_of_the_source() -> None:
    table = Table("public", "items", ITEMS.columns, key=("id", "code"))
    (found,) = findings(BODY, target(), source=table)
    assert (found.code, found.severity) == ("key_too_short", "error")
    assert "code" in found.message


def test_a_key_by_a_function_that_may_collide() -> None:
    found, lossy = findings("key: [id]\nfields:\n  id: mod(id, 10)\n", target())
    assert (found.code, found.severity) == ("key_may_collide", "warning")
    assert (lossy.code, lossy.severity) == ("lossy_unique", "warning")
    assert findings("key: [id]\nfields:\n  id: md5(id::text)\n", target(Column("id", "text", nullable=False))) == []


def test_a_source_without_a_key() -> None:
    table = Table("public", "items", ITEMS.columns)
    (found,) = check_mapping(bundle(BODY), table, target())
    assert found.severity == "error"
    assert "key" in found.message


def test_a_lossy_mask_on_a_unique_column() -> None:
    body = "key: [id]\nfields:\n  id: id\n  label: mask(name, 2)\n"
    found = one(body, target(unique=(("id",), ("label",))))
    assert (found.code, found.severity) == ("lossy_unique", "error")
    assert "hmac_sha256" in found.hint
    assert one(body.replace("mask(name, 2)", "lower(name)"), target(unique=(("id",), ("label",)))).severity == "warning"
    assert findings(body, target()) == []


def test_columns_that_must_be_written_and_are_not() -> None:
    found = one(BODY, target(Column("tenant", "text", nullable=False)))
    assert (found.code, found.severity) == ("not_null_unwritten", "error")
    assert findings(BODY, target(Column("tenant", "text", nullable=False, default=True))) == []


def test_null_into_not_null_is_a_warning() -> None:
    found = one(BODY, target(Column("label", "text", nullable=False)))
    assert (found.code, found.severity) == ("null_into_not_null", "warning")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("key: [id]\nfields: {id: id, label: nam}\n", "there is no column nam"),
        ("key: [id]\nfields: {id: id, label: computed}\n", "the log cannot carry the column computed"),
        ("key: [label]\nfields: {label: name}\n", "not part of the source's key"),
        ("key: [id]\nfields: {id: 'id +'}\n", "not a valid expression"),
        ("key: [id]\n", "the mapping writes no column"),
    ],
)
def test_a_mapping_that_does_not_compile_is_one_finding(body: str, message: str) -> None:
    (found,) = check_mapping(bundle(body), ITEMS, target())
    assert found.severity == "error"
    assert message in found.message
    assert found.path.startswith("mappings/m.yaml:")
