"""Hazards to a whole hub that no other test brings about: what each does is in docs/reference/hazards.md."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.local_postgres import LocalPostgres
from tests.chaos.world import Disk
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, query
from tests.end_to_end.test_operation import AUDIT, BOTH, TWICE
from tests.end_to_end.workload import SCHEMA as WORKLOAD
from tests.servers.postgres import database

PILE = 20_000
FILL = 12_000
"""Rows of 1 kB: as a rule more than what SQLite may still have to write into when the disk is full."""
SCHEMA = """
create table orders (shop integer, number text, total numeric, note text, primary key (shop, number));
create table parted (id int primary key, note text) partition by range (id);
create table low partition of parted for values from (0) to (100);
create table high (id int primary key, note text);
insert into parted select n, 'low' from generate_series(1, 10) n;
insert into high select n, 'high' from generate_series(100, 119) n;
"""
MAPPINGS = """
mapping: orders
from: {source: {source}, table: public.orders}
to: {target: crm, table: order_view, create: true}
key: [shop, number]
copy: all
---
mapping: orders_to_wh
from: {source: {source}, table: public.orders}
to: {target: wh, table: order_view, create: true}
key: [shop, number]
copy: all
---
mapping: parted
from: {source: {source}, table: public.parted}
to: {target: crm, table: parted_view, create: true}
key: [id]
copy: all
"""
PARKED = "select count(*) from sync_hub_parked"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    """The disk of the hub's own files."""
    disk = Disk(tmp_path_factory.mktemp("hazards") / "disk")
    yield disk
    disk.close()


@pytest.fixture(scope="module")
def lab(
    source_server: LocalPostgres, own_target: LocalPostgres, disk: Disk, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """One hub for all tests of this file: state, topics and one target are on the small disk, its log is not."""
    folder = tmp_path_factory.mktemp("hub")
    (disk.folder / "mappings").symlink_to(folder / "mappings")
    with database(source_server) as source, database(own_target) as target:
        execute(source, SCHEMA)
        name, tables = f"h{uuid.uuid4().hex[:8]}", "public.orders, public.parted"
        lab = Lab(folder, name, source, target, MAPPINGS, tables=tables, home=disk.folder)
        try:
            lab.start()
            lab.agrees()
            yield lab
        finally:
            lab.close()


def test_partitions_attached_and_detached_are_loaded_and_removed(lab: Lab) -> None:
    """Neither leaves an event in the log."""
    execute(lab.source, "alter table parted attach partition high for values from (100) to (200)")
    lab.until([(30,)], "select count(*) from parted_view")
    execute(lab.source, "alter table parted detach partition low")
    lab.until([(20, 100)], "select count(*), min(id) from parted_view")
    wait_until(lambda: not any(one.unproven for one in lab.state.pipelines()), "verified")
    lab.agrees()


def test_a_full_disk_of_the_hub_loses_nothing_and_is_not_green(lab: Lab, disk: Disk) -> None:
    if not disk.mounted:
        pytest.skip("only root can mount a disk that is small enough to be full")
    execute(lab.source, "delete from orders where shop = 1")
    arrived, rows = "select count(*) from order_view where shop = 1", 0
    lab.until([(rows,)], arrived)
    said = lab.log().count("disk is full")
    disk.fill()

    def full() -> bool:
        nonlocal rows
        if query(lab.target, arrived) == [(rows,)]:  # there was room for all so far
            more = f"select 1, n, n, repeat('x', 1000) from generate_series({rows + 1}, {rows + FILL}) n"
            execute(lab.source, f"insert into orders {more}")
            rows += FILL
        return lab.log().count("disk is full") > said  # by the topics' file or the state's: both are on the disk

    try:
        wait_until(full, "the disk is full")
        wait_until(lambda: lab.health()["status"] != "ok", "health tells", 10)
    finally:
        disk.free()
    lab.until([(rows,)], arrived)
    wait_until(lambda: lab.health()["status"] == "ok", "health is green again", 30)
    lab.agrees()
    assert "Traceback" not in lab.log()


def test_what_piles_up_while_a_target_is_down_takes_no_memory_and_parks_nothing(
    lab: Lab, own_target: LocalPostgres
) -> None:
    lab.agrees()
    process = lab.pids()["deliver:crm"]
    before = memory(process)
    own_target.stop("fast")
    try:
        execute(lab.source, f"insert into orders select 2, n, n, repeat('y', 1000) from generate_series(1, {PILE}) n")
        lab.problem("worker_backing_off", "target:crm")
        wait_until(lambda: lab.health()["pipelines"]["orders_to_wh"]["lag_seconds"] == 0, "the other target has all")
    finally:
        own_target.start()
    lab.until([(PILE,)], "select count(*) from order_view where shop = 2")
    assert lab.pids()["deliver:crm"] == process, "it needed no restart"
    assert memory(process) - before < 60_000_000
    assert query(lab.target, PARKED) == [(0,)]
    lab.agrees()


def memory(pid: int) -> int:
    """The most that a process has ever held, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_partitions_that_change_hands_in_mid_batch_keep_the_order_of_each_row(
    kafka_address: str, source_dsn: str, target_dsn: str, tmp_path: Path
) -> None:
    """A second worker comes, and takes half of the partitions, while the first one is at work."""
    execute(source_dsn, WORKLOAD)
    execute(target_dsn, AUDIT)
    name = f"b{uuid.uuid4().hex[:8]}"
    broker = f"{{type: kafka, bootstrap_servers: ['{kafka_address}'], partitions: 4, replication_factor: 1}}"
    mapping = next(one for one in BOTH.split("---") if "accounts_to_target" in one)
    (tmp_path / "other").mkdir()
    first, second = (
        Lab(
            folder, name, source_dsn, target_dsn, mapping, broker=broker, tables="public.accounts", workers=2, home=home
        )
        for folder, home in ((tmp_path, None), (tmp_path / "other", tmp_path))
    )
    try:
        first.start("--only", f"capture:{name}", "--only", "deliver:crm:0")
        with first.load(seed=11):
            wait_until(lambda: shares(first) == [4] and applied(first)[0] > 0, "one worker reads all", 30)
            second.start("--only", "deliver:crm:1")
            wait_until(lambda: shares(first) == [2, 2], "they share the partitions", 30)
            written = applied(first)
            wait_until(lambda: all(map(int.__gt__, applied(first), written)), "both write", 30)
        first.agrees()
        assert query(target_dsn, TWICE) == []
        assert "Traceback" not in first.log() + second.log()
    finally:
        first.close()
        second.close()


def shares(lab: Lab) -> list[int]:
    """How many partitions of one topic each worker reads."""
    return [len(one["offsets"]) for one in figures(lab)]


def applied(lab: Lab) -> list[int]:
    """How many events each worker has applied."""
    return [int(one["applied_total"]) for one in figures(lab)]


def figures(lab: Lab) -> list[dict[str, Any]]:
    """What the workers of the target tell of one pipeline."""
    found = {
        one.name: one.detail["pipelines"].get("accounts_to_target")
        for one in lab.state.workers()
        if one.name.startswith("deliver:crm")
    }
    return [found[name] for name in sorted(found) if found[name]]
