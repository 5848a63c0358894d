"""Places in the loops where a test may have the process die, stand still, wait or fail: at the exact step.

They do nothing unless the environment variable SYNC_HUB_FAILPOINTS is set when a worker starts:
`after_publish=kill:3,before_commit=sleep:2`. `kill` and `stop` send this process SIGKILL or SIGSTOP, `raise` raises
`Unavailable`; the number says at which passing, once; `sleep` waits so many seconds at every passing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sync_hub.errors import ConfigError, Unavailable

VARIABLE: Final = "SYNC_HUB_FAILPOINTS"
FAILPOINTS: Final = frozenset(
    {
        # capture
        "before_open",
        "after_read",
        "after_publish",
        "after_flush",
        "before_save",
        "before_ack",
        "after_ack",
        # existing rows, through the topic and beside it
        "after_chunk",
        "before_finish",
        "after_block",
        # deliver
        "after_start_offsets",
        "after_poll",
        "before_write",
        "after_write",
        "before_answer",
        "after_half",
        "before_barrier",
        "after_barrier",
        "before_replay",
        "after_replay",
        # the target's transaction
        "before_commit",
        "after_commit",
        "before_block_commit",
    }
)
ACTIONS: Final = ("kill", "stop", "raise", "sleep")


@dataclass
class _Armed:
    action: str
    number: float
    passed: int = 0


_armed: dict[str, _Armed] = {}


def failpoint(name: str) -> None:
    """Pass a place by its name: nothing happens unless it was armed. Raises `Unavailable` when told to."""
    if _armed and name in _armed:
        _act(name, _armed[name])


def arm(environment: Mapping[str, str]) -> None:
    """Arm what the environment names. Raises `ConfigError` for a failpoint or an action that there is not."""
    _armed.clear()
    _armed.update(parsed(environment.get(VARIABLE, "")))


def parsed(text: str) -> dict[str, _Armed]:
    """What the variable's text arms, by name of the failpoint."""
    found = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, rest = part.partition("=")
        action, _, number = rest.partition(":")
        if name not in FAILPOINTS:
            raise ConfigError(
                "bad_failpoint",
                f"{VARIABLE} names {name!r}, which is no failpoint",
                hint=f"there are: {', '.join(sorted(FAILPOINTS))}; it is for tests only: unset it",
            )
        if action not in ACTIONS or not (number or "1").replace(".", "", 1).isdecimal():
            raise ConfigError(
                "bad_failpoint",
                f"{VARIABLE} says {part!r}",
                hint=f"say NAME=ACTION or NAME=ACTION:NUMBER, ACTION one of {', '.join(ACTIONS)}",
            )
        found[name] = _Armed(action, float(number or 1))
    return found


def _act(name: str, armed: _Armed) -> None:
    armed.passed += 1
    if armed.action == "sleep":
        time.sleep(armed.number)
    elif armed.passed == armed.number:
        if armed.action == "raise":
            raise Unavailable("failpoint", f"failpoint {name}: told to fail", hint=f"unset {VARIABLE}")
        os.kill(os.getpid(), signal.SIGKILL if armed.action == "kill" else signal.SIGSTOP)
