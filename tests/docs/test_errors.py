"""docs/reference/errors.md names exactly the codes that the code can raise, each with what the hub does about it."""

from __future__ import annotations

from tests.docs.pages import DOCS, codes, section, table_rows
from tests.docs.raised import KINDS, TABLES, Found, raised

PAGE = DOCS / "reference" / "errors.md"


def documented() -> Found:
    rows = [row for row in table_rows(PAGE.read_text()) if len(row) == 4]
    found = {codes(row[0])[0]: set(row[1].split(", ")) for row in rows}
    assert len(found) == len(rows), "a code is there twice"
    assert all(row[2] and row[3] for row in rows), "every code says what it means and what to do"
    return found


def test_every_code_that_can_be_raised_is_documented_with_its_kind() -> None:
    found, unclear = raised()
    assert unclear == set(TABLES), "a code is computed where this test cannot see it, or no longer is: see TABLES"
    for table in TABLES.values():
        for code, kinds in table().items():
            found.setdefault(code, set()).update(kinds)
    stated = documented()
    assert sorted(found.keys() - stated.keys()) == [], "not documented"
    assert sorted(stated.keys() - found.keys()) == [], "documented, but nothing raises it"
    assert {code: kinds for code, kinds in stated.items() if kinds != found[code]} == {}


def test_every_kind_is_explained() -> None:
    explained = {codes(row[0])[0] for row in table_rows(section(PAGE, "Errors")) if len(row) == 3}
    assert explained == set(KINDS.values())


def test_the_search_sees_each_way_of_raising() -> None:
    found, _ = raised()
    for code, kind in (
        ("unknown_name", "config"),  # an error class, called
        ("reserved_word", "config"),  # through a method of the same module
        ("bad_test_value", "config"),  # through a method of another module
        ("slot_limit_missing", "check"),  # through a function within a function
        ("topic_compacted", "check"),  # from a list of rules
        ("missing_key", "config"),  # one of two
        ("position_unproven", "stop"),  # a constant of another module
        ("csrf", "http"),
    ):
        assert kind in found[code], code
