"""Many rounds: `python -m tests.chaos --rounds 200 --broker both --seed 1`, or `make chaos ROUNDS=200`.

How soon health tells of each stall: `python -m tests.chaos.stalls`.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import get_args

from tests.chaos.rounds import FAULT_SECONDS, Outcome, run
from tests.chaos.world import Broker


def main() -> int:
    """Play the rounds; exit 1 when one failed."""
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="how many on each broker")
    parser.add_argument("--broker", choices=[*get_args(Broker), "both"], default="both")
    parser.add_argument("--seed", type=int, default=0, help="of the first round, the next ones follow; 0: any")
    parser.add_argument("--seconds", type=float, default=FAULT_SECONDS, help="within which faults begin")
    given = parser.parse_args()
    seed = given.seed or random.randrange(1, 1_000_000)
    failed: list[Outcome] = []
    for broker in get_args(Broker) if given.broker == "both" else (given.broker,):
        folder = Path(tempfile.mkdtemp(prefix="sync-hub-chaos-kafka-"))
        outcomes = run(broker, list(range(seed, seed + given.rounds)), folder, tell, given.seconds)
        shutil.rmtree(folder, ignore_errors=True)
        failed += [one for one in outcomes if one.error]
        passed = sum(not one.error for one in outcomes)
        print(f"{broker}: {passed} of {len(outcomes)} rounds held", flush=True)
    return 1 if failed else 0


def tell(outcome: Outcome) -> None:
    """One line a round; after a failure all that is known, and how to repeat it."""
    print(outcome, flush=True)
    if outcome.error:
        print(outcome.error)
        print(
            f"kept: {outcome.folder}; repeat: make chaos BROKER={outcome.broker} SEED={outcome.seed} ROUNDS=1",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
