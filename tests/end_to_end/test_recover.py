"""A place in the log that cannot be proven stops capture, and `recover` brings every view back to equal."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from connectors.local_postgres import LOGICAL, LocalPostgres
from sync_hub import settings as configuration
from sync_hub.state_snapshots import PROMOTED
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, query
from tests.end_to_end.workload import SCHEMA
from tests.servers.postgres import database, running
from tests.servers.standby import pair

FULL = """
mapping: accounts_to_crm
from: {source: {source}, table: public.accounts}
to: {target: crm, table: account_view, create: true}
key: [account]
fields:
  account: id
  title: upper(name)
  balance: {expr: balance, type: "numeric(14,4)"}
where: active
---
mapping: orders_to_wh
from: {source: {source}, table: public.orders}
to: {target: wh, table: order_view, create: true}
key: [shop, number]
copy: all
"""
FILL = (
    "insert into accounts select n, 'name ' || n, n, repeat('x', 3000), n % 5 > 0 from generate_series(1, 400) n",
    "insert into orders select n % 7, n, n / 3.0, null from generate_series(1, 800) n",
)
GAP = (
    "delete from accounts where id % 3 = 0",
    "update accounts set name = 'in the gap', id = id + 10000 where id % 4 = 0",
    "insert into accounts select n, 'new ' || n, 1, null, true from generate_series(501, 520) n",
    "delete from orders where shop = 1",
)


@pytest.fixture
def lab(
    request: pytest.FixtureRequest, source_server: LocalPostgres, target_server: LocalPostgres, tmp_path: Path
) -> Iterator[Lab]:
    """A hub whose views are loaded; on the embedded broker unless a test says otherwise."""
    broker = ""
    if getattr(request, "param", "") == "kafka":
        address = request.getfixturevalue("kafka_address")
        broker = f"{{type: kafka, bootstrap_servers: ['{address}'], partitions: 3, replication_factor: 1}}"
    with database(source_server) as source, database(target_server) as target:
        execute(source, SCHEMA, *FILL)
        lab = Lab(tmp_path, f"r{uuid.uuid4().hex[:8]}", source, target, FULL, broker=broker)
        lab.start()
        try:
            lab.settle()
            yield lab
        finally:
            lab.close()


def recovered(lab: Lab) -> None:
    """Recover while the application goes on; every view is proven to be equal."""
    done = lab.cli("recover", lab.name)
    assert (done.returncode, "not_confirmed" in done.stderr) == (2, True), done
    with lab.load(seed=9):
        done = lab.cli("recover", lab.name, "--yes")
        assert done.returncode == 0, done.stderr
        assert "accounts_to_crm" in done.stdout

        def proven() -> bool:
            pipelines = lab.state.pipelines()
            return lab.state.position(lab.name) is not None and all(
                one.phase == "loaded" and not one.unproven for one in pipelines
            )

        wait_until(lambda: any(one.unproven for one in lab.state.pipelines()), "recovery begins", 30)
        try:
            wait_until(proven, "every view is loaded and verified", 90)
        except AssertionError as error:
            states = [(one.name, one.phase, one.unproven) for one in lab.state.pipelines()]
            shown = f"{states}\n{lab.state.verifications.all()}\n{lab.log()[-4000:]}"
            raise AssertionError(f"{error}: {shown}") from error
    lab.agrees()
    assert lab.cli("verify").returncode == 0


def test_a_dropped_slot_stops_capture_and_what_was_deleted_in_the_gap_is_removed(lab: Lab) -> None:
    lab.stop()
    slot = query(lab.source, "select slot_name from pg_replication_slots where database = current_database()")[0][0]
    execute(lab.source, f"select pg_drop_replication_slot('{slot}')", *GAP)
    lab.start()
    problem = lab.problem("worker_failed", f"source:{lab.name}")
    assert problem["command"] == f"sync-hub recover {lab.name}"
    recovered(lab)
    assert query(
        lab.target, "select count(*) from account_view where account between 61 and 400 and account % 3 = 0"
    ) == [(0,)]


@pytest.mark.parametrize("lab", ["embedded", "kafka"], indirect=True)
def test_a_topic_that_was_created_again_is_noticed_and_recovered(lab: Lab) -> None:
    lab.stop()
    if "kafka" in lab.config.read_text():
        from kafka import KafkaAdminClient

        address = lab.config.read_text().partition("bootstrap_servers: ['")[2].partition("'")[0]
        admin = KafkaAdminClient(bootstrap_servers=address)
        admin.delete_topics([f"{lab.name}.public.accounts"])
        wait_until(lambda: f"{lab.name}.public.accounts" not in admin.list_topics(), "the topic is gone")
        admin.close()
    else:
        for file in lab.folder.glob("log.db*"):
            file.unlink()
    execute(lab.source, *GAP)
    lab.start()
    lab.problem("worker_failed", f"source:{lab.name}")
    recovered(lab)


def test_a_topic_with_fewer_partitions_than_before_leaves_nothing_behind(lab: Lab) -> None:
    """What was parked in partitions that are gone is over, and a TRUNCATE does not wait for them."""
    execute(lab.target, "alter table account_view add constraint good check (balance < 1e9)")
    execute(lab.source, "insert into accounts select n, 'rich', 2e9, null, true from generate_series(9001, 9020) n")
    held = "select count(distinct partition) from sync_hub_parked where closed_at is null"
    lab.until([(3,)], held)
    lab.stop()
    for file in lab.folder.glob("log.db*"):
        file.unlink()
    lab.config.write_text(lab.config.read_text().replace("partitions: 3", "partitions: 1"))
    execute(lab.source, *GAP, "delete from accounts where id > 9000")
    lab.start()
    lab.problem("worker_failed", f"source:{lab.name}")
    recovered(lab)
    assert query(lab.target, held) == [(0,)]
    execute(lab.source, "truncate accounts", "insert into accounts values (1, 'after', 1, null, true)")
    lab.until([(1, "AFTER")], "select account, title from account_view")
    lab.agrees()


def test_a_source_that_works_is_begun_anew_when_it_is_asked_for(lab: Lab) -> None:
    recovered(lab)


def test_a_changed_column_type_loads_the_table_again(lab: Lab) -> None:
    execute(
        lab.source,
        "alter table accounts alter column balance type numeric(13,3) using balance + 1000",
        "insert into accounts values (9001, 'after', 1, null, true)",
    )
    wait_until(
        lambda: query(lab.target, "select balance >= 1000 from account_view where account = 1") == [(True,)], "reload"
    )
    wait_until(lambda: not any(one.unproven for one in lab.state.pipelines()), "verified")
    lab.agrees()


def test_a_server_restored_from_a_backup_is_refused_and_recovered(
    tmp_path: Path, server_folder: Path, target_server: LocalPostgres
) -> None:
    with _own_lab(tmp_path, server_folder, target_server) as (server, lab):
        lab.stop()
        server.stop()
        backup = server.folder / "backup"
        _copied(server.data, backup)
        server.start()
        lab.start()
        execute(lab.source, *GAP)
        lab.agrees()
        lab.stop()
        server.stop()
        shutil.rmtree(server.data)
        _copied(backup, server.data)
        server.start()
        execute(lab.source, "delete from orders where shop = 2", "insert into orders values (77, 'restored', 1, null)")
        lab.start()
        lab.problem("worker_failed", f"source:{lab.name}")
        recovered(lab)


@contextlib.contextmanager
def _own_lab(
    tmp_path: Path, server_folder: Path, target_server: LocalPostgres, settings: dict[str, str] | None = None
) -> Iterator[tuple[LocalPostgres, Lab]]:
    """A source that is this test's alone, and a hub that has read it."""
    with (
        running(server_folder, "recovered", LOGICAL | (settings or {})) as server,
        database(target_server) as target,
    ):
        execute(server.dsn(), SCHEMA, *FILL)
        lab = Lab(tmp_path, f"b{uuid.uuid4().hex[:8]}", server.dsn(), target, FULL)
        try:
            lab.start()
            lab.settle()
            yield server, lab
        finally:
            lab.close()


def _copied(source: Path, to: Path) -> None:
    """A copy with the owners and rights that the server insists on."""
    subprocess.run(["cp", "-a", str(source), str(to)], check=True)


def test_an_invalidated_slot_is_recovered(tmp_path: Path, server_folder: Path, target_server: LocalPostgres) -> None:
    little = {"max_slot_wal_keep_size": "16MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with _own_lab(tmp_path, server_folder, target_server, little) as (_, lab):
        lab.stop()
        execute(lab.source, *GAP)
        lost = "select wal_status from pg_replication_slots"
        with psycopg.connect(lab.source, autocommit=True) as connection:
            for _ in range(40):
                connection.execute("select pg_logical_emit_message(false, 'filler', repeat('x', 4000000))")
                connection.execute("select pg_switch_wal()")
                connection.execute("checkpoint")
                if connection.execute(lost).fetchall() == [("lost",)]:
                    break
        assert query(lab.source, lost) == [("lost",)]
        lab.start()
        lab.problem("worker_failed", f"source:{lab.name}")
        recovered(lab)


@pytest.mark.parametrize("lacks", [True, False], ids=["lacks the newest", "has everything"])
def test_a_promoted_standby(
    lacks: bool, tmp_path: Path, server_folder: Path, target_server: LocalPostgres, unique: Callable[[str], str]
) -> None:
    with (
        pair(server_folder / unique("pair")) as servers,
        database(target_server) as target,
    ):
        source = servers.primary.dsn()
        execute(source, SCHEMA, *FILL)
        lab = Lab(tmp_path, f"f{uuid.uuid4().hex[:8]}", source, target, FULL)
        try:
            lab.start()
            lab.settle()
            servers.sync_slots(lambda: execute(source, "update accounts set balance = balance + 1 where id = 1"))
            lab.settle()
            if lacks:
                servers.part()
            execute(source, *GAP)
            lab.agrees()
            if not lacks:
                servers.catch_up()
            promoted = servers.fail_over()
            lab.stop()
            lab.config.write_text(lab.config.read_text().replace(source, promoted.dsn()))
            lab.source = promoted.dsn()
            lab.settings = configuration.load(lab.config, lab.environment)
            lab.start()
            if lacks:
                lab.problem("worker_failed", f"source:{lab.name}")
                recovered(lab)
            else:
                wait_until(lambda: any(v.reason == PROMOTED for v in lab.state.verifications.all()), "doubted")
                wait_until(lambda: not any(one.unproven for one in lab.state.pipelines()), "verified")
                lab.agrees()
        finally:
            lab.close()
