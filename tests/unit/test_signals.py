"""A signal is heard whatever the main thread is doing."""

from __future__ import annotations

import subprocess
import sys

AT_A_BAD_MOMENT = """
import os, signal, threading
from sync_hub.runtime.signals import on_signals

stop, hurry = threading.Event(), threading.Event()
on_signals((signal.SIGTERM, signal.SIGINT), stop.set, hurry.set)
for event, number in ((stop, signal.SIGTERM), (hurry, signal.SIGINT)):
    with event._cond:  # as within every wait
        os.kill(os.getpid(), number)
        sum(range(100_000))  # the handler runs somewhere here
    assert event.wait(10), number
    print(number.name)
os.kill(os.getpid(), signal.SIGTERM)
print("done")
"""


def test_a_signal_that_comes_while_an_event_is_locked_is_heard() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_A_BAD_MOMENT], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout.split(), done.stderr) == (["SIGTERM", "SIGINT", "done"], "")
