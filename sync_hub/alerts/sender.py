"""Takes messages to one receiver, in a thread of its own: one that does not answer delays nothing else."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from sync_hub.alerts.receivers import Receiver
from sync_hub.errors import SyncHubError
from sync_hub.runtime.retry import Backoff
from sync_hub.state_alerts import AlertStore, Text

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How often it looks for messages that another supervisor wrote and did not send."""


class Sender(threading.Thread):
    """One a receiver; ends with the process. What it was sending then is sent again: at least once, never lost."""

    def __init__(self, receiver: Receiver, store: AlertStore, clock: Callable[[], float] = time.time) -> None:
        super().__init__(name=f"alerts {receiver.name}", daemon=True)
        self._receiver = receiver
        self._store = store
        self._clock = clock
        self._backoff = Backoff(first_seconds=1.0, max_seconds=60.0)
        self._unstored: deque[Text] = deque()
        self._woken = threading.Event()

    @property
    def receiver(self) -> str:
        """The name of its receiver."""
        return self._receiver.name

    def wake(self) -> None:
        """There is something to send."""
        self._woken.set()

    def add(self, text: Text) -> None:
        """Send a message that cannot be stored: it is lost with the process."""
        self._unstored.append(text)
        self.wake()

    def run(self) -> None:
        """Send for ever."""
        while True:
            self._woken.clear()
            try:
                pause = self.turn()
            except SyncHubError:  # of the state: health tells
                pause = LOOK_SECONDS
            if pause and self._backoff.attempt:
                time.sleep(pause)
            elif pause:
                self._woken.wait(pause)

    def turn(self) -> float:
        """Send one message if there is one; how many seconds to wait before the next turn."""
        if self._unstored:
            return self._after(self._receiver.send(self._unstored[0]), self._unstored.popleft)
        alert = self._store.due(self._receiver.name, self._clock())
        if alert is None:
            return LOOK_SECONDS
        if not self._store.claim(alert, self._clock()):
            return 0.0
        error = self._receiver.send(alert.text)
        pause = self._after(error, lambda: self._store.sent(alert, self._clock()))
        if error:
            self._store.refused(alert, self._clock() + pause, error)
        return pause

    def _after(self, error: str, taken: Callable[[], object]) -> float:
        """What comes of an attempt, logged when it is another thing than before."""
        if error:
            pause = self._backoff.next_seconds()
            if self._backoff.attempt == 1:
                LOG.warning(
                    "alerts do not reach %s: %s; tried again until they do",
                    self.receiver,
                    error,
                    extra={"action": "alert_not_taken", "receiver": self.receiver},
                )
            return pause
        taken()
        if self._backoff.attempt:
            LOG.info("alerts reach %s again", self.receiver, extra={"action": "alert_taken", "receiver": self.receiver})
        self._backoff.reset()
        return 0.0
