"""Signals without deadlock.

A handler runs in the middle of whatever the main thread does. One that sets an event waits for ever where the main
thread holds the event's lock, as it does for a moment in every wait. So a handler only puts into a queue, whose `put`
may be interrupted by itself (see `queue.SimpleQueue`), and a thread does the rest.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue


def on_signals(numbers: Sequence[signal.Signals], *steps: Callable[[], object]) -> None:
    """Have the first of these signals call the first step in a thread of its own, the second the second, and so on.

    Signals after the last step do nothing. To be called in the main thread.
    """
    came: SimpleQueue[int] = SimpleQueue()

    def take() -> None:
        for step in steps:
            came.get()
            step()

    threading.Thread(target=take, name="signals", daemon=True).start()
    for number in numbers:
        signal.signal(number, lambda number, _: came.put(number))
