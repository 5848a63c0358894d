"""Views under keys that are spelled in more than one way, or of other types than their sources' keys."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from connectors.local_postgres import LocalPostgres
from tests.end_to_end.lab import Lab, execute, query
from tests.servers.postgres import database

TABLES = """
create table tags (words text[] primary key, note text);
"""
ROWS = """
insert into tags values ('{}', 'none'), ('{a}', 'one'), ('{a,NULL}', 'half'), ('{a,b}', 'two');
"""
MAPPINGS = """
mapping: tags
from: {source: {source}, table: public.tags}
to: {target: crm, table: tags, create: true}
key: [words]
copy: all
"""


@pytest.fixture(scope="module")
def lab(
    source_server: LocalPostgres, target_server: LocalPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """A hub with rows in all its views."""
    with database(source_server) as source, database(target_server) as target:
        execute(source, TABLES, ROWS)
        name, tables = f"k{uuid.uuid4().hex[:8]}", "public.tags"
        lab = Lab(tmp_path_factory.mktemp("keys"), name, source, target, MAPPINGS, tables=tables)
        lab.start()
        try:
            lab.settle()
            yield lab
        finally:
            lab.close()


def test_rows_are_keyed_by_arrays(lab: Lab) -> None:
    execute(
        lab.source,
        "update tags set note = 'changed' where words = '{a,NULL}'",
        "update tags set words = '{c,d}' where words = '{a,b}'",
        "delete from tags where words = '{a}'",
    )
    lab.settle()
    assert query(lab.target, "select words, note from tags order by words") == [
        ([], "none"),
        (["a", None], "changed"),
        (["c", "d"], "two"),
    ]
    lab.agrees()
