"""Stalls, one after the other: how soon health is red, whether it stays so, how soon it is green when each is over.

`python -m tests.chaos.stalls` prints a table, and exits 1 where a stall was told later than it may be, or with gaps.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import psycopg

from tests.chaos.rounds import kafka_behind_proxy
from tests.chaos.world import QUICK_HEARTBEAT_SECONDS, Broker, World, is_up
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import execute
from tests.servers.proxy import Mode

DEFAULT_HEARTBEAT_SECONDS = 2.0
RED_SECONDS = 5.0
GREEN_SECONDS = 10.0
LAST_SECONDS = 4.0
"""How long a stall goes on after it was told: two attempts at a table that is locked."""
LOOK_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
BROKEN_LINES: tuple[Mode, ...] = ("black_hole", "hold", "refuse")
BUSY_SECONDS = 0.05
CHANGE = """
insert into items (shop, number, total) values (1, 'trickle', 1)
on conflict (shop, number) do update set total = coalesce(items.total, 0) + 1
"""


class Stall(NamedTuple):
    """What stops the flow, and what lets it go on."""

    name: str
    begin: Callable[[World], None]
    end: Callable[[World], None]


class Told(NamedTuple):
    """How long a stall was not told, and how long it was told although it was over; what was told meanwhile, by code.

    `gaps`: how often health was green in between, although it went on.
    """

    red_seconds: float
    green_seconds: float
    gaps: int
    codes: tuple[str, ...]

    @property
    def wrong(self) -> str:
        """Which promise it breaks; empty for none."""
        late = [f"red after {self.red_seconds:.1f} s"] if self.red_seconds > RED_SECONDS else []
        late += [f"green after {self.green_seconds:.1f} s"] if self.green_seconds > GREEN_SECONDS else []
        return ", ".join(late + [f"green {self.gaps} times while it lasted"] * bool(self.gaps))


def stalls(world: World) -> list[Stall]:
    """Those that this world can have."""
    names = ["capture", "deliver crm", "deliver wh"]
    found = [_frozen(name, worker) for name, worker in zip(names, world.workers, strict=False)]
    found += [
        Stall("source killed", lambda world: world.source.kill(), lambda world: world.source.revive()),
        Stall("target killed", lambda world: world.target.kill(), lambda world: world.target.revive()),
        Stall("hub killed", World.kill_hub, World.revive_hub),
    ]
    if world.kafka is not None:
        kafka = world.kafka
        found.append(Stall("kafka killed", lambda _: kafka.stop(signal.SIGKILL), lambda _: kafka.start()))
    found.append(_locked())
    for where in world.proxies:
        found += [_line(where, mode) for mode in BROKEN_LINES]
    if world.disk.mounted:
        found.append(Stall("disk full", lambda world: world.disk.fill(), lambda world: world.disk.free()))
    return found


def _frozen(name: str, worker: str) -> Stall:
    pids: list[int] = []

    def begin(world: World) -> None:
        pid = world.pid(worker)
        assert pid is not None
        pids.append(pid)
        os.kill(pid, signal.SIGSTOP)

    return Stall(f"{name} frozen", begin, lambda _: os.kill(pids.pop(), signal.SIGCONT))


def _locked() -> Stall:
    held: list[psycopg.Connection[Any]] = []

    def begin(world: World) -> None:
        held.append(psycopg.connect(world.target.dsn()))
        held[0].execute("lock table item_view")

    return Stall("table locked", begin, lambda _: held.pop().close())


def _line(where: str, mode: Mode) -> Stall:
    return Stall(
        f"{where} {mode}",
        lambda world: world.proxies[where].set(mode),
        lambda world: world.proxies[where].set("pass"),
    )


def tell(world: World, stall: Stall) -> Told:
    """Bring one about under a steady trickle of changes, wait until it is told; end it, wait until all is well.

    Times are those of this process's clock, from the call that brings it about, or ends it, to the look at health that
    shows it: what the call itself takes, and the machine with it, is counted in.
    """
    wait_until(lambda: world.lab.health()["status"] == "ok", "health is green before", PATIENCE_SECONDS)
    codes: set[str] = set()

    def green() -> bool:
        threading.Event().wait(LOOK_SECONDS)
        health = world.lab.health()
        codes.update(problem["code"] for problem in health["problems"])
        return bool(health["status"] == "ok")

    with trickle(world):
        began = time.monotonic()
        stall.begin(world)
        try:
            wait_until(lambda: not green(), f"{stall.name}: health is red", PATIENCE_SECONDS)
            told, gaps, was_green = time.monotonic(), 0, False
            while time.monotonic() - told < LAST_SECONDS:
                is_green = green()
                gaps, was_green = gaps + (is_green and not was_green), is_green
            seen = tuple(sorted(codes))
        finally:
            stall.end(world)
        over = time.monotonic()
        wait_until(green, f"{stall.name}: health is green again", PATIENCE_SECONDS)
    return Told(told - began, time.monotonic() - over, gaps, seen)


@contextmanager
def trickle(world: World) -> Iterator[None]:
    """A few changes a second, as long as the source can be reached: a stall without changes to hold up is none."""
    done = threading.Event()

    def write() -> None:
        while not done.wait(BUSY_SECONDS):
            if is_up(world.source.dsn()):
                execute(world.source.dsn(), CHANGE)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join(20)


@contextmanager
def a_world(broker: Broker, folder: Path, heartbeat_seconds: float = QUICK_HEARTBEAT_SECONDS) -> Iterator[World]:
    """A started world on this broker."""
    if broker == "embedded":
        yield from _started(World(broker, heartbeat_seconds=heartbeat_seconds))
        return
    with kafka_behind_proxy(folder) as (kafka, proxy):
        yield from _started(World(broker, kafka, proxy, heartbeat_seconds=heartbeat_seconds))


def _started(world: World) -> Iterator[World]:
    try:
        world.start()
        yield world
    finally:
        world.close()


def main() -> int:
    """Print a line for each stall; exit 1 when one was told too late, or too long."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.stalls", description=__doc__)
    parser.add_argument("--broker", choices=get_args(Broker), action="append")
    parser.add_argument("--heartbeat", type=float, default=DEFAULT_HEARTBEAT_SECONDS, help="of the source, in seconds")
    given = parser.parse_args()
    late = 0
    for broker in given.broker or get_args(Broker):
        folder = Path(tempfile.mkdtemp(prefix="sync-hub-stalls-"))
        with a_world(broker, folder, given.heartbeat) as world:
            for stall in stalls(world):
                told = tell(world, stall)
                late += bool(told.wrong)
                print(
                    f"{broker:9} {stall.name:20} red {told.red_seconds:5.1f} s  green {told.green_seconds:5.1f} s  "
                    f"{told.wrong or 'ok'}  {', '.join(told.codes)}",
                    flush=True,
                )
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
