"""What a worker's loop and its beat share: stop, pauses, requests, the time of the last turn."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from sync_hub.errors import SyncHubError, Unavailable
from sync_hub.state import Request, State

BEAT_SECONDS = 1.25
RAISE_EPOCH = "raise_epoch"
RECOVER = "recover"
WHEN_OPENING = frozenset({RAISE_EPOCH, RECOVER})
"""Requests that capture fulfils when it opens its log, not before."""
PROBE = "probe"
"""A request that capture fulfils while it works; it does not end a wait."""
PARKED = "parked"
"""Parked records were changed by someone else: they are to be read again."""
LOOK_SECONDS = 0.5
"""How often a worker looks whether something was paused or asked."""
LOST_AFTER_BEATS = 3
LOST_SECONDS = BEAT_SECONDS * LOST_AFTER_BEATS
"""After so long without a beat a worker counts as lost."""
STALLED_SECONDS = 2.5
"""A loop that has not come round for so long waits for an answer that does not come: health says so."""
RESTARTS_VARIABLE = "SYNC_HUB_RESTARTS"
"""How the supervisor tells a worker how often it was restarted in the last hour."""


class Control:
    """One a worker. The loop reads it in every turn; the beat's thread and signals write it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopping = threading.Event()
        self.paused: frozenset[str] = frozenset()
        self._requests: deque[Request] = deque()
        self._probes: deque[Request] = deque()
        self.recover = False
        self._asked = 0
        self.state = "starting"
        self.error: SyncHubError | None = None
        self.turn_at = time.time()
        self._tells_stalls = name != "verify"  # which may read for long
        self.changed = threading.Event()

    @property
    def asked(self) -> bool:
        """Whether there are requests that the loop has not taken."""
        return bool(self._requests)

    def ask(self, requests: Iterable[Request]) -> None:
        """Hand over open requests, oldest first; one that was handed over before is not taken twice.

        Of recovery only that it is wanted is noted: it is done when the log is opened again.
        """
        requests = list(requests)
        self.recover = any(request.action == RECOVER for request in requests)
        for request in requests:
            if request.id > self._asked and request.action not in WHEN_OPENING:
                self._asked = request.id
                (self._probes if request.action == PROBE else self._requests).append(request)

    def take(self) -> Request | None:
        """The next request, which the caller answers; None when there is none."""
        return self._requests.popleft() if self._requests else None

    def take_probe(self) -> Request | None:
        """The next probe; who begins anew finds the open ones in the state."""
        return self._probes.popleft() if self._probes else None

    def figures(self) -> dict[str, Any]:
        """What every worker's beat tells beside its own figures."""
        return {"turn_at": self.turn_at, "restarts_last_hour": int(os.environ.get(RESTARTS_VARIABLE, "0"))}

    def turn(self) -> None:
        """The loop has come round."""
        self.turn_at = time.time()

    def running(self) -> None:
        """The loop works; an earlier error is over."""
        if self.state != "running" or self.error is not None:
            self._become("running", None)

    def backing_off(self, error: SyncHubError) -> None:
        """The loop waits before it tries again."""
        self._become("backing_off", error)

    def look_for_stall(self) -> None:
        """Tell when the loop works and does not come round; `running` takes it back."""
        seconds = time.time() - self.turn_at
        if self._tells_stalls and self.state == "running" and seconds > STALLED_SECONDS:
            self.backing_off(
                Unavailable(
                    "worker_stalled",
                    f"{self.name} has been waiting for an answer for {seconds:.0f} s",
                    hint="it goes on by itself; is the server that it works with overloaded, locked or cut off?",
                )
            )

    def failed(self, error: SyncHubError) -> None:
        """The loop ended and needs a person."""
        self._become("failed", error)

    def _become(self, state: str, error: SyncHubError | None) -> None:
        """Change state, and have it told at once."""
        self.state, self.error = state, error
        self.changed.set()

    def wait(self, seconds: float) -> None:
        """Sleep, but not past a stop; the loop counts as turning."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.stopping.wait(min(left, 0.5)):
            self.turn()

    def wait_to_retry(self, seconds: float) -> bool:
        """Sleep before another attempt, but not past a stop; True as soon as someone asks for something."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.stopping.is_set() and not self.asked:
            self.stopping.wait(min(left, 0.1))
            self.turn()
        return self.asked


class Beat(threading.Thread):
    """Writes state and figures every `BEAT_SECONDS` and when the state changes; brings pauses and requests sooner."""

    def __init__(self, control: Control, state: State, detail: Callable[[], dict[str, Any]], log: Any) -> None:
        super().__init__(name="beat", daemon=True)
        self._control = control
        self._state = state
        self._detail = detail
        self._log = log
        self._ended = threading.Event()

    def run(self) -> None:
        """Beat until `end`."""
        beat_at = time.monotonic() + BEAT_SECONDS
        while not self._ended.is_set():
            self._control.look_for_stall()
            changed = self._control.changed.wait(LOOK_SECONDS)
            self._control.changed.clear()
            if changed or time.monotonic() >= beat_at:
                beat_at = time.monotonic() + BEAT_SECONDS
                self.once()
            else:
                self._told(self._look)

    def once(self) -> None:
        """Beat now. A store that does not answer is logged: the row then expires, and the worker counts as lost."""
        self._told(self._beat)

    def _told(self, action: Callable[[], None]) -> None:
        try:
            action()
        except SyncHubError as error:
            self._log.warning("%s", error, extra={"action": "beat", "code": error.code})
        except Exception:  # a worker that works must not be told of as lost, and takes requests
            self._log.exception("a beat failed; the next one follows", extra={"action": "beat"})

    def _beat(self) -> None:
        control = self._control
        self._state.beat(control.name, control.state, self._detail() | control.figures())
        self._look()

    def _look(self) -> None:
        pauses, requests = self._state.wishes(self._control.name)
        paused = frozenset(pause.subject for pause in pauses)
        if paused != self._control.paused:
            self._control.paused = paused
        self._control.ask(requests)

    def end(self) -> None:
        """Write a last beat and stop."""
        self._ended.set()
        self._control.changed.set()
        if self.is_alive():
            self.join()
        self.once()


def answer_requests(control: Control, state: State, *, done: bool) -> None:
    """Answer all that is asked: it is done by what happens next, or there is nothing to do about it."""
    while request := control.take():
        state.finish_request(request.id, {"ok": done})


def described(error: SyncHubError | None) -> dict[str, str] | None:
    """An error as it stands in beats and answers."""
    if error is None:
        return None
    return {"code": error.code, "message": error.message, "hint": error.hint, "command": error.command}


class Rate:
    """A count, and how much of it came a second in the last interval that was long enough to say."""

    def __init__(self, interval_seconds: float = 2.0) -> None:
        self.total = 0
        self.per_second = 0.0
        self.last_at: float | None = None
        self._interval = interval_seconds
        self._mark = (time.monotonic(), 0)

    def add(self, count: int) -> None:
        """Count, now."""
        if count:
            self.total += count
            self.last_at = time.time()

    def figure(self) -> float:
        """Per second, over the last whole interval."""
        at, total = self._mark
        now = time.monotonic()
        if now - at >= self._interval:
            self.per_second = (self.total - total) / (now - at)
            self._mark = (now, self.total)
        return round(self.per_second, 1)
