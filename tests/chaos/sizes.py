"""Sizes: a transaction of a million rows, and a target that is away for a hundred thousand changes.

`python -m tests.chaos.sizes` prints a line for each, and exits 1 where a worker took too much memory.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, get_args

from connectors.local_postgres import LOGICAL, LocalPostgres
from tests.chaos.world import BROKERS, Broker
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, is_alive, query
from tests.servers.kafka import Kafka
from tests.servers.postgres import running

LARGE_ROWS = 1_000_000
AWAY_CHANGES = 100_000
CHANGES_OF_A_TRANSACTION = 100
LARGE_MEMORY_BYTES = 300_000_000
AGAIN = 4
AWAY_MEMORY_BYTES = 40_000_000
"""What a worker may take more than before, whatever piles up."""
PATIENCE_SECONDS = 600.0
SAMPLE_SECONDS = 0.1
SERVER = LOGICAL | {"wal_sender_timeout": "5s", "max_wal_size": "4GB"}
SCHEMA = """
create table customers (id bigint primary key, name text, email text, city text, country text, phone text,
    balance numeric(14,2), active boolean, born date, created timestamptz, note text);
"""
MAPPINGS = """
mapping: customers
from: {source: {source}, table: public.customers}
to: {target: crm, table: customer_view, create: true}
key: [id]
copy: all
---
mapping: customers_wh
from: {source: {source}, table: public.customers}
to: {target: wh, table: customer_view, create: true}
key: [id]
copy: all
"""
INSERT = """
insert into customers select n, 'Name ' || n, 'name' || n || '@example.com', 'City ' || n % 1000, 'C' || n % 50,
    '+49 ' || n, n / 7.0, n % 3 = 0, date '1950-01-01' + (n % 20000)::int,
    timestamptz '2020-01-01 00:00+00' + n * interval '1 s', 'note'
from generate_series({first}, {last}) n
"""


class Sized(NamedTuple):
    """How something large went: rows a second, and for each worker the memory it began with and the most it took."""

    rows_per_second: float
    memory: dict[str, tuple[int, int]]

    def __str__(self) -> str:
        taken = ", ".join(
            f"{name} {began / 1e6:.0f} → {most / 1e6:.0f} MB" for name, (began, most) in self.memory.items()
        )
        return f"{self.rows_per_second:,.0f} rows/s; {taken}"

    def most(self) -> int:
        """The most that any worker took, in bytes."""
        return max(most for _, most in self.memory.values())

    def growth(self) -> int:
        """The most that any worker took beyond what it began with, in bytes."""
        return max(most - began for began, most in self.memory.values())


class Sites(NamedTuple):
    """A hub between servers of its own."""

    lab: Lab
    source: LocalPostgres
    target: LocalPostgres


@contextmanager
def sites(broker: Broker, folder: Path) -> Iterator[Sites]:
    """A hub on this broker, with nothing in its views yet."""
    with ExitStack() as stack:
        source = stack.enter_context(running(folder, "source", SERVER))
        target = stack.enter_context(running(folder, "target"))
        execute(source.dsn(), SCHEMA)
        text = ""
        if broker == "kafka":
            kafka = Kafka(folder)
            stack.callback(kafka.stop)
            kafka.start()
            text = BROKERS[broker].format(port=kafka.port)
        home = Path(tempfile.mkdtemp(prefix="hub-", dir=folder))
        name = f"z{uuid.uuid4().hex[:8]}"
        lab = Lab(home, name, source.dsn(), target.dsn(), MAPPINGS, broker=text, tables="public.customers")
        stack.callback(lab.close)
        lab.start()
        lab.settle()
        yield Sites(lab, source, target)


def large_transaction(at: Sites, rows: int) -> Sized:
    """Insert so many rows in one transaction, and then change all of them in one.

    The source's server, which ends a connection that is silent for five seconds, must not have ended any.
    """
    connection, before = _walsender(at), query(at.source.dsn(), "select count(*) from customers")[0][0]
    with sampled(at.lab) as memory:
        began = time.monotonic()
        execute(at.source.dsn(), INSERT.format(first=before + 1, last=before + rows))
        at.lab.until([(before + rows,)], "select count(*) from customer_view", timeout_seconds=PATIENCE_SECONDS)
        execute(at.source.dsn(), f"update customers set note = 'changed' where id > {before}")
        at.lab.until(
            [(rows,)], "select count(*) from customer_view where note = 'changed'", timeout_seconds=PATIENCE_SECONDS
        )
        seconds = time.monotonic() - began
        at.lab.settle(PATIENCE_SECONDS)
    assert _walsender(at) == connection, "the server has ended the connection, or the worker has"
    _proven(at, before + rows)
    return Sized(2 * rows / seconds, memory)


def target_away(at: Sites, changes: int) -> Sized:
    """Stop a target until so many changes were made and the other target has them all; it catches up by itself.

    It is away twice: what catching up takes at all is no growth, but what it takes more for four times as many is.
    """
    pids = at.lab.pids()
    _away(at, changes)
    with sampled(at.lab) as memory:
        seconds = _away(at, AGAIN * changes)
    assert at.lab.pids() == pids, "no worker needed a restart"
    assert query(at.target.dsn(), "select count(*) from sync_hub_parked") == [(0,)]
    _proven(at, query(at.source.dsn(), "select count(*) from customers")[0][0])
    return Sized(AGAIN * changes / seconds, memory)


def _away(at: Sites, changes: int) -> float:
    """Stop the target, change, have it back; the seconds that it then takes until its view has everything."""
    at.target.stop("fast")
    try:
        rows = _change(at, changes)
        at.lab.problem("worker_backing_off", "target:crm")
        wait_until(lambda: _wh_has_all(at), "the other target has all", PATIENCE_SECONDS)
    finally:
        at.target.start()
    began = time.monotonic()
    at.lab.until([(rows,)], "select count(*) from customer_view", timeout_seconds=PATIENCE_SECONDS)
    return time.monotonic() - began


def _change(at: Sites, changes: int) -> int:
    """Insert so many rows, in several transactions; how many there are then."""
    before: int = query(at.source.dsn(), "select count(*) from customers")[0][0]
    for first in range(before + 1, before + changes + 1, CHANGES_OF_A_TRANSACTION):
        execute(at.source.dsn(), INSERT.format(first=first, last=first + CHANGES_OF_A_TRANSACTION - 1))
    return before + changes


@contextmanager
def sampled(lab: Lab) -> Iterator[dict[str, tuple[int, int]]]:
    """Resident memory of each worker in bytes, when this begins and at most within; a worker that dies is an error."""
    pids = {name: pid for name, pid in lab.pids().items() if name != "verify"}
    memory = {name: (resident(pid), resident(pid)) for name, pid in pids.items()}
    done = threading.Event()

    def look() -> None:
        while not done.wait(SAMPLE_SECONDS):
            for name, pid in pids.items():
                if is_alive(pid):
                    began, most = memory[name]
                    memory[name] = began, max(most, resident(pid))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()
    assert all(map(is_alive, pids.values())), f"a worker died: {lab.log()[-3000:]}"


def resident(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _walsender(at: Sites) -> int:
    found = query(at.source.dsn(), "select active_pid from pg_replication_slots where active")
    assert len(found) == 1, found
    return int(found[0][0])


def _wh_has_all(at: Sites) -> bool:
    return bool(at.lab.health()["pipelines"]["customers_wh"]["lag_seconds"] == 0)


def _proven(at: Sites, rows: int) -> None:
    """Both views are what their source is, row by row."""
    at.lab.settle(PATIENCE_SECONDS)
    for report in at.lab.verify("customers", "customers_wh"):
        assert (report.matched, report.different, report.missing, report.extra) == (rows, 0, 0, 0), report


def main() -> int:
    """Print a line for each size; exit 1 where too much memory was taken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.sizes", description=__doc__)
    parser.add_argument("--broker", choices=get_args(Broker), action="append")
    parser.add_argument("--rows", type=int, default=LARGE_ROWS, help="of the large transaction")
    parser.add_argument("--changes", type=int, default=AWAY_CHANGES, help="while the target is away")
    given = parser.parse_args()
    steps: list[tuple[str, Callable[[Sites], Sized], Callable[[Sized], bool]]] = [
        (f"{given.changes:,} changes away", lambda at: target_away(at, given.changes), _flat),
        (f"{given.rows:,} rows at once", lambda at: large_transaction(at, given.rows), _small),
    ]
    bad = 0
    for broker in given.broker or get_args(Broker):
        folder = Path(tempfile.mkdtemp(prefix="sync-hub-sizes-"))
        folder.chmod(0o755)
        for name, step, holds in steps:
            with sites(broker, folder) as at:  # new ones: memory that was taken once is not given back
                sized = step(at)
            bad += not holds(sized)
            print(f"{broker:9} {name:24} {'ok  ' if holds(sized) else 'BAD '} {sized}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if bad else 0


def _small(sized: Sized) -> bool:
    return sized.most() < LARGE_MEMORY_BYTES


def _flat(sized: Sized) -> bool:
    return sized.growth() < AWAY_MEMORY_BYTES


if __name__ == "__main__":
    sys.exit(main())
