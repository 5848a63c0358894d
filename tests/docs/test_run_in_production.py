"""docs/how-to/run-in-production.md: its commands on a running hub, its unit as systemd reads it."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from connectors.local_postgres import BINARIES, LocalPostgres, free_port
from tests.docs.pages import DOCS, blocks
from tests.docs.shell import Shell, wait_until
from tests.servers.postgres import database

PAGE = DOCS / "how-to" / "run-in-production.md"
TABLE = """
create table customers (id bigint primary key, first_name text, last_name text);
insert into customers values (1, 'Ada', 'Lovelace'), (2, 'Grace', 'Hopper');
"""
MAPPING = """
mapping: customer_to_crm
from: {source: erp, table: public.customers}
to: {target: crm, table: customer_view, create: true}
key: [id]
fields:
  id: id
  full_name: concat_ws(' ', first_name, last_name)
"""


@pytest.fixture
def state_dsn(target_server: LocalPostgres) -> Iterator[str]:
    with database(target_server) as dsn:
        yield dsn


def test_what_is_done_every_day_and_to_load_again_works_as_written(
    source_dsn: str, target_dsn: str, state_dsn: str, tmp_path: Path
) -> None:
    with psycopg.connect(source_dsn, autocommit=True) as connection:
        connection.execute(TABLE)
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "customers.yaml").write_text(MAPPING)
    steps = [block for block in blocks(PAGE) if block.file == "config/hub.yaml" or block.language in ("sh", "text")]
    shell = Shell(tmp_path, {"port: 8080": f"port: {free_port()}"})
    shell.run(f"export PATH={BINARIES}:$PATH ERP_DSN={source_dsn} CRM_DSN={target_dsn} STATE_URL={state_dsn}\n")
    try:
        shell.follow(steps[:1])
        shell.run("sync-hub run 2> hub.log &\nHUB=$!")
        loaded = "psql -At $CRM_DSN -c 'select count(*) from customer_view'"
        wait_until(lambda: shell.run(loaded, may_fail=True).strip() == "2", "the view is loaded")
        wait_until(lambda: "acme: ok" in shell.run("sync-hub status", may_fail=True), "the hub is well")
        shell.follow(steps[1:])
    finally:
        shell.run("kill $HUB; wait $HUB", may_fail=True)
        shell.close()


def test_the_unit_is_one_that_systemd_takes_and_its_command_is_ours(tmp_path: Path) -> None:
    (unit,) = [block.text for block in blocks(PAGE) if block.language == "ini"]
    parsed = configparser.ConfigParser(strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    parsed.read_string(unit)
    assert parsed.sections() == ["Unit", "Service", "Install"]
    program, *arguments = shlex.split(parsed["Service"]["ExecStart"])
    assert (Path(program).name, arguments) == ("sync-hub", ["run"])
    if shutil.which("systemd-analyze"):
        file = tmp_path / "sync-hub.service"
        file.write_text(unit.replace(program, shutil.which("true") or "/bin/true"))
        done = subprocess.run(["systemd-analyze", "verify", str(file)], check=False, capture_output=True, text=True)
        assert "Unknown" not in done.stderr, done.stderr
