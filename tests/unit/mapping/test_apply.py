"""Events to row changes: whole rows, incomplete rows, deletes, filters, facts, rejections."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_hub.errors import ConfigError, Rejected
from sync_hub.mapping.apply import compile_mapping
from sync_hub.model import ABSENT, Column, Operation, RowChange, Table
from tests.unit.mapping.conftest import ITEMS, bundle, change, compiled

BASE = "key: [id]\nfields:\n  id: id\n  label: upper(name)\n  price: price\n"


def only(mapping: Any, event: Any) -> RowChange:
    mapped = mapping.apply([event])
    assert not mapped.rejected, mapped.rejected
    (found,) = mapped.changes
    return found


@pytest.mark.parametrize("operation", ["create", "update", "read"])
@pytest.mark.parametrize("version", ["v", ""])
def test_a_whole_row_is_an_upsert_of_all_columns_and_tells_what_its_event_did(
    operation: Operation, version: str
) -> None:
    event = msgspec.structs.replace(change(operation, {"id": 7, "name": "lamp", "price": "1.50"}), version=version)
    assert only(compiled(BASE), event) == RowChange("upsert", (7,), (7, "LAMP", "1.50"), operation=operation)


def test_order_and_sources_are_kept_and_rejected_events_stand_apart() -> None:
    mapping = compiled("key: [id]\nfields:\n  id: id\n  each: 10 / stock\n")
    rows = [{"id": number, "stock": number % 3} for number in range(6)]
    mapped = mapping.apply([change("update", row) for row in rows])
    assert [index for index, _ in mapped.rejected] == [0, 3]
    assert mapped.sources == [1, 2, 4, 5]
    assert [found.values for found in mapped.changes] == [(1, 10), (2, 5), (4, 10), (5, 5)]
    error = mapped.rejected[0][1]
    assert (error.code, error.sqlstate) == ("division_by_zero", "22012")
    assert error.message == "mapping m, each: division by zero"


def test_an_expression_that_lacks_a_column_is_absent_and_the_row_only_an_update() -> None:
    found = only(compiled(BASE), change("update", {"id": 7, "price": "2.00"}, unchanged=("name",)))
    assert found == RowChange("update", (7,), (7, ABSENT, "2.00"))


def test_an_unchanged_column_that_nobody_reads_leaves_the_row_whole() -> None:
    found = only(compiled(BASE), change("update", {"id": 7, "name": "x", "price": None}, unchanged=("data",)))
    assert found.kind == "upsert"


@pytest.mark.parametrize(
    ("operation", "where"), [("create", "price > 1"), ("read", "price > 1"), ("update", "name > 'a'")]
)
def test_a_row_that_others_wrote_without_what_is_needed_is_rejected(operation: str, where: str) -> None:
    """Of ours such a row is gone, and its delete follows."""
    mapping, row = compiled(f"{BASE}where: {where}\n"), {"id": 7, "price": "2.00"}
    ours = mapping.apply([change(operation, row, unchanged=("name",))])
    assert (ours.rejected, [found.kind for found in ours.changes]) == ([], ["update"] * (operation != "update"))
    theirs = mapping.apply([change(operation, row, unchanged=("name",), version="")])
    assert [(error.code, error.message) for _, error in theirs.rejected] == [
        ("row_incomplete", "mapping m: the row came without name, which its source's log left out")
    ]


def test_a_branch_never_taken_needs_no_column() -> None:
    mapping = compiled("key: [id]\nfields:\n  id: id\n  x: case when active then name else 'none' end\n")
    assert only(mapping, change("update", {"id": 1, "active": False})).values == (1, "none")
    assert only(mapping, change("update", {"id": 1, "active": True}, unchanged=("name",))).values == (1, ABSENT)


def test_a_filter_that_lacks_its_column_decides_nothing() -> None:
    mapping = compiled(BASE + "where: active\n")
    mapped = mapping.apply([change("update", {"id": 7, "name": "x", "price": "1"}, unchanged=("active",))])
    assert (mapped.changes, mapped.rejected) == ([], [])


def test_a_column_that_is_missing_and_not_left_out_by_the_log_is_rejected() -> None:
    mapped = compiled(BASE + "where: active\n").apply([change("create", {"id": 7, "price": "1", "active": True})])
    assert mapped.changes == []
    assert mapped.rejected[0][1].code == "row_incomplete"
    assert "no column name" in mapped.rejected[0][1].message


def test_a_filter_that_is_known_still_removes_an_incomplete_row() -> None:
    mapping = compiled(BASE + "where: active\n")
    absent = ("name", "price")
    gone = change("update", {"id": 7, "active": False}, unchanged=absent)
    assert only(mapping, gone) == RowChange("delete", (7,))
    assert only(mapping, change("update", {"id": 7, "active": True}, unchanged=absent)).kind == "update"


def test_a_row_that_leaves_the_filter_is_deleted_and_comes_back_as_upsert() -> None:
    mapping = compiled(BASE + "where: active\n")
    row = {"id": 7, "name": "x", "price": "1"}
    assert only(mapping, change("update", row | {"active": False})) == RowChange("delete", (7,))
    assert only(mapping, change("update", row | {"active": None})) == RowChange("delete", (7,)), "NULL is not true"
    assert only(mapping, change("update", row | {"active": True})).kind == "upsert"


def test_deletes_read_nothing_but_the_key() -> None:
    mapping = compiled("key: [item]\nfields:\n  item: \"'I-' || id\"\n  label: name\n")
    assert only(mapping, change("delete", key={"id": 9})) == RowChange("delete", ("I-9",))


def test_a_key_change_names_the_new_key() -> None:
    mapping = compiled(BASE)
    found = only(mapping, change("delete", key={"id": 1}, new_key={"id": 2}))
    assert found == RowChange("delete", (1,), new_key=(2,))


def test_the_key_is_the_events_canonical_key_not_the_rows_spelling() -> None:
    table = Table("public", "items", (Column("id", "numeric", nullable=False), Column("name", "text")), key=("id",))
    mapping = compiled("key: [id]\ncopy: [id, name]\n", table=table)
    found = only(mapping, change("update", {"id": "1.50", "name": "x"}, key={"id": "1.5"}))
    assert found == RowChange("upsert", ("1.5",), ("1.50", "x"), operation="update")
    assert only(mapping, change("delete", key={"id": "1.5"})).key == found.key


def test_on_delete_keep_changes_nothing() -> None:
    mapping = compiled(BASE + "where: active\non_delete: keep\n")
    events = [change("delete", key={"id": 1}), change("update", {"id": 1, "active": False})]
    assert mapping.apply(events).changes == []
    assert mapping.on_truncate() == "keep"


def test_on_delete_set_marks_the_row() -> None:
    body = "where: active\non_delete:\n  set: {gone_at: _committed_at, status: {value: closed}, was: id * 10}\n"
    mapping = compiled(BASE + body)
    assert mapping.mark_columns == ("gone_at", "status", "was")
    marked = ("2023-11-14T22:13:20.5Z", "closed", 70)
    assert only(mapping, change("delete", key={"id": 7}, new_key={"id": 8})) == RowChange("mark", (7,), marked, (8,))
    assert only(mapping, change("update", {"id": 7, "active": False})) == RowChange("mark", (7,), marked)
    assert mapping.on_truncate() == "mark"
    assert mapping.truncate_values(change("truncate")) == ("2023-11-14T22:13:20.5Z", "closed", ABSENT)
    assert [column.name for column in mapping.target_columns()] == ["id", "label", "price", "gone_at", "status", "was"]


def test_a_row_that_comes_back_is_not_marked_any_more() -> None:
    mapping = compiled(BASE + "on_delete: {set: {gone_at: _committed_at}}\n")
    row = {"id": 7, "name": "x", "price": "1", "active": True}
    found = only(mapping, change("create", row, key={"id": 7}))
    assert dict(zip(mapping.columns, found.values, strict=True))["gone_at"] is None


def test_on_delete_set_may_read_only_the_key() -> None:
    with pytest.raises(ConfigError, match="not part of the source's key") as caught:
        compiled(BASE + "on_delete:\n  set: {status: upper(name)}\n")
    assert caught.value.where == "mappings/m.yaml:10:23"


def test_facts_of_the_event_are_columns() -> None:
    mapping = compiled(
        "key: [id]\nfields:\n  id: id\n  src: _source || '.' || _schema || '.' || _table\n  op: _operation\n"
        "  at: _committed_at\n  day: _committed_at::date\n  who: coalesce(_actor, 'nobody')\n  cid: _correlation_id\n"
        "  event: _event_id\n"
    )
    event = change("update", {"id": 1}, correlation_id="c-1")
    assert only(mapping, event).values == (
        1, "erp.public.items", "update", "2023-11-14T22:13:20.5Z", "2023-11-14", "nobody", "c-1", event.id,
    )  # fmt: skip
    assert mapping.event_columns() == {"op", "at", "day", "who", "cid", "event"}
    assert mapping.map_row({"id": 1}) == (1, "erp.public.items", *[ABSENT] * 6)


@pytest.mark.parametrize("body", ["where: _operation <> 'read'\n", "on_delete: delete\nwhere: _actor is null\n"])
def test_a_filter_cannot_use_what_verification_cannot_see(body: str) -> None:
    with pytest.raises(ConfigError, match="belongs to the event"):
        compiled(BASE + body)


def test_the_key_may_only_be_made_of_the_sources_key() -> None:
    with pytest.raises(ConfigError, match="name is not part of the source's key"):
        compiled("key: [label]\nfields:\n  label: name\n")
    with pytest.raises(ConfigError, match="name is not part of the source's key"):
        compiled("key: [name]\ncopy: [id, name]\n")
    with pytest.raises(ConfigError, match="the key column 'nope' is not written"):
        compiled("key: [nope]\ncopy: [id]\n")


def test_copy_all_takes_what_the_log_carries_and_no_field_has() -> None:
    mapping = compiled("key: [id]\ncopy: all\nexcept: [data, firstName]\nfields:\n  name: upper(name)\n")
    assert mapping.columns == ("name", "id", "price", "stock", "active", "code", "made_on", "updated_at")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("copy: [id, nope]\n", "there is no column nope"),
        ("copy: all\nexcept: [nope]\n", "no column nope"),
        ("copy: [id]\nfields: {id: id}\n", "'id' is a field already"),
        ("copy: [id, computed]\n", "the log cannot carry the column computed"),
        ("copy: [id]\nfields: {x: computed + 1}\n", "the log cannot carry the column computed"),
        ("copy: [id]\nfields: {x: firstName}\n", "there is no column firstName"),
        ("copy: [id]\nwhere: stock\n", "where is integer, not a condition"),
    ],
)
def test_wrong_columns_are_refused(body: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compiled("key: [id]\n" + body)


def test_names_with_capitals_are_quoted_as_in_sql() -> None:
    mapping = compiled('key: [id]\nfields:\n  id: id\n  x: \'"firstName"\'\n  y: upper("firstName")\n')
    assert only(mapping, change("update", {"id": 1, "firstName": "ada"})).values == (1, "ada", "ADA")


def test_constants_keep_their_types(value: Callable[..., Any]) -> None:
    mapping = compiled(
        "key: [id]\nfields:\n  id: id\n  a: {value: erp}\n  b: 5\n  c: true\n  d: null\n  e: {value: 1.10}\n"
        "  f: {value: '1.10'}\n  g: {value: 2024-02-29, type: date}\n  h: 1.10\n  i: {value: 7, type: 'numeric(5,2)'}\n"
    )
    assert only(mapping, change("read", {"id": 1})).values == (
        1, "erp", 5, True, None, "1.10", "1.10", "2024-02-29", "1.10", "7.00",
    )  # fmt: skip
    types = [column.type for column in mapping.target_columns()]
    assert types == [
        "bigint", "text", "integer", "boolean", "text", "numeric", "text", "date", "numeric", "numeric(5,2)",
    ]  # fmt: skip


def test_declared_types_round_and_refuse_as_columns_do(value: Callable[..., Any]) -> None:
    assert value("price", type="numeric(6,1)", price="1.25") == "1.3"
    with pytest.raises(Rejected, match=r"numeric\(3,2\) out of range"):
        value("price", type="numeric(3,2)", price="10.00")
    with pytest.raises(Rejected) as caught:
        value("name", type="varchar(3)", name="four")
    assert caught.value.sqlstate == "22001", "as storing does, unlike a cast, which cuts"
    assert value("name::varchar(3)", name="four") == "fou"


def test_target_columns_have_types_and_nullability() -> None:
    mapping = compiled("key: [id]\nfields:\n  id: id\n  total: price * stock\n  tag: {value: x}\ncopy: [code]\n")
    assert [(column.name, column.type, column.nullable) for column in mapping.target_columns()] == [
        ("id", "bigint", False), ("total", "numeric", True), ("tag", "text", False), ("code", "character(4)", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("type_", "made"), [("enum", "text"), ("citext", "text"), ("inet", "inet"), ("enum[]", "text[]")]
)
def test_types_that_only_the_source_defines_become_text(type_: str, made: str) -> None:
    table = Table("public", "items", (Column("id", "bigint"), Column("x", type_)), key=("id",))
    assert compiled("key: [id]\ncopy: [id, x]\n", table=table).target_columns()[1].type == made


def test_plain_columns_pass_untouched_whatever_they_hold() -> None:
    odd = {"id": 1, "made_on": "infinity", "price": "NaN", "code": "ab  ", "updated_at": "0044-03-15 10:00:00+00 BC"}
    mapping = compiled("key: [id]\ncopy: [id, made_on, price, code, updated_at]\n")
    assert only(mapping, change("read", odd)).values == tuple(odd.values())


def test_a_value_that_is_not_of_its_type_is_rejected_not_a_crash(value: Callable[..., Any]) -> None:
    for expression, row in (
        ("price + 1", {"price": "abc"}),
        ("price + 1", {"price": {"a": 1}}),
        ("upper(name)", {"name": 5}),
        ("made_on + 1", {"made_on": 12}),
        ("data ->> 'a'", {"data": "{broken"}),
        ("stock + 1", {"stock": "x"}),
    ):
        with pytest.raises(Rejected) as caught:
            value(expression, **row)
        assert caught.value.sqlstate in {"22P02", "22007", "22003"}, expression
        assert caught.value.message.startswith("mapping m, x: ")


def test_a_rejection_never_repeats_the_value(value: Callable[..., Any]) -> None:
    for expression in ("name::integer", "name::date", "name::boolean", "name::uuid", "name::jsonb", "name::interval"):
        with pytest.raises(Rejected) as caught:
            value(expression, name="personal-data-42")
        assert "personal" not in str(caught.value), expression


def test_oversize_and_missing_rows_are_rejected() -> None:
    mapped = compiled(BASE).apply([change("update", None, key={"id": 1}, oversize_bytes=9_000_000)])
    assert mapped.rejected[0][1].code == "row_too_large"
    mapped = compiled(BASE).apply([change("update", None, key={"id": 1})])
    assert mapped.rejected[0][1].code == "row_missing"
    mapped = compiled(BASE).apply([change("delete", key={"other": 1})])
    assert mapped.rejected[0][1].code == "key_incomplete"


def test_rows_that_debezium_wrote_are_read_in_its_spelling() -> None:
    mapping = compiled("key: [id]\nfields:\n  id: id\n  next: made_on + 1\n  bad: price::text\ncopy: [made_on]\n")
    row = {"id": 1, "made_on": "2024-02-28Z", "price": "NAN"}
    assert only(mapping, change("create", row, version="")).values == (1, "2024-02-29", "NaN", "2024-02-28")


def test_the_hash_changes_with_what_changes_rows_and_with_nothing_else() -> None:
    body = "key: [id]\nfields:\n  id: id\n  c: lookup('l', code)\n  h: hmac_sha256(name, secret('K'))\n"
    lookups = {"l": "code,name\nNZ,New Zealand\n"}

    def hash_of(text: str = body, table: Table = ITEMS, csv: str = lookups["l"], key: str = "k") -> str:
        return compile_mapping(bundle(text, lookups={"l": csv}), table, secrets={"K": key, "OTHER": "x"}).hash

    same = hash_of()
    assert hash_of("# a comment\n" + body) == same
    assert hash_of(body + "description: new words\nowner: someone\ntests: []\n") == same
    wider = Table("public", "items", (*ITEMS.columns, Column("added", "text")), key=("id",))
    assert hash_of(table=wider) == same, "a column nobody reads"
    different = {
        hash_of(body.replace("code)", "upper(code))")),
        hash_of(csv="code,name\nNZ,Aotearoa\n"),
        hash_of(key="rotated"),
        hash_of(body + "where: active\n"),
        hash_of(body + "on_delete: keep\n"),
    }
    assert len(different | {same}) == 6
    assert "rotated" not in hash_of(key="rotated")


def test_copy_all_changes_its_hash_with_the_source_table() -> None:
    wider = Table("public", "items", (*ITEMS.columns, Column("added", "text")), key=("id",))
    body = "key: [id]\ncopy: all\n"
    assert compiled(body).hash != compiled(body, table=wider).hash


def test_an_unset_secret_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="the secret K is not set") as caught:
        compiled("key: [id]\nfields:\n  id: id\n  h: hmac_sha256(name, secret('K'))\n")
    assert "environment variable K" in caught.value.hint


def test_map_row_and_map_key_agree_with_apply() -> None:
    mapping = compiled(BASE + "where: active\n")
    row = {"id": 3, "name": "x", "price": "1.00", "active": True}
    assert mapping.map_row(row) == only(mapping, change("read", row)).values
    assert mapping.map_row(row | {"active": None}) is None
    assert mapping.map_key({"id": 3}) == (3,)
    with pytest.raises(Rejected, match="mapping m, x"):
        compiled("key: [id]\nfields: {id: id, x: 1 / stock}\n").map_row({"id": 1, "stock": 0})


def test_a_mapping_of_plain_columns_needs_no_sql_parser() -> None:
    program = (
        "import sys\n"
        "from sync_hub.mapping.apply import compile_mapping\n"
        "from tests.unit.mapping.conftest import compiled\n"
        "compiled('key: [id]\\nfields: {id: id, x: name, y: {value: 1}}\\ncopy: [price]\\nwhere: active\\n')\n"
        "sys.exit('sqlglot' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


words = st.sampled_from(["", "x", "1.5", "-3", "NaN", "2024-02-29", "{}", '{"x": [1]}', "9" * 3000])
cells = st.one_of(st.none(), st.booleans(), st.integers(), words, st.just(1.5), st.just([1, None]), st.just({"a": 1}))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["create", "update", "delete", "read"]),
            st.dictionaries(st.sampled_from([column.name for column in ITEMS.columns]), cells),
        ),
        max_size=5,
    )
)
def test_any_row_is_changed_rejected_or_left_out_never_a_crash(given_events: list[tuple[str, dict[str, Any]]]) -> None:
    mapping = compiled(
        "key: [id]\nwhere: active or stock > 5\nfields:\n  id: id\n  a: price * stock\n  b: upper(name) || code\n"
        "  c: made_on + 1\n  d: data -> 'x' ->> 0\n  e: date_trunc('month', updated_at)\n"
        "  f: to_char(price, '999D99')\n"
    )
    events = [change(operation, row, key={"id": 1}) for operation, row in given_events]
    mapped = mapping.apply(events)
    touched = mapped.sources + [index for index, _ in mapped.rejected]
    assert len(touched) == len(set(touched))
    assert mapped.sources == sorted(mapped.sources)


def test_a_row_or_key_without_its_columns_is_rejected_by_name() -> None:
    with pytest.raises(Rejected, match=r"row_incomplete.*'price'"):
        compiled(BASE).map_row({"id": 1, "name": "x"})
    table = Table("public", "items", ITEMS.columns, key=("id", "code"))
    mapping = compiled("key: [id]\ncopy: [id]\non_delete: {set: {was: code}}\n", table=table)
    mapped = mapping.apply([change("delete", key={"id": 1})])
    assert mapped.rejected[0][1].code == "key_incomplete"
