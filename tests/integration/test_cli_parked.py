"""`sync-hub parked`, and what other commands tell of parked records, from a target that holds some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sync_hub.cli.parked import json_text
from sync_hub.model import Outgoing
from tests.hub_state import CONFIG, HubState
from tests.parked_rows import FIRST_AT, PIPELINE, hold, row

OTHER = "customer_to_wh"


class Hub(HubState):
    """A hub with two targets that holds nothing yet, and its commands."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, CONFIG.replace("mappings:", "  wh: {type: sqlite, path: wh.db}\nmappings:"))
        self.pipeline()
        self.pipeline(OTHER, target="wh")
        self.runs()

    def runs(self, **reports: dict[str, Any]) -> None:
        """Everything runs and is proven; `reports` says more of a pipeline."""
        self.capture()
        self.deliver(pipelines={PIPELINE: reports.get(PIPELINE, {})})
        self.deliver("wh", pipelines={OTHER: reports.get(OTHER, {})})
        self.progress([5, 7])

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command."""
        command = [sys.executable, "-m", "sync_hub.cli.main", "-c", str(self.file), *arguments]
        environment = {**os.environ, "COLUMNS": "200", "TZ": "Asia/Tokyo"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    def json(self, *arguments: str) -> Any:
        """What a command answers in JSON."""
        return json.loads(self.run(*arguments, "--json").stdout)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def test_the_list_counts_first_and_says_what_it_leaves_out(hub: Hub) -> None:
    rows = [row(number) for number in range(1, 104)]
    closed = {"state": "discarded", "closed_at": FIRST_AT + 200, "reason": "not ours", "next_at": None}
    hold(hub, [*rows, row(104, code="odd"), row(105, **closed)])
    lines = hub.run("parked", "list").stdout.splitlines()
    assert lines[0] == f"{PIPELINE}: 103 check_violated, 1 odd"
    assert sum(line.startswith("error ") for line in lines) == 100
    assert lines[-1] == "the oldest 100 of 104 are shown: --limit N shows more"
    some = hub.run("parked", "list", "--limit", "2", "--closed").stdout.splitlines()
    assert some[0] == f"{PIPELINE}: 103 check_violated, 1 odd, 1 over"
    assert [line.split()[1] for line in some if line.startswith("error ")] == [f"{PIPELINE}:0-{n}" for n in (1, 2)]
    assert "shown" not in hub.run("parked", "list", "--limit", "200").stdout
    assert len(hub.json("parked", "list")) == 104
    assert len(hub.json("parked", "list", "--limit", "3")) == 3
    assert hub.run("parked", "list", "--limit", "0").returncode == 2


def test_a_target_that_does_not_answer_is_named_beside_what_others_hold(hub: Hub) -> None:
    hold(hub, [row(1)])
    Path(hub.settings.targets["wh"].options.path).mkdir()
    for arguments in (("list",), ("export",)):
        done = hub.run("parked", *arguments)
        assert done.returncode == 3
        assert f"{PIPELINE}:0-1" in done.stdout
        assert done.stderr.startswith("what wh holds is not known: ")
        assert done.stderr.count("\n") == 1
    listed = hub.run("parked", "list", "--json")
    assert (listed.returncode, [one["id"] for one in json.loads(listed.stdout)]) == (3, [f"{PIPELINE}:0-1"])
    nothing = hub.run("parked", "list", OTHER)
    assert (nothing.returncode, nothing.stdout) == (3, ""), "nobody knows that nothing is parked"
    assert hub.run("parked", "list", PIPELINE).returncode == 1
    assert hub.run("parked", "retry", "--all").returncode == 3, "all means all: nothing was changed"
    assert hub.run("parked", "retry", f"{PIPELINE}:0-1").returncode == 0


def test_what_is_over_says_what_became_of_it_and_when(hub: Hub) -> None:
    closed = {"state": "discarded", "closed_at": FIRST_AT + 3600, "reason": "not ours", "next_at": None}
    hold(hub, [row(1, **closed)])
    became = "discarded 2026-11-18T12:06:40Z: not ours"
    assert f"    {became}\n" in hub.run("parked", "list", "--closed").stdout
    shown = hub.run("parked", "show", f"{PIPELINE}:0-1").stdout
    assert "discarded: 2026-11-18T12:06:40Z" in shown
    assert "first: 2026-11-18T11:06:41Z" in shown
    assert "next try" not in shown
    for command in (("retry",), ("discard", "--reason", "again")):
        done = hub.run("parked", *command, f"{PIPELINE}:0-1")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"unknown_parked: {PIPELINE}:0-1 is over: {became}")


def test_a_record_that_other_filters_leave_out_is_not_called_over(hub: Hub) -> None:
    hold(hub, [row(1)])
    done = hub.run("parked", "retry", f"{PIPELINE}:0-1", "--code", "other")
    assert "nothing is parked as" in done.stderr


@pytest.mark.parametrize(
    ("state", "said", "command"),
    [
        ("failed", "has stopped: a person is needed", f"sync-hub resume pipeline:{PIPELINE}"),
        ("paused", "is paused", "sync-hub resume target:crm"),
        ("stopped", "does not run", "sync-hub run"),
    ],
)
def test_a_pipeline_that_tries_nothing_is_told_with_what_to_type(hub: Hub, state: str, said: str, command: str) -> None:
    hold(hub, [row(1, next_at=FIRST_AT + 5), row(2)])
    assert "next try 2026-11-18T11:06:45Z" in hub.run("parked", "list").stdout
    if state == "paused":
        hub.state.pause("target:crm")
    hub.runs(**{PIPELINE: {"state": state}})
    listed = hub.run("parked", "list").stdout
    assert f"8 attempts, the pipeline {said}" in listed
    assert "next try" not in listed
    assert "waits for a person" in listed
    told = hub.run("parked", "retry", f"{PIPELINE}:0-1").stdout
    assert told == f"1 record to be tried again\nnot now: the pipeline {PIPELINE} {said}\n    {command}\n"
    held = {"pipeline": PIPELINE, "state": state, "command": command}
    assert hub.json("parked", "retry", "--all") == {"records": 2, "held_up": [held]}


def test_records_tell_their_target_and_table(hub: Hub) -> None:
    hold(hub, [row(1)])
    (one,) = hub.json("parked", "list")
    assert (one["target"], one["table"]) == ("crm", "public.customers")
    assert hub.json("parked", "show", one["id"])["event"]["after"]["id"] == 1


@pytest.mark.parametrize(
    ("given", "found"),
    [("7", [1, 2]), ('"7"', [2]), ('{"id": 7}', [1]), ('{"id": "7"}', [2]), ("007", [3]), ('"007"', [3]), ("8", [])],
)
def test_a_key_is_found_as_text_too(hub: Hub, given: str, found: list[int]) -> None:
    hold(hub, [row(1, key='{"id":7}'), row(2, key='{"id":"7"}'), row(3, key='{"id":"007"}')])
    listed = hub.json("parked", "list", "--key", given)
    assert [int(one["id"].rpartition("-")[2]) for one in listed] == found


def test_a_target_that_is_no_longer_configured_is_named(hub: Hub) -> None:
    hold(hub, [row(1)])
    hub.file.write_text(hub.file.read_text().replace("  wh: {type: sqlite, path: wh.db}\n", ""))
    done = hub.run("parked", "list")
    assert (done.returncode, f"{PIPELINE}:0-1" in done.stdout) == (3, True)
    assert "unknown_target" in done.stderr


def test_status_has_a_column_for_what_is_held_where_something_is(hub: Hub) -> None:
    assert "parked" not in hub.run("status").stdout
    hub.runs(**{PIPELINE: {"parked": 3, "waiting_rows": 2, "parked_since": hub.now - 5}})
    lines = [line.split() for line in hub.run("status").stdout.splitlines()]
    (heading,) = [line for line in lines if line[:2] == ["pipeline", "source"]]
    assert heading[-3:] == ["parked", "waits", "for"]
    assert next(line for line in lines if line[:2] == [PIPELINE, "erp"])[-3:] == ["3,", "2", "wait"]
    assert next(line for line in lines if line[:2] == [OTHER, "erp"])[-1] == "12000"


def test_status_of_one_pipeline_is_its_own_verdict(hub: Hub) -> None:
    hub.runs(**{OTHER: {"state": "failed"}})
    assert hub.run("status").stdout.startswith("acme: failing")
    fine, failing = hub.run("status", PIPELINE), hub.run("status", OTHER)
    assert (fine.returncode, fine.stdout.splitlines()[0]) == (0, f"{PIPELINE}: ok")
    assert (failing.returncode, failing.stdout.splitlines()[0]) == (1, f"{OTHER}: failing")


def test_tail_tells_why_a_copied_record_was_parked(hub: Hub) -> None:
    first = row(1)
    broker = hub.settings.new_broker()
    headers = [("other", b"\xff"), ("sync_hub_code", b"check_violated"), ("sync_hub_message", "nö\x1b".encode())]
    for topic in ("acme.parked", "erp.public.customers"):
        broker.create_topics([topic])
        broker.publish([Outgoing(topic, first.record_key, first.record_value, headers)])
    assert broker.flush(5)
    broker.close()
    text = hub.run("tail", "acme.parked", "--no-follow").stdout
    assert text.splitlines()[1] == '    sync_hub_code="check_violated"  sync_hub_message="n\\u00f6\\u001b"'
    assert len(hub.run("tail", "erp.public.customers", "--no-follow").stdout.splitlines()) == 1
    shown = hub.json("tail", "erp.public.customers", "--no-follow")
    assert shown["headers"] == {"other": "\ufffd", "sync_hub_code": "check_violated", "sync_hub_message": "nö\x1b"}


def test_what_could_steer_a_terminal_is_escaped() -> None:
    value = {"key": "a\x9bb\u202ec\x07 é \N{SNOWMAN}"}
    text = json_text(value)
    assert "\\u009b" in text
    assert "\\u202e" in text
    assert "é \N{SNOWMAN}" in text
    assert json.loads(text) == value
