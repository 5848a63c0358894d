"""`python -m benchmarks`: measure; `python -m benchmarks report FILE`: make the report of what was measured so far."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import machine, recorded, report
from benchmarks.databases import Servers
from benchmarks.debezium import DebeziumSubject
from benchmarks.experiment import ALL_LEGS, HUBS, SUBJECTS, Choice, Comparison, Refused, append, planned, run
from benchmarks.hub import HubSubject
from benchmarks.limits import CopySubject, ReceiverSubject, ReplicationSubject
from benchmarks.subjects import Subject
from benchmarks.workloads import WORKLOADS
from tests.servers.kafka import FETCHED, Kafka

RESULTS = Path("benchmarks/results")
ABLE = dict.fromkeys(HUBS, HubSubject.legs) | {
    one.name: one.legs for one in (ReplicationSubject, ReceiverSubject, CopySubject, DebeziumSubject)
}
"""The legs that each subject can be measured in."""
ON_KAFKA = frozenset(HUBS) - {"embedded"} | {DebeziumSubject.name}
"""The subjects that need a Kafka."""
FAILED = 1
INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or report."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        if given.command == "report":
            _tell(report.write(given.file, given.out or given.file.parent, given.page), given.file)
        else:
            _measure_and_report(given)
    except Refused as error:
        parser.error(str(error))


def _measure_and_report(given: argparse.Namespace) -> None:
    """Measure what was chosen, and report it, also after an interrupt."""
    choice = Choice(given.leg or (), given.workload or (), given.subject or (), given.peers, given.rows)
    comparisons = planned(choice, ABLE.__getitem__)
    if not comparisons:
        raise Refused(
            "nothing to measure: no chosen subject does a chosen leg on a chosen workload; "
            "latency has i1000 and i5000, other legs the others: see docs/performance.md"
        )
    _refuse_without_java(comparisons)
    out = given.out or RESULTS / time.strftime("%Y-%m-%d-%H%M%S")
    found = machine.describe()
    results = _begun(out, found)
    folder = Path(tempfile.mkdtemp(prefix="sync-hub-bench-"))
    folder.chmod(0o755)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if not _measure(comparisons, given.repeats, folder, results, found["versions"]["commit"]):
            sys.exit(FAILED)
    except KeyboardInterrupt:
        print("stopped before all was measured: the report has the runs that had ended", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _tell(report.write(results, out), results)


def _tell(written: Path, results: Path) -> None:
    """Where the report is, and what to think of it."""
    if doubt := report.doubt(results):
        print(doubt, file=sys.stderr)
    print(written)


def _refuse_without_java(comparisons: Sequence[Comparison]) -> None:
    needed = ["java"] if FETCHED.exists() else ["java", "mvn"]
    missing = [program for program in needed if not shutil.which(program)]
    if missing and _on_kafka(comparisons):
        raise Refused(
            f"Kafka needs Java 17 or newer, and Maven to get it; there is no {' and no '.join(missing)} here: install "
            "them, or choose what does without: --subject embedded, postgres, pg_recvlogical, copy"
        )


def _on_kafka(comparisons: Sequence[Comparison]) -> bool:
    return any(ON_KAFKA.intersection(comparison.subjects) for comparison in comparisons)


def _begun(out: Path, found: dict[str, Any]) -> Path:
    """The file of results in a folder, with the machine in it, behind what is there from before."""
    results = out / "results.jsonl"
    try:
        out.mkdir(parents=True, exist_ok=True)
        there = results.read_bytes() if results.exists() else b""
        if there and not there.endswith(b"\n"):
            raise Refused(f"{results}: its last line is not finished; remove it, or give another folder with --out")
        if there:
            recorded.load(results)
        append(results, {"machine": found})
    except OSError as error:
        raise Refused(f"cannot write to {out}: {error.strerror}; give another folder with --out") from error
    return results


def _end(*_: object) -> None:
    """Stop servers and write the report first."""
    sys.exit(143)


def _measure(comparisons: Sequence[Comparison], repeats: int, folder: Path, results: Path, commit: str) -> bool:
    with ExitStack() as started:
        servers, kafka_address = Servers(folder), ""
        started.callback(servers.close)
        if _on_kafka(comparisons):
            kafka = Kafka(folder / "kafka")
            started.callback(kafka.stop)
            kafka.start()
            kafka_address = kafka.address
        return run(comparisons, _subjects(folder, kafka_address), servers, repeats, results, commit)


def _subjects(folder: Path, kafka_address: str) -> dict[str, Subject]:
    made: list[Subject] = [
        *(HubSubject(name, folder, "" if name == "embedded" else kafka_address) for name in HUBS),
        ReplicationSubject(),
        ReceiverSubject(),
        CopySubject(),
        DebeziumSubject(folder / "connect", kafka_address),
    ]
    return {subject.name: subject for subject in made}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line; `--help` has the options."""
        self.exit(2, f"{self.prog}: {message}\n")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number; give 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--leg", action="append", choices=ALL_LEGS, help="what to measure; repeatable; default: all")
    parser.add_argument(
        "--workload",
        action="append",
        choices=WORKLOADS,
        help="of which changes; repeatable; default: those of the plan",
    )
    parser.add_argument("--subject", action="append", choices=SUBJECTS, help="repeatable; default: hub and limits")
    parser.add_argument("--peers", action="store_true", help="with Debezium on Kafka Connect, fetched by Maven")
    parser.add_argument(
        "--rows", type=_positive, help="instead of each workload's own number; a10 makes ten times as many"
    )
    parser.add_argument("--repeats", type=_positive, default=3, help="rounds (3), in each the first subject twice")
    parser.add_argument("--out", type=Path, help=f"folder of results and report; default: a new one in {RESULTS}")
    parser.set_defaults(command="measure")
    commands = parser.add_subparsers(metavar="report FILE", help="make the report of a file of results again")
    command = commands.add_parser("report")
    command.add_argument("file", type=Path, help="the results.jsonl of a measurement")
    command.add_argument("--out", type=Path, help="folder of the report; default: the file's")
    command.add_argument("--page", type=Path, help="write the figures into this page, plots beside it")
    command.set_defaults(command="report")
    return parser


if __name__ == "__main__":
    main()
