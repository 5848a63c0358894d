"""The tables of the performance page: what can be measured, and what is unless told otherwise."""

from __future__ import annotations

import re

import pytest

from benchmarks.__main__ import ABLE
from benchmarks.experiment import ALL_LEGS, HUBS, PLAN
from benchmarks.workloads import WORKLOADS
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "performance.md").read_text()


def rows(head: str) -> list[list[str]]:
    """The cells of the table whose head begins so."""
    table = PAGE.split(f"| {head} |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def subjects(cell: str) -> set[str]:
    return set(named(cell)) | (set(HUBS) if "the hub's three" in cell else set())


@pytest.mark.parametrize("leg", ALL_LEGS)
def test_each_leg_is_there_with_its_subjects_and_the_workloads_of_the_plan(leg: str) -> None:
    (row,) = [row for row in rows("leg") if leg in named(row[0])]
    assert subjects(row[2]) == {name for name, legs in ABLE.items() if leg in legs}
    told = row[3].replace("`a` to `e`", "`a`, `b`, `c`, `d`, `e`").replace("both", row[1])
    planned = {workload for one, workload, _ in PLAN if one == leg}
    assert {name for name in named(told) if name in WORKLOADS} == planned


def test_each_workload_is_there_with_its_rows() -> None:
    table = {name: row[1] for row in rows("workload") for name in named(row[0])}
    assert set(table) == set(WORKLOADS)
    for name, told in table.items():
        workload = WORKLOADS[name]
        if workload.per_second:
            assert told == f"{workload.rows // workload.per_second} seconds"
        else:
            assert told == f"{workload.rows:,}"
