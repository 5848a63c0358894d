"""Rows that fit only together are applied together, however far apart they came, and whenever each is to be tried."""

from __future__ import annotations

from pathlib import Path

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
