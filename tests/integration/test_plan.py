"""`sync-hub plan` and `apply` against real ends, without a hub that runs: what is said, refused, and asked of it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sync_hub.mapping.apply import compile_mapping
from sync_hub.model import Offset
from sync_hub.runtime.pipelines import configured, stored_bundle
from sync_hub.settings import load
from sync_hub.state import Pipeline, State
from tests.integration.test_cli import PROGRAM, Project

CONFIG = """
hub: {{name: planned, state: "sqlite:///left/state.db"}}
broker: {{type: embedded, path: left/log.db, partitions: 2}}
sources: {{erp: {{type: postgres, dsn: "{source}", tables: [public.people, public.others]}}}}
targets:
  crm: {{type: postgres, dsn: "{target}"}}
  wh: {{type: sqlite, path: left/wh.db}}
mappings: [mappings/]
http: {{port: 0}}
"""
TABLES = """
create table people (id int primary key, name text not null, born date, active boolean not null default true);
create table others (id int primary key, name text);
insert into people select n, 'name ' || n, '2000-01-01', n <> 7 from generate_series(1, 300) n;
analyze people;
"""
PEOPLE = """
mapping: people
from: {source: erp, table: public.people}
to: {target: crm, table: people_view, create: true}
key: [id]
fields:
  id: id
  name: upper(name)
  born: born
"""
VIEW = "create table people_view (id int primary key, name text, born date)"


class Planned(Project):
    """A project whose mapping `people` was applied and loaded, as a hub would have left it."""

    def __init__(self, folder: Path, source: str, target: str) -> None:
        super().__init__(folder, source)
        self.target = target
        self.write("config/hub.yaml", CONFIG.format(source=source, target=target))
        self.people()

    def people(self, *replaced: tuple[str, str], add: str = "") -> None:
        """Write the mapping's file, with something else in it."""
        text = PEOPLE
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        self.write("mappings/people.yaml", text + add)

    def applied(self, phase: str = "loaded") -> None:
        """What a hub stores when it has applied the files, with offsets in the target; what was there is forgotten."""
        with psycopg.connect(self.target, autocommit=True) as connection:
            connection.execute("drop table if exists sync_hub_offsets")
        settings = load(self.folder / "config" / "hub.yaml", self.environment)
        with contextlib.closing(State(settings.hub.state)) as state:
            for name, (bundle, spec) in configured(settings).items():
                text = json.dumps({part: getattr(bundle, part) for part in bundle.__struct_fields__})
                state.remove_pipeline(name)
                state.add_pipeline(Pipeline(name, spec.source, spec.table, spec.target, text, 1.0, phase))
                source, sink = settings.source(spec.source), settings.sink(spec.target)
                table = source.describe(spec.table)
                assert table is not None
                mapping = compile_mapping(bundle, table, secrets=self.environment)
                sink.open()
                sink.start_offsets([Offset(name, f"erp.{spec.table}", 0, "0" * 32, 5, "", mapping.hash)])
                sink.close()
                source.close()

    def pipelines(self) -> dict[str, Pipeline]:
        """What the state says now."""
        settings = load(self.folder / "config" / "hub.yaml", self.environment)
        with contextlib.closing(State(settings.hub.state)) as state:
            return {pipeline.name: pipeline for pipeline in state.pipelines()}

    def plan(self, *names: str, code: int = 1) -> Any:
        """The one change that is planned."""
        (change,) = self.json("plan", *names, code=code)["changes"]
        return change

    def refused(self) -> set[str]:
        """The codes for which neither `plan` nor `apply` takes the change; nothing was applied."""
        before = self.pipelines()
        codes = {one["code"] for one in self.plan(code=2)["findings"] if one["severity"] == "error"}
        assert self.fails("apply", "--yes", "--json", code=2).split(":")[0] in codes
        assert self.pipelines() == before
        return codes

    def columns(self) -> dict[str, str]:
        """The target table's columns and their types."""
        with psycopg.connect(self.target) as connection:
            return dict(
                connection.execute(
                    "select attname, format_type(atttypid, atttypmod) from pg_attribute"
                    " where attrelid = to_regclass('people_view') and attnum > 0 order by attnum"
                ).fetchall()
            )


@pytest.fixture
def project(source_dsn: str, target_dsn: str, tmp_path: Path) -> Iterator[Planned]:
    """Its view exists and has a row."""
    with psycopg.connect(source_dsn, autocommit=True) as connection:
        connection.execute(TABLES)
    with psycopg.connect(target_dsn, autocommit=True) as connection:
        connection.execute(VIEW)
        connection.execute("insert into people_view values (1, 'NAME 1', '2000-01-01')")
    made = Planned(tmp_path, source_dsn, target_dsn)
    made.applied()
    return made


def test_nothing_is_planned_when_the_files_say_what_runs(project: Planned) -> None:
    assert project.json("plan", code=0) == {"changes": [], "applicable": True}
    assert "nothing to apply" in project.run("plan").stdout
    before = project.pipelines()
    assert "nothing to apply" in project.call("apply").stdout
    assert project.pipelines() == before


def test_a_plan_of_a_hub_that_never_ran_creates_nothing(project: Planned, tmp_path: Path) -> None:
    fresh = Planned(tmp_path / "fresh", project.dsn, project.target)
    before = sorted(fresh.folder.rglob("*"))
    change = fresh.plan()
    assert (change["kind"], change["rows"], change["sample"]["rejected"]) == ("new", 300, 0)
    assert sorted(fresh.folder.rglob("*")) == before


def test_a_plan_tells_fields_columns_rows_and_values(project: Planned) -> None:
    project.people(
        ("upper(name)", "nullif(lower(name), 'name 2')\n  nick: left(name, 4)"), ("  born: born\n", "where: active\n")
    )
    change = project.plan()
    assert (change["kind"], change["place"], change["rows"]) == ("changed", "mappings/people.yaml:2", 300)
    assert {field["name"]: field["change"] for field in change["fields"]} == {
        "name": "changed",
        "nick": "added",
        "born": "removed",
    }
    assert change["settings"] == [{"name": "where", "old": "", "new": "active"}]
    assert change["columns"] == [{"name": "nick", "type": "text"}]
    sample = change["sample"]
    assert (sample["rows"], sample["changed"], sample["leaving"], sample["nulls"]) == (200, 199, 1, {"name": 1})
    assert {"key": {"id": 1}, "field": "name", "old": "NAME 1", "new": "name 1"} in sample["examples"]
    assert project.columns() == {"id": "integer", "name": "text", "born": "date"}, "a plan changes nothing"


def test_people_read_the_same_in_lines(project: Planned) -> None:
    project.people(("upper(name)", "name\n  nick: name"), ("  born: born\n", ""))
    told = project.call("plan", code=1).stdout
    for line in (
        "people (mappings/people.yaml:2) changed: all rows are written again",
        "  ~ name: upper(name) → name",
        "  + nick: name",
        "  - born: no longer written; the column stays in people_view with the values it has",
        "  the target table people_view gets the columns nick text",
        "  rows to write: about 300",
        "  of 200 sampled rows 200 get other values",
        '    id 1: name: "NAME 1" → "name 1"',
        "to apply: sync-hub apply",
    ):
        assert line in told.splitlines(), told


def test_the_estimate_of_a_large_table_is_the_servers(project: Planned) -> None:
    with psycopg.connect(project.dsn, autocommit=True) as connection:
        connection.execute("analyze people")
    project.people(("upper(name)", "name"))
    assert project.plan()["rows"] == 300


def test_new_rejections_are_found_in_rows_of_the_source(project: Planned) -> None:
    project.people(("upper(name)", "substring(name from 6)::smallint::text"))
    with psycopg.connect(project.dsn, autocommit=True) as connection:
        connection.execute("update people set name = 'name x' where id = 3")
    sample = project.plan()["sample"]
    assert (sample["rejected"], sample["rejection"]["key"]) == (1, {"id": 3})
    assert "people" in sample["rejection"]["message"]


def test_applying_adds_columns_and_asks_for_a_reload(project: Planned) -> None:
    project.people(("upper(name)", "upper(name)\n  nick: left(name, 4)\n  age: {expr: id, type: smallint}"))
    done = project.json("apply", code=0)
    assert done["applied"] == ["people"]
    assert 'add column if not exists "nick" text' in done["ddl"][0]
    assert project.columns() == {"id": "integer", "name": "text", "born": "date", "nick": "text", "age": "smallint"}
    pipeline = project.pipelines()["people"]
    assert (pipeline.phase, pipeline.unproven) == ("adopting", "its mapping was changed")
    assert "nick" in stored_bundle(pipeline).document
    assert project.json("plan", code=0)["changes"] == [], "it is under way"
    assert project.json("apply", code=0)["applied"] == []
    assert project.pipelines()["people"] == pipeline, "applied twice is applied once"


def test_a_reload_whose_state_was_not_written_is_asked_for_again(project: Planned) -> None:
    project.people(("upper(name)", "upper(name)\n  nick: left(name, 4)"))
    with psycopg.connect(project.target, autocommit=True) as connection:
        connection.execute("alter table people_view add column nick text")
    assert project.plan()["columns"] == []
    assert project.json("apply", code=0)["ddl"] == []
    assert project.pipelines()["people"].phase == "adopting"


@pytest.mark.parametrize("phase", ["loaded", "adopting"])
def test_a_column_that_the_target_lacks_is_added_though_no_file_has_changed(project: Planned, phase: str) -> None:
    project.people(("fields:\n  id: id\n  name: upper(name)\n  born: born\n", "copy: all\n"))
    with psycopg.connect(project.dsn, autocommit=True) as connection:
        connection.execute("alter table people add column extra text")
    project.applied(phase)
    change = project.plan()
    assert [one["name"] for one in change["columns"]] == ["active", "extra"]
    assert (change["kind"], change["notes"], change["fields"]) == ("changed", [], [])
    assert project.json("apply", code=0)["applied"] == ["people"]
    assert list(project.columns()) == ["id", "name", "born", "active", "extra"]
    assert project.json("plan", code=0)["changes"] == []


def test_columns_are_added_to_a_sqlite_target_too(project: Planned) -> None:
    project.write("mappings/wh.yaml", PEOPLE.replace("crm", "wh").replace("mapping: people", "mapping: stored"))
    project.applied()
    with sqlite3.connect(project.folder / "left" / "wh.db") as views:
        views.execute("create table people_view (id integer primary key, name text, born text)")
    views.close()
    project.write(
        "mappings/wh.yaml",
        PEOPLE.replace("crm", "wh").replace("mapping: people", "mapping: stored") + "  active: active\n",
    )
    assert project.plan("stored")["columns"] == [{"name": "active", "type": "boolean"}]
    assert project.json("apply", "stored", code=0)["ddl"] == ['alter table "people_view" add column "active" BOOLEAN']
    assert project.json("plan", code=0)["changes"] == []


def test_only_the_mappings_named_are_applied(project: Planned) -> None:
    others = PEOPLE.replace("mapping: people", "mapping: others").replace("public.people", "public.others")
    project.write("mappings/others.yaml", others.replace("people_view", "others").replace("  born: born\n", ""))
    project.people(("upper(name)", "name"))
    assert [one["mapping"] for one in project.json("plan", code=1)["changes"]] == ["others", "people"]
    assert project.plan("others")["kind"] == "new"
    assert project.json("apply", "others", code=0)["applied"] == ["others"]
    pipelines = project.pipelines()
    assert (pipelines["others"].phase, pipelines["people"].phase) == ("new", "loaded")
    assert "unknown_mapping" in project.fails("plan", "nobody", code=2)


def test_a_file_that_differs_only_in_words_loads_nothing(project: Planned) -> None:
    project.people(("key: [id]", "description: all of them\nowner: someone\nkey: [id]"), add="# done\n")
    assert project.plan()["kind"] == "text"
    assert "nothing to load" in project.call("apply").stdout
    pipeline = project.pipelines()["people"]
    assert (pipeline.phase, pipeline.unproven) == ("loaded", "")
    assert "all of them" in stored_bundle(pipeline).document
    assert project.json("plan", code=0)["changes"] == []


def test_a_dropped_field_needs_a_yes_where_nobody_can_be_asked(project: Planned) -> None:
    project.people(("  born: born\n", ""))
    line = project.fails("apply", code=2)
    assert line.startswith("confirmation_needed: the mapping people no longer writes born")
    assert "sync-hub apply people --yes" in line
    assert project.pipelines()["people"].phase == "loaded"
    told = project.call("apply", "--yes").stdout
    assert "born: no longer written; the column stays" in told
    assert project.pipelines()["people"].phase == "adopting"
    assert "born" in project.columns()


def test_at_a_terminal_somebody_is_asked(project: Planned) -> None:
    project.people(("  born: born\n", ""))
    code, told = at_terminal(project, "apply", answer="n")
    assert (code, "nothing was applied" in told) == (1, True)
    assert project.pipelines()["people"].phase == "loaded"
    code, told = at_terminal(project, "apply", answer="y")
    assert (code, "see sync-hub status people" in told) == (0, True)
    assert project.pipelines()["people"].phase == "adopting"


def at_terminal(
    project: Planned, *arguments: str, answer: str, meanwhile: Callable[[], object] = lambda: None
) -> tuple[int, str]:
    """Run a command at a terminal and answer its question; the exit code, and all that was shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(PROGRAM), *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=project.folder,
        env=project.environment | {"TERM": "dumb"},
        start_new_session=True,
    )
    os.close(theirs)
    told, answered = b"", False
    with contextlib.suppress(OSError):  # the other side was closed
        while part := os.read(ours, 4096):
            told += part
            if not answered and b"apply this?" in told:
                meanwhile()
                os.write(ours, f"{answer}\n".encode())
                answered = True
    os.close(ours)
    return process.wait(30), told.decode()


def test_an_answer_that_comes_late_takes_back_nothing_that_was_applied_meanwhile(project: Planned) -> None:
    def another() -> None:
        project.people(("upper(name)", "lower(name)"))
        project.call("apply", "--yes")

    project.people(("upper(name)", "upper(name)\n  nick: left(name, 4)"))
    code, told = at_terminal(project, "apply", answer="y", meanwhile=another)
    assert (code, told.splitlines()[-1].split(":")[0]) == (2, "plan_outdated"), told
    assert told.splitlines()[-1].endswith("(run: sync-hub plan)")
    assert "lower(name)" in stored_bundle(project.pipelines()["people"]).document
    assert "nick" not in project.columns(), "nothing was applied"


def test_a_new_pipeline_that_runs_meanwhile_is_not_begun_anew(project: Planned) -> None:
    others = PEOPLE.replace("mapping: people", "mapping: others").replace("public.people", "public.others")
    project.write("mappings/others.yaml", others.replace("people_view", "others").replace("  born: born\n", ""))
    running: list[Pipeline] = []

    def runs() -> None:
        project.call("apply", "--yes")
        settings = load(project.folder / "config" / "hub.yaml", project.environment)
        with contextlib.closing(State(settings.hub.state)) as state:
            state.advance_phase(["others"], "loaded", only_from=["new"])
        running.append(project.pipelines()["others"])

    code, told = at_terminal(project, "apply", answer="y", meanwhile=runs)
    assert (code, "plan_outdated" in told) == (2, True), told
    assert project.pipelines()["others"] == running[0]


def test_a_mapping_whose_file_is_gone_is_forgotten_after_a_yes(project: Planned) -> None:
    (project.folder / "mappings" / "people.yaml").unlink()
    assert project.plan()["kind"] == "gone"
    assert "the mapping people is gone" in project.fails("apply", code=2)
    project.call("apply", "people", "--yes")
    assert project.pipelines() == {}
    assert project.columns(), "its rows stay"


def test_a_changed_key_needs_an_empty_table(project: Planned) -> None:
    project.people(("  id: id", "  id: id + 1000"))
    assert project.refused() == {"target_not_empty"}
    with psycopg.connect(project.target, autocommit=True) as connection:
        connection.execute("truncate people_view")
    assert project.plan()["key_changed"] is True
    assert "has another key" in project.fails("run", "--apply", code=2)
    assert project.pipelines()["people"].phase == "loaded"
    project.call("apply")
    assert project.pipelines()["people"].phase == "adopting"


def test_a_changed_target_table_needs_to_be_empty_or_not_there(project: Planned) -> None:
    project.people(("people_view", "other_view"))
    with psycopg.connect(project.target, autocommit=True) as connection:
        connection.execute("create table other_view as select * from people_view")
        connection.execute("alter table other_view add primary key (id)")
        assert project.refused() == {"target_not_empty"}
        connection.execute("drop table other_view")
    change = project.plan()
    assert (change["creates"], change["columns"]) == (True, [])
    assert [one["name"] for one in change["settings"]] == ["to"]


def test_another_source_table_or_target_needs_another_name(project: Planned) -> None:
    project.people(("public.people", "public.others"), ("  born: born\n", ""))
    assert project.refused() == {"mapping_source_changed"}
    project.people(("target: crm", "target: wh"))
    assert project.refused() == {"mapping_target_changed"}


def test_what_check_finds_refuses_the_plan(project: Planned) -> None:
    project.people((", create: true", ""), ("  born: born\n", "  born: born\n  nick: name\n"))
    assert project.refused() == {"unknown_target_column"}
    project.people(("born: born", "born: active"))
    assert project.refused() == {"type_does_not_fit"}


def test_a_wrong_mapping_and_a_silent_end_have_their_exit_codes(project: Planned) -> None:
    project.people(("upper(name)", "upper(nam)"))
    assert "mappings/people.yaml:8:15" in project.fails("plan", code=2)
    project.people(("public.people", "public.nowhere"))
    assert project.fails("plan", code=2).startswith("table_not_captured")
    project.write("config/hub.yaml", CONFIG.format(source="postgresql://u@127.0.0.1:1/x", target=project.target))
    project.people()
    project.fails("plan", code=3)


def test_another_secret_is_something_to_apply(project: Planned) -> None:
    hashed = ("upper(name)", "hmac_sha256(name, secret('KEY'))")
    project.people(hashed)
    project.environment["KEY"] = "old"
    project.applied()
    assert project.json("plan", code=0)["changes"] == []
    project.environment["KEY"] = "new"
    change = project.plan()
    assert (change["kind"], change["fields"]) == ("changed", [])
    assert "a secret" in change["notes"][0]
    project.call("apply")
    assert project.pipelines()["people"].phase == "adopting"


def test_a_changed_lookup_is_a_changed_mapping(project: Planned) -> None:
    project.write("mappings/lookups/kinds.csv", "id,kind\n1,one\n")
    project.people(("upper(name)", "lookup('kinds', id::text)"))
    project.call("apply")
    project.write("mappings/lookups/kinds.csv", "id,kind\n1,one\n2,two\n")
    change = project.plan()
    assert change["settings"] == [{"name": "lookup kinds", "old": "1 row", "new": "2 rows"}]
    assert change["sample"]["changed"] == 1


def test_a_column_that_left_the_source_leaves_old_values_unknown(project: Planned) -> None:
    with psycopg.connect(project.dsn, autocommit=True) as connection:
        connection.execute("alter table people rename column name to full_name")
    assert "there is no column name" in project.fails("plan", code=2)
    project.people(("upper(name)", "upper(full_name)"))
    change = project.plan()
    assert "no longer compiles" in change["notes"][0]
    assert (change["sample"]["changed"], change["sample"]["rejected"]) == (0, 0)


def test_a_mapping_that_has_no_rows_yet_takes_any_change(project: Planned) -> None:
    project.applied(phase="new")
    project.people(("  id: id", "  id: id + 1000"))
    project.call("apply")
    pipeline = project.pipelines()["people"]
    assert (pipeline.phase, pipeline.unproven) == ("new", "")
    assert "1000" in stored_bundle(pipeline).document


def test_run_apply_stops_at_a_dropped_field(project: Planned) -> None:
    project.people(("  born: born\n", ""))
    assert "no longer writes born" in project.fails("run", "--apply", code=2)
    assert project.pipelines()["people"].phase == "loaded"
