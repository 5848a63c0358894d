"""Rows that fit only together are applied together, however far apart they came, and whenever each is to be tried."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, query

SCHEMA = """
create table parents (id bigint primary key, code text);
create table children (id bigint primary key, parent bigint);
insert into parents values (1, 'a');
insert into children values (1, 1);
"""
TARGET = """
create table parent_view (id bigint primary key, code text unique deferrable);
create table child_view (id bigint primary key, parent bigint references parent_view deferrable);
"""
MAPPINGS = """
mapping: parents
from: {source: {source}, table: public.parents}
to: {target: crm, table: parent_view}
key: [id]
copy: all
---
mapping: children
from: {source: {source}, table: public.children}
to: {target: crm, table: child_view}
key: [id]
copy: all
"""
UNIQUE_TARGET = """
create table parent_view (id bigint primary key, code text not null unique deferrable);
create table child_view (id bigint primary key, parent bigint references parent_view deferrable);
"""
RIGHT = "select count(*)::int from parent_view where code = (id + %s)::text"
HELD = "select count(*)::int from sync_hub_parked where closed_at is null"
GIVEN_UP = f"{HELD} and state = 'parked'"


def test_rows_that_wait_for_one_another_are_solved_though_they_came_one_by_one(
    tmp_path: Path, source_dsn: str, target_dsn: str
) -> None:
    execute(source_dsn, SCHEMA)
    execute(target_dsn, TARGET)
    lab = Lab(tmp_path, "waiting", source_dsn, target_dsn, MAPPINGS, tables="public.parents, public.children")
    try:
        lab.start()
        lab.until([(1, 1)], "select p.id, c.id from parent_view p join child_view c on c.parent = p.id")
        steps = (
            "delete from parents where id = 1",  # its child is still there
            "insert into parents values (2, 'a')",  # the code is still taken
            "update children set parent = 2 where id = 1",  # the parent is not there yet
        )
        for count, step in enumerate(steps[:-1], 1):
            execute(source_dsn, step)
            wait_until(lambda count=count: query(target_dsn, GIVEN_UP) == [(count,)], f"{step} waits", 40)
        execute(source_dsn, steps[-1])
        lab.until([(2, 1)], "select p.id, c.id from parent_view p join child_view c on c.parent = p.id")
        assert query(target_dsn, HELD) == [(0,)]
        lab.settle()
    finally:
        lab.close()


def test_a_truncate_passes_though_rows_that_came_after_it_refer_to_those_it_removes(
    tmp_path: Path, source_dsn: str, target_dsn: str
) -> None:
    """A child that came after the TRUNCATE means the parent behind it; the view still has the one of before."""
    execute(source_dsn, SCHEMA, "insert into parents values (2, 'b')")
    execute(target_dsn, TARGET)
    lab = Lab(tmp_path, "truncated", source_dsn, target_dsn, MAPPINGS, tables="public.parents, public.children")
    try:
        lab.start()
        lab.until([(2, 1)], "select (select count(*) from parent_view), (select count(*) from child_view)")
        assert lab.cli("pause", "parents").returncode == 0
        lab.becomes("parents", "paused")
        execute(
            source_dsn,
            "begin; truncate parents, children; insert into parents values (1, 'new');"
            " insert into children values (7, 1); commit",
        )
        lab.until([(7, 1, "a")], "select c.id, p.id, p.code from child_view c join parent_view p on c.parent = p.id")
        lab.resume("parents")
        problem = lab.problem("view_unproven", "pipeline:parents")
        assert "rows of before a TRUNCATE are still there" in problem["message"]
        lab.until([(1, "new")], "select id, code from parent_view")
        lab.until([(7, 1)], "select id, parent from child_view")
        wait_until(lambda: not any(one.unproven for one in lab.state.pipelines()), "the view is proven", 60)
        execute(source_dsn, "insert into parents values (3, 'c')")
        lab.until([(1, "new"), (3, "c")], "select id, code from parent_view order by id")
    finally:
        lab.close()


def test_a_child_that_was_given_up_follows_its_parent_long_after_all_attempts(
    tmp_path: Path, source_dsn: str, target_dsn: str
) -> None:
    execute(source_dsn, SCHEMA)
    execute(target_dsn, TARGET)
    lab = Lab(tmp_path, "late", source_dsn, target_dsn, MAPPINGS, tables="public.parents, public.children")
    lab.config.write_text(lab.config.read_text() + "retry: {first: 0.2s, max: 0.5s, attempts: 2}\n")
    try:
        lab.start()
        lab.until([(1, 1)], "select p.id, c.id from parent_view p join child_view c on c.parent = p.id")
        execute(source_dsn, "insert into children values (7, 7)")
        lab.until([(True,)], "select bool_and(attempts > 3) from sync_hub_parked where state = 'parked'")
        execute(source_dsn, "insert into parents values (7, 'late')")
        lab.until([(7,)], "select parent from child_view where id = 7")
        assert query(target_dsn, HELD) == [(0,)]
    finally:
        lab.close()


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def numbered(request: pytest.FixtureRequest, tmp_path: Path, source_dsn: str, target_dsn: str) -> Iterator[Lab]:
    """A hub for parents whose codes are unique numbers; a change of all of them needs two polls."""
    execute(
        source_dsn,
        SCHEMA,
        "delete from children",
        "update parents set code = '1'",
        "insert into parents select n, n from generate_series(2, 3500) n",
    )
    execute(target_dsn, UNIQUE_TARGET)
    tables = "public.parents, public.children"
    lab = Lab(tmp_path, "numbered", source_dsn, target_dsn, MAPPINGS, tables=tables, workers=request.param)
    try:
        lab.start()
        lab.until([(3500,)], RIGHT % 0)
        yield lab
    finally:
        lab.close()


def test_unique_values_that_all_move_on_are_solved_beside_children_that_never_get_a_parent(numbered: Lab) -> None:
    """Orphans wait, too: what they wait for never comes, and they must not hold up what fits together."""
    execute(numbered.source, "insert into children select n, -n from generate_series(1, 5) n")
    wait_until(lambda: query(numbered.target, HELD) == [(5,)], "the orphans wait", 40)
    execute(numbered.source, "update parents set code = id + 1")
    numbered.until([(3500,)], RIGHT % 1, timeout_seconds=60)
    assert query(numbered.target, HELD) == [(5,)]
    execute(numbered.source, "update parents set code = 3502 - id")
    numbered.until([(3500,)], "select count(*) from parent_view where code = (3502 - id)::text", timeout_seconds=60)
    execute(numbered.source, "insert into parents select -n, 'p' || n from generate_series(1, 5) n")
    wait_until(lambda: query(numbered.target, HELD) == [(0,)], "the orphans have parents", 60)
    numbered.settle()
    assert all(part["state"] == "running" for part in numbered.health()["pipelines"].values())


def test_unique_values_of_rows_whose_keys_are_arrays_move_on(tmp_path: Path, source_dsn: str, target_dsn: str) -> None:
    rows = "insert into parents select array[n], 'c' || n from generate_series(1, 9) n"
    execute(source_dsn, "create table parents (id int[] primary key, code text)", rows)
    execute(target_dsn, "create table parent_view (id int[] primary key, code text unique deferrable)")
    mapping = MAPPINGS.partition("---")[0]
    lab = Lab(tmp_path, "arrays", source_dsn, target_dsn, mapping, tables="public.parents")
    try:
        lab.start()
        lab.until([(9,)], "select count(*) from parent_view")
        execute(source_dsn, "insert into parents values (array[20], 'c1'), (array[21], 'free')")
        lab.until([("{21}",)], "select id::text from parent_view where code = 'free'")
        execute(source_dsn, "update parents set code = 'c0' where id = array[1]")
        lab.until([("{20}",)], "select id::text from parent_view where code = 'c1'")
        assert query(target_dsn, HELD) == [(0,)]
        lab.settle()
    finally:
        lab.close()
