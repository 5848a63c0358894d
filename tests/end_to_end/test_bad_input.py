"""Bad input: one line with code, place and remedy; a running hub keeps everything going that has no fault."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from connectors.local_postgres import LocalPostgres, free_port
from tests.end_to_end.hub import Hub, wait_until
from tests.servers.postgres import database

TABLES = """
create table accounts (id bigint primary key, name text, balance numeric(14,4), "Odd Name" text);
insert into accounts select n, 'name ' || n, n, null from generate_series(1, 50) n;
create table keyless (a int);
create table account_view (id bigint primary key, name text, balance numeric(14,4));
"""
CONFIG = """\
hub: {{name: bad, state: "sqlite:///{folder}/state.db"}}
broker: {{type: embedded, path: {folder}/log.db, partitions: 2}}
sources: {{erp: {{type: postgres, dsn: "{source}", tables: [public.accounts], heartbeat_seconds: 0.5}}}}
targets: {{crm: {{type: postgres, dsn: "{target}"}}}}
mappings: [{folder}/mappings]
http: {{port: 0}}
"""
MAPPING = """\
mapping: accounts_to_crm
from: {source: erp, table: public.accounts}
to: {target: crm, table: account_view, create: true}
key: [id]
fields:
  id: id
  name: upper(name)
copy: [balance]
"""


@dataclass
class Case:
    """What is written wrong, the command that says so, and what its one line must hold."""

    name: str
    says: tuple[str, ...]
    code: int = 2
    replace: tuple[str, str] = ("", "")
    mapping: tuple[str, str] = ("", "")
    command: str = "run"
    prepare: Callable[[Project], object] = lambda project: None


class Project:
    """Files of one hub that works, and the program that reads them."""

    def __init__(self, folder: Path, source: str, target: str) -> None:
        self.folder, self.source, self.target = folder, source, target
        self.config = folder / "hub.yaml"
        self.config.write_text(CONFIG.format(folder=folder, source=source, target=target))
        (folder / "mappings").mkdir()
        self.mapping = folder / "mappings" / "all.yaml"
        self.mapping.write_text(MAPPING)

    def edit(self, file: Path, change: tuple[str, str]) -> None:
        old, new = change
        text = file.read_text()
        assert old in text, old
        file.write_text(text.replace(old, new, 1))

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "sync_hub.cli.main", "-c", str(self.config), *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | variables,
            cwd=self.folder,
            timeout=20,
            stdin=subprocess.DEVNULL,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def line(self, command: str, code: int) -> str:
        """The one line that the command fails with; of a check, the one error among its findings, as one line."""
        done = self.run(command)
        assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
        said = done.stderr if command == "run" else done.stdout
        lines = said.splitlines()
        if command != "run":
            findings = re.split(r"\n(?=\S)", said)
            lines = [" ".join(one.split()) for one in findings if one.startswith("error ")]
        assert len(lines) == 1, said
        return lines[0]


@pytest.fixture(scope="module")
def databases(source_server: LocalPostgres, target_server: LocalPostgres) -> Iterator[tuple[str, str]]:
    """A source and a target that no test changes."""
    with database(source_server) as source, database(target_server) as target:
        for dsn in (source, target):
            with psycopg.connect(dsn) as connection:
                connection.execute(TABLES)
        yield source, target


@pytest.fixture
def files(tmp_path: Path, databases: tuple[str, str]) -> Project:
    """A project of which only files are changed."""
    return Project(tmp_path, *databases)


@pytest.fixture
def project(tmp_path: Path, source_dsn: str, target_dsn: str) -> Project:
    for dsn in (source_dsn, target_dsn):
        with psycopg.connect(dsn) as connection:
            connection.execute(TABLES)
    return Project(tmp_path, source_dsn, target_dsn)


def occupied(project: Project) -> None:
    """Listen on the port that the configuration names, until the process ends."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    TAKEN.append(taken)
    project.edit(project.config, ("port: 0", f"port: {taken.getsockname()[1]}"))


TAKEN: list[socket.socket] = []

CASES = [
    Case(
        "the configuration is missing",
        ("config_missing", "hub.yaml", "sync-hub init"),
        prepare=lambda project: project.config.unlink(),
    ),
    Case(
        "the configuration is a folder",
        ("file_unreadable", "hub.yaml", "check the path"),
        prepare=lambda project: (project.config.unlink(), project.config.mkdir()),
    ),
    Case(
        "the configuration is not UTF-8",
        ("not_utf8", "hub.yaml", "save it as UTF-8"),
        prepare=lambda project: project.config.write_bytes("hub: {name: Müller}".encode("latin-1")),
    ),
    Case(
        "the configuration is empty",
        ("config_invalid", "hub.yaml", "hub.reference.yaml"),
        prepare=lambda project: project.config.write_text(""),
    ),
    Case("an unknown key", ("unknown_key", "hub.yaml:1:7", "did you mean name?"), replace=("{name:", "{nmae:")),
    Case(
        "an unknown key of a connector",
        ("unknown_key", "hub.yaml:3:", "sources.erp.tabels", "did you mean tables?"),
        replace=("tables:", "tabels:"),
    ),
    Case(
        "a duplicate key",
        ("yaml_duplicate_key", "hub.yaml:2:1", "line 1", "remove"),
        replace=("broker:", "hub: {}\nbroker:"),
    ),
    Case(
        "an unset variable",
        ("unset_variable", "hub.yaml:4:", "targets.crm.dsn", "NOT_SET", "export NOT_SET="),
        replace=('crm: {type: postgres, dsn: "', 'crm: {type: postgres, dsn: "${NOT_SET}'),
    ),
    Case(
        "an unknown type of connector",
        ("unknown_connector", "hub.yaml:4:", "targets.crm", "'oracle'", "sqlite"),
        replace=("crm: {type: postgres", "crm: {type: oracle"),
    ),
    Case(
        "an address that is none",
        ("bad_dsn", "postgresql://user:password@host"),
        replace=('crm: {type: postgres, dsn: "', 'crm: {type: postgres, dsn: "nonsense '),
        command="check",
    ),
    Case("a port in use", ("port_in_use", "http", "http.port"), code=3, prepare=occupied),
    Case(
        "an address of another machine to listen on",
        ("cannot_listen", "http", "correct http.host"),
        code=3,
        replace=("http: {port", 'http: {host: 192.0.2.1, token: "a-token-of-some-length", port'),
    ),
    Case(
        "the state on a path that cannot be written",
        ("state_unavailable", "/proc/nowhere", "writable"),
        code=3,
        replace=("sqlite:///", "sqlite:////proc/nowhere"),
    ),
    Case(
        "the state in a database that does not answer",
        ("state_unavailable", "127.0.0.1:1", "reachable"),
        code=3,
        replace=('state: "', 'state: "postgresql://x:hidden@127.0.0.1:1/state"} # {"'),
    ),
    Case(
        "the log on a path that cannot be written",
        ("database_not_accessible", "broker", "/proc/nowhere", "writable"),
        code=3,
        replace=("embedded, path: ", "embedded, path: /proc/nowhere"),
        command="check",
    ),
    Case(
        "a target's file on a path that cannot be written",
        ("database_not_accessible", "targets.crm", "/proc/nowhere", "writable"),
        code=3,
        replace=("crm: {type: postgres, dsn:", "crm: {type: sqlite, path: /proc/nowhere/crm.db}} # {"),
        command="check",
    ),
    Case(
        "a mapping's source that is not configured",
        ("unknown_source", "mappings/all.yaml:2:16", "'epr'", "configured are: erp"),
        mapping=("source: erp", "source: epr"),
    ),
    Case(
        "a mapping's target that is not configured",
        ("unknown_target", "mappings/all.yaml:3:14", "'crn'", "configured are: crm"),
        mapping=("target: crm", "target: crn"),
    ),
    Case(
        "an unknown key of a mapping",
        ("unknown_key", "mappings/all.yaml:5:1", "did you mean fields?"),
        mapping=("fields:", "feilds:"),
    ),
    Case(
        "a broken expression",
        ("bad_expression", "mappings/all.yaml:7:15", "fields.name", "bracket"),
        mapping=("upper(name)", "upper(name"),
    ),
    Case(
        "an unknown function",
        ("mappings/all.yaml:7:9", "uppper", "did you mean upper"),
        mapping=("upper(name)", "uppper(name)"),
        command="check",
    ),
    Case(
        "a column that the source does not have",
        ("mappings/all.yaml:7:", "nmae", "did you mean name"),
        mapping=("upper(name)", "upper(nmae)"),
        command="check",
    ),
    Case(
        "a key column that is no field",
        ("mappings/all.yaml:4:", "number"),
        mapping=("key: [id]", "key: [number]"),
        command="check",
    ),
    Case(
        "the mappings' folder is missing",
        ("mappings_missing", "mappings", "check"),
        replace=("/mappings]", "/mapings]"),
    ),
    Case(
        "a mapping that is not UTF-8",
        ("not_utf8", "mappings/all.yaml", "save it as UTF-8"),
        prepare=lambda project: project.mapping.write_bytes("mapping: Müller".encode("latin-1")),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_line_says_what_where_and_what_to_do(files: Project, case: Case) -> None:
    if case.replace[0]:
        files.edit(files.config, case.replace)
    if case.mapping[0]:
        files.edit(files.mapping, case.mapping)
    case.prepare(files)
    line = files.line(case.command, case.code)
    assert [part for part in case.says if part not in line] == [], line
    assert "hidden" not in line


def test_a_wrong_password_is_one_line(files: Project, own_server: LocalPostgres) -> None:
    files.edit(files.config, (files.source, f"postgresql://guarded:hidden@127.0.0.1:{own_server.port}/postgres"))
    line = files.line("check", 3)
    assert "access_denied" in line
    assert "sources.erp" in line
    assert "check user, password and pg_hba.conf" in line
    assert "hidden" not in line


@pytest.mark.parametrize(("which", "path"), [("source", "sources.erp"), ("target", "targets.crm")])
def test_a_database_that_does_not_answer_is_one_line(files: Project, which: str, path: str) -> None:
    files.edit(files.config, (getattr(files, which), f"postgresql://x:hidden@127.0.0.1:{free_port()}/x"))
    line = files.line("check", 3)
    assert "connection_failed" in line
    assert path in line
    assert "is the server running and reachable?" in line
    assert "hidden" not in line


@pytest.mark.parametrize("client", ["confluent", "kafka-python"])
def test_a_broker_that_does_not_answer_is_one_line(files: Project, client: str) -> None:
    broker = f"{{type: kafka, bootstrap_servers: ['127.0.0.1:{free_port()}'], client: {client}, timeout_seconds: 1}} # "
    files.edit(files.config, ("{type: embedded", f"{broker} {{type: embedded"))
    line = files.line("check", 3)
    assert "broker_unreachable" in line
    assert "broker:" in line
    assert "bootstrap_servers" in line


@pytest.mark.parametrize(
    ("side", "statement", "says"),
    [
        ("source", "alter table accounts rename to renamed", ("table_missing", "public.accounts", "create it")),
        ("source", "alter table accounts drop constraint accounts_pkey", ("accounts", "primary key")),
        ("target", "drop table account_view", ("target_table_missing", "mappings/all.yaml:3:", "create: true")),
        (
            "target",
            "alter table account_view drop column name",
            ("unknown_target_column", "mappings/all.yaml:7:", "name"),
        ),
        ("target", "alter table account_view drop column id", ("mappings/all.yaml", "id")),
        ("target", "alter table account_view drop constraint account_view_pkey", ("key_not_unique", "primary key")),
    ],
)
def test_a_table_that_does_not_fit_is_found(project: Project, side: str, statement: str, says: tuple[str, ...]) -> None:
    project.edit(project.mapping, (", create: true", ""))
    with psycopg.connect(getattr(project, side)) as connection:
        connection.execute(statement)
    done = project.run("check", "--json")
    assert done.returncode in (1, 2), done.stdout
    found = [one for one in json.loads(done.stdout)["findings"] if one["severity"] == "error"]
    told = [f"{one['code']} {one['path']} {one['message']} {one['hint']} {one['command']}" for one in found]
    matching = [one for one, line in zip(found, told, strict=True) if all(part in line for part in says)]
    assert matching, told
    assert matching[0]["hint"] or matching[0]["command"], matching


def test_a_privilege_that_is_missing_comes_with_its_grant(project: Project) -> None:
    with psycopg.connect(project.target) as connection:
        connection.execute("drop role if exists reader")
        connection.execute("create role reader login; grant select on account_view to reader")
    project.edit(project.config, (project.target, project.target.replace("postgres@", "reader@")))
    done = project.run("check", "--json")
    with psycopg.connect(project.target) as connection:
        connection.execute("drop owned by reader; drop role reader")
    assert done.returncode == 1
    found = [one for one in json.loads(done.stdout)["findings"] if one["code"] == "privilege_missing"]
    assert [one["command"] for one in found] == [
        'grant create on schema "public" to "reader";',
        'grant insert, update, delete on "public"."account_view" to "reader";',
    ]


# A running hub keeps going

FAULTY = """\
hub: {{name: faulty, state: "sqlite:///{folder}/state.db"}}
broker: {{type: embedded, path: {folder}/log.db, partitions: 2}}
sources:
  erp: {{type: postgres, dsn: "{source}", tables: [public.accounts], heartbeat_seconds: 0.5}}
  secret: {{type: postgres, dsn: "{guarded}", tables: [public.accounts], heartbeat_seconds: 0.5}}
  absent: {{type: postgres, dsn: "{source}", tables: [public.later], heartbeat_seconds: 0.5}}
  doomed: {{type: postgres, dsn: "{source}", tables: [public.doomed], heartbeat_seconds: 0.5}}
targets:
  crm: {{type: postgres, dsn: "{target}"}}
  limited: {{type: postgres, dsn: "{limited}", schema: limited}}
  blocked: {{type: sqlite, path: {folder}/blocked/crm.db}}
mappings: [{folder}/mappings]
http: {{port: 0}}
"""
VIEW = """\
---
mapping: {name}
from: {{source: {source}, table: public.{table}}}
to: {{target: {target}, table: {name}, create: {create}}}
key: [id]
fields:
  id: id
  name: {expression}
"""
PIPELINES = [
    # name, source, table, target, create, expression
    ("good", "erp", "accounts", "crm", "true", "upper(name)"),
    ("fragile", "erp", "accounts", "crm", "true", "name"),
    ("from_secret", "secret", "accounts", "crm", "true", "name"),
    ("from_absent", "absent", "later", "crm", "true", "name"),
    ("from_doomed", "doomed", "doomed", "crm", "true", "name"),
    ("to_blocked", "erp", "accounts", "blocked", "true", "name"),
    ("to_limited", "erp", "accounts", "limited", "false", "name"),
    ("no_table", "erp", "accounts", "crm", "false", "name"),
    ("no_column", "erp", "accounts", "crm", "false", "name"),
    ("no_key", "erp", "accounts", "crm", "false", "name"),
    ("no_secret", "erp", "accounts", "crm", "true", "hmac_sha256(name, secret('FAULTY_KEY'))"),
    ("no_source_column", "erp", "accounts", "crm", "true", "nmae"),
]
FAULTS_AT_SOURCE = """
create table accounts (id bigint primary key, name text);
create table doomed (id bigint primary key, name text);
insert into accounts select n, 'name ' || n from generate_series(1, 20) n;
insert into doomed select * from accounts;
"""
FAULTS_AT_TARGET = """
create table no_column (id bigint primary key);
create table no_key (id bigint, name text);
create schema limited;
create table limited.to_limited (id bigint primary key, name text);
"""


@pytest.fixture(scope="module")
def faulty(
    source_server: LocalPostgres,
    target_server: LocalPostgres,
    own_server: LocalPostgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Faulty]:
    """A hub of twelve pipelines, of which a few work."""
    with database(source_server) as source, database(target_server) as target, database(own_server) as guarded:
        _execute(source, FAULTS_AT_SOURCE)
        _execute(target, FAULTS_AT_TARGET)
        _execute(guarded, FAULTS_AT_SOURCE)
        _execute(guarded, "grant create on schema public to guarded; alter table accounts owner to guarded")
        _execute(guarded, f'grant create on database "{guarded.rpartition("/")[2]}" to guarded')
        _execute(guarded, "alter role guarded password 'changed'")
        _execute(target, "drop role if exists limited; create role limited login")
        hub = Faulty(tmp_path_factory.mktemp("faulty"), source, target, guarded)
        hub.start()
        yield hub
        hub.close()
        _execute(target, "drop owned by limited; drop role limited")
        _execute(guarded, "alter role guarded password 'right'; reassign owned by guarded to postgres")
        _execute(guarded, "drop owned by guarded")


class Faulty(Hub):
    """Its databases, and what can be waited for."""

    def __init__(self, folder: Path, source: str, target: str, guarded: str) -> None:
        self.source, self.target, self.guarded = source, target, guarded
        (folder / "blocked").write_text("a file where a folder is needed")
        config = FAULTY.format(
            folder=folder,
            source=source,
            target=target,
            guarded=guarded.replace("postgres@", "guarded:right@"),
            limited=target.replace("postgres@", "limited@"),
        )
        names = ("name", "source", "table", "target", "create", "expression")
        mappings = "".join(VIEW.format(**dict(zip(names, one, strict=True))) for one in PIPELINES)
        super().__init__(folder, config, mappings)

    def problem(self, code: str, subject: str) -> dict[str, Any]:
        """Wait for a problem of health."""

        def found() -> dict[str, Any] | None:
            return next(
                (one for one in self.health()["problems"] if (one["code"], one["subject"]) == (code, subject)), None
            )

        try:
            return dict(wait_until(found, f"{code} of {subject}", 30))
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(self.health()['problems'], indent=1)}") from error

    def runs(self, pipeline: str) -> None:
        """Wait until a pipeline runs and has proven to have everything."""

        def running() -> bool:
            one = self.health()["pipelines"][pipeline]
            return one["state"] == "running" and one["lag_seconds"] == 0

        try:
            wait_until(running, f"{pipeline} runs", 40)
        except AssertionError as error:
            shown = json.dumps(self.health()["pipelines"][pipeline], indent=1)
            raise AssertionError(f"{error}: {shown}\n{self.log()[-3000:]}") from error

    def fills(self, table: str) -> None:
        """Wait until a target table has the source's rows."""
        wait_until(lambda: _rows(self.target, f"select count(*) >= 20 from {table}") == [(True,)], f"rows in {table}")

    def resume(self, name: str) -> None:
        done = self.cli("resume", name)
        assert done.returncode == 0, done.stderr
        assert "is tried again" in done.stdout


def _execute(dsn: str, statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements.split(";"):
            if statement.strip():
                connection.execute(statement)


def _rows(dsn: str, statement: str) -> list[Any]:
    """The answer; none where the hub has not yet created the table."""
    with psycopg.connect(dsn) as connection, contextlib.suppress(psycopg.errors.UndefinedTable):
        return connection.execute(statement).fetchall()
    return []


def test_the_pipeline_without_a_fault_works_beside_all_others(faulty: Faulty) -> None:
    faulty.runs("good")
    faulty.runs("from_doomed")
    assert _rows(faulty.target, "select count(*), min(name) from good") == [(20, "NAME 1")]
    assert "Traceback" not in faulty.log()


def test_a_file_in_the_way_of_a_target_is_found_and_gone_again_by_itself(faulty: Faulty) -> None:
    problem = faulty.problem("worker_backing_off", "target:blocked")
    assert "database_not_accessible" in problem["message"]
    assert "blocked" in problem["message"]
    assert "writable" in problem["hint"]
    assert problem["affects"] == ["to_blocked"]
    (faulty.folder / "blocked").unlink()
    wait_until((faulty.folder / "blocked" / "crm.db").exists, "the file")


def test_a_wrong_password_is_told_and_tried_until_it_is_right(faulty: Faulty) -> None:
    problem = faulty.problem("worker_backing_off", "source:secret")
    assert "access_denied" in problem["message"]
    assert "check user, password" in problem["hint"]
    assert problem["affects"] == ["from_secret"]
    _execute(faulty.guarded, "alter role guarded password 'right'")
    faulty.fills("from_secret")


def test_pipelines_whose_tables_do_not_fit_wait_for_a_person(faulty: Faulty) -> None:
    for pipeline, code, says in (
        ("no_table", "target_table_missing", "no table no_table"),
        ("no_column", "unknown_target_column", "no column name"),
        ("no_key", "key_not_unique", "(id) is not unique"),
    ):
        problem = faulty.problem("pipeline_failed", f"pipeline:{pipeline}")
        assert code in problem["message"]
        assert says in problem["message"]
        assert "mappings/all.yaml:" in problem["message"]
        assert problem["hint"]
        assert problem["affects"] == [pipeline]
    _execute(faulty.target, "create table no_table (id bigint primary key, name text)")
    _execute(faulty.target, "alter table no_column add name text; alter table no_key add primary key (id)")
    for name in ("no_table", "crm"):  # a pipeline by its name, all of a target by the target's
        faulty.resume(name)
    for pipeline in ("no_table", "no_column", "no_key"):
        faulty.fills(pipeline)


def test_what_a_mapping_names_and_nobody_has_is_told(faulty: Faulty) -> None:
    secret = faulty.problem("pipeline_failed", "pipeline:no_secret")
    assert "FAULTY_KEY" in secret["message"] + secret["hint"]
    column = faulty.problem("pipeline_failed", "pipeline:no_source_column")
    assert "nmae" in column["message"]
    assert "did you mean name?" in column["hint"]


def test_a_source_table_that_is_missing_is_told_and_captured_once_it_is_there(faulty: Faulty) -> None:
    problem = faulty.problem("worker_failed", "source:absent")
    assert "table_missing" in problem["message"]
    assert "public.later" in problem["message"]
    assert "create it" in problem["hint"]
    assert problem["affects"] == ["from_absent"]
    _execute(faulty.source, "create table later (id bigint primary key, name text); insert into later values (1, 'a')")
    faulty.resume("absent")
    wait_until(lambda: _rows(faulty.target, "select name from from_absent") == [("a",)], "its row")


def test_privileges_are_asked_for_one_by_one(faulty: Faulty) -> None:
    problem = faulty.problem("worker_failed", "target:limited")
    assert "privilege_missing" in problem["message"]
    assert problem["hint"]
    _execute(faulty.target, "grant usage, create on schema limited to limited")
    _execute(faulty.target, "grant select on limited.to_limited to limited")
    faulty.resume("limited")
    problem = faulty.problem("pipeline_failed", "pipeline:to_limited")
    assert "privilege_missing" in problem["message"]
    assert "to_limited" in problem["message"]
    _execute(faulty.target, "grant insert, update, delete on limited.to_limited to limited")
    faulty.resume("to_limited")
    faulty.fills("limited.to_limited")


def test_a_source_table_that_is_dropped_stops_its_source_alone(faulty: Faulty) -> None:
    _execute(faulty.source, "drop table doomed; insert into accounts values (100, 'after')")
    problem = faulty.problem("worker_failed", "source:doomed")
    assert "table_replaced" in problem["message"]
    assert "public.doomed" in problem["message"]
    assert "take it out of `tables`" in problem["hint"]
    assert problem["affects"] == ["from_doomed"]
    wait_until(lambda: _rows(faulty.target, "select name from good where id = 100") == [("AFTER",)], "others apply")


def test_a_table_that_loses_a_column_later_stops_its_pipeline_alone(faulty: Faulty) -> None:
    faulty.fills("fragile")
    _execute(faulty.target, "alter table fragile drop column name")
    _execute(faulty.source, "insert into accounts values (101, 'later')")
    problem = faulty.problem("pipeline_failed", "pipeline:fragile")
    assert "fragile" in problem["message"]
    wait_until(lambda: _rows(faulty.target, "select name from good where id = 101") == [("LATER",)], "others apply")
    _execute(faulty.target, "alter table fragile add name text")
    faulty.resume("crm")
    wait_until(lambda: _rows(faulty.target, "select name from fragile where id = 101") == [("later",)], "it goes on")


def test_a_restart_reads_what_was_unset(faulty: Faulty) -> None:
    faulty.environment["FAULTY_KEY"] = "a key"
    assert faulty.stop() == 0
    faulty.start()
    faulty.fills("no_secret")
    assert "Traceback" not in faulty.log()
