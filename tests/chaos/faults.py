"""The faults of a round: what happens, when, and for how long. Chosen by a seed, before anything runs."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from sync_hub.state_snapshots import Snapshot, new_id
from tests.chaos.world import TABLES, World

LONGER_THAN_TIMEOUTS_SECONDS = 7.0
"""Beyond the time after which a worker counts as lost and the source ends a silent connection."""


class Fault(NamedTuple):
    """`begin` at `at_seconds` of the round, `end` after `seconds`."""

    name: str
    at_seconds: float
    seconds: float
    begin: Callable[[World], None]
    end: Callable[[World], None]

    def __str__(self) -> str:
        return f"{self.name} {self.at_seconds:.1f}+{self.seconds:.1f}s" if self.seconds else self.name


Pair = tuple[str, Callable[[World], None], Callable[[World], None]]


def nothing(_: World) -> None:
    """A fault that ends by itself."""


def kill_worker(chance: random.Random, world: World) -> Pair:
    """SIGKILL; the supervisor starts it again."""
    name = chance.choice(world.workers)
    return f"kill {kind(name)}", lambda world: _signal(world, name, signal.SIGKILL), nothing


def freeze_worker(chance: random.Random, world: World) -> Pair:
    """A machine that hangs, and a zombie that wakes up."""
    name = chance.choice(world.workers[:3])
    frozen: list[int] = []

    def begin(world: World) -> None:
        frozen.extend(_signal(world, name, signal.SIGSTOP))

    def end(_: World) -> None:
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    return f"freeze {kind(name)}", begin, end


def replace_frozen_worker(chance: random.Random, world: World) -> Pair:
    """A zombie that wakes up after a second hub has taken its work over."""
    name, freeze, thaw = freeze_worker(chance, world)

    def begin(world: World) -> None:
        freeze(world)
        world.start_second_hub()

    def end(world: World) -> None:
        thaw(world)
        world.stop_second_hubs()

    return f"{name} and take over", begin, end


def kill_hub(chance: random.Random, world: World) -> Pair:
    """SIGKILL to the supervisor, and a start by the init system."""
    return "kill hub", World.kill_hub, World.revive_hub


def second_hub(chance: random.Random, world: World) -> Pair:
    """The same configuration is started once more."""
    return "second hub", World.start_second_hub, World.stop_second_hubs


def kill_postgres(chance: random.Random, world: World) -> Pair:
    """SIGKILL to a postmaster."""
    if chance.random() < 0.5:
        return "kill source", lambda world: world.source.kill(), lambda world: world.source.revive()
    return "kill target", lambda world: world.target.kill(), lambda world: world.target.revive()


def kill_kafka(chance: random.Random, world: World) -> Pair:
    """SIGKILL to the broker."""

    def begin(world: World) -> None:
        if world.kafka is not None:
            world.kafka.stop(signal.SIGKILL)

    def end(world: World) -> None:
        if world.kafka is not None and world.kafka.process is None:
            world.kafka.start()

    return "kill kafka", begin, end


def network(chance: random.Random, world: World) -> Pair:
    """A line that cuts, delays, holds answers back, or swallows everything."""
    where = chance.choice(list(world.proxies))
    what = chance.choice(["cut", "refuse", "delay", "hold", "black_hole", "half_open"])

    def begin(world: World) -> None:
        proxy = world.proxies[where]
        match what:
            case "cut":
                proxy.cut()
            case "refuse" | "hold":
                proxy.set(what)
            case "delay":
                proxy.set("pass", delay_seconds=0.05)
            case _:
                proxy.set("black_hole")

    def end(world: World) -> None:
        if what == "half_open":  # who waited for an answer never gets it
            world.proxies[where].cut()
        world.proxies[where].set("pass")

    return f"{what} {where}", begin, end


def disk_full(chance: random.Random, world: World) -> Pair:
    """No space for the hub's own files."""
    return "disk full", lambda world: world.disk.fill(), lambda world: world.disk.free()


def send_again(chance: random.Random, world: World) -> Pair:
    """Not a fault: existing rows are sent while things go wrong."""
    table = chance.choice(TABLES)

    def begin(world: World) -> None:
        mine = tuple(one.name for one in world.lab.state.pipelines() if one.table == f"public.{table}")
        one = Snapshot(new_id(), world.name, f"public.{table}", mine, reason="asked", asked_at=time.time())
        with contextlib.suppress(Exception):  # the store's disk may be full: then nothing was asked
            world.lab.state.snapshots.ask(one)

    return f"send {table}", begin, nothing


def choose(seed: int, world: World, seconds: float) -> list[Fault]:
    """One to four faults within so many seconds; some last into the others."""
    chance = random.Random(seed)
    kinds = [*[kill_worker] * 3, *[network] * 4, freeze_worker, replace_frozen_worker, second_hub, kill_hub]
    kinds += [kill_postgres, kill_postgres, send_again]
    kinds += [disk_full] * 2 if world.disk.mounted else []
    kinds += [kill_kafka] * 2 if world.kafka is not None else []
    found = []
    for make in chance.choices(kinds, k=chance.randint(1, 4)):
        name, begin, end = make(chance, world)
        lasts = 0.0 if end is nothing or name.startswith("cut ") else round(chance.uniform(0.3, seconds), 1)
        if "freeze" in name and chance.random() < 0.3:
            lasts = LONGER_THAN_TIMEOUTS_SECONDS
        found.append(Fault(name, round(chance.uniform(0.2, seconds), 1), lasts, begin, end))
    return sorted(found, key=lambda fault: fault.at_seconds)


def bring_about(faults: list[Fault], world: World) -> None:
    """Let all of them happen, each at its time; returns when the last one has ended."""
    steps = [(fault.at_seconds, fault.begin) for fault in faults]
    steps += [(fault.at_seconds + fault.seconds, fault.end) for fault in faults]
    started = time.monotonic()
    for at_seconds, step in sorted(steps, key=lambda pair: pair[0]):
        threading.Event().wait(max(0.0, started + at_seconds - time.monotonic()))
        step(world)


def kind(worker: str) -> str:
    """A worker's name without what changes from run to run."""
    return "capture" if worker.startswith("capture") else worker


def _signal(world: World, worker: str, number: signal.Signals) -> list[int]:
    with contextlib.suppress(Exception):  # the store may be out of reach: then nobody knows the process
        pid = world.pid(worker)
        if pid is not None:
            os.kill(pid, number)
            return [pid]
    return []
