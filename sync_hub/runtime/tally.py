"""What a verification has found so far, stored now and then; and whether it is to go on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from sync_hub.runtime.control import Control
from sync_hub.state import State
from sync_hub.state_verifications import EXAMPLES, SCHEDULE, Report, Verification

REPORT_SECONDS: Final = 1.0
SCHEDULED_SHARE: Final = 0.1
"""The part of the time that a verification on a schedule works."""


class Tally:
    """The report of one verification as it grows."""

    def __init__(self, verification: Verification, state: State, control: Control) -> None:
        self.report = Report()
        self.control = control
        self._verification = verification
        self._state = state
        self._stored_at = 0.0
        self._cancelled = False
        self._started = self._worked_at = time.monotonic()

    @property
    def stopped(self) -> bool:
        """Whether it was cancelled, or the worker is to stop."""
        return self._cancelled or self.control.stopping.is_set()

    def add(self, **figures: int) -> None:
        """Count rows."""
        now = {name: getattr(self.report, name) + count for name, count in figures.items()}
        self.report = replace(self.report, **now)

    def example(self, texts: Sequence[str]) -> None:
        """Name some of what does not agree; only so many are kept."""
        self.report = replace(self.report, examples=(*self.report.examples, *texts)[:EXAMPLES])

    def turn(self) -> None:
        """Still at work: the report is stored when it is due, and a cancellation noticed."""
        self.control.turn()
        if time.monotonic() >= self._stored_at:
            self._stored_at = time.monotonic() + REPORT_SECONDS
            self._cancelled = not self._state.verifications.store(replace(self._verification, report=self.report))

    def slow_down(self) -> None:
        """Wait where rows of the source are read faster than was asked for; on a schedule, nine times what it worked.

        Both ends and this machine belong to delivery first: what nobody waits for takes a tenth of them at most.
        """
        now = time.monotonic()
        rest = (now - self._worked_at) * (1 / SCHEDULED_SHARE - 1) if self._verification.reason == SCHEDULE else 0.0
        most = self._verification.options.max_rows_per_second
        if most:
            rest = max(rest, self._started + self.report.rows_done / most - now)
        if rest > 0:
            self.control.wait(rest)
        self._worked_at = time.monotonic()
