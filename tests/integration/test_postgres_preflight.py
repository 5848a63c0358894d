"""What would stop capture or harm the application is found before anything is changed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from connectors.local_postgres import BINARIES, LOGICAL, LocalPostgres
from connectors.postgresql import connect
from connectors.sources.postgres import PostgresSource
from sync_hub.errors import Fatal, Unavailable
from sync_hub.model import ChunkRequest, Finding
from tests.integration.conftest import Capture, Database
from tests.servers.postgres import running


def errors(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.code: finding for finding in findings if finding.severity == "error"}


def check(dsn: str, *tables: str) -> list[Finding]:
    source = PostgresSource("erp", PostgresSource.Options(dsn=dsn, tables=tables), "test")
    try:
        return source.check()
    finally:
        source.close()


def user_of(address: str) -> str:
    return str(conninfo_to_dict(address)["user"])


@pytest.fixture
def role(source_dsn: str, db: Database) -> Iterator[str]:
    """An address for a role of the hub that may do nothing but log in."""
    name = f"hub_{db.info.dbname}"
    db.execute(f"create role {name} login")
    yield source_dsn.replace("postgres@", f"{name}@")
    db.execute(f"drop owned by {name}; drop role {name}")


def test_good_source_has_no_errors_and_nothing_is_changed(any_dsn: str, any_db: Database) -> None:
    any_db.execute("create table t (id int primary key)")
    assert errors(check(any_dsn, "t", "public.*")) == {}
    assert any_db.execute("select count(*) from pg_publication").fetchall() == [(0,)]


def test_missing_tables_views_and_unlogged_tables(any_dsn: str, any_db: Database) -> None:
    any_db.execute("create view v as select 1 as id; create unlogged table u (id int primary key)")
    findings = check(any_dsn, "nowhere", "v", "u", "x*")
    assert {(f.code, f.path) for f in errors(findings).values()} == {
        ("table_missing", "sources.erp.tables.nowhere"),
        ("not_a_table", "sources.erp.tables.v"),
        ("table_not_logged", "sources.erp.tables.u"),
        ("pattern_matches_nothing", "sources.erp.tables.x*"),
    }
    assert all(finding.hint for finding in findings)


def test_a_publication_that_others_must_make_is_asked_for_once(role: str, db: Database) -> None:
    db.execute("create table a (id int primary key); create table b (id int primary key)")
    found = [finding for finding in check(role, "a", "b") if finding.code == "publication_privilege"]
    assert [(one.path, one.command) for one in found] == [("sources.erp", "sync-hub init erp --sql")]


def test_least_privilege_is_named_piece_by_piece(role: str, db: Database, capture: Capture) -> None:
    db.execute("create table t (id int primary key)")
    name = user_of(role)
    found = errors(check(role, "t"))
    assert set(found) == {"replication_privilege", "select_privilege", "publication_privilege"}
    assert name in found["replication_privilege"].hint
    db.execute(f"alter role {name} replication")
    db.execute(f"grant select on t to {name}")
    (left,) = errors(check(role, "t")).values()
    with pytest.raises(Fatal) as raised:
        capture(role, "t")
    assert raised.value.code == "publication_privilege"
    assert left.command == "sync-hub init erp --sql"
    db.execute(raised.value.hint.removeprefix("run as the owner of the tables: "))
    assert errors(check(role, "t")) == {}
    log = capture(role, "t")
    db.execute("insert into t values (1)")
    assert len(log.settle()) == 1
    log.source.track(True)
    log.source.fence()
    log.until(lambda: not log.source.fence_passed())
    log.source.request_chunk(ChunkRequest("r", "public.t", 1, (), after=None, rows=10))
    log.until(lambda: bool(log.chunks))


def test_script_for_the_administrator_gives_all_that_is_needed(source_dsn: str, db: Database, role: str) -> None:
    db.execute('create schema "S"; create table "S".t (id int primary key); create table t (id int primary key)')
    name = user_of(role)
    db.execute(f"alter role {name} replication")
    options = PostgresSource.Options(dsn=source_dsn, tables=["S.t", "t"])
    script = PostgresSource("erp", options, "test").setup_sql().replace('"postgres"', name)
    psql = [str(BINARIES / "psql"), "-v", "ON_ERROR_STOP=1", "-q", source_dsn]
    subprocess.run(psql, input=script, text=True, check=True, capture_output=True)
    assert errors(check(role, "S.t", "t")) == {}


def test_hidden_rows_are_found(role: str, db: Database) -> None:
    db.execute("create table t (id int primary key); alter table t enable row level security")
    name = user_of(role)
    db.execute(f"alter role {name} replication; grant select on t to {name}")
    db.execute("create publication sync_hub_test_erp for table t")
    assert set(errors(check(role, "t"))) == {"row_security", "publication_options"}


@pytest.mark.parametrize("any_server", ["18", "17", "16", "15"], indirect=True)  # 14 has no filters
def test_publication_with_filter_or_column_list(any_dsn: str, any_db: Database) -> None:
    any_db.execute("create table a (id int primary key, n int); create table b (id int primary key, n int)")
    any_db.execute("create publication sync_hub_test_erp for table a where (id > 1), b (id)")
    findings = [finding for finding in check(any_dsn, "a", "b") if finding.code == "publication_filtered"]
    assert {finding.path for finding in findings} == {"sources.erp.tables.a", "sources.erp.tables.b"}


def test_slot_of_something_else(any_dsn: str, any_db: Database) -> None:
    any_db.execute("create table t (id int primary key)")
    any_db.execute("select pg_create_logical_replication_slot('sync_hub_test_erp', 'test_decoding')")
    assert set(errors(check(any_dsn, "t"))) == {"slot_unusable"}


def test_generated_columns_in_a_whole_replica_identity(source_dsn: str, db: Database) -> None:
    db.execute("create table t (id int primary key, n int generated always as (id + 1) virtual)")
    db.execute("alter table t replica identity full")
    findings = {finding.code: finding.severity for finding in check(source_dsn, "t")}
    assert findings["generated_in_identity"] == "warning"


def test_server_that_does_not_answer_is_one_finding() -> None:
    (finding,) = check("postgresql://u:canary@127.0.0.1:1/d", "t")
    assert (finding.code, finding.severity) == ("connection_failed", "error")
    assert "canary" not in repr(finding)


def test_server_without_logical_log_slots_or_senders(server_folder: Path, target_server: LocalPostgres) -> None:
    with psycopg.connect(target_server.dsn(), autocommit=True) as db:
        db.execute("create table if not exists preflight (id int primary key)")
        found = errors(check(target_server.dsn(), "preflight"))
        db.execute("drop table preflight")
    assert set(found) == {"wal_level"}
    scarce = {"max_replication_slots": "1", "max_wal_senders": "1", "max_slot_wal_keep_size": "32MB"}
    with running(server_folder, "small", LOGICAL | scarce) as server:
        _check_exhausted(server)
        _check_lost(server)
        _check_standby(server)


def _check_exhausted(server: LocalPostgres) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as db:
        db.execute("create table t (id int primary key, name text)")
        assert check(server.dsn(), "t") == []
        db.execute("select pg_create_logical_replication_slot('taken', 'pgoutput')")
        with connect(server.dsn(), application_name="other", replication=True) as sender:
            sender.execute("IDENTIFY_SYSTEM")
            assert set(errors(check(server.dsn(), "t"))) == {"no_free_slot", "no_free_sender"}
        db.execute("select pg_drop_replication_slot('taken')")
        while db.execute("select 1 from pg_stat_activity where backend_type = 'walsender'").fetchone():
            db.execute("select pg_sleep(0.05)")


def _check_lost(server: LocalPostgres) -> None:
    """A slot whose log is gone must not be read from, and health must show it."""
    source = PostgresSource("erp", PostgresSource.Options(dsn=server.dsn(), tables=["t"]), "test")
    position = source.open(None)
    assert source.status()["retained_log_limit_bytes"] == 32 * 1024 * 1024
    source.close()
    with psycopg.connect(server.dsn(), autocommit=True) as db:
        lost = "select wal_status from pg_replication_slots"
        for number in range(20):
            if db.execute(lost).fetchall() == [("lost",)]:
                break
            db.execute(
                "insert into t select i, repeat('x', 1500) from generate_series(%s::int, %s::int) i",
                (number * 9000, number * 9000 + 8999),
            )
            db.execute("select pg_switch_wal()")
            db.execute("checkpoint")
    for stored in (position, None):
        with pytest.raises(Fatal) as raised:
            source.open(stored)
        assert raised.value.code == "position_unproven"
    assert source.status()["slot_status"] == "lost"
    assert "slot_lost" in errors(source.check())
    source.drop()


def _check_standby(server: LocalPostgres) -> None:
    server.stop()
    (server.data / "standby.signal").touch()
    server.start()
    assert "server_in_recovery" in errors(check(server.dsn(), "t"))
    source = PostgresSource("erp", PostgresSource.Options(dsn=server.dsn(), tables=["t"]), "test")
    with pytest.raises(Unavailable) as raised:
        source.open(None)
    assert raised.value.code == "server_in_recovery"
    source.close()


def test_wrong_password_is_one_line_without_the_password(
    source_server: LocalPostgres, source_dsn: str, role: str
) -> None:
    name = user_of(role)
    rules = source_server.data / "pg_hba.conf"
    trusting = rules.read_text()
    with psycopg.connect(source_dsn, autocommit=True) as db:
        try:
            rules.write_text(f"host all {name} 127.0.0.1/32 scram-sha-256\n{trusting}")
            db.execute("select pg_reload_conf()")
            found = None
            while found is None or found.code != "access_denied":
                (found, *_) = check(role.replace(f"{name}@", f"{name}:canary@"), "t")
            (without, *_) = check(role, "t")
        finally:
            rules.write_text(trusting)
            db.execute("select pg_reload_conf()")
    assert "canary" not in repr(found)
    assert "\n" not in found.message
    assert without.code == "access_denied"
