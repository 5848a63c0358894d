"""What processes have used: CPU seconds and the most memory, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """User and system time of all threads, and the largest resident size (VmHWM), of some processes in sum."""

    cpu_seconds: float = 0.0
    peak_bytes: int = 0

    def __add__(self, other: object) -> Usage:
        """Of both."""
        assert isinstance(other, Usage)
        return Usage(self.cpu_seconds + other.cpu_seconds, self.peak_bytes + other.peak_bytes)


def usage(pids: Iterable[int]) -> Usage:
    """In sum; a process that is gone counts as nothing."""
    return sum((_one(pid) for pid in pids), Usage())


def forget_peak(pid: int) -> None:
    """Count the most memory of a process from now on (proc(5), `clear_refs`)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _one(pid: int) -> Usage:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return Usage()
    times = stat[stat.rindex(")") + 2 :].split()[11:13]
    peak = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
    return Usage(sum(map(int, times)) / _TICKS, peak * 1024)
