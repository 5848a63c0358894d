"""What a file of results holds: machines, and the results that were measured on each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.experiment import SUBJECTS, Refused
from benchmarks.workloads import WORKLOADS

Entry = dict[str, Any]


class _Machine(msgspec.Struct):
    taken_at: str
    hardware: dict[str, Any]
    versions: dict[str, Any]
    postgresql_settings: dict[str, Any]


class _Failed(msgspec.Struct):
    leg: str
    workload: str
    subject: str
    series: str
    asked_rows: int
    ok: bool
    error: str


class _Good(_Failed):
    rows: int
    seconds: float
    rows_per_second: float
    values_per_second: float = 0
    cpu_us_per_row: float = 0
    peak_mb: float = 0
    latency_ms: dict[str, float] = {}


def load(file: Path) -> tuple[list[Entry], list[Entry]]:
    """Machines and results. Raises `Refused` when there is nothing to be read."""
    advice = "name the results.jsonl of a measurement"
    try:
        with file.open() as lines:
            found = read(lines)
    except OSError as error:
        raise Refused(f"cannot read {file}: {error.strerror}; {advice}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{file} is no text; {advice}") from error
    except ValueError as error:
        raise Refused(f"{file}: {error}; remove the line, or {advice}") from error
    if not any(found):
        raise Refused(f"{file} holds no results; {advice}")
    return found


def read(lines: Iterable[str]) -> tuple[list[Entry], list[Entry]]:
    """The machines and the results; a last line that was not finished is left out, any other raises `ValueError`.

    A machine is told once, as it was found last, however many commits were measured on it. A result says the number of
    its machine, and its commit: where it does not, that of the machine before it.
    """
    machines: dict[str, Entry] = {}
    results: list[Entry] = []
    origin: Entry = {"machine": 1, "commit": "unknown"}
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            if line.endswith("\n"):
                raise ValueError(f"line {number} is not JSON") from error
            continue
        _refuse_malformed(number, entry)
        if "machine" in entry:
            machine = entry["machine"]
            machines[_identity(machine)] = machine
            place = list(machines).index(_identity(machine)) + 1
            origin = {"machine": place, "commit": machine["versions"].get("commit", "unknown")}
        else:
            results.append(origin | entry)
    return list(machines.values()), results


def _refuse_malformed(number: int, entry: Any) -> None:
    try:
        if isinstance(entry, dict) and "machine" in entry:
            msgspec.convert(entry["machine"], _Machine)
            return
        result = msgspec.convert(entry, _Failed)
        if result.ok:
            msgspec.convert(entry, _Good)
    except msgspec.ValidationError as error:
        raise ValueError(f"line {number} is neither a machine nor a result ({error})") from error
    if result.workload not in WORKLOADS or result.subject not in SUBJECTS:
        raise ValueError(f"line {number} is about {result.subject} on workload {result.workload}: one is not known")


def _identity(machine: Mapping[str, Any]) -> str:
    """What makes it another machine: hardware, versions and settings, but neither the time nor the commit."""
    versions = {name: said for name, said in machine["versions"].items() if name != "commit"}
    return json.dumps([machine["hardware"], versions, machine["postgresql_settings"]], sort_keys=True)
