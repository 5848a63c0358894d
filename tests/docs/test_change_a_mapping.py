"""docs/how-to/change-a-mapping.md: its plan is what a plan says, and applying it does what the page promises."""

from __future__ import annotations

from pathlib import Path

import psycopg

from connectors.local_postgres import BINARIES
from tests.docs.pages import DOCS, blocks
from tests.docs.shell import Shell, wait_until

PAGE = DOCS / "how-to" / "change-a-mapping.md"
CONFIG = """
hub: {name: acme}
broker: {type: embedded}
sources: {erp: {type: postgres, dsn: "${ERP_DSN}", tables: [public.customers]}}
targets: {crm: {type: postgres, dsn: "${CRM_DSN}"}}
http: {port: 0}
"""
TABLE = """
create table customers (id bigint primary key, first_name text, last_name text, email text);
insert into customers values (1, 'Ada', 'Lovelace', 'ada@x.io'), (2, 'Grace', 'Hopper', null);
"""
MAPPING = """
mapping: customer_to_crm
from: {source: erp, table: public.customers}
to: {target: crm, table: customer_view, create: true}
key: [id]
fields:
  id: id
  full_name: concat_ws(' ', first_name, last_name)
  email: email
"""


def test_a_changed_mapping_is_planned_and_applied_as_written(source_dsn: str, target_dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(source_dsn, autocommit=True) as connection:
        connection.execute(TABLE)
    for name, text in (("config/hub.yaml", CONFIG), ("mappings/customers.yaml", MAPPING.lstrip())):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    shell = Shell(tmp_path, {})
    shell.run(f"export PATH={BINARIES}:$PATH ERP_DSN={source_dsn} CRM_DSN={target_dsn}\n")
    try:
        shell.run("sync-hub run 2> hub.log &\nHUB=$!")
        loaded = "psql -At $CRM_DSN -c 'select count(*) from customer_view'"
        wait_until(lambda: shell.run(loaded, may_fail=True).strip() == "2", "the view is loaded")
        wait_until(lambda: "acme: ok" in shell.run("sync-hub status", may_fail=True), "the hub is well")
        shell.follow(blocks(PAGE))
        wait_until(lambda: "acme: ok" in shell.run("sync-hub status", may_fail=True), "it is verified")
    finally:
        shell.run("kill $HUB; wait $HUB", may_fail=True)
        shell.close()
