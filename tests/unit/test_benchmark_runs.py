"""What makes a run count: whoever works must not have failed by its end, and everybody starts on equal terms."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.debezium import DebeziumSession
from benchmarks.experiment import Comparison, run
from benchmarks.legs import capture
from benchmarks.processes import Usage
from benchmarks.topics import compared
from benchmarks.waiting import Failed, wait_until
from benchmarks.workloads import WORKLOADS


def test_a_lost_and_a_doubled_record_are_noticed() -> None:
    rows = {1: ("a",), 2: ("b",), 3: ("c",)}
    assert compared(rows, rows, rows.keys()) == ""
    assert compared({1: ("a",), 2: ("b",)}, rows, rows.keys()) == "1 changed keys have no record, 3 for one"
    assert compared({1: ("a",), 2: ("b",)}, rows, {1, 2}) == ""


def test_a_key_that_was_deleted_is_looked_for_and_must_be_gone() -> None:
    assert compared({1: None}, {}, {1}) == ""
    assert compared({}, {}, {1}) == "1 changed keys have no record, 1 for one"
    assert compared({1: ("a",)}, {}, {1}) == "1 keys differ, 1 for one: ('a',), not None"


def test_what_has_failed_when_the_condition_holds_is_failed() -> None:
    def check() -> None:
        raise Failed("it exited")

    with pytest.raises(Failed, match="it exited"):
        wait_until(lambda: True, "nothing", check)


class Worker:
    """A session whose one process captures everything and exits."""

    readers = 1
    unproven = ""

    def __init__(self, code: int) -> None:
        self.code = code
        self.process: subprocess.Popen[bytes] | None = None

    def prepare(self, leg: str) -> dict[str, int]:
        return {}

    def start(self, *parts: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({self.code})"])

    def stop(self, *parts: str) -> None:
        pass

    def captured(self, events: dict[str, int]) -> bool:
        assert self.process
        self.process.wait()
        return True

    def difference(self, events: dict[str, int]) -> str:
        return ""

    def usage(self, parts: Sequence[str]) -> Usage:
        return Usage()

    def check(self) -> None:
        if self.process and self.process.poll():
            raise Failed(f"it exited with {self.process.returncode}")


CHANGED = SimpleNamespace(
    change=lambda: {"customers": 3}, readers=lambda: 1, targets=[None], workload=WORKLOADS["a"], name="b1"
)


def test_a_worker_that_dies_behind_its_last_record_makes_the_run_a_failed_one() -> None:
    assert capture(Worker(0), CHANGED)["rows"] == 3  # type: ignore[arg-type]
    with pytest.raises(Failed, match="it exited with 1"):
        capture(Worker(1), CHANGED)  # type: ignore[arg-type]


class Stack:
    """Topics and a Connect worker that note what is made, in its order."""

    pid = 0

    def __init__(self) -> None:
        self.made: list[str] = []

    def create(self, name: Any, details: Any) -> None:
        self.made += [name] if isinstance(name, str) else name

    def count(self, topic: str) -> int:
        return "b1-source" in self.made

    def refuse_failed(self, names: list[str]) -> None:
        pass


def test_debezium_sinks_run_before_the_first_row_is_read() -> None:
    stack = Stack()
    databases = SimpleNamespace(
        name="b1", target_names=["b1_1", "b1_2"], tables=WORKLOADS["h2"].tables, workload=WORKLOADS["h2"],
        source_port=1, target_port=2,
    )  # fmt: skip
    DebeziumSession(databases, stack, stack).load()  # type: ignore[arg-type]
    assert stack.made == ["b1.public.customers", "b1_1-sink", "b1_2-sink", "b1-source"]


class NoServers:
    """Databases fail; with an interrupt, cleaning up after it does."""

    def __init__(self, interrupt: type[BaseException] | None = None) -> None:
        self.interrupt = interrupt

    @contextmanager
    def databases(self, workload: Any, rows: int) -> Any:
        try:
            if self.interrupt:
                raise self.interrupt
            yield
        finally:
            raise Failed("no server")


COMPARISON = Comparison("capture", WORKLOADS["a"], ("embedded",), 5)
SUBJECTS: dict[str, Any] = {
    "embedded": SimpleNamespace(warm_up=lambda: False, close=lambda: None, session=lambda _: Worker(0))
}


def test_each_result_says_the_commit_it_was_measured_on(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    run([COMPARISON], SUBJECTS, NoServers(), 1, results, "abc1234")  # type: ignore[arg-type]
    (result,) = map(json.loads, results.read_text().splitlines())
    assert (result["commit"], result["error"]) == ("abc1234", "Failed: no server")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_ends_everything_although_cleaning_up_fails(
    tmp_path: Path, interrupt: type[BaseException]
) -> None:
    results = tmp_path / "results.jsonl"
    with pytest.raises(interrupt):
        run([COMPARISON], SUBJECTS, NoServers(interrupt), 2, results, "abc1234")  # type: ignore[arg-type]
    assert not results.exists()
