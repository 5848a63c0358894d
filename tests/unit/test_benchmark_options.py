"""What is refused, in one line, before any server starts; and how an interrupted measurement ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import report

MACHINE = '{"machine": {"taken_at": "", "hardware": {}, "versions": {}, "postgresql_settings": {}}}\n'


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: Any) -> None:
        pytest.fail("it was measured")

    monkeypatch.setattr(command, "_measure", measure)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that it said."""
    with pytest.raises(SystemExit) as ended:
        command.main([str(one) for one in arguments])
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    (line,) = said.err.splitlines()
    return line


@pytest.mark.parametrize("option", ["--rows", "--repeats"])
@pytest.mark.parametrize("number", ["0", "-5", "many"])
def test_numbers_are_positive(capsys: pytest.CaptureFixture[str], option: str, number: str) -> None:
    said = f"argument {option}: {number} is not a positive whole number; give 1 or more"
    assert said in refused(capsys, f"{option}={number}")


@pytest.mark.parametrize(
    "chosen",
    ["--leg capture --workload i1000", "--leg deliver --subject copy", "--leg verify --subject debezium"],
)
def test_a_choice_that_leaves_nothing_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, chosen: str
) -> None:
    said = refused(capsys, *chosen.split(), "--out", tmp_path / "out")
    assert "nothing to measure: no chosen subject does a chosen leg on a chosen workload" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["java", "mvn"])
def test_without_java_kafka_is_refused_and_the_rest_is_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in ("java", "mvn"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    (tmp_path / "bin" / missing).unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(command, "FETCHED", tmp_path / "nothing")
    said = refused(capsys, "--leg", "capture", "--out", tmp_path / "out")
    assert f"there is no {missing} here: install them, or choose what does without: --subject embedded" in said
    assert not (tmp_path / "out").exists()
    measured: list[Any] = []
    monkeypatch.setattr(command, "_measure", lambda *given: measured.append(given) or True)
    command.main(["--leg", "capture", "--subject", "embedded", "--out", str(tmp_path / "out")])
    assert [one.subjects for (comparisons, *_) in measured for one in comparisons] == [("embedded",)]


def test_a_folder_that_cannot_be_written_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert f"cannot write to {out}: " in (said := refused(capsys, "--out", out))
        assert "give another folder with --out" in said


@pytest.mark.parametrize(("text", "said"), [
    ('{"leg": "cap', "its last line is not finished; remove it, or give another folder with --out"),
    ("rows\n", "line 1 is not JSON"),
])  # fmt: skip
def test_results_that_others_cannot_follow_are_refused_and_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "results.jsonl").write_text(text)
    assert f"{tmp_path}/results.jsonl: {said}" in refused(capsys, "--out", tmp_path)
    assert (tmp_path / "results.jsonl").read_text() == text


RESULT = {"leg": "capture", "workload": "a", "subject": "copy", "series": "", "asked_rows": 1, "ok": False, "error": ""}


@pytest.mark.parametrize(("text", "said"), [
    (b"", "holds no results; name the results.jsonl of a measurement"),
    (MACHINE.encode() + b"rows\n", ": line 2 is not JSON; remove the line, or name the results.jsonl of a measurement"),
    (b"\x80\n", "is no text; name the results.jsonl of a measurement"),
    (b"[1]\n", ": line 1 is neither a machine nor a result"),
    (b'{"machine": 5}\n', ": line 1 is neither a machine nor a result"),
    (json.dumps({"leg": "capture"}).encode(), ": line 1 is neither a machine nor a result"),
    (json.dumps(RESULT | {"ok": True}).encode(), ": line 1 is neither a machine nor a result"),
    (json.dumps(RESULT | {"workload": "z"}).encode(), ": line 1 is about copy on workload z: one is not known"),
])  # fmt: skip
def test_a_malformed_file_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: bytes, said: str
) -> None:
    file = tmp_path / "results.jsonl"
    file.write_bytes(text)
    assert said in (line := refused(capsys, "report", file))
    assert str(file) in line


def test_files_that_are_not_there_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    assert f"cannot read {file}: No such file or directory; name the results.jsonl of a measurement" in refused(
        capsys, "report", file
    )
    file.write_text(MACHINE)
    assert f"cannot write {file}: File exists; give another folder with --out" in refused(
        capsys, "report", file, "--out", file
    )
    page = tmp_path / "page.md"
    assert f"cannot read {page}: " in refused(capsys, "report", file, "--page", page)
    page.write_text("# Performance\n")
    assert f"{page} has no heading {report.PLACE.strip()}; add it" in refused(capsys, "report", file, "--page", page)


def test_an_interrupt_is_reported_first_and_ends_as_an_interrupt(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_measure", measure)
    with pytest.raises(SystemExit) as ended:
        command.main(["--leg", "capture", "--out", str(tmp_path)])
    assert ended.value.code == 130
    assert capsys.readouterr().out == f"{tmp_path}/report.md\n"
    assert (tmp_path / "report.md").exists()
