"""Log lines for machines, and what the demo prints on a small terminal."""

from __future__ import annotations

import json
import logging

import pytest

from sync_hub.cli.demo import _report
from sync_hub.runtime.logs import JsonFormatter


def test_a_line_for_machines_has_what_the_hub_gave_and_nothing_for_terminals() -> None:
    record = logging.makeLogRecord({"msg": "Started", "action": "start", "color_message": "Started \x1b[36m%d\x1b[0m"})
    line = json.loads(JsonFormatter().format(record))
    assert line["action"] == "start"
    assert "color_message" not in line


def test_the_demo_s_result_fits_into_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    figures = {"applied": 123456, "matched": 123456, "different": 0, "missing": 0, "extra": 0, "agrees": True}
    view = figures | {"pipeline": "product_to_warehouse", "examples": []}
    _report({"changes": {"insert": 1}, "first_applied_seconds": 1.0, "views": [view]}, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    heading = next(line for line in lines if "pipeline" in line and "applied" in line)
    assert heading.split() == ["pipeline", "applied", "matched", "different", "missing", "extra", "result"]
    assert max(map(len, lines)) <= 80
