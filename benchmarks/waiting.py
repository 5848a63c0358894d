"""Waiting for conditions, with the failure of what is waited for as a reason to end."""

from __future__ import annotations

import time
from collections.abc import Callable

CHECK_SECONDS = 1.0


class Failed(Exception):
    """A measurement that cannot be used, and why."""


def wait_until(
    condition: Callable[[], object],
    what: str,
    check: Callable[[], None] = lambda: None,
    timeout_seconds: float = 900,
    every_seconds: float = 0.02,
) -> float:
    """Poll until the condition holds; the monotonic time when it did.

    `check` raises when it never will. It is asked in the end, too: what has failed a moment before counts as failed.
    """
    started = checked = time.monotonic()
    while not condition():
        now = time.monotonic()
        if now - started > timeout_seconds:
            raise Failed(f"not within {timeout_seconds:.0f} s: {what}")
        if now - checked > CHECK_SECONDS:
            check()
            checked = now
        time.sleep(every_seconds)
    held = time.monotonic()
    check()
    return held
