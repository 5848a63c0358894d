"""A changed mapping, planned and applied: the running hub, or the next one, makes its view what the file says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from connectors.local_postgres import LocalPostgres
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, query
from tests.end_to_end.workload import SCHEMA
from tests.servers.postgres import database

MAPPINGS = """
mapping: accounts
from: {source: {source}, table: public.accounts}
to: {target: crm, table: accounts, create: true}
key: [id]
fields:
  id: id
  name: upper(name)
  balance: balance
where: balance is not null
---
mapping: stored
from: {source: {source}, table: public.accounts}
to: {target: wh, table: accounts, create: true}
key: [id]
fields:
  id: id
  name: upper(name)
---
mapping: orders
from: {source: {source}, table: public.orders}
to: {target: crm, table: orders, create: true}
key: [shop, number]
copy: [shop, number, total]
"""
FILL = """
insert into accounts (id, name, balance, active)
    select n, case when n % 5 > 0 then 'name ' || n end, n % 7, true from generate_series(1001, 3000) n;
insert into orders (shop, number, total) select n, n::text, n from generate_series(1001, 1500) n;
"""


class Changing(Lab):
    """A hub whose mapping files change."""

    def change(self, *replaced: tuple[str, str]) -> None:
        """Write something else into the mapping files."""
        file = self.mappings / "all.yaml"
        text = file.read_text()
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new, 1)
        file.write_text(text)

    def answer(self, *arguments: str, code: int) -> Any:
        """What a command answers in JSON."""
        done = self.cli(*arguments, "--json")
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def loaded(self) -> dict[str, float | None]:
        """When each pipeline was loaded."""
        return {one.name: one.loaded_at for one in self.state.pipelines()}

    def proven(self, *names: str) -> None:
        """Wait until these pipelines are loaded and verified after they were loaded again, and no other was."""

        def done() -> bool:
            found = {one.name: one for one in self.state.pipelines()}
            return all(found[name].phase == "loaded" and not found[name].unproven for name in names)

        try:
            wait_until(done, f"{names} loaded again and verified")
        except AssertionError as error:
            shown = json.dumps(self.health(), indent=1)
            raise AssertionError(f"{error}: {self.state.pipelines()}\n{shown}\n{self.log()[-3000:]}") from error


@pytest.fixture(scope="module")
def lab(
    source_server: LocalPostgres, target_server: LocalPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Changing]:
    """A running hub whose three views are loaded; tests change its files one after the other."""
    with database(source_server) as source, database(target_server) as target:
        execute(source, SCHEMA, FILL)
        lab = Changing(tmp_path_factory.mktemp("apply"), "erp", source, target, MAPPINGS)
        try:
            lab.start()
            lab.agrees()
            yield lab
        finally:
            lab.close()


def test_a_change_is_applied_by_the_running_hub_while_the_source_changes(lab: Changing) -> None:
    before = lab.loaded()
    with lab.load():
        lab.change(("upper(name)", "lower(name)\n  nick: left(name, 2)"), ("balance is not null", "balance > 2"))
        assert lab.health()["pipelines"]["accounts"]["mapping"]["pending"] is True
        (change,) = lab.answer("plan", code=1)["changes"]
        assert (change["mapping"], [one["name"] for one in change["columns"]]) == ("accounts", ["nick"])
        assert change["sample"]["leaving"] > 0
        assert query(lab.target, "select count(*) from accounts where name <> upper(name)") == [(0,)]
        assert lab.answer("apply", code=0)["applied"] == ["accounts"]
        assert lab.answer("plan", code=0)["changes"] == []
        lab.proven("accounts")
    lab.agrees()
    assert query(lab.target, "select count(*) from accounts where balance <= 2 or name <> lower(name)") == [(0,)]
    assert query(lab.target, "select distinct nick from accounts where id > 1000 order by 1") == [("na",), (None,)]
    after = lab.loaded()
    assert {name for name in after if after[name] != before[name]} == {"accounts"}, "no other view was written again"
    assert lab.health()["pipelines"]["accounts"]["mapping"]["pending"] is False


def test_a_hub_goes_on_with_what_was_applied_and_begins_with_a_change_that_was_applied_while_it_stood(
    lab: Changing,
) -> None:
    lab.change(("name: upper(name)\n---\nmapping: orders", "name: name\n  balance: balance\n---\nmapping: orders"))
    assert lab.stop() == 0
    lab.start()
    assert lab.health()["pipelines"]["stored"]["mapping"]["pending"] is True
    assert "sync-hub plan stored" in lab.log()
    lab.becomes("stored", "running")
    assert lab.stop() == 0
    assert "gets the columns balance" in lab.cli("plan").stdout
    assert lab.cli("apply").returncode == 0
    lab.start()
    lab.proven("stored")
    lab.agrees()


def test_run_apply_applies_first(lab: Changing) -> None:
    assert lab.stop() == 0
    lab.change(("copy: [shop, number, total]", "copy: [shop, number, total, note]"))
    execute(lab.source, "insert into orders (shop, number, note) values (5000, 'x', 'noted')")
    lab.start("--apply")
    lab.proven("orders")
    lab.agrees()
    assert query(lab.target, "select note from orders where shop = 5000") == [("noted",)]


def test_another_key_is_loaded_into_a_table_that_was_emptied_and_another_table_is_made(lab: Changing) -> None:
    lab.change(("  id: id\n", "  id: id + 1000000\n"))
    assert lab.cli("apply", "accounts").returncode == 2
    assert lab.cli("pause", "accounts").returncode == 0
    lab.becomes("accounts", "paused")
    execute(lab.target, "truncate accounts")
    assert lab.cli("apply", "accounts").returncode == 0
    lab.resume("accounts")
    lab.proven("accounts")
    lab.agrees()
    assert query(lab.target, "select min(id) > 1000000 from accounts") == [(True,)]
    lab.change(("table: accounts,", "table: renamed,"))
    assert lab.cli("apply", "accounts").returncode == 0
    lab.proven("accounts")
    lab.agrees()
    assert query(lab.target, "select (select count(*) from accounts) = (select count(*) from renamed)") == [(True,)]
    lab.change(("table: renamed,", "table: accounts,"))
    assert lab.cli("apply", "accounts").returncode == 2, "the old one kept its rows"
    execute(lab.target, "drop table accounts")
    assert lab.cli("apply", "accounts").returncode == 0
    lab.proven("accounts")


def test_a_dropped_field_keeps_its_values_a_new_mapping_is_loaded_and_one_that_is_gone_forgotten(
    lab: Changing,
) -> None:
    lab.change(
        ("  balance: balance\n", ""),
        ("mapping: stored", "mapping: again"),
        ("{target: wh, table: accounts,", "{target: wh, table: again,"),
    )
    kinds = {one["mapping"]: one["kind"] for one in lab.answer("plan", code=1)["changes"]}
    assert kinds == {"accounts": "changed", "again": "new", "stored": "gone"}
    balances = query(lab.target, "select sum(balance) from accounts")
    assert lab.cli("apply").returncode == 2
    assert lab.cli("apply", "--yes").returncode == 0
    lab.proven("accounts", "again")
    lab.agrees()
    assert query(lab.target, "select sum(balance) from accounts") == balances
    assert set(lab.health()["pipelines"]) == {"accounts", "again", "orders"}


def test_a_column_that_a_view_lacks_is_added_while_it_is_loaded_again_or_by_apply(lab: Changing) -> None:
    copied = next(line for line in (lab.mappings / "all.yaml").read_text().splitlines() if line.startswith("copy: "))
    lab.change((copied, "copy: all"))
    assert lab.cli("apply").returncode == 0
    execute(lab.source, "alter table orders add column extra text default 'new'", "update orders set note = 'x'")
    lab.until([("new",)], "select distinct to_jsonb(o) ->> 'extra' from orders o")
    lab.proven("orders")
    assert lab.cli("pause", "orders").returncode == 0
    lab.becomes("orders", "paused")
    execute(lab.target, "alter table orders drop column note")
    lab.resume("orders")
    error = lab.becomes("orders", "failed")["error"]
    assert (error["code"], error["command"]) == ("unknown_target_column", "sync-hub apply orders")
    assert lab.answer("apply", code=0)["applied"] == ["orders"]
    lab.proven("orders")
    lab.agrees()
