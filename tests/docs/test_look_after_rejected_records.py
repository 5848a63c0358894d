"""docs/how-to/look-after-rejected-records.md, executed on a running hub whose target refuses three rows."""

from __future__ import annotations

from pathlib import Path

import psycopg

from connectors.local_postgres import BINARIES
from tests.docs.pages import DOCS, blocks
from tests.docs.shell import Shell, wait_until

PAGE = DOCS / "how-to" / "look-after-rejected-records.md"
CONFIG = """
hub: {name: acme}
broker: {type: embedded, partitions: 1}
sources: {erp: {type: postgres, dsn: "${ERP_DSN}", tables: [public.prices]}}
targets: {crm: {type: postgres, dsn: "${CRM_DSN}"}}
http: {port: 0}
"""
MAPPING = """
mapping: price_to_crm
from: {source: erp, table: public.prices}
to: {target: crm, table: price_view}
key: [sku]
fields: {sku: sku, price: price}
"""


def test_records_are_mended_tried_again_and_discarded_as_written(
    source_dsn: str, target_dsn: str, tmp_path: Path
) -> None:
    with psycopg.connect(source_dsn, autocommit=True) as source, psycopg.connect(target_dsn, autocommit=True) as target:
        source.execute("create table prices (sku text primary key, price numeric)")
        source.execute("insert into prices values ('A-1', 10)")
        target.execute("create table price_view (sku text primary key, price numeric check (price > 0))")
        for name, text in (("config/hub.yaml", CONFIG), ("mappings/prices.yaml", MAPPING)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        shell = Shell(tmp_path, {})
        shell.run(f"export PATH={BINARIES}:$PATH ERP_DSN={source_dsn} CRM_DSN={target_dsn}\n")
        try:
            shell.run("sync-hub run 2> hub.log &\nHUB=$!")
            wait_until(lambda: target.execute("select sku from price_view").fetchall() == [("A-1",)], "it is loaded")
            source.execute("insert into prices values ('B-1', -5), ('B-2', -7), ('B-3', -9)")
            shell.follow(blocks(PAGE))
            rows = target.execute("select sku, price::int from price_view order by sku").fetchall()
            assert rows == [("A-1", 10), ("B-1", 5), ("B-2", -7)]
        finally:
            shell.run("kill $HUB; wait $HUB", may_fail=True)
            shell.close()
