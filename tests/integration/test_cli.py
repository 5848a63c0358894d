"""The command line as a user runs it: in a process of its own, against real servers; errors are one line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pytest

from connectors.local_postgres import LocalPostgres
from sync_hub import __version__
from sync_hub.cli import main as cli_main
from tests.servers.postgres import database

PROGRAM = Path(sys.executable).parent / "sync-hub"
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"

TABLES = """
create table customers (id bigint primary key, first_name text, "Odd Name" text, balance numeric(12,2));
create table pairs (a int, b text, note text, primary key (a, b));
create table keyless (a int);
insert into customers select n, 'name ' || n, null, n * 1.5 from generate_series(1, 20) n;
insert into pairs values (1, 'x', 'first');
"""


class Project:
    """A folder in which `sync-hub` is run."""

    def __init__(self, folder: Path, dsn: str = "") -> None:
        self.folder = folder
        self.dsn = dsn
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("SYNC_HUB")}

    def run(self, *arguments: str, code: int | None = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run to the end; the exit code is checked, and that nothing ever shows a traceback."""
        done = subprocess.run(
            [str(PROGRAM), *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
        assert "Traceback" not in done.stdout + done.stderr
        assert code is None or done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run with --json."""
        return json.loads(self.call(*arguments, "--json", code=code).stdout)

    def call(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """The same in this process, which is quicker: for variations of what was once run for real."""
        out, err = io.StringIO(), io.StringIO()
        before = Path.cwd()
        with mock.patch.dict(os.environ, self.environment, clear=True), contextlib.redirect_stdout(out):
            os.chdir(self.folder)
            try:
                with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as caught:
                    cli_main.main(arguments)
            finally:
                os.chdir(before)
        assert caught.value.code == code, out.getvalue() + err.getvalue()
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def fails(self, *arguments: str, code: int) -> str:
        """Run what must fail; returns its one line."""
        done = self.call(*arguments, code=code)
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        return lines[0]

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


@pytest.fixture
def empty(tmp_path: Path) -> Project:
    """A folder without anything."""
    return Project(tmp_path)


@pytest.fixture(scope="module")
def drafted(source_server: LocalPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project that `init` made from a real database; nothing has run yet."""
    with database(source_server) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(TABLES)
        project = Project(tmp_path_factory.mktemp("drafted"), dsn)
        project.run("init", "--source", dsn, "--target", "sqlite:///views.db")
        file = project.folder / "config" / "hub.yaml"
        text = file.read_text().replace("port: 8080", "port: 0")
        file.write_text(re.sub(r"  t[0-9a-f]{12}:", "  erp:", text))
        for mapping in (project.folder / "mappings").iterdir():
            mapping.write_text(re.sub(r"source: t[0-9a-f]{12}", "source: erp", mapping.read_text()))
        yield project


@pytest.fixture(scope="module")
def running(drafted: Project) -> Iterator[Project]:
    """The same project while its hub runs and everything is loaded."""
    process = subprocess.Popen(
        [str(PROGRAM), "run", "--json"],
        stdout=subprocess.PIPE,
        stderr=(drafted.folder / "log").open("w"),
        stdin=subprocess.DEVNULL,
        cwd=drafted.folder,
        env=drafted.environment,
    )
    assert process.stdout
    assert json.loads(process.stdout.readline())["ready"] is True
    wait_until(lambda: drafted.run("status", code=None).returncode == 0 and loaded(drafted), 60)
    yield drafted
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    document = drafted.json("status", code=1)
    assert {problem["code"] for problem in document["problems"]} == {"worker_stopped"}
    assert {problem["command"] for problem in document["problems"]} == {"sync-hub run"}, "the whole hub, not its parts"


def loaded(project: Project) -> bool:
    return all(part["lag_seconds"] == 0 for part in project.json("status")["pipelines"].values())


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)


# Before anything runs


def test_version_and_help_are_quick(empty: Project) -> None:
    assert empty.run("--version").stdout == f"sync-hub {__version__}\n"
    started = time.monotonic()
    text = empty.run("--help").stdout
    assert time.monotonic() - started < 1.5, "half a second on a machine at rest"
    assert all(f"  {name} " in text for name in ("check", "init", "run", "status", "tail", "mapping"))


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, sync_hub.cli.main; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"sqlalchemy", "fastapi", "pydantic", "sqlglot", "psycopg", "kafka", "rich", "uvicorn", "apscheduler"}
    assert heavy & set(modules) == set()


def test_init_drafts_from_the_catalog(drafted: Project) -> None:
    mapping = (drafted.folder / "mappings" / "customers.yaml").read_text()
    assert '  - "Odd Name"  # text\n' in mapping
    assert "key: [id]\n" in mapping
    assert "key: [a, b]\n" in (drafted.folder / "mappings" / "pairs.yaml").read_text()
    assert not (drafted.folder / "mappings" / "keyless.yaml").exists()


def test_init_never_overwrites(drafted: Project, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("config/hub.yaml", "mine: true\n")
    done = project.json("init", "--source", drafted.dsn, "--tables", "public.pairs, public.cust*")
    assert done["kept"] == ["config/hub.yaml"]
    catalog, *mappings = sorted(done["written"])
    assert Path(catalog).parent == Path("config/catalog")
    assert mappings == ["mappings/customers.yaml", "mappings/pairs.yaml"]
    assert (tmp_path / "config" / "hub.yaml").read_text() == "mine: true\n"
    assert project.json("init", "--source", drafted.dsn)["written"] == []


def test_init_writes_no_password(drafted: Project, tmp_path: Path) -> None:
    project = Project(tmp_path)
    secret = drafted.dsn.replace("postgres@", "postgres:canary@")
    done = project.run("init", "--source", secret, "--tables", "public.pairs")
    files = [path.read_text() for path in tmp_path.rglob("*.yaml")]
    assert not any("canary" in text for text in [*files, done.stdout, done.stderr])
    variable = re.search(r"next: export (\w+_DSN)=", done.stdout)
    assert variable
    assert any(f'dsn: "${{{variable[1]}}}"' in text for text in files)
    assert project.run("mapping", "list").stdout, "what needs no server needs no variable"
    assert "unset_variable" in project.fails("check", code=2)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["init"], 2, "source_missing"),
        (["init", "--sql"], 2, "source_missing"),
        (["init", "--source", "oracle://x/y"], 2, "unknown_url"),
        (["init", "--source", "postgresql://nobody@127.0.0.1:1/x"], 3, "127.0.0.1"),
        (["init", "--source", "postgresql://h/x", "--target", "postgresql://h/x"], 2, "same_database"),
    ],
)
def test_init_says_what_it_needs(empty: Project, arguments: list[str], code: int, says: str) -> None:
    assert says in empty.fails(*arguments, code=code)


def test_init_prints_the_script_for_the_administrator(drafted: Project) -> None:
    script = drafted.run("init", "erp", "--sql").stdout
    assert "publication" in script.lower()
    assert drafted.json("init", "erp", "--sql")["sql"].strip() == script.strip()
    assert "configured are: erp" in drafted.fails("init", "erpp", "--sql", code=2)


def test_check_finds_nothing_that_stops_the_hub(drafted: Project) -> None:
    answer = drafted.json("check")
    assert answer["ok"] is True
    assert all(finding["severity"] != "error" for finding in answer["findings"])
    assert "nothing stops the hub" in drafted.run("check").stdout


def test_check_looks_at_every_part_whatever_is_wrong(drafted: Project, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("config/hub.yaml", f"""
hub: {{name: broken}}
broker: {{type: embedded}}
sources:
  erp: {{type: postgres, dsn: "{drafted.dsn}", tables: [public.customers, public.nowhere]}}
  gone: {{type: postgres, dsn: "postgresql://u@127.0.0.1:1/x", tables: [public.t]}}
targets:
  crm: {{type: postgres, dsn: "postgresql://u:canary@127.0.0.1:1/x"}}
""")  # fmt: skip
    project.write(
        "mappings/a.yaml",
        """
mapping: misspelt
from: {source: erp, table: public.customers}
to: {target: crm, table: customers}
key: [id]
fields: {id: id, name: frist_name}
---
mapping: nowhere
from: {source: epr, table: public.customers}
to: {target: crm, table: customers}
key: [id]
copy: [id]
""",
    )
    answer = project.json("check", code=2)
    found = {finding["path"].partition(":")[0]: finding for finding in answer["findings"]}
    assert {"sources.erp", "sources.gone", "targets.crm", "mappings/a.yaml"} <= {
        ".".join(path.split(".")[:2]) for path in found
    }
    messages = json.dumps(answer)
    assert "frist_name" in messages
    assert "first_name" in messages, "a suggestion"
    assert "'epr'" in messages
    assert "canary" not in messages
    assert "public.nowhere" in messages


def test_check_exits_3_when_something_does_not_answer(drafted: Project, tmp_path: Path) -> None:
    project = Project(tmp_path)
    text = (drafted.folder / "config" / "hub.yaml").read_text().replace("127.0.0.1:", "127.0.0.1:1#")
    project.write("config/hub.yaml", re.sub(r"dsn: .*", 'dsn: "postgresql://u@127.0.0.1:1/x"', text))
    project.write("mappings/empty.yaml", "")
    assert project.json("check", code=3)["ok"] is False


def test_check_saves_catalogs_for_mapping_tests(drafted: Project) -> None:
    drafted.run("check", "--save")
    catalog = (drafted.folder / "config" / "catalog" / "erp.yaml").read_text()
    assert "balance: numeric(12,2)" in catalog


TESTED = """
mapping: tested
owner: data@example.com
from: {source: erp, table: public.customers}
to: {target: views, table: tested}
key: [id]
fields:
  id: id
  name: upper(first_name)
tests:
  - name: shouts
    given: {id: 1, first_name: ada}
    expect: {name: ADA}
"""


def test_mapping_test_shows_only_differences(empty: Project) -> None:
    file = empty.write("mappings/m.yaml", TESTED)
    assert "1 test, 0 failed" in empty.run("mapping", "test").stdout
    file.write_text(TESTED.replace("name: ADA", "name: Ada"))
    done = empty.run("mapping", "test", str(file), code=1)
    assert "expected Ada, got ADA" in done.stdout
    assert "m.yaml:" in done.stdout
    (result,) = empty.json("mapping", "test", code=1)["results"]
    assert (result["ok"], result["name"]) == (False, "shouts")


def test_mapping_test_goes_on_after_a_broken_mapping(empty: Project) -> None:
    empty.write("mappings/a.yaml", TESTED.replace("upper(", "uper(").replace("mapping: tested", "mapping: wrong"))
    empty.write("mappings/b.yaml", TESTED)
    done = empty.run("mapping", "test", code=2)
    assert "tested: shouts" in done.stdout
    assert "did you mean upper" in done.stdout


def test_mapping_list_and_functions(empty: Project) -> None:
    empty.write("mappings/m.yaml", TESTED)
    (row,) = empty.json("mapping", "list")
    assert (row["mapping"], row["owner"], row["tests"]) == ("tested", "data@example.com", 1)
    assert "upper(text) → text" in empty.run("mapping", "functions").stdout
    assert "upper(" in empty.run("mapping", "functions", "upper").stdout
    assert {entry["name"] for entry in empty.json("mapping", "functions")} > {"upper", "coalesce", "date_trunc"}
    assert "did you mean upper?" in empty.fails("mapping", "functions", "uper", code=2)


def test_mapping_preview_reads_real_rows(drafted: Project) -> None:
    name = next(row["mapping"] for row in drafted.json("mapping", "list") if row["table"] == "public.customers")
    (shown,) = drafted.json("mapping", "preview", name, "--key", "3")
    assert shown["row"] == {"id": 3, "first_name": "name 3", "Odd Name": None, "balance": "4.50"}
    assert shown["mapped"]["balance"] == "4.50"
    assert len(drafted.json("mapping", "preview", name, "--limit", "2")) == 2
    assert "name 1" in drafted.run("mapping", "preview", name).stdout
    assert json.loads(drafted.call("mapping", "preview", name, "--key", "999", "--json", code=1).stdout) == []
    assert "no such row" in drafted.run("mapping", "preview", name, "--key", "999", code=1).stdout
    assert "bad_key" in drafted.fails("mapping", "preview", name, "--key", "x", code=2)
    assert "did you mean" in drafted.fails("mapping", "preview", name[:-1], code=2)
    pairs = next(row["mapping"] for row in drafted.json("mapping", "list") if row["table"] == "public.pairs")
    (shown,) = drafted.json("mapping", "preview", pairs, "--key", '{"a": 1, "b": "x"}')
    assert shown["row"]["note"] == "first"
    assert "bad_key" in drafted.fails("mapping", "preview", pairs, "--key", "1", code=2)


# While it runs


def test_status_tells_what_health_tells(running: Project) -> None:
    document = running.json("status")
    assert document["status"] == "ok"
    assert {part["applied_total"] for part in document["pipelines"].values()} == {20, 1}
    text = running.run("status").stdout
    assert "streaming" in text
    assert "running" in text
    assert re.search(r"streaming .* [\d.]+ (B|KB|MB)$", text, re.M), "sizes have units"
    assert "counted since their workers started" in text
    part = running.json("status", next(iter(document["pipelines"])))
    assert len(part["pipelines"]) == 1
    assert set(part["sources"]) == {"erp"}
    assert running.json("status", "views")["pipelines"].keys() == document["pipelines"].keys()
    assert "unknown_name" in running.fails("status", "nothing", code=2)


def test_pause_and_resume_reach_the_worker(running: Project) -> None:
    answer = running.json("pause", "erp", "--for", "2h", "--reason", "moving")
    assert answer["subject"] == "source:erp"
    wait_until(lambda: running.json("status")["sources"]["erp"]["state"] == "paused")
    (problem,) = running.json("status")["problems"]
    assert (problem["code"], problem["severity"]) == ("paused", "degraded")
    assert "moving" in problem["message"]
    answer = running.json("resume", "source:erp")
    assert answer["changed"] is True
    assert (answer["pipelines"], answer["pending"]) == (list(running.json("status")["pipelines"]), [])
    wait_until(lambda: running.json("status")["sources"]["erp"]["state"] == "streaming")
    assert "was not paused" in running.run("resume", "erp").stdout
    assert "did you mean erp?" in running.fails("pause", "er", code=2)
    assert "bad_duration" in running.fails("pause", "erp", "--for", "soon", code=2)


def test_a_changed_mapping_is_shown_as_pending_wherever_one_looks(running: Project) -> None:
    file = running.folder / "mappings" / "pairs.yaml"
    before = file.read_text()
    file.write_text(before.replace("as it is", "changed"))
    name = next(name for name in running.json("status")["pipelines"] if name.startswith("pairs"))
    assert f"pending pipeline:{name}" in running.run("status").stdout
    assert running.json("resume", "erp")["pending"] == [name]
    assert f"sync-hub plan {name}" in running.run("resume", name).stdout
    file.write_text(before)
    assert "pending" not in running.run("status").stdout


def test_topics_and_their_partitions(running: Project) -> None:
    topics = {topic["topic"]: topic for topic in running.json("topics")}
    assert topics["erp.public.customers"]["records"] == 20
    partitions = running.json("topics", "erp.public.customers")
    assert sum(partition["records"] for partition in partitions) == 20
    assert len(partitions) == topics["erp.public.customers"]["partitions"] == 4
    assert "did you mean erp.public.customers?" in running.fails("topics", "erp.public.customer", code=2)


def tail(project: Project, *arguments: str) -> list[dict[str, Any]]:
    done = project.call("tail", "erp.public.customers", "--no-follow", "--json", *arguments)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_tail_reads_from_anywhere(running: Project) -> None:
    assert {record["key"]["id"] for record in tail(running, "--from", "beginning")} == set(range(1, 21))
    assert tail(running, "--from", "end") == []
    assert len(tail(running)) == 10
    assert len(tail(running, "--from", "-3")) == 3
    assert all(record["offset"] >= 2 for record in tail(running, "--from", "2"))
    (record,) = tail(running, "--from", "beginning", "--key", "7")
    assert (record["op"], record["after"]["first_name"]) == ("read", "name 7")
    assert tail(running, "--from", "beginning", "--key", '{"id": 7}') == [record]
    assert len(tail(running, "--from", "beginning", "--limit", "4")) == 4
    assert "bad_place" in running.fails("tail", "erp.public.customers", "--from", "somewhere", code=2)
    assert "unknown_topic" in running.fails("tail", "nothing", code=2)


def test_tail_follows_until_it_is_interrupted(running: Project) -> None:
    process = subprocess.Popen(
        [str(PROGRAM), "tail", "erp.public.pairs", "--from", "-1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=running.folder,
        env=running.environment,
    )
    assert process.stdout
    assert process.stderr
    assert '{"a":' in process.stdout.readline()
    with psycopg.connect(running.dsn, autocommit=True) as connection:
        connection.execute("insert into pairs select max(a) + 1, e'\\x1b[31m', null from pairs")
    line = process.stdout.readline()
    assert "create" in line
    assert "\x1b" not in line, "what a row holds never reaches the terminal as a control character"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert process.stderr.read() == ""


def test_a_reader_that_goes_away_is_no_error(running: Project) -> None:
    command = f"{PROGRAM} tail erp.public.customers --from beginning | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        cwd=running.folder,
        env=running.environment,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0


def test_two_hubs_on_one_port_is_one_line(running: Project, tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        project = Project(tmp_path)
        text = (running.folder / "config" / "hub.yaml").read_text()
        project.write("config/hub.yaml", text.replace("port: 0", f"port: {taken.getsockname()[1]}"))
        project.write("mappings/empty.yaml", "")
        assert "port_in_use" in project.fails("run", code=3)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["status"], 2, "config_missing"),
        (["-c", "none.yaml", "status"], 2, "none.yaml"),
        (["status", "-c", "none.yaml"], 2, "none.yaml"),
        (["mapping", "list", "-c", "none.yaml"], 2, "none.yaml"),
        (["mapping", "list"], 2, "mappings"),
        (["staus"], 2, "staus"),
        (["status", "--jsn"], 2, "--jsn"),
        (["pause"], 2, "NAME"),
        (["tail", "t", "--limit", "0"], 2, "limit"),
        (["tail", "t", "--from"], 2, "--from"),
        (["run", "--only", "capture:erp"], 2, "config_missing"),
    ],
)
def test_bad_usage_is_one_line(empty: Project, arguments: list[str], code: int, says: str) -> None:
    assert says in empty.fails(*arguments, code=code)


def test_an_error_of_the_real_program_is_one_line(empty: Project) -> None:
    for arguments, code in ((["status"], 2), (["staus"], 2), (["init", "--source", "postgresql://u@127.0.0.1:1/x"], 3)):
        done = empty.run(*arguments, code=code)
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.rstrip("\n").isprintable(), "no colours without a terminal"


def test_errors_are_json_when_asked_for(empty: Project) -> None:
    done = empty.run("status", "--json", code=2)
    assert json.loads(done.stdout)["error"]["code"] == "config_missing"
    assert len(done.stderr.splitlines()) == 1


SMALL = """
hub: {name: small, state: "sqlite:///state.db"}
broker: {type: embedded, path: log.db}
sources: {erp: {type: postgres, dsn: "postgresql://u@127.0.0.1:1/x", tables: [public.t]}}
targets: {erp: {type: sqlite, path: views.db}}
"""


def test_a_name_of_two_things_must_be_told_apart(empty: Project) -> None:
    empty.write("hub.yaml", SMALL)
    line = empty.fails("pause", "erp", "-c", "hub.yaml", code=2)
    assert "source:erp or target:erp" in line
    assert "paused" in empty.run("pause", "target:erp", SYNC_HUB_CONFIG="hub.yaml").stdout


def test_a_state_that_cannot_be_opened_exits_3(empty: Project) -> None:
    empty.write("hub.yaml", SMALL.replace("sqlite:///state.db", "sqlite:////dev/null/state.db"))
    for arguments in (["status"], ["pause", "source:erp"], ["run"]):
        assert "state_unavailable" in empty.fails("-c", "hub.yaml", *arguments, code=3)


def test_an_unexpected_error_is_one_line_and_a_trace_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sync_hub import settings

    def broken(*_: object) -> None:
        raise RuntimeError("something\nodd")

    monkeypatch.setattr(settings, "load", broken)
    with pytest.raises(SystemExit) as caught:
        cli_main.main(["status"])
    assert caught.value.code == 1
    assert capsys.readouterr().err == ("unexpected: RuntimeError: something odd — repeat with --debug to see where\n")
    with pytest.raises(RuntimeError, match="something"):
        cli_main.main(["status", "--debug"])


# What is documented


def commands(command: Any, path: str = "sync-hub") -> Iterator[tuple[str, Any]]:
    for name, part in getattr(command, "commands", {}).items():
        yield f"{path} {name}", part
        yield from commands(part, f"{path} {name}")


def test_every_command_and_option_is_documented() -> None:
    import typer.main

    text = DOCUMENTATION.read_text()
    tree = typer.main.get_command(cli_main.app)
    described = dict(re.findall(r"^## `(sync-hub[a-z ]*?)(?: [\[A-Z][^`\n]*)?`\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    found = {name: command for name, command in commands(tree) if not hasattr(command, "commands")}
    assert set(described) == set(found)
    general = text.partition("\n## ")[0]
    for name, command in found.items():
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                if option.startswith("-"):
                    assert f"`{option}`" in described[name] + general, f"{name} {option}"
        assert any("--json" in parameter.opts for parameter in command.params), f"{name} has no --json"
    for parameter in tree.params:
        for option in parameter.opts:
            assert f"`{option}`" in general, option
