"""Rounds: an application, faults, quiet, checks. One line tells how each went; a world lives through several."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.application import Application
from tests.chaos.audit import GREEN_SECONDS, Audit, Sampler
from tests.chaos.faults import bring_about, choose
from tests.chaos.world import Broker, World
from tests.servers.kafka import Kafka
from tests.servers.proxy import Proxy

WRITERS = 2
FAULT_SECONDS = 4.0
ROUNDS_OF_A_WORLD = 10


@dataclass
class Outcome:
    """How a round went; `error` is empty where every invariant held."""

    broker: Broker
    seed: int
    faults: str = ""
    changes: int = 0
    seconds: float = 0.0
    green_seconds: float = 0.0
    error: str = ""
    folder: Path | None = None

    def __str__(self) -> str:
        result = "ok" if not self.error else f"FAILED: {self.error.splitlines()[0][:300]}"
        return (
            f"{self.broker} seed={self.seed} faults=[{self.faults}] changes={self.changes} "
            f"seconds={self.seconds:.1f} green={self.green_seconds:.1f}s {result}"
        )


def play(world: World, audit: Audit, seed: int, seconds: float = FAULT_SECONDS) -> Outcome:
    """One round. What is found wrong is in the outcome, with the folder to look into."""
    outcome, started, before = Outcome(world.broker, seed), time.monotonic(), audit.committed
    faults = choose(seed, world, seconds)
    outcome.faults = ", ".join(map(str, faults))
    applications = [Application(world.source.dsn(), seed * WRITERS + number) for number in range(WRITERS)]
    sampler = Sampler(world)
    for thread in (*applications, sampler):
        thread.start()
    try:
        try:
            bring_about(faults, world)
        finally:
            world.heal()
            for application in applications:
                application.stop()
            sampler.stop()
        outcome.green_seconds = audit.green()
        audit.settled()
        audit.check(sampler)
        assert outcome.green_seconds <= GREEN_SECONDS, f"health was green only after {outcome.green_seconds:.1f} s"
    except Exception as error:
        outcome.error = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        outcome.folder = world.folder
    outcome.changes, outcome.seconds = audit.committed - before, time.monotonic() - started
    return outcome


@contextmanager
def kafka_behind_proxy(folder: Path) -> Iterator[tuple[Kafka, Proxy]]:
    """A Kafka whose clients come through a proxy."""
    proxy = Proxy()
    kafka = Kafka(folder, advertised=proxy.port)
    proxy.target = kafka.port
    kafka.start()
    try:
        yield kafka, proxy
    finally:
        kafka.stop()
        proxy.close()


def run(
    broker: Broker, seeds: list[int], folder: Path, tell: Callable[[Outcome], None], seconds: float = FAULT_SECONDS
) -> list[Outcome]:
    """Play a round for each seed. After a failure the world is stopped and kept, and a new one takes its place."""
    if broker == "embedded":
        return _run(seeds, tell, seconds, lambda: World(broker))
    with kafka_behind_proxy(folder) as (kafka, proxy):
        return _run(seeds, tell, seconds, lambda: World(broker, kafka, proxy))


def _run(seeds: list[int], tell: Callable[[Outcome], None], seconds: float, make: Callable[[], World]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while len(outcomes) < len(seeds):
        world, failed = make(), True
        try:
            world.start()
            audit = Audit(world)
            for seed in seeds[len(outcomes) :][:ROUNDS_OF_A_WORLD]:
                outcomes.append(play(world, audit, seed, seconds))
                tell(outcomes[-1])
                failed = bool(outcomes[-1].error)
                if failed:
                    break
        finally:
            world.close(keep=failed)
    return outcomes
