"""Lag is 0 only when it is proven that nothing waits; what is not proven is unknown, never 0."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_hub.runtime.lag import Clock, Lag, Rates, capture_lag, measure, passed
from sync_hub.state import Progress

NOW = 1_000_000.0
TOPIC = "erp.public.customers"
EVERY = 2.0


def progress(age: float, ends: list[int], *, transit: float = 0.0, ahead: float = 0.0) -> Progress:
    """Stored `age` seconds ago, `transit` after the heartbeat, at a source whose clock is `ahead` of the hub's."""
    stored_at = NOW - age
    return Progress("erp", "0/1", stored_at - transit + ahead, stored_at, {TOPIC: ends})


def lag(entries: list[Progress], applied: dict[int, int], **options: object) -> Lag:
    clock = Clock(NOW, EVERY, options.pop("offset", None))  # type: ignore[arg-type]
    return measure(entries, TOPIC, applied, clock, **options)  # type: ignore[arg-type]


def test_all_is_applied_and_the_proof_is_fresh() -> None:
    found = lag([progress(1, [5, 7]), progress(3, [4, 7])], {0: 5, 1: 7})
    assert found == Lag(0.0, 0.0, 0.0, 0, NOW - 1, 0.0)


def test_what_is_not_applied_counts_from_the_newest_proof() -> None:
    entries = [progress(1, [50, 70]), progress(31, [40, 70]), progress(61, [30, 60])]
    found = lag(entries, {0: 45, 1: 75})
    assert found.seconds == 31
    assert found.capture_seconds == 0
    assert found.deliver_seconds == 30
    assert found.events == 5
    assert found.proven_time == NOW - 31


def test_zero_ends_exactly_at_two_heartbeat_intervals() -> None:
    newest = progress(0.5, [6])
    assert lag([newest, progress(3.999, [5])], {0: 5}).seconds == 0
    assert lag([newest, progress(4.0, [5])], {0: 5}).seconds == 4


def told(entries: list[Progress], applied: dict[int, int], ago: float) -> Lag:
    return measure(entries, TOPIC, applied, Clock(NOW, EVERY, told_at=NOW - ago))


def test_a_proof_has_the_age_that_it_had_when_the_worker_told() -> None:
    """Between two beats new events are applied, and nobody knows it yet: that is not lag."""
    entries = [progress(0.5, [80]), progress(2.5, [60]), progress(4.5, [50])]
    found = told(entries, {0: 50}, ago=2.0)
    assert (found.seconds, found.events) == (0, 10)
    assert told([progress(0.5, [80]), progress(2.1, [50])], {0: 50}, ago=2.0).events == 0


def test_a_worker_that_tells_no_more_does_not_stay_proven() -> None:
    entries = [progress(0.5, [80]), progress(6.6, [50])]
    assert told(entries, {0: 50}, ago=2.0).seconds == pytest.approx(6.6)
    assert told(entries, {0: 50}, ago=6.0).seconds == pytest.approx(6.6)


def test_a_worker_that_tells_and_applies_nothing_is_behind() -> None:
    entries = [progress(age, [80 - int(age)]) for age in (0.0, 2.0, 4.0, 6.0)]
    assert told(entries, {0: 75}, ago=0.0).seconds == 6


def test_a_late_capture_is_lag_though_everything_in_the_topic_is_applied() -> None:
    found = lag([progress(0, [5], transit=60), progress(2, [5], transit=60)], {0: 5})
    assert found.seconds == 60
    assert found.capture_seconds == 60
    assert found.deliver_seconds == 0
    assert found.events == 0


@pytest.mark.parametrize("silent", [4.0, 5.0, 3600.0])
def test_without_heartbeat_for_two_intervals_nothing_is_known(silent: float) -> None:
    found = lag([progress(silent, [5])], {0: 5})
    assert found.seconds is None
    assert found.capture_seconds is None
    assert found.caught_up_in_seconds is None


def test_never_proven_is_unknown() -> None:
    assert lag([], {0: 5}).seconds is None
    assert lag([progress(0, [5])], {0: 4}).seconds is None
    assert lag([Progress("erp", "0/1", NOW, NOW, {"another.topic": [0]})], {0: 5}) == Lag()


def test_a_partition_that_no_worker_reports_is_unknown_not_applied() -> None:
    found = lag([progress(0, [5, 7])], {0: 5})
    assert found.seconds is None
    assert found.events is None


def test_an_empty_partition_needs_nobody_who_reads_it() -> None:
    assert lag([progress(0, [5, 0])], {0: 5}).seconds == 0


def test_loading_is_unknown_until_progress_after_it_is_passed() -> None:
    before, after = progress(3, [5]), progress(1, [100])
    assert lag([before], {0: 5}, loading=True).seconds is None
    assert lag([before], {0: 5}, loaded_at=NOW - 2).seconds is None, "the rows may still wait in the topic"
    assert lag([after, before], {0: 99}, loaded_at=NOW - 2).seconds is None
    assert lag([after, before], {0: 100}, loaded_at=NOW - 2).seconds == 0


def test_a_source_clock_ahead_hides_no_lag() -> None:
    ahead = [progress(age, [60 - age], ahead=300) for age in range(1, 60)]
    assert lag(ahead, {0: 60}).seconds == 0
    assert lag(ahead, {0: 20}).seconds == 40


def test_a_source_clock_behind_shows_too_much_rather_than_too_little() -> None:
    behind = [progress(1, [5], ahead=-30)]
    assert lag(behind, {0: 5}).seconds == 31
    assert lag(behind, {0: 5}, offset=-30.0).seconds == 0, "unless the difference was measured"


def test_a_measured_offset_tells_a_late_capture_from_a_clock() -> None:
    late = [progress(0, [5], transit=60, ahead=60)]
    assert lag(late, {0: 5}, offset=60.0).seconds == 60


def test_catching_up_is_foretold_only_while_it_gains() -> None:
    entries = [progress(1, [500]), progress(100, [100])]
    assert lag(entries, {0: 100}, rates=Rates(arriving=10, applied=50)).caught_up_in_seconds == 10
    assert lag(entries, {0: 100}, rates=Rates(arriving=50, applied=50)).caught_up_in_seconds is None
    assert lag(entries, {0: 100}).caught_up_in_seconds is None


def test_capture_lag_needs_a_heartbeat() -> None:
    clock = Clock(NOW, EVERY)
    assert capture_lag([], clock) is None
    assert capture_lag([progress(3.9, [])], clock) == 0
    assert capture_lag([progress(4, [])], clock) is None
    assert capture_lag([progress(1, [], transit=9)], clock) == 10


heartbeats = st.lists(st.tuples(st.floats(0.1, 30), st.integers(0, 5), st.floats(0, 20)), min_size=1, max_size=20)


@given(heartbeats, st.integers(0, 60), st.floats(-5, 50))
def test_zero_is_never_said_without_a_fresh_passed_proof(
    beats: list[tuple[float, int, float]], applied: int, later: float
) -> None:
    """Whatever the past: 0 only if everything committed until two intervals ago is applied, by a synchronous clock."""
    entries: list[Progress] = []
    stored_at, end = NOW - 500, 0
    for wait, events, transit in beats:
        stored_at, end = stored_at + wait, end + events
        entries.insert(0, Progress("erp", "0/1", stored_at - transit, stored_at, {TOPIC: [end]}))
    now = max(stored_at, stored_at + later)
    found = measure(entries, TOPIC, {0: applied}, Clock(now, EVERY))
    proof = [entry for entry in entries if passed(entry, TOPIC, {0: applied})]
    if found.seconds is not None:
        assert found.seconds >= 0
        assert proof
    if found.seconds == 0:
        assert any(now - entry.source_time < 2 * EVERY for entry in proof)
        assert now - entries[0].stored_at < 2 * EVERY
