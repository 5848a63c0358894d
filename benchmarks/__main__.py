"""`python -m benchmarks`: measure; `python -m benchmarks report FILE`: make the report of what was measured so far."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine, report
from benchmarks.databases import Servers
from benchmarks.debezium import DebeziumSubject
from benchmarks.experiment import ALL_LEGS, HUBS, SUBJECTS, Choice, append, planned, run
from benchmarks.hub import HubSubject
from benchmarks.limits import CopySubject, ReceiverSubject, ReplicationSubject
from benchmarks.subjects import Subject
from benchmarks.workloads import WORKLOADS
from tests.servers.kafka import Kafka

RESULTS = Path("benchmarks/results")


def main() -> None:
    """Measure, or report."""
    given = _arguments()
    if given.command == "report":
        print(report.write(given.file, given.out or given.file.parent, given.page))
        return
    signal.signal(signal.SIGTERM, _end)
    out = given.out or RESULTS / time.strftime("%Y-%m-%d-%H%M%S")
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.jsonl"
    append(results, {"machine": machine.describe()})
    folder = Path(tempfile.mkdtemp(prefix="sync-hub-bench-"))
    folder.chmod(0o755)
    try:
        _measure(given, folder, results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        print(report.write(results, out))


def _end(*_: object) -> None:
    """Stop servers and write the report first."""
    sys.exit(143)


def _measure(given: argparse.Namespace, folder: Path, results: Path) -> None:
    servers, kafka = Servers(folder), Kafka(folder / "kafka")
    kafka.start()
    try:
        subjects = _subjects(folder, kafka.address)
        choice = Choice(given.leg or (), given.workload or (), given.subject or (), given.peers, given.rows)
        comparisons = planned(choice, lambda name: subjects[name].legs)
        run(comparisons, subjects, servers, given.repeats, results)
    finally:
        kafka.stop()
        servers.close()


def _subjects(folder: Path, kafka_address: str) -> dict[str, Subject]:
    made: list[Subject] = [
        *(HubSubject(name, folder, "" if name == "embedded" else kafka_address) for name in HUBS),
        ReplicationSubject(),
        ReceiverSubject(),
        CopySubject(),
        DebeziumSubject(folder / "connect", kafka_address),
    ]
    return {subject.name: subject for subject in made}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--leg", action="append", choices=ALL_LEGS, help="repeatable; default: all")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="repeatable; default: those of the plan")
    parser.add_argument("--subject", action="append", choices=SUBJECTS, help="repeatable; default: hub and limits")
    parser.add_argument("--peers", action="store_true", help="with Debezium on Kafka Connect, fetched by Maven")
    parser.add_argument("--rows", type=int, help="instead of each workload's own number")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (3)")
    parser.add_argument("--out", type=Path, help=f"folder of results and report; default: a new one in {RESULTS}")
    parser.set_defaults(command="measure")
    commands = parser.add_subparsers(metavar="report FILE", help="make the report of a file of results again")
    command = commands.add_parser("report")
    command.add_argument("file", type=Path)
    command.add_argument("--out", type=Path, help="folder of the report; default: the file's")
    command.add_argument("--page", type=Path, help="write the figures into this page, plots beside it")
    command.set_defaults(command="report")
    return parser.parse_args()


if __name__ == "__main__":
    main()
