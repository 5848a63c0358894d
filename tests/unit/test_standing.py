"""When a worker that began again works again: what its target did not take is through, or nothing waits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from sync_hub.model import Offset, TopicPartition
from sync_hub.runtime import standing
from sync_hub.runtime.standing import Standing

HELD = Offset("a", "erp.public.t", 0, "id", 5, "v5", "hash")
OTHER = Offset("a", "erp.public.t", 1, "id", 7, "v7", "hash")


class Target:
    """A target's offset rows, and a topic's ends."""

    def __init__(self) -> None:
        self.rows = [HELD, OTHER]
        self.ends = {0: 6, 1: 7}

    def load_offsets(self, pipelines: Sequence[str]) -> list[Offset]:
        """The rows, with those of the copying, which say nothing."""
        assert list(pipelines) == ["a"]
        return [*self.rows, Offset("a", "erp.public.t#copied", 0, "", 99, "", "hash")]

    def end_offsets(self, topics: Collection[str]) -> dict[TopicPartition, int]:
        """Where the topic ends."""
        assert list(topics) == ["erp.public.t"]
        return {TopicPartition("erp.public.t", partition): end for partition, end in self.ends.items()}


class Pipeline:
    """What is looked at of a delivery."""

    name, topic = "a", "erp.public.t"


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Target:
    """Looked at as often as asked."""
    monkeypatch.setattr(standing, "LOOK_SECONDS", 0.0)
    return Target()


def proven(one: Standing, target: Any, *, wrote: bool = False) -> bool:
    return one.proven(target, target, [Pipeline()], wrote=wrote)  # type: ignore[list-item]


def test_beginning_again_proves_nothing_while_something_waits(target: Target) -> None:
    one = Standing()
    one.begin([])
    assert not proven(one, target)
    assert not proven(one, target)
    target.rows = [replace(HELD, next_offset=6), OTHER]
    assert proven(one, target), "somebody wrote"


def test_nothing_that_waits_is_enough(target: Target) -> None:
    target.ends = {0: 5, 1: 7}
    one = Standing()
    one.begin([])
    assert proven(one, target)


def test_a_write_is_enough_unless_it_was_not_what_the_target_refused(target: Target) -> None:
    one = Standing()
    one.begin([])
    assert proven(one, target, wrote=True)
    one.begin([HELD])
    one.begin([])
    target.rows = [HELD, replace(OTHER, next_offset=9)]
    assert not proven(one, target, wrote=True)
    target.rows[0] = replace(HELD, next_offset=6)
    assert proven(one, target, wrote=True)
    one.begin([])
    target.rows = [HELD, OTHER]
    assert proven(one, target, wrote=True), "it is forgotten once it is through"


def test_target_and_broker_are_asked_now_and_then_only(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "LOOK_SECONDS", 3600.0)
    one = Standing()
    one.begin([])
    assert not proven(one, target)
    target.rows = []
    assert not proven(one, target)
