"""docs/how-to/write-a-mapping.md is executed; docs/reference/mappings.md has every key, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from sync_hub.mapping import spec
from sync_hub.mapping.loader import Bundle
from tests.docs.pages import DOCS, blocks, codes, section, table_rows
from tests.docs.shell import Shell

PAGE = DOCS / "how-to" / "write-a-mapping.md"
REFERENCE = DOCS / "reference" / "mappings.md"


def test_the_mappings_of_the_page_pass_their_tests(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "hub.yaml").write_text(
        "hub: {name: acme}\nbroker: {type: embedded}\n"
        "sources: {erp: {type: postgres, dsn: x, tables: ['public.*']}}\ntargets: {crm: {type: postgres, dsn: x}}\n"
    )
    shell = Shell(tmp_path, {})
    try:
        shell.follow(blocks(PAGE))
    finally:
        shell.close()


def test_every_key_is_explained() -> None:
    keys = {codes(row[0])[0] for row in table_rows(section(REFERENCE, "Mappings").partition("## A field")[0])}
    assert keys == set(spec._KEYS)
    assert {codes(row[0])[0] for row in table_rows(section(REFERENCE, "Tests"))} == set(spec._TEST_KEYS)


@pytest.mark.parametrize("word", spec._RESERVED)
def test_every_reserved_word_is_named(word: str) -> None:
    assert f"`{word}`" in section(REFERENCE, "Mappings").partition("## A field")[0]


def test_fields_can_be_written_as_the_page_says() -> None:
    written = [codes(row[0]) for row in table_rows(section(REFERENCE, "A field"))]
    fields = [text for texts in written for text in texts]
    lines = "\n".join(f"  f{number}: {text}" for number, text in enumerate(fields))
    text = f"mapping: m\nfrom: {{source: s, table: t}}\nto: {{target: t, table: t}}\nkey: [f0]\nfields:\n{lines}\n"
    read = spec.parse_spec(Bundle("m", "m.yaml", 1, text))
    constant = {field.name: field.is_constant for field in read.fields}
    assert list(constant.values()) == [False, False, True, True, True, True, False, True]
