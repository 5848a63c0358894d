"""Two versions of one mapping compared: what differs in the files, and what that does to rows."""

from __future__ import annotations

from typing import Any

from sync_hub.mapping.apply import compile_mapping
from sync_hub.mapping.differences import (
    EXAMPLES,
    Example,
    FieldChange,
    Sample,
    SettingChange,
    compare_rows,
    field_changes,
    key_differs,
    lookup_changes,
    setting_changes,
)
from sync_hub.mapping.spec import MappingSpec, parse_spec
from tests.unit.mapping.conftest import HEAD, ITEMS, bundle

OLD = "key: [id]\nfields:\n  id: id\n  label: name\n  price: price\n"


def spec(body: str, head: str = HEAD) -> MappingSpec:
    return parse_spec(bundle(body, head=head))


def fields(new: str, old: str = OLD) -> list[FieldChange]:
    return list(field_changes(spec(old), spec(new), ITEMS))


def settings(new: str, old: str = OLD, head: str = HEAD) -> list[SettingChange]:
    return setting_changes(spec(old), spec(new, head))


def sampled(new: str, *rows: dict[str, Any], old: str | None = OLD) -> Sample:
    whole = [{column.name: None for column in ITEMS.columns} | row for row in rows]
    before = None if old is None else compile_mapping(bundle(old), ITEMS, secrets={})
    return compare_rows(before, compile_mapping(bundle(new), ITEMS, secrets={}), whole)


def test_what_only_people_read_is_no_difference_of_rows() -> None:
    new = "description: other\nowner: me\nkey:   [id]\nfields: {id: id, label: name, price: price}  # tidied\n"
    assert fields(new) == []
    assert settings(new) == []
    assert compile_mapping(bundle(OLD), ITEMS, secrets={}).hash == compile_mapping(bundle(new), ITEMS, secrets={}).hash


def test_fields_are_added_changed_and_removed() -> None:
    new = (
        "key: [id]\nfields:\n  id: id\n  label: upper(name)\n  kind: {value: it's}\n  rate: {value: 1.50}\n  on: true\n"
    )
    assert fields(new) == [
        FieldChange("label", "changed", "name", "upper(name)"),
        FieldChange("kind", "added", "", "'it''s'"),
        FieldChange("rate", "added", "", "1.50"),
        FieldChange("on", "added", "", "true"),
        FieldChange("price", "removed", "price", ""),
    ]


def test_another_type_is_another_field() -> None:
    (change,) = fields(OLD.replace("price: price", 'price: {expr: price, type: "numeric(9,1)"}'))
    assert (change.old, change.new) == ("price", "(price)::numeric(9,1)")


def test_copied_columns_are_fields_too() -> None:
    assert fields("key: [id]\nfields: {label: name}\ncopy: [id, price]\n") == []
    added = fields("key: [id]\nfields: {label: name}\ncopy: all\nexcept: [name, firstName, data, code]\n")
    assert [(one.name, one.change, one.new) for one in added] == [
        (name, "added", name) for name in ("stock", "active", "made_on", "updated_at")
    ]


def test_a_column_listed_in_another_place_is_a_setting_and_no_field() -> None:
    old, new = "key: [id]\ncopy: [id, name]\n", "key: [id]\ncopy: [name, id]\n"
    assert fields(new, old) == []
    assert settings(new, old) == [SettingChange("copy", '["id", "name"]', '["name", "id"]')]


def test_filter_deletion_and_target_are_settings() -> None:
    new = OLD + "where: active\non_delete: {set: {price: null}}\n"
    head = HEAD.replace("item_view}", "items}")
    assert settings(new, head=head) == [
        SettingChange("to", '{"target": "crm", "table": "item_view"}', '{"target": "crm", "table": "items"}'),
        SettingChange("where", "", "active"),
        SettingChange("on_delete", "", '{"set": {"price": null}}'),
    ]


def test_a_key_is_another_when_its_columns_or_their_expressions_are() -> None:
    both = "key: [id, label]\nfields: {id: id, label: name}\n"
    assert not key_differs(spec(both), spec(both.replace("[id, label]", "[label, id]")), ITEMS)
    assert not key_differs(spec(OLD), spec(OLD.replace("label: name", "label: lower(name)")), ITEMS)
    assert key_differs(spec(OLD), spec(both), ITEMS)
    assert key_differs(spec(OLD), spec(OLD.replace("id: id\n", "id: id + 1\n", 1)), ITEMS)


def test_lookups_differ_by_their_contents() -> None:
    one, two = "code,name\na,A\n", "code,name\na,A\nb,B\n"
    assert lookup_changes({"x": one}, {"x": one}) == []
    assert lookup_changes({"x": one, "gone": two}, {"x": two, "new": one}) == [
        SettingChange("lookup gone", "2 rows", ""),
        SettingChange("lookup new", "", "1 row"),
        SettingChange("lookup x", "1 row", "2 rows"),
    ]
    assert lookup_changes({"x": one}, {"x": "code,name\na,B\n"}) == [
        SettingChange("lookup x", "1 row", "1 row, changed")
    ]


def test_rows_get_other_values_and_examples_show_some() -> None:
    sample = sampled(
        OLD.replace("label: name", "label: upper(name)"),
        *({"id": number, "name": "x" if number < 7 else "X"} for number in range(10)),
    )
    assert (sample.rows, sample.changed, sample.rejected) == (10, 7, 0)
    assert sample.examples == tuple(Example({"id": number}, "label", "X", "x") for number in range(EXAMPLES))
    assert sample.nulls == {}


def test_new_nulls_are_counted_for_each_field() -> None:
    new = OLD.replace("label: name", "label: nullif(name, 'x')\n  stock: stock")
    sample = sampled(new, {"id": 1, "name": "x", "stock": 5}, {"id": 2, "name": None}, {"id": 3, "name": "y"})
    assert sample.nulls == {"label": 1, "stock": 2}
    assert sample.changed == 1, "a column that is added changes nothing that was there"
    assert Example({"id": 1}, "stock", 5) in sample.examples


def test_rows_enter_and_leave_the_view() -> None:
    rows = [{"id": number, "stock": number, "name": "x"} for number in range(5)]
    sample = sampled(OLD + "where: stock > 2\n", *rows, old=OLD + "where: stock < 4\n")
    assert (sample.entering, sample.leaving, sample.changed) == (1, 3, 0)


def test_rejections_are_counted_with_one_example_and_those_that_are_mended() -> None:
    rows = [{"id": 1, "stock": 0, "name": "7"}, {"id": 2, "stock": 2, "name": "x"}, {"id": 3, "stock": 0, "name": "x"}]
    divided = OLD.replace("price: price", "price: 10 / stock")
    sample = sampled(OLD.replace("price: price", "price: name::integer"), *rows, old=divided)
    assert (sample.rejected, sample.mended) == (1, 1)
    assert sample.rejection is not None
    assert (sample.rejection.key, sample.rejection.code) == ({"id": 2}, "invalid_text")
    assert "price" in sample.rejection.message


def test_without_old_values_only_rejections_tell_something() -> None:
    sample = sampled(OLD.replace("price: price", "price: 10 / stock"), {"id": 1, "stock": 0}, {"id": 2}, old=None)
    assert (sample.rows, sample.rejected, sample.changed, sample.entering) == (2, 1, 0, 0)
    assert sample.nulls == {}


def test_facts_of_events_are_not_compared() -> None:
    new = OLD.replace("price: price", "price: price\n  who: _actor\n  at: _committed_at")
    assert sampled(new, {"id": 1}).examples == ()
