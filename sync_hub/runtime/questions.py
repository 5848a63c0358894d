"""The questions of a verification: keys that are looked at in the log's own order, until the answers count."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import replace

from sync_hub.errors import Unavailable
from sync_hub.runtime.control import PROBE
from sync_hub.runtime.tally import Tally
from sync_hub.runtime.view import View
from sync_hub.state import Pipeline, State
from sync_hub.state_verifications import WRONG, Probe, Verification, counted

KEYS_PER_PROBE: Final = 1000
ANSWER_SECONDS: Final = 60.0
"""How long to wait for another answer of a probe before it is asked again."""
LOOK_SECONDS: Final = 1.0
"""How often to look whether the workers that were asked still live."""
BUSY_AFTER: Final = 8
"""A key that gave no answer that counts in so many probes is reported as busy."""


class Questions:
    """Asks about keys of one view, through capture, the topic and the target's worker."""

    def __init__(self, view: View, pipeline: Pipeline, verification: Verification, tally: Tally, state: State) -> None:
        self._view = view
        self._pipeline = pipeline
        self._verification = verification
        self._options = verification.options
        self._tally = tally
        self._state = state
        self._probes = 0

    def ask(self, suspects: Sequence[dict[str, Any]]) -> None:
        """Probe what did not agree, a thousand keys at a time."""
        different = list({self._view.identity(key): key for key in suspects}.values())
        for start in range(0, len(different), KEYS_PER_PROBE):
            answers = self._settled(different[start : start + KEYS_PER_PROBE])
            wrong = [one.key for one in answers if one.outcome in WRONG]
            if wrong and self._options.repair:
                answers = [one for one in answers if one.outcome not in WRONG] + self._repaired(wrong)
            self._count(answers)
            if self._tally.stopped:
                return

    def _repaired(self, keys: Sequence[dict[str, Any]]) -> list[Probe]:
        """Have what differs written, and look again."""
        self._write_again(keys)
        answers = self._settled(keys)
        self._tally.add(repaired=sum(1 for one in answers if one.outcome in {"matched", "absent", "kept"}))
        return answers

    def _settled(self, keys: Sequence[dict[str, Any]]) -> list[Probe]:
        """The answers to probes of these keys; what changes all the while comes back as `touched`.

        A difference counts when it is seen twice, the same on both sides. At the place of one probe a target may be
        ahead of its source: what the log leaves out of an event is read later, and is then newer than the event.
        """
        settled: list[Probe] = []
        seen: dict[Any, Probe] = {}
        left = list(keys)
        for _ in range(BUSY_AFTER):
            if not left or self._tally.stopped:
                break
            again = []
            for answer in self._probe(left, repair=False):
                identity = self._view.identity(answer.key)
                if answer.outcome == "touched" or (answer.outcome in WRONG and seen.get(identity) != answer):
                    again.append(answer.key)
                else:
                    settled.append(answer)
                seen[identity] = answer
            left = again
        return settled + [Probe(key, "touched") for key in left]

    def _write_again(self, keys: Sequence[dict[str, Any]]) -> None:
        """Probe with `repair` until nothing touches the keys meanwhile, or often enough."""
        left = list(keys)
        for _ in range(BUSY_AFTER):
            if left and not self._tally.stopped:
                left = [one.key for one in self._probe(left, repair=True) if one.outcome == "touched"]

    def _probe(self, keys: Sequence[dict[str, Any]], *, repair: bool) -> list[Probe]:
        """Ask once; keys that nobody answers in time count as touched, also where a worker that was asked has died."""
        self._probes += 1
        run = f"{self._verification.id}.{self._probes}"
        arguments = {
            "run": run,
            "table": self._view.table.full_name,
            "pipeline": self._pipeline.name,
            "keys": list(keys),
            "repair": repair,
        }
        request = self._state.ask(f"capture:{self._pipeline.source}", PROBE, arguments)
        answers: list[Probe] = []
        until = time.monotonic() + ANSWER_SECONDS
        asked, died, look_at = self._workers(), False, time.monotonic() + LOOK_SECONDS
        while len(answers) < len(keys) and time.monotonic() < until and not (died or self._tally.stopped):
            self._tally.control.wait(0.02 if not answers else 0.1)
            if time.monotonic() >= look_at:
                died, look_at = self._workers() != asked, time.monotonic() + LOOK_SECONDS
            now = self._state.verifications.answers(run)
            if len(now) > len(answers):
                answers, until = now, time.monotonic() + ANSWER_SECONDS
            self._tally.turn()
        if len(answers) < len(keys):
            self._state.finish_request(request, {"ok": False})
            if not (answers or died or self._tally.stopped):
                raise Unavailable(
                    "probe_unanswered",
                    f"no answer from pipeline {self._pipeline.name} within {ANSWER_SECONDS:.0f} s",
                    hint="is it paused, failed or far behind? its target can only be compared while it runs",
                    command=f"sync-hub status {self._pipeline.name}",
                )
        answered = {self._view.identity(one.key) for one in answers}
        return answers + [Probe(dict(key), "touched") for key in keys if self._view.identity(key) not in answered]

    def _workers(self) -> set[tuple[str, str, int]]:
        """The processes that may answer: what one had applied when it died, another does not see again."""
        prefix = f"deliver:{self._pipeline.target}"
        return {
            (one.name, one.host, one.pid)
            for one in self._state.workers()
            if one.name == prefix or one.name.startswith(f"{prefix}:")
        }

    def _count(self, answers: Sequence[Probe]) -> None:
        counts = counted(answers)
        columns = dict(self._tally.report.columns)
        for answer in answers:
            for name in answer.columns:
                columns[name] = columns.get(name, 0) + 1
        wrong = [one for one in answers if one.outcome in WRONG]
        self._tally.report = replace(self._tally.report, columns=columns)
        self._tally.example([_example(one) for one in wrong])
        names = ("matched", "different", "missing", "extra", "parked", "kept")
        self._tally.add(busy=counts.get("touched", 0), **{name: counts.get(name, 0) for name in names})


def _example(probe: Probe) -> str:
    key = ", ".join(f"{name}={value}" for name, value in probe.key.items())
    return f"{key}: {probe.outcome}" + (f" in {', '.join(probe.columns)}" if probe.columns else "")
