"""YAML without traps: text stays text, errors name their place, nothing unfolds without end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_hub.errors import ConfigError
from sync_hub.yaml import MAX_CHARACTERS, Node, load_documents, load_file


def one(text: str) -> Node:
    (node,) = load_documents(text, "f.yaml")
    return node


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("NO", "NO"), ("yes", "yes"), ("on", "on"), ("0123", "0123"), ("12:30:45", "12:30:45"), ("1.10", "1.10"),
        ("2024-02-29", "2024-02-29"), ("2024-02-29T10:00:00Z", "2024-02-29T10:00:00Z"), ("+6421", "+6421"),
        ("0x1F", "0x1F"), ("0o17", "0o17"), ("1_000", "1_000"), (".inf", ".inf"), (".nan", ".nan"), ("1e3", "1e3"),
        ("=", "="), ("42", 42), ("-7", -7), ("0", 0), ("true", True), ("False", False), ("null", None), ("~", None),
        ("", None), ("''", ""), ("'42'", "42"), ('"true"', "true"), ("!!str 42", "42"),
    ],
)  # fmt: skip
def test_only_true_false_null_and_whole_numbers_are_special(written: str, value: object) -> None:
    got = one(f"a: {written}").value["a"]
    assert got == value
    assert type(got) is type(value)


def test_keys_are_always_text() -> None:
    assert one("on: 1\n42: 2\nnull: 3").value == {"on": 1, "42": 2, "null": 3}


def test_every_value_and_key_knows_its_place() -> None:
    node = one("# first\na:\n  b: [x, {c: y}]\n")
    assert node.where("a", "b", 1, "c") == "f.yaml:3:14"
    assert node.where_key("a", "b") == "f.yaml:3:3"
    assert node.where("a", "unknown", 7) == "f.yaml:3:3", "the nearest that is there"


def test_places_inside_a_text() -> None:
    node = one("plain: abc def\nquoted: 'abc def'\nblock: |\n  abc\n  def\nfolded: >\n  abc\n  def\n")
    assert node.where_in(4, "plain") == "f.yaml:1:12"
    assert node.where_in(4, "quoted") == "f.yaml:2:14"
    assert node.where_in(5, "block") == "f.yaml:5:4"
    assert node.where_in(4, "folded") == "f.yaml:6:9", "folded text has no exact place"
    assert node.quoted("quoted")
    assert not node.quoted("plain")


def test_several_documents_keep_their_text_and_lines() -> None:
    text = "# head\na: 1\n---\n# second\nb: 2\n---\n---\n  c: 3\n"
    nodes = load_documents(text, "f.yaml")
    assert [node.value for node in nodes] == [{"a": 1}, {"b": 2}, {"c": 3}]
    assert [node.where_key(*node.value) for node in nodes] == ["f.yaml:2:1", "f.yaml:5:1", "f.yaml:8:3"]
    for node in nodes:
        (again,) = load_documents(node.text, "f.yaml", line=node.line)
        assert (again.value, again.places, again.line) == (node.value, node.places, node.line)


@pytest.mark.parametrize(
    ("text", "code", "where"),
    [
        ("a: 1\nb: 2\na: 3", "yaml_duplicate_key", "f.yaml:3:1"),
        ("a: !!python/object:os.system x", "yaml_tag", "f.yaml:1:4"),
        ("a: !!binary eA==", "yaml_tag", "f.yaml:1:4"),
        ("? [a]\n: 1", "yaml_key", "f.yaml:1:3"),
        ("a: [1", "yaml_syntax", "f.yaml:1:6"),
        ("a:\n\tb: 1", "yaml_syntax", "f.yaml:2:1"),
        ("a: *b", "yaml_syntax", "f.yaml:1:4"),
        ("a: \x00", "yaml_syntax", "f.yaml"),
        ("[" * 5000, "yaml_syntax", "f.yaml:1:61"),
        ("a: &a [*a]", "yaml_too_large", "f.yaml:1:4"),
        ("x" * (MAX_CHARACTERS + 1), "yaml_too_large", "f.yaml"),
    ],
)
def test_errors_name_file_line_and_column(text: str, code: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_documents(text, "f.yaml")
    assert caught.value.code == code
    assert caught.value.where == where
    assert "\n" not in str(caught.value)


def test_aliases_work_but_cannot_unfold_without_end() -> None:
    assert one("a: &x {k: 1}\nb: *x").value == {"a": {"k": 1}, "b": {"k": 1}}
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    with pytest.raises(ConfigError, match="unfold"):
        one(bomb)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("fields:\n  a: x || ': ' || y", "quote the text: a: \"x || ': ' || y\""),
        ("fields:\n  a: 'x' || y", "quote the text: a: \"'x' || y\""),
        ("fields:\n  a: %x", 'quote the text: a: "%x"'),
    ],
)
def test_an_expression_that_yaml_misreads_is_shown_quoted(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        one(text)
    assert caught.value.hint == hint
    assert one(f"fields:\n  {hint.removeprefix('quote the text: ')}")


def test_files_that_cannot_be_read_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="file_unreadable"):
        load_file(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes("a: Müller".encode("latin-1"))
    with pytest.raises(ConfigError, match="not_utf8"):
        load_file(tmp_path / "latin.yaml", name="latin.yaml")
    (tmp_path / "bom.yaml").write_bytes("\ufeffa: Müller\r\nb: 1\r\n".encode())
    assert load_file(tmp_path / "bom.yaml")[0].value == {"a": "Müller", "b": 1}


@given(st.text(alphabet="ab:-[]{}#&*!|>'\"%@`, \n\t0?~<\\", max_size=40))
def test_any_text_gives_documents_or_one_config_error(text: str) -> None:
    try:
        for node in load_documents(text, "f.yaml"):
            assert node.where()
    except ConfigError as error:
        assert error.where.startswith("f.yaml")


@pytest.mark.parametrize("text", ["a:\n\tb: 1\n", "a: 1\n\tb: 2\n", "a:\n  b: 1\n\t c: 2\n"])
def test_tabs_are_called_by_their_name(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_documents(text, "m.yaml")
    assert "a tab stands" in caught.value.message
    assert "spaces" in caught.value.hint
