"""How long a worker waits before it tries again."""

from __future__ import annotations

from sync_hub.runtime.retry import Backoff


def test_waits_grow_and_leave_time_to_be_well_ten_seconds_after_a_stall_is_over() -> None:
    backoff = Backoff()
    waits = [backoff.next_seconds() for _ in range(40)]
    assert waits[0] <= 0.2
    assert min(waits[10:]) >= 1.5
    assert max(waits) <= 3.0


def test_what_succeeds_begins_with_the_first_wait_again() -> None:
    backoff = Backoff(attempt=20)
    backoff.reset()
    assert backoff.next_seconds() <= 0.2
