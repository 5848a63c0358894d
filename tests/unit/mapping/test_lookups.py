"""Lookup tables: CSV with a header, the first column the key."""

from __future__ import annotations

import pytest

from sync_hub.errors import ConfigError
from sync_hub.mapping.lookups import parse_lookup


def test_cells_quotes_and_empty_lines() -> None:
    table = parse_lookup("x", 'code,name,note\r\nNZ,"New Zealand, Aotearoa",\r\n\r\nDE,"Ger""many",x\r\n')
    assert table.values() == {"NZ": "New Zealand, Aotearoa", "DE": 'Ger"many'}
    assert table.values("note") == {"NZ": None, "DE": "x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("code\nNZ\n", "a key and at least one more column"),
        ("code,code\nNZ,x\n", "a name of its own"),
        ("code,\nNZ,x\n", "a name of its own"),
        ("code,name\nNZ,a\nDE,b\nNZ,c\n", "lookups/x.csv:4:1: the key 'NZ' is there twice"),
        ("code,name\nNZ,New,Zealand\n", "lookups/x.csv:2:1: 3 cells, the header has 2"),
        ('code,name\nNZ,"open\n', "not CSV"),
    ],
)
def test_tables_that_are_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="bad_lookup") as caught:
        parse_lookup("x", text)
    assert message in str(caught.value)
