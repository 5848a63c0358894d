"""What is measured: somebody who reads a source's log and writes its rows to targets, in two parts that start alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from benchmarks.databases import Databases
from benchmarks.processes import Usage
from benchmarks.workloads import Events

PARTS = ("capture", "deliver")


class Session(Protocol):
    """One subject on the databases of one measurement."""

    readers: int
    """Connections that read the source's log while it captures."""
    unproven: str
    """Why rows cannot be compared; empty: they can."""

    def prepare(self, leg: str) -> Events:
        """Set up slot, topics and targets for rows that are equal at both ends; nothing runs then, or it waits.

        Returns the events it made on the way, which come before all others.
        """
        ...

    def start(self, *parts: str) -> None:
        """Start `capture` or `deliver`; not blocking."""
        ...

    def wait_delivering(self) -> None:
        """Wait until what was started to deliver is up."""
        ...

    def stop(self, *parts: str) -> None:
        """Stop them, and wait for it."""
        ...

    def captured(self, events: Events) -> bool:
        """Whether all these events are where capture puts them."""
        ...

    def difference(self, events: Events) -> str:
        """What is wrong with what was captured; empty: nothing."""
        ...

    def load(self) -> float:
        """Start both parts on a source with rows and empty targets; the moment when the loading began."""
        ...

    def usage(self, parts: Sequence[str]) -> Usage:
        """Of its processes for these parts."""
        ...

    def check(self) -> None:
        """Raise `Failed` when it will not go on."""
        ...

    def close(self) -> None:
        """Stop all, and take away what it made beside the databases."""
        ...


class Subject(Protocol):
    """Makes sessions. `legs` are those it can be measured in."""

    name: str
    legs: frozenset[str]

    def session(self, databases: Databases) -> Session:
        """A new session; close it."""
        ...

    def warm_up(self) -> bool:
        """Whether it wants a first run that does not count, because it runs already for others."""
        ...

    def close(self) -> None:
        """Stop what served all sessions of a comparison."""
        ...
