"""Whose turn it is to be verified: nobody waits for ever behind those that come first by name."""

from __future__ import annotations

from collections.abc import Sequence

from sync_hub.runtime.verify import longest_due
from sync_hub.state import Pipeline
from sync_hub.state_snapshots import CANCELLED
from sync_hub.state_verifications import Verification


def pipelines(*names: str, unproven: str = "") -> list[Pipeline]:
    return [Pipeline(name, "erp", "public.t", "crm", "", 0.0, "loaded", 100.0, unproven) for name in names]


def turn(known: Sequence[Pipeline], done: dict[str, float], *, now: float, every: float | None = 10.0) -> str | None:
    verified = [Verification(name, name, finished_at=at) for name, at in done.items()]
    found = longest_due(known, verified, {}, every, now)
    return found.name if found else None


def test_the_one_that_was_verified_longest_ago_is_next() -> None:
    known = pipelines("a", "b", "c")
    done: dict[str, float] = {}
    order = []
    for now in range(120, 300, 30):  # each takes longer than `every`: all are due each time
        name = turn(known, done, now=now)
        assert name
        order.append(name)
        done[name] = now + 29.0
    assert order == ["a", "b", "c", "a", "b", "c"]


def test_nothing_is_verified_before_it_is_due_or_without_a_schedule() -> None:
    assert turn(pipelines("a"), {}, now=109.0) is None
    assert turn(pipelines("a"), {}, now=110.0) == "a"
    assert turn(pipelines("a"), {"a": 105.0}, now=114.0) is None
    assert turn(pipelines("a"), {}, now=1000.0, every=None) is None
    assert turn(pipelines("a", unproven=CANCELLED), {}, now=1000.0, every=None) is None


def test_a_view_that_has_come_into_doubt_is_first() -> None:
    known = pipelines("a", "b") + pipelines("z", unproven="a reload was asked for")
    assert turn(known, {}, now=500.0) == "z"
    assert turn(known, {}, now=50.0, every=None) == "z"


def test_a_view_that_stays_in_doubt_does_not_keep_others_from_their_turn() -> None:
    doubtful, known = pipelines("a", "b", unproven="a reload was asked for"), pipelines("c")
    tried = {"a": 560.0, "b": 500.0}
    assert [one.name for one in doubtful] == list(tried)
    for now, expected in ((600.0, "c"), (560.0, "c")):
        found = longest_due([*doubtful, *known], [], tried, 10.0, now)
        assert found and found.name == expected
    verified = [Verification("1", "c", finished_at=600.0)]
    found = longest_due([*doubtful, *known], verified, tried, 10.0, 600.0)
    assert found and found.name == "b", "it waits longer than a"
