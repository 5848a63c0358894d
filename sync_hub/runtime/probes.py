"""Probes of verifications: keys that a verification wants looked at in the log's own order (`guarantees.md` §7).

A probe is a chunk of named keys, marked `check`. Keys that the log touches meanwhile are answered as `touched`: the
verification asks again. Keys that no row of the source can have are answered as `extra`, and are never sent: the
target's worker could not make anything of them.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from msgspec.structs import replace

from sync_hub.model import ChunkDone, ChunkRequest
from sync_hub.ports import Source
from sync_hub.runtime.control import PROBE
from sync_hub.state import Request, State
from sync_hub.state_verifications import Probe


class _Asked:
    def __init__(self, request: Request) -> None:
        arguments = request.arguments
        self.number = request.id
        self.chunk = ChunkRequest(
            f"probe:{request.id}",
            arguments["table"],
            request.id,
            (arguments["pipeline"],),
            keys=tuple(arguments["keys"]),
            check=arguments["run"],
            repair=arguments["repair"],
        )
        self.state = "new"
        self.answers: list[Probe] = []
        self.left: tuple[dict[str, Any], ...] = ()


class Probes:
    """The probes of one source during one session of capture; an unanswered one is taken again by the next session."""

    def __init__(self, name: str, source: Source, state: State, tables: Container[str]) -> None:
        self._source = source
        self._state = state
        self._tables = tables
        self._asked: dict[str, _Asked] = {}
        self._done: list[tuple[_Asked, list[Probe]]] = []
        for request in state.wishes(f"capture:{name}")[1]:
            if request.action == PROBE:
                self.take(request)

    @property
    def pending(self) -> bool:
        """Whether something is asked and not answered."""
        return bool(self._asked)

    @property
    def unfenced(self) -> bool:
        """Whether something came that no fence was taken for."""
        return any(one.state == "new" for one in self._asked.values())

    def take(self, request: Request) -> None:
        """Look at `keys` of `table` for `pipeline` and the probes' `run`; `repair` has what differs written.

        What was asked about a table that is no longer captured stays without an answer.
        """
        asked = _Asked(request)
        if asked.chunk.table not in self._tables:
            self._state.finish_request(request.id, {"ok": False})
            return
        self._asked.setdefault(asked.chunk.run, asked)

    def fencing(self) -> None:
        """A fence is taken for all that wait."""
        self._move("new", "fencing")

    def fenced(self) -> None:
        """The fence is passed."""
        self._move("fencing", "due")

    def read(self) -> None:
        """Read the rows that are due; of wide ones only some, the others when these are among the events."""
        for asked in self._asked.values():
            if asked.state == "due":
                read = self._source.request_chunk(asked.chunk)
                asked.answers = [Probe(key, "extra") for key in read.impossible]
                asked.left = asked.chunk.keys[read.answered :]
                asked.state = "read"

    def given_up(self, run: str) -> None:
        """The log lost the mark: read again."""
        if run in self._asked:
            self._asked[run].state = "due"

    def done(self, chunk: ChunkDone) -> None:
        """The rows are among the events so far."""
        asked = self._asked.get(chunk.run)
        if asked is None:
            return
        self._done.append((asked, asked.answers + [Probe(key, "touched") for key in chunk.touched]))
        if asked.left:
            asked.chunk = replace(asked.chunk, keys=asked.left)
            asked.state = "due"
        else:
            del self._asked[chunk.run]

    def stored(self) -> None:
        """All that was done is durable: tell the verification what its targets will not answer."""
        for asked, answers in self._done:
            self._state.verifications.answer(asked.chunk.check, answers)
            if asked.chunk.run not in self._asked:
                self._state.finish_request(asked.number, {"ok": True})
        self._done = []

    def _move(self, before: str, after: str) -> None:
        for asked in self._asked.values():
            if asked.state == before:
                asked.state = after
