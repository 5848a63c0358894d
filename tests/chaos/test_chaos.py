"""Faults at random on each broker, and stalls that health has to tell; `make chaos` has more. Seeds are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.audit import Audit
from tests.chaos.rounds import play
from tests.chaos.sizes import AWAY_MEMORY_BYTES, LARGE_MEMORY_BYTES, large_transaction, sites, target_away
from tests.chaos.stalls import a_world, stalls, tell
from tests.chaos.world import Broker, World

SEEDS = {"embedded": [9, 13, 3010, 3018, 3050, 3051], "kafka": [7, 4005, 4006, 4040]}
SECONDS = 2.0
STALLS = {
    "embedded": {
        "deliver crm frozen": "worker_lost",
        "target hold": "worker_backing_off",
        "table locked": "worker_backing_off",
    },
    "kafka": {
        "kafka killed": "worker_backing_off",
        "kafka black_hole": "worker_backing_off",
        "table locked": "worker_backing_off",
    },
}
LARGE_ROWS = 50_000
AWAY_CHANGES = 5_000


@pytest.fixture(scope="module", params=list(SEEDS))
def world(request: pytest.FixtureRequest, server_folder: Path) -> Iterator[World]:
    """Servers, proxies, a small disk and a hub."""
    with a_world(request.param, server_folder / f"chaos-{request.param}") as world:
        yield world


@pytest.mark.timeout(400)
def test_faults_at_random_lose_double_and_disorder_nothing(world: World) -> None:
    audit = Audit(world)
    outcomes = [play(world, audit, seed, SECONDS) for seed in SEEDS[world.broker]]
    assert [f"{one}\n{one.error}" for one in outcomes if one.error] == []
    assert sum(one.changes for one in outcomes) > 300 * len(outcomes)


@pytest.mark.parametrize("broker", SEEDS)
def test_a_large_transaction_and_a_target_that_is_away_take_little_memory(broker: Broker, server_folder: Path) -> None:
    with sites(broker, server_folder) as at:
        assert target_away(at, AWAY_CHANGES).growth() < AWAY_MEMORY_BYTES
        assert large_transaction(at, LARGE_ROWS).most() < LARGE_MEMORY_BYTES


@pytest.mark.timeout(400)
def test_a_stall_is_told_while_it_lasts(world: World) -> None:
    wanted = STALLS[world.broker]
    found = {stall.name: tell(world, stall) for stall in stalls(world) if stall.name in wanted}
    assert {name: told.wrong for name, told in found.items()} == dict.fromkeys(wanted, "")
    assert all(code in found[name].codes for name, code in wanted.items()), found
