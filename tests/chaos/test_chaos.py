"""A few rounds of chaos on each broker; `make chaos` plays many. What was found wrong names the seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.rounds import run
from tests.chaos.world import Broker

SEEDS = {"embedded": [9, 13], "kafka": [7]}
SECONDS = 2.0


@pytest.mark.timeout(400)
@pytest.mark.parametrize("broker", ["embedded", "kafka"])
def test_faults_at_random_lose_double_and_disorder_nothing(broker: Broker, server_folder: Path) -> None:
    outcomes = run(broker, SEEDS[broker], server_folder / f"chaos-{broker}", tell=print, seconds=SECONDS)
    assert [f"{one}\n{one.error}\nkept: {one.folder}" for one in outcomes if one.error] == []
    assert sum(one.changes for one in outcomes) > 300
