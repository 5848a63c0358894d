"""`sync-hub check` finds what would stop `run`, whatever earlier runs have left, and leaves no trace itself."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.test_cli import PROGRAM, Project, loaded, wait_until
from tests.servers.postgres import drop_slot

CONFIG = """
hub: {{name: looked, state: "sqlite:///left/state.db"}}
broker: {{type: embedded, path: left/log.db, partitions: 2}}
sources: {{erp: {{type: postgres, dsn: "{dsn}", tables: [public.people]}}}}
targets: {{views: {{type: sqlite, path: left/views.db}}}}
mappings: [mappings/]
http: {{port: {port}}}
"""
MAPPING = """
mapping: people_to_views
from: {source: erp, table: public.people}
to: {target: views, table: people, create: true}
key: [id]
copy: [id, name]
"""
SLOT = "sync_hub_looked_erp"


@pytest.fixture
def project(source_dsn: str, tmp_path: Path) -> Project:
    """A project in which nothing has run yet."""
    with psycopg.connect(source_dsn, autocommit=True) as connection:
        connection.execute("create table people (id int primary key, name text)")
        connection.execute("insert into people values (1, 'Ada')")
    made = Project(tmp_path, source_dsn)
    made.write("config/hub.yaml", CONFIG.format(dsn=source_dsn, port=0))
    made.write("mappings/people.yaml", MAPPING)
    return made


@pytest.fixture
def hub(project: Project) -> Iterator[subprocess.Popen[str]]:
    """Its hub, running and loaded; a test may stop it before the end."""
    process = subprocess.Popen(
        [str(PROGRAM), "run", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=project.folder,
        env=project.environment,
    )
    assert process.stdout
    assert json.loads(process.stdout.readline())["ready"] is True
    wait_until(lambda: loaded_everything(project), 60)
    yield process
    if process.poll() is None:
        stop(process)


def loaded_everything(project: Project) -> bool:
    document = json.loads(project.run("status", "--json", code=None).stdout)
    return bool(document["pipelines"]) and document["status"] == "ok" and loaded(project)


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def errors(project: Project, code: int) -> dict[str, dict[str, Any]]:
    return {one["code"]: one for one in project.json("check", code=code)["findings"] if one["severity"] == "error"}


def everything(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*")}


def test_a_first_check_leaves_nothing_behind(project: Project) -> None:
    before = everything(project.folder)
    assert project.json("check")["ok"] is True
    assert everything(project.folder) == before


def test_a_check_leaves_a_database_of_others_as_it_is(project: Project) -> None:
    (project.folder / "left").mkdir()
    with sqlite3.connect(project.folder / "left" / "views.db") as views:
        views.execute("create table people (id integer primary key, name text)")
    views.close()
    before = everything(project.folder), (project.folder / "left" / "views.db").read_bytes()
    assert project.json("check")["ok"] is True
    assert (everything(project.folder), (project.folder / "left" / "views.db").read_bytes()) == before


def test_folders_that_cannot_be_made_are_found(project: Project) -> None:
    project.write("config/hub.yaml", CONFIG.format(dsn=project.dsn, port=0).replace("left/", "/proc/nowhere/"))
    found = project.json("check", code=3)["findings"]
    places = {one["path"]: one["code"] for one in found if one["severity"] == "error"}
    assert places == {
        "hub.state": "state_unavailable",
        "broker": "database_not_accessible",
        "targets.views": "database_not_accessible",
    }


def test_a_missing_target_table_is_found_unless_it_is_to_be_created(project: Project) -> None:
    project.write("mappings/people.yaml", MAPPING.replace(", create: true", ""))
    assert set(errors(project, 1)) == {"target_table_missing"}


def test_a_table_without_its_schema_is_recognised(project: Project) -> None:
    project.write("mappings/people.yaml", MAPPING.replace("table: public.people", "table: people"))
    assert errors(project, 2)["table_not_captured"]["hint"] == "did you mean public.people?"


def test_a_port_that_another_program_has_is_found(project: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        project.write("config/hub.yaml", CONFIG.format(dsn=project.dsn, port=taken.getsockname()[1]))
        assert errors(project, 3)["port_in_use"]["path"] == "http"


def test_a_state_in_postgresql_is_looked_at_and_not_made(project: Project, target_dsn: str) -> None:
    text = CONFIG.format(dsn=project.dsn, port=0).replace("sqlite:///left/state.db", target_dsn)
    project.write("config/hub.yaml", text)
    assert project.json("check")["ok"] is True
    with psycopg.connect(target_dsn) as connection:
        assert connection.execute("select to_regclass('sync_hub_positions')").fetchall() == [(None,)]


def test_the_hub_that_runs_here_is_no_error_and_is_named(project: Project, hub: subprocess.Popen[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        free.listen()
        project.write("config/hub.yaml", CONFIG.format(dsn=project.dsn, port=free.getsockname()[1]))
        (finding,) = (one for one in project.json("check")["findings"] if one["code"] == "port_in_use")
        workers = {worker["name"]: worker["pid"] for worker in project.json("status")["workers"]}
        assert finding["severity"] == "info"
        assert f"capture:erp is process {workers['capture:erp']}" in finding["message"]
        again = project.fails("run", code=3)
        assert "port_in_use" in again
        assert f"capture:erp is process {workers['capture:erp']} on {socket.gethostname()}" in again


def test_what_an_earlier_run_left_is_proven(project: Project, hub: subprocess.Popen[str], source_dsn: str) -> None:
    stop(hub)
    assert project.json("check")["ok"] is True, "it would go on"
    project.write("mappings/people.yaml", MAPPING.replace("copy: [id, name]", "fields: {id: id, name: upper(name)}"))
    (finding,) = (one for one in project.json("check")["findings"] if one["code"] == "mapping_pending")
    assert (finding["severity"], finding["path"]) == ("warning", "mappings/people.yaml:2")
    project.write("mappings/people.yaml", MAPPING)
    left = project.folder / "left"

    (left / "state.db").rename(left / "kept")
    assert set(errors(project, 1)) == {"offsets_without_state"}
    (left / "kept").rename(left / "state.db")

    (left / "log.db").rename(left / "kept")
    assert set(errors(project, 1)) == {"topic_missing"}
    (left / "kept").rename(left / "log.db")

    with sqlite3.connect(left / "views.db") as views:
        views.execute("create table moved as select * from sync_hub_offsets")
        views.execute("delete from sync_hub_offsets")
    assert set(errors(project, 1)) == {"offsets_lost"}
    with sqlite3.connect(left / "views.db") as views:
        views.execute("insert into sync_hub_offsets select * from moved")
        views.execute("alter table people rename to gone")
    views.close()
    assert set(errors(project, 1)) == {"target_table_missing"}
    with sqlite3.connect(left / "views.db") as views:
        views.execute("alter table gone rename to people")
    views.close()

    with psycopg.connect(source_dsn, autocommit=True) as connection:
        drop_slot(connection, SLOT)
    found = errors(project, 1)
    assert set(found) == {"slot_lost"}
    assert found["slot_lost"]["path"] == "sources.erp"


def test_findings_are_short_lines_where_they_are_piped(project: Project) -> None:
    project.write("config/hub.yaml", CONFIG.format(dsn="postgresql://u@127.0.0.1:1/x", port=0))
    lines = project.run("check", code=3).stdout.splitlines()
    assert "error sources.erp: connection_failed" in lines
    assert max(map(len, lines)) <= 100
