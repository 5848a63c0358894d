"""`python -m benchmarks`: capture, deliver, end to end and latency on the customers table (11 columns).

Prints Markdown; `--json` prints one JSON object. A leg whose rows did not arrive, or are not equal, is failed.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.rig import INSERT, Rig, Run, wait_until
from sync_hub.state_snapshots import new_id
from sync_hub.state_verifications import Verification
from tests.servers.kafka import Kafka

ROWS = 300_000
LATENCY_PER_SECOND = 500
LATENCY_SECONDS = 20


def capture_and_deliver(run: Run, rows: int) -> dict[str, Any]:
    """Both legs of one backlog, each alone: log to topic, then topic to target."""
    run.start("capture", "deliver")
    run.wait_loaded()
    run.stop("capture", "deliver")
    run.insert(1, rows)
    started = time.monotonic()
    run.start("capture")
    wait_until(lambda: run.published() >= 1)
    first = time.monotonic()
    wait_until(lambda: run.published() >= rows)
    captured = time.monotonic()
    run.stop("capture")
    run.start("deliver")
    wait_until(lambda: run.applied() >= 1)
    delivering = time.monotonic()
    wait_until(lambda: run.applied() >= rows)
    delivered = time.monotonic()
    run.stop("deliver")
    return {
        "rows": run.rows(),
        "equal": run.equal(),
        "capture_rows_per_second": round(rows / (captured - first)),
        "capture_start_seconds": round(first - started, 2),
        "deliver_rows_per_second": round(rows / (delivered - delivering)),
        "peak_mb": {kind: round(size / 2**20) for kind, size in run.peak_bytes.items()},
    }


def end_to_end(run: Run, rows: int) -> dict[str, Any]:
    """A backlog through both legs side by side."""
    run.start("capture", "deliver")
    run.wait_loaded()
    run.stop("capture")
    run.insert(1, rows)
    run.start("capture")
    wait_until(lambda: run.published() >= 1)
    first = time.monotonic()
    wait_until(lambda: run.applied() >= rows)
    ended = time.monotonic()
    run.stop("capture", "deliver")
    return {
        "rows": run.rows(),
        "equal": run.equal(),
        "end_to_end_rows_per_second": round(rows / (ended - first)),
        "peak_mb": {kind: round(size / 2**20) for kind, size in run.peak_bytes.items()},
    }


def latency(run: Run, per_second: int, seconds: int) -> dict[str, Any]:
    """Commit at the source to write in the target, from the clock values in the rows, at a steady rate."""
    run.start("capture", "deliver")
    run.wait_loaded()
    total = per_second * seconds
    with psycopg.connect(run.source_dsn, autocommit=True) as connection:
        started = time.monotonic()
        for number in range(1, total + 1):
            connection.execute(INSERT, (number, number))
            time.sleep(max(0.0, started + number / per_second - time.monotonic()))
    wait_until(lambda: run.rows() >= total)
    with psycopg.connect(run.target_dsn) as connection:
        found = connection.execute(
            "select extract(epoch from arrived_at - created_at) * 1000 from customer_view where id > %s", (per_second,)
        ).fetchall()
    run.stop("capture", "deliver")
    values = sorted(float(value) for (value,) in found)
    cuts = statistics.quantiles(values, n=100)
    return {
        "rows": run.rows(),
        "equal": run.equal(),
        "latency_ms": {
            "p50": round(cuts[49], 1),
            "p95": round(cuts[94], 1),
            "p99": round(cuts[98], 1),
            "max": values[-1],
        },
    }


def snapshot(run: Run, rows: int) -> dict[str, Any]:
    """Existing rows of a new pipeline, against `COPY (select) | COPY` between the same two servers."""
    run.insert(1, rows)
    copied = run.copy_over()
    started = time.monotonic()
    run.start("capture", "deliver")
    wait_until(lambda: run.state.snapshots.all(run.name))
    first = time.monotonic()
    run.wait_loaded()
    sent = time.monotonic()
    wait_until(lambda: run.rows() >= rows)
    ended = time.monotonic()
    run.stop("capture", "deliver")
    return {
        "rows": run.rows(),
        "equal": run.equal(),
        "snapshot_rows_per_second": round(rows / (ended - first)),
        "read_rows_per_second": round(rows / (sent - first)),
        "start_seconds": round(first - started, 2),
        "copy_rows_per_second": round(rows / copied),
        "part_of_copy": round(copied / (ended - first), 2),
        "peak_mb": {kind: round(size / 2**20) for kind, size in run.peak_bytes.items()},
    }


def verification(run: Run, rows: int) -> dict[str, Any]:
    """Verify a view, against what it takes to COPY both tables to nowhere."""
    run.insert(1, rows)
    run.start("capture", "deliver")
    run.wait_loaded()
    wait_until(lambda: run.rows() >= rows)
    copied = run.copy_both()
    run.start("verify")
    asked = Verification(new_id(), "customers", asked_at=time.time())
    run.state.verifications.ask([asked])
    wait_until(lambda: run.state.verifications.find([asked.id])[0].finished_at)
    (done,) = run.state.verifications.find([asked.id])
    run.stop("capture", "deliver", "verify")
    seconds = (done.finished_at or 0) - (done.started_at or 0)
    return {
        "rows": done.report.matched,
        "equal": done.report.agrees and run.equal(),
        "verify_rows_per_second": round(rows / seconds),
        "copy_both_rows_per_second": round(rows / copied),
        "times_copy": round(seconds / copied, 2),
        "peak_mb": {kind: round(size / 2**20) for kind, size in run.peak_bytes.items()},
    }


def scheduled(run: Run, rows: int) -> dict[str, Any]:
    """A backlog through both legs, without and with a verification of the same view that is due all the while."""
    seconds = []
    run.start("capture", "deliver")
    run.wait_loaded()
    for number in range(4):
        if number % 2:
            run.start("verify")
            wait_until(lambda: any(one.state == "running" for one in run.state.verifications.all()))
        run.stop("capture")
        run.insert(number * rows + 1, (number + 1) * rows)
        run.start("capture")
        wait_until(lambda number=number: run.published() > number * rows)
        started = time.monotonic()
        wait_until(lambda number=number: run.applied() >= (number + 1) * rows)
        seconds.append(time.monotonic() - started)
        if number % 2:
            run.stop("verify")
    run.start("verify")
    wait_until(lambda: any(one.state == "done" for one in run.state.verifications.all()))
    run.stop("capture", "deliver", "verify")
    done = [one for one in run.state.verifications.all() if one.state == "done"]
    alone, beside = seconds[0] + seconds[2], seconds[1] + seconds[3]
    return {
        "rows": run.rows(),
        "equal": run.equal() and bool(done) and all(one.report.agrees for one in done),
        "alone_rows_per_second": round(2 * rows / alone),
        "beside_rows_per_second": round(2 * rows / beside),
        "slower_percent": round(100 * (beside / alone - 1), 1),
        "verified_rows": sum(one.report.matched for one in done),
    }


def main() -> None:
    """Run the chosen legs on the chosen brokers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--broker", action="append", choices=["confluent", "kafka-python", "embedded"])
    parser.add_argument(
        "--leg", action="append", choices=["legs", "end-to-end", "latency", "snapshot", "verify", "scheduled"]
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sync-hub-bench-"))
    folder.chmod(0o755)
    rig, kafka = Rig(folder), Kafka(folder / "kafka")
    kafka.start()
    try:
        results = _run(rig, kafka.address, given)
    finally:
        kafka.stop()
        rig.close()
        shutil.rmtree(folder, ignore_errors=True)
    if given.json:
        print(json.dumps({"machine": platform.platform(), "rows": given.rows, "results": results}))


def _run(rig: Rig, kafka_address: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    brokers = {
        "confluent": _kafka(kafka_address, "confluent"),
        "kafka-python": _kafka(kafka_address, "kafka-python"),
        "embedded": "{type: embedded, path: FOLDER/log.db, partitions: 6}",
    }
    legs: dict[str, tuple[int, Callable[[Run], dict[str, Any]]]] = {
        "legs": (given.rows, lambda run: capture_and_deliver(run, given.rows)),
        "end-to-end": (given.rows, lambda run: end_to_end(run, given.rows)),
        "snapshot": (given.rows, lambda run: snapshot(run, given.rows)),
        "verify": (given.rows, lambda run: verification(run, given.rows)),
        "scheduled": (4 * given.rows, lambda run: scheduled(run, given.rows)),
        "latency": (
            LATENCY_PER_SECOND * LATENCY_SECONDS,
            lambda run: latency(run, LATENCY_PER_SECOND, LATENCY_SECONDS),
        ),
    }
    results = []
    for broker in given.broker or brokers:
        for leg in given.leg or legs:
            expected, measure = legs[leg]
            with rig.run(brokers[broker]) as run:
                result = {"broker": broker, "leg": leg} | measure(run)
            result["ok"] = result["rows"] == expected and result["equal"]
            results.append(result)
            if not given.json:
                print(_line(result), flush=True)
    return results


def _kafka(address: str, client: str) -> str:
    return f"{{type: kafka, bootstrap_servers: ['{address}'], client: {client}, partitions: 6, replication_factor: 1}}"


def _line(result: dict[str, Any]) -> str:
    figures = {name: value for name, value in result.items() if name not in ("broker", "leg", "ok", "rows", "equal")}
    proof = (
        f"{result['rows']:,} rows, equal"
        if result["ok"]
        else f"FAILED: {result['rows']:,} rows, equal: {result['equal']}"
    )
    return f"| {result['broker']} | {result['leg']} | {json.dumps(figures)} | {proof} |"


if __name__ == "__main__":
    main()
