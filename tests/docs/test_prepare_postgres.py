"""docs/how-to/prepare-postgres.md, executed against real servers."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from connectors.local_postgres import BINARIES, LocalPostgres
from tests.docs.pages import DOCS, blocks
from tests.docs.shell import Shell

PAGE = DOCS / "how-to" / "prepare-postgres.md"
TABLES = """
create table customers (id bigint primary key, name text);
create table orders (id bigint primary key, customer_id bigint);
"""
MAPPING = """
mapping: customer_to_crm
from: {source: erp, table: public.customers}
to: {target: crm, table: views.customer_view, create: true}
key: [id]
copy: all
"""


def test_a_source_and_a_target_are_prepared_as_written(
    source_server: LocalPostgres, source_dsn: str, target_server: LocalPostgres, target_dsn: str, tmp_path: Path
) -> None:
    with psycopg.connect(source_dsn, autocommit=True) as connection:
        connection.execute(TABLES)
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "customers.yaml").write_text(MAPPING)
    database = str(conninfo_to_dict(target_dsn)["dbname"])
    shell = Shell(tmp_path, {"on database crm": f"on database {database}"})
    shell.run(f"export PATH={BINARIES}:$PATH ADMIN={source_dsn} TARGET_ADMIN={target_dsn}")
    shell.run(f"export ERP_DSN={source_dsn.replace('postgres@', 'sync_hub_reader:change-me@')}")
    shell.run(f"export CRM_DSN={target_dsn.replace('postgres@', 'sync_hub_writer:change-me@')}")
    steps = blocks(PAGE)
    target = [block for block in steps if block.file == "target.sql" or "target.sql" in block.text]
    before = next(number for number, block in enumerate(steps) if block.text.startswith("sync-hub check"))
    try:
        shell.follow(steps[:before])
        shell.follow(target)  # the check needs both ends
        shell.follow([block for block in steps[before:] if block not in target])
    finally:
        shell.close()
        for dsn, role in ((source_dsn, "sync_hub_reader"), (target_dsn, "sync_hub_writer")):
            with psycopg.connect(dsn, autocommit=True) as connection:
                if connection.execute("select from pg_roles where rolname = %s", (role,)).fetchone():
                    connection.execute(f"drop owned by {role}".encode())
                    connection.execute(f"drop role {role}".encode())
        with psycopg.connect(source_dsn, autocommit=True) as connection:
            connection.execute("alter system reset max_slot_wal_keep_size")
            connection.execute("select pg_reload_conf()")
