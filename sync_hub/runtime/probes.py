"""Probes of verifications: keys that a verification wants looked at in the log's own order (`guarantees.md` §7).

A probe is a chunk of named keys, marked `check`. Keys that the log touches meanwhile are answered as `touched`: the
verification asks again. Keys that no row of the source can have are answered as `extra`, and are never sent: the
target's worker could not make anything of them.
"""

from __future__ import annotations

from typing import Any

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
        self.impossible: tuple[dict[str, Any], ...] = ()


class Probes:
    """The probes of one source during one session of capture; an unanswered one is taken again by the next session."""

    def __init__(self, name: str, source: Source, state: State) -> None:
        self._source = source
        self._state = state
        self._asked: dict[str, _Asked] = {}
        self._done: list[tuple[_Asked, tuple[dict[str, Any], ...]]] = []
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
        """Look at `keys` of `table` for `pipeline` and the probes' `run`; `repair` has what differs written."""
        asked = _Asked(request)
        self._asked.setdefault(asked.chunk.run, asked)

    def fencing(self) -> None:
        """A fence is taken for all that wait."""
        self._move("new", "fencing")

    def fenced(self) -> None:
        """The fence is passed."""
        self._move("fencing", "due")

    def read(self) -> None:
        """Read the rows that are due."""
        for asked in self._asked.values():
            if asked.state == "due":
                asked.impossible = self._source.request_chunk(asked.chunk).impossible
                asked.state = "read"

    def given_up(self, run: str) -> None:
        """The log lost the mark: read again."""
        if run in self._asked:
            self._asked[run].state = "due"

    def done(self, chunk: ChunkDone) -> None:
        """The rows are among the events so far."""
        asked = self._asked.pop(chunk.run, None)
        if asked is not None:
            self._done.append((asked, chunk.touched))

    def stored(self) -> None:
        """All that was done is durable: tell the verification what its targets will not answer."""
        for asked, touched in self._done:
            answers = [Probe(key, "touched") for key in touched] + [Probe(key, "extra") for key in asked.impossible]
            self._state.verifications.answer(asked.chunk.check, answers)
            self._state.finish_request(asked.number, {"ok": True, "touched": len(touched)})
        self._done = []

    def _move(self, before: str, after: str) -> None:
        for asked in self._asked.values():
            if asked.state == before:
                asked.state = after
