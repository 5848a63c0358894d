from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.experiment import AGAIN, HUBS, Choice, planned
from benchmarks.figures import Medians, comparisons
from benchmarks.goals import Goal
from benchmarks.recorded import read
from benchmarks.verdicts import verdicts


def result(subject: str, rate: int, **changes: Any) -> dict[str, Any]:
    common = {"leg": "capture", "workload": "a", "series": "", "round": 1, "asked_rows": 300_000}
    figures = {
        "ok": True,
        "error": "",
        "rows": 300_100,
        "rows_per_second": rate,
        "cpu_us_per_row": 10.0,
        "peak_mb": 80.0,
        "seconds": 1.0,
    }
    return common | {"subject": subject} | figures | changes


def failed(subject: str) -> dict[str, Any]:
    return result(subject, 9_000_000, ok=False, error="Failed: rows | missing")


def machine(commit: str, cores: int = 2) -> str:
    hardware = {"processor": "AMD EPYC", "cores": cores, "memory_gb": 23.5, "system": "Linux"}
    versions = {"commit": commit, "Python": "3.11"}
    entry = {"hardware": hardware, "versions": versions, "postgresql_settings": {"fsync": "on"}}
    return json.dumps({"machine": {"taken_at": "2026-11-29T23:31:18Z"} | entry})


RESULTS = [
    *(result("confluent", rate) for rate in (70_000, 90_000, 79_000)),
    *(result("confluent", rate, series=AGAIN) for rate in (81_000, 76_000, 86_000)),
    *(result("debezium", rate, peak_mb=1600.0) for rate in (20_000, 21_000, 16_000)),
    *(failed("embedded"), failed("embedded")),
    failed("debezium"),
]


def test_medians_leave_out_failed_runs_and_are_of_both_series() -> None:
    median = Medians(comparisons(RESULTS))
    assert median("capture", "a", "confluent", "rows_per_second") == 80_000
    assert median("capture", "a", "debezium", "rows_per_second") == 20_000
    assert median("capture", "a", "embedded", "rows_per_second") is None
    assert median("capture", "b", "confluent", "rows_per_second") is None


def test_noise_is_what_two_series_of_one_subject_differ_by() -> None:
    (one,) = comparisons(RESULTS)
    assert one.noise("rows_per_second") == pytest.approx(2_000 / 80_000)


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
    assert "| embedded | – | – | – | – | **failed** 2 ×: Failed: rows / missing |" in text
    assert "| confluent | 80,000 (70,000 – 90,000) | 4.00 |" in text
    page.write_text(f"# Performance\n\n{report.PLACE}\nold figures\n")
    report.write(results, tmp_path, page)
    assert page.read_text().startswith(f"# Performance\n\n{report.PLACE}\n")
    assert "old figures" not in page.read_text()
    assert json.loads((tmp_path / "report.json").read_text())["comparisons"][0]["subjects"]["embedded"]["failed"]


def test_a_report_of_few_rows_or_one_round_says_that_it_is_no_measurement(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    one_round = result("confluent", 50_000, leg="end-to-end")
    few_rows = [one | {"asked_rows": 1000} for one in RESULTS]
    results.write_text("".join(json.dumps(one) + "\n" for one in [*few_rows, one_round]))
    text = report.write(results, tmp_path).read_text()
    few = "with fewer than 100,000 rows starting weighs more than rows"
    assert report.doubt(results) == f"this shows that it works, not how fast it is: {few}"
    assert f"**This shows that it works, not how fast it is: {few}.**" in text
    assert f"(1,000 rows asked for)\n\n**No measurement:** {few}." in text
    assert "(300,000 rows asked for)\n\n**No measurement:** one round tells nothing about noise." in text
    assert "| capture a, rows/s, confluent : debezium | ≥ 4 | 4 | not measured, too few rows or rounds |" in text
    assert "| end-to-end a, µs of CPU a row, confluent | ≤ 30 | 10 | not measured, too few rows or rounds |" in text
    good = [one_round | {"round": number} for number in (1, 2)]
    results.write_text("".join(json.dumps(one) + "\n" for one in good))
    assert report.doubt(results) == ""
    assert "No measurement" not in report.write(results, tmp_path).read_text()


def test_only_goals_that_something_was_measured_of_are_told(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text(2 * (json.dumps(result("confluent", 50_000, leg="end-to-end")) + "\n"))
    text = report.write(results, tmp_path).read_text()
    assert "| end-to-end a, µs of CPU a row, confluent | ≤ 30 | 10 | reached |" in text
    assert "snapshot" not in text.partition("### Goals")[2].partition("### end-to-end")[0]
    results.write_text(json.dumps(result("embedded", 50_000, leg="end-to-end")) + "\n")
    assert "### Goals" not in report.write(results, tmp_path).read_text()


def test_an_unfinished_last_line_is_left_out() -> None:
    machines, results = read([machine("a1"), json.dumps(RESULTS[0]), '{"leg": '])
    assert [one["versions"]["commit"] for one in machines] == ["a1"]
    assert results == [RESULTS[0] | {"commit": "a1", "machine": 1}]


def test_a_result_is_of_the_commit_it_says_or_else_of_that_before_it() -> None:
    said = result("confluent", 1, commit="c3")
    lines = [machine("a1"), json.dumps(RESULTS[0]), machine("b2"), json.dumps(RESULTS[0]), json.dumps(said)]
    machines, results = read([*lines, machine("b2", cores=8), json.dumps(RESULTS[0])])
    assert [(one["commit"], one["machine"]) for one in results] == [("a1", 1), ("b2", 1), ("c3", 1), ("b2", 2)]
    assert [one["hardware"]["cores"] for one in machines] == [2, 8]


def test_a_report_of_several_commits_says_which_comparison_is_of_which(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    end_to_end = [result("confluent", 50_000, leg="end-to-end"), result("debezium", 10_000, leg="end-to-end")]
    results.write_text(
        "\n".join(
            [
                machine("a1"), *map(json.dumps, RESULTS),
                machine("b2"), *map(json.dumps, [result("confluent", 75_000), *end_to_end, *end_to_end]), "",
            ]
        )
    )  # fmt: skip
    text = report.write(results, tmp_path).read_text()
    assert "Results of several commits: a1, b2. Each comparison names its own." in text
    assert "commit b2, Python" not in text
    assert "Measured on commit b2.\n\n| subject |" in text
    assert (
        "Measured on commits: confluent **a median over several**, a1 (6 runs), b2 (1 run); embedded a1; debezium a1."
    ) in text
    assert "| capture a, rows/s, confluent : debezium | ≥ 4 | 3.95 |" in text
    assert "failed, measured on a1 and b2 : a1 |" in text
    assert "| end-to-end a, rows/s, confluent : debezium | ≥ 5 | 5 | reached |" in text
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["comparisons"][0]["subjects"]["confluent"]["commits"] == {"a1": 6, "b2": 1}


def test_a_report_of_several_machines_numbers_them(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    capture = json.dumps(result("confluent", 75_000))
    results.write_text("\n".join([machine("a1"), capture, machine("a1", cores=8), capture, ""]))
    text = report.write(results, tmp_path).read_text()
    assert "Machine 2, 2026-11-29T23:31:18Z: AMD EPYC, 8 cores" in text
    assert "confluent **a median over several**, a1 (1 run), a1 on machine 2 (1 run)" in text


def test_a_report_of_one_commit_says_it_once(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text("\n".join([machine("a1"), *map(json.dumps, RESULTS), machine("a1"), ""]))
    text = report.write(results, tmp_path).read_text()
    assert text.count("commit a1, Python 3.11") == 1
    assert "easured on commit" not in text


def test_goals_tell_of_failed_runs_and_are_not_reached_when_most_runs_failed() -> None:
    goal = Goal("capture", "a", "confluent", "rows_per_second", 4, against="debezium")

    def verdict(*results: dict[str, Any]) -> tuple[bool | None, str]:
        (one,) = verdicts(comparisons(results), [goal])
        return one.reached, one.text

    good, peer, bad = result("confluent", 80_000), result("debezium", 20_000), failed("confluent")
    assert verdict(good, peer) == (True, "reached")
    assert verdict(good, bad, peer) == (True, "reached, 1 of 2 runs of confluent failed")
    assert verdict(good, bad, bad, peer) == (False, "**not reached**, 2 of 3 runs of confluent failed")
    assert verdict(bad, peer) == (False, "**not reached**, 1 of 1 runs of confluent failed")
    assert verdict(good, peer, failed("debezium"), failed("debezium"))[0] is False
    assert verdict(good) == (None, "not measured")
    assert verdict({name: said for name, said in good.items() if name != "rows_per_second"}, peer)[0] is None


def test_goals_say_which_commits_their_sides_are_of() -> None:
    goal = Goal("end-to-end", "f", "confluent", "rows_per_second", 0.8, beside="a")
    sides = [
        result("confluent", 80, leg="end-to-end", workload="f", commit="b2"),
        result("confluent", 100, leg="end-to-end", commit="a1"),
    ]
    (one,) = verdicts(comparisons(sides), [goal])
    assert one.text == "reached, measured on b2 : a1"


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
