"""Says in the log what is parked: the first of each pipeline and code at once, how many others every ten seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from sync_hub.model import Parked

LOG = logging.getLogger(__name__)

QUIET_SECONDS: Final = 10.0


class ParkedLog:
    """One worker's warnings: never more than one in `QUIET_SECONDS` for one pipeline and code."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at: dict[tuple[str, str], float] = {}
        self._untold: dict[tuple[str, str], tuple[Parked, int]] = {}

    def add(self, rows: Sequence[Parked]) -> None:
        """Take what was parked now, and tell what may be told."""
        for row in rows:
            kind = (row.pipeline, row.code)
            first, count = self._untold.get(kind, (row, 0))
            self._untold[kind] = first, count + 1
        self.tell()

    def tell(self) -> None:
        """Tell what had to wait and may be told by now; to be called again and again."""
        now = self._clock()
        for kind in [one for one in self._untold if now - self._told_at.get(one, -QUIET_SECONDS) >= QUIET_SECONDS]:
            self._told_at[kind] = now
            first, count = self._untold.pop(kind)
            more = f"; and {count - 1} more with this code" if count > 1 else ""
            facts = {"action": "park", "pipeline": first.pipeline, "id": first.id, "code": first.code}
            LOG.warning("%s is parked, %s: %s%s", first.id, first.code, first.message, more, extra=facts)
