from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.experiment import AGAIN, HUBS, Choice, planned
from benchmarks.figures import Medians, comparisons, read
from benchmarks.goals import Goal


def result(subject: str, rate: int, **changes: Any) -> dict[str, Any]:
    common = {"leg": "capture", "workload": "a", "series": "", "round": 1, "asked_rows": 1000, "ok": True, "error": ""}
    figures = {"rows": 1100, "rows_per_second": rate, "cpu_us_per_row": 10.0, "peak_mb": 80.0, "seconds": 1.0}
    return common | {"subject": subject} | figures | changes


def failed(subject: str) -> dict[str, Any]:
    return result(subject, 9_000_000, ok=False, error="Failed: rows | missing")


RESULTS = [
    *(result("confluent", rate) for rate in (70_000, 90_000, 80_000)),
    *(result("confluent", rate, series=AGAIN) for rate in (76_000, 77_000, 70_000)),
    *(result("debezium", rate, peak_mb=1600.0) for rate in (20_000, 21_000, 16_000)),
    failed("embedded"),
    failed("debezium"),
]


def test_medians_leave_out_failed_runs_and_the_second_series() -> None:
    median = Medians(comparisons(RESULTS))
    assert median("capture", "a", "confluent", "rows_per_second") == 80_000
    assert median("capture", "a", "debezium", "rows_per_second") == 20_000
    assert median("capture", "a", "embedded", "rows_per_second") is None
    assert median("capture", "b", "confluent", "rows_per_second") is None


def test_noise_is_what_two_series_of_one_subject_differ_by() -> None:
    (one,) = comparisons(RESULTS)
    assert one.noise("rows_per_second") == pytest.approx(4_000 / 78_000)


def test_goals_compare_subjects_and_say_when_something_is_missing() -> None:
    median = Medians(comparisons(RESULTS))
    faster = Goal("capture", "a", "confluent", "rows_per_second", 4, against="debezium")
    smaller = Goal("capture", "a", "confluent", "peak_mb", 0.1, at_least=False, against="debezium")
    unknown = Goal("capture", "a", "embedded", "rows_per_second", 4, against="debezium")
    assert faster.value(median) == 4
    assert faster.reached(4)
    assert not faster.reached(3.99)
    assert smaller.value(median) == 0.05
    assert smaller.reached(0.05)
    assert unknown.value(median) is None


def test_a_report_says_what_failed_and_a_page_keeps_what_stands_before_the_figures(tmp_path: Path) -> None:
    results, page = tmp_path / "results.jsonl", tmp_path / "page.md"
    results.write_text("".join(json.dumps(one) + "\n" for one in RESULTS) + '{"leg": "cap')
    text = report.write(results, tmp_path).read_text()
    assert "| embedded | – | – | – | – | **failed** 1 ×: Failed: rows / missing |" in text
    assert "| confluent | 80,000 (70,000 – 90,000) | 4.00 |" in text
    page.write_text(f"# Performance\n\n{report.PLACE}\nold figures\n")
    report.write(results, tmp_path, page)
    assert page.read_text().startswith(f"# Performance\n\n{report.PLACE}\n")
    assert "old figures" not in page.read_text()
    assert json.loads((tmp_path / "report.json").read_text())["comparisons"][0]["subjects"]["embedded"]["failed"]


def test_an_unfinished_last_line_is_left_out() -> None:
    machines, results = read(['{"machine": {}}', json.dumps(RESULTS[0]), '{"leg": '])
    assert (machines, results) == ([{}], RESULTS[:1])


def test_a_plan_takes_the_subjects_that_can_do_a_leg() -> None:
    legs = {"copy": ["snapshot"], "pg_recvlogical": ["capture"], "postgres": ["end-to-end", "snapshot", "latency"]}
    hub = ["capture", "deliver", "end-to-end", "snapshot", "latency", "verify", "scheduled"]

    def plan(*chosen: str, **others: Any) -> list[tuple[Any, ...]]:
        made = planned(Choice(chosen, **others), lambda name: legs.get(name, hub))
        return [(one.leg, one.workload.name, one.rows, one.subjects) for one in made]

    assert plan("capture", "snapshot") == [
        ("capture", "a", 300_000, (*HUBS, "pg_recvlogical")),
        ("snapshot", "a", 1_000_000, (*HUBS, "postgres", "copy")),
    ]
    assert plan("end-to-end", workloads=("a10", "i1000"), rows=50) == [("end-to-end", "a10", 500, ("confluent",))]
    assert plan("capture", workloads=("b",), subjects=("copy", "embedded"), rows=50) == [
        ("capture", "b", 50, ("embedded",)),
    ]
    assert plan("latency", workloads=("a", "i1000"), rows=50) == [("latency", "i1000", 3000, (*HUBS, "postgres"))]
