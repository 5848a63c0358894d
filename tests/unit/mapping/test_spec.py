"""Mapping documents: what is wrong is said with file, field, line, column, and what was probably meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_hub.errors import ConfigError
from sync_hub.mapping.loader import Bundle, load_bundles
from sync_hub.mapping.spec import parse_spec
from tests.unit.mapping.conftest import HEAD, bundle

WHOLE = """\
mapping: customer
description: words
owner: me@example.com
from: {source: erp, table: public.customers}
to: {target: crm, table: customer_view, create: true}
key: [id]
fields:
  id: id
  name: upper(name)
copy: [notes]
where: active
on_delete: {set: {gone: true}}
tests:
  - {name: one, given: {id: 1}, expect: null}
"""


def spec(text: str) -> object:
    return parse_spec(Bundle("customer", "mappings/c.yaml", 10, text, {}))


def test_a_whole_mapping_is_read() -> None:
    found = parse_spec(Bundle("customer", "mappings/c.yaml", 10, WHOLE, {}))
    assert (found.name, found.owner, found.source, found.table) == (
        "customer",
        "me@example.com",
        "erp",
        "public.customers",
    )
    assert (found.target, found.target_table, found.create, found.key) == ("crm", "customer_view", True, ("id",))
    assert [field.name for field in found.fields] == ["id", "name"]
    assert (found.copy, found.where, found.on_delete) == (("notes",), "active", "set")
    assert found.on_delete_set[0].value is True
    assert found.tests[0].expect is None
    assert found.node.where("where") == "mappings/c.yaml:20:8", "lines count from where the document begins"


def test_one_key_column_needs_no_list() -> None:
    assert parse_spec(bundle("key: id\ncopy: [id]\n")).key == ("id",)


@pytest.mark.parametrize(
    ("change", "code", "where", "words"),
    [
        (("mapping: customer", "mapping: Customer View"), "bad_name", "10:10", "small letters"),
        (("key: [id]\n", ""), "missing_key", "10:1", "key: [customer_id]"),
        (("from: {source: erp, table: public.customers}\n", ""), "missing_key", "10:1", "from: {source"),
        (("source: erp, ", ""), "missing_key", "13:7", "'source' is missing"),
        (("table: customer_view, ", ""), "missing_key", "14:5", "'table' is missing"),
        (("copy:", "copi:"), "unknown_key", "19:1", "did you mean copy?"),
        (("where: active", "filter: active"), "unknown_key", "20:1", "keys are: mapping"),
        (("table: customer_view", "tabel: customer_view"), "unknown_key", "14:19", "did you mean table?"),
        (("create: true", "create: maybe"), "wrong_type", "14:49", "true or false"),
        (("key: [id]", "key: []"), "wrong_type", "15:6", "a list of columns"),
        (("key: [id]", "key: [id, id]"), "duplicate_column", "15:11", "'id' is there twice"),
        (("key: [id]", "key: {id: 1}"), "wrong_type", "15:6", "a list of columns"),
        (("copy: [notes]", "copy: notes: x"), "yaml_syntax", "19:12", "quote the text"),
        (("copy: [notes]", "except: [a]"), "wrong_type", "19:1", "`except` goes with `copy: all`"),
        (("name: upper(name)", "name: 'upper'"), "ambiguous_text", "18:9", "write name: upper for the column"),
        (("name: upper(name)", 'name: ""'), "empty_expression", "18:9", "{value: ''}"),
        (("name: upper(name)", "name: [a]"), "wrong_type", "18:9", "a text, a number"),
        (("name: upper(name)", "name: {value: {a: 1}}"), "wrong_type", "18:17", "a text, a number"),
        (("name: upper(name)", "name: {val: 1}"), "unknown_key", "18:10", "did you mean value?"),
        (("name: upper(name)", "name: {expr: a, value: 1}"), "wrong_type", "18:9", "either `expr` or `value`"),
        (("name: upper(name)", "name: {type: text}"), "wrong_type", "18:9", "either `expr` or `value`"),
        (("name: upper(name)", "name: {expr: round(a, 2)}"), "unknown_key", "18:25", "a comma ends the expression"),
        (("where: active", "where: 'active'"), "ambiguous_text", "20:8", "is 'active' a column or a text?"),
        (("where: active", "where: [a]"), "wrong_type", "20:8", "a condition"),
        (("on_delete: {set: {gone: true}}", "on_delete: remove"), "wrong_type", "21:12", "delete, keep or set"),
        (("on_delete: {set: {gone: true}}", "on_delete: {sets: {}}"), "unknown_key", "21:13", "did you mean set?"),
        (("on_delete: {set: {gone: true}}", "on_delete: {set: {}}"), "wrong_type", "21:18", "names no column"),
        (("given: {id: 1}, ", ""), "missing_key", "23:5", "'given' is missing"),
        ((", expect: null", ""), "missing_key", "23:5", "either 'expect' or 'error'"),
        ((", expect: null", ", expect: null, op: insert"), "wrong_type", "23:51", "the only `op` is delete"),
        (("expect: null", "expects: null"), "unknown_key", "23:33", "did you mean expect?"),
        (("  id: id\n  name: upper(name)\ncopy: [notes]\n", "  {}\n"), "no_fields", "10:1", "writes no column"),
        (("  name: upper(name)", "  name: upper(name)\n  name: x"), "yaml_duplicate_key", "19:3", "already in line 18"),
        (("  name: upper(name)", "  name: a || ': ' || b"), "yaml_syntax", "18:15", "\"a || ': ' || b\""),
    ],
)
def test_what_is_wrong_is_named(change: tuple[str, str], code: str, where: str, words: str) -> None:
    assert change[0] in WHOLE
    with pytest.raises(ConfigError) as caught:
        spec(WHOLE.replace(*change, 1))
    assert caught.value.code == code
    assert caught.value.where == f"mappings/c.yaml:{where}"
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("where: active", "join: {}"), "join"),
        (("where: active", "each: tags"), "each"),
        (("where: active", "history: true"), "history"),
        (("where: active", "require: []"), "require"),
        (("source: erp, ", "source: erp, join: [], "), "join"),
        (("table: public.customers", "table: [public.a, public.b]"), "list"),
        (("table: public.customers", "table: 'public.*'"), "list"),
        (("{target: crm, table: customer_view, create: true}", "{topic: customers}"), "topic"),
    ],
)
def test_reserved_words_are_refused_with_that_word(change: tuple[str, str], word: str) -> None:
    with pytest.raises(ConfigError, match=f"'{word}'.*reserved") as caught:
        spec(WHOLE.replace(*change, 1))
    assert caught.value.code == "reserved_word"


def test_names_of_tables_may_have_signs_that_stand_for_nothing() -> None:
    changed = WHOLE.replace("table: public.customers", "table: 'public.100%'", 1)
    changed = changed.replace("table: customer_view", "table: 'view*?'", 1)
    read = spec(changed)
    assert (read.table, read.target_table) == ("public.100%", "view*?")


KEYS = ["from", "to", "key", "fields", "copy", "except", "where", "on_delete", "tests", "owner"]
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["", "a", "set", "all", "1.5"]))
NAMES = st.sampled_from(["source", "table", "set", "value", "name", "x"])


def nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(st.lists(inner, max_size=2), st.dictionaries(NAMES, inner, max_size=2))


@given(st.recursive(SCALARS, nested, max_leaves=6), st.sampled_from(KEYS))
def test_whatever_stands_under_a_key_is_read_or_one_config_error(value: object, key: str) -> None:
    lines = [line for line in HEAD.splitlines() if not line.startswith(f"{key}:")]
    text = "\n".join([*lines, *([] if key == "key" else ["key: [a]"]), f"{key}: {json.dumps(value)}", ""])
    if key not in {"fields", "copy"}:
        text += "fields: {a: a}\n"
    try:
        parse_spec(Bundle("m", "m.yaml", 1, text, {}))
    except ConfigError as error:
        assert error.where.startswith("m.yaml")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_folders_files_and_documents_become_bundles(tmp_path: Path) -> None:
    write(tmp_path, "mappings/b.yaml", f"{HEAD}key: [id]\ncopy: [id]\n")
    two = "# head\nmapping: one\nfields: {x: \"lookup('countries', code)\"}\n---\n# next\nmapping: two\n"
    write(tmp_path, "mappings/a.yml", two)
    write(tmp_path, "mappings/notes.txt", "mapping: no")
    write(tmp_path, "mappings/lookups/countries.csv", "code,name\nNZ,New Zealand\n")
    write(tmp_path, "extra.yaml", "mapping: extra\n")
    bundles = load_bundles([Path("mappings"), Path("extra.yaml"), tmp_path / "extra.yaml"], tmp_path)
    assert [(item.name, item.file, item.line) for item in bundles] == [
        ("one", "mappings/a.yml", 2), ("two", "mappings/a.yml", 4), ("m", "mappings/b.yaml", 1),
        ("extra", "extra.yaml", 1),
    ]  # fmt: skip
    assert bundles[0].lookups == {"countries": "code,name\nNZ,New Zealand\n"}
    assert bundles[1].lookups == {}
    assert "# next" in bundles[1].document


def test_two_mappings_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "mapping: one\n")
    write(tmp_path, "b.yaml", "\nmapping: one\n")
    with pytest.raises(ConfigError, match=r"b.yaml:2:10: the mapping one is already in a.yaml:1"):
        load_bundles([Path()], tmp_path)


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mappings_missing"):
        load_bundles([Path("nowhere")], tmp_path)
    write(tmp_path, "a.yaml", "- a list\n")
    with pytest.raises(ConfigError, match="mapping_without_name"):
        load_bundles([Path("a.yaml")], tmp_path)
    write(tmp_path, "b.yaml", "fields: {}\n")
    with pytest.raises(ConfigError, match="mapping_without_name"):
        load_bundles([Path("b.yaml")], tmp_path)
