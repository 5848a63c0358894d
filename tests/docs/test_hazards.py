"""docs/reference/hazards.md: every hazard has its row, and each row names tests that exist."""

from __future__ import annotations

import ast
import functools

import pytest

from tests.docs.pages import DOCS, ROOT, codes, table_rows

PAGE = DOCS / "reference" / "hazards.md"
LOSS = ("A1", "A2", "A3", "A4", "A5", "A6", "A11", "A12", "A15", "A16", "A17")
ORDER = ("B1", "B2", "B3", "B5", "B6", "B7", "B9", "B10", "B11")
STALL = tuple(f"C{number}" for number in range(1, 15))
ROWS = table_rows(PAGE.read_text())


def test_every_hazard_has_one_row() -> None:
    assert [row[0] for row in ROWS] == [*LOSS, *ORDER, *STALL, "F1", "F2"]
    assert all(len(row) == 4 and all(row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_row_names_tests_that_exist(row: list[str]) -> None:
    named = codes(row[3])
    assert named
    assert sorted(set(named)) == sorted(named), "a test is named twice"
    assert row[3].split() == [f"`{name}`" for name in named], "nothing but tests, each as code"
    for name in named:
        file, _, test = name.partition("::")
        assert test in found_in(file), name


@functools.cache
def found_in(file: str) -> set[str]:
    """The tests of a file by their names: functions, those of classes, and the machines that hypothesis runs."""
    assert file.startswith(("tests/", "sync_hub/testing/")), file
    nodes = list(ast.walk(ast.parse((ROOT / file).read_text())))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
    machines = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr == "TestCase"
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return functions | machines
