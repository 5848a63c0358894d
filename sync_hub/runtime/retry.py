"""Decides when to try again. It does not sleep.

Whether an error is transient is said by its class: connectors turn their driver's errors (SQLSTATE, errno) into
`Unavailable`, `Rejected` or `Fatal` where they arise. An unknown exception is never retried: it stops the worker.
"""

from __future__ import annotations

import random

from msgspec import Struct


class Backoff(Struct):
    """Exponential waiting with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)."""

    first_seconds: float = 0.2
    factor: float = 2.0
    max_seconds: float = 3.0
    """What waits is green ten seconds after its stall is over: the wait, beginning again and writing fit into these."""
    attempt: int = 0

    def next_seconds(self) -> float:
        """How long to wait before the next attempt; each call counts one failed attempt."""
        ceiling = min(self.max_seconds, self.first_seconds * self.factor ** min(self.attempt, 30))
        self.attempt += 1
        return ceiling / 2 + random.uniform(0, ceiling / 2)

    def reset(self) -> None:
        """Something succeeded: the next wait is the first again."""
        self.attempt = 0
