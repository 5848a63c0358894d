"""One worker process: `python -m sync_hub.runtime.worker capture:erp -c config/hub.yaml`.

Its standard input is a pipe that the supervisor holds: end of file means drain and exit, so no worker outlives a killed
supervisor. A worker that needs a person stays, beats `failed`, and tries again when asked to.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

from sync_hub import failpoints
from sync_hub import settings as configuration
from sync_hub.errors import SyncHubError
from sync_hub.runtime import logs
from sync_hub.runtime.control import Beat, Control, answer_requests
from sync_hub.runtime.signals import on_signals
from sync_hub.settings import Settings
from sync_hub.state import State

LOG = logging.getLogger(__name__)

DRAIN_SECONDS = 9.0
"""A worker that was told to stop and still hangs in a driver by then is ended by the kernel."""
RETRY_LOOK_SECONDS = 0.2


class Loop(Protocol):
    """Capture or deliver."""

    def run(self) -> None:
        """Work until the control says stop."""
        ...

    def detail(self) -> dict[str, Any]:
        """Figures for the beat."""
        ...


def names(settings: Settings) -> list[str]:
    """All workers: `capture:SOURCE`, `deliver:TARGET`, `deliver:TARGET:N` where it has several, and `verify`."""
    workers = [f"capture:{name}" for name in settings.sources]
    for name, target in settings.targets.items():
        workers += (
            [f"deliver:{name}"] if target.workers == 1 else [f"deliver:{name}:{n}" for n in range(target.workers)]
        )
    return [*workers, "verify"]


def main(arguments: list[str] | None = None) -> int:
    """Run one worker until it is told to stop. Exits as the CLI does."""
    parser = argparse.ArgumentParser(prog="sync_hub.runtime.worker", description=__doc__)
    parser.add_argument("name", help="capture:SOURCE, deliver:TARGET, deliver:TARGET:N or verify")
    parser.add_argument("-c", "--config", type=Path, default=None)
    given = parser.parse_args(arguments)
    logs.configure()
    try:
        failpoints.arm(os.environ)
        settings = configuration.load(configuration.config_file(given.config))
        return _work(given.name, settings)
    except SyncHubError as error:
        LOG.error("%s", error, extra={"action": "exit", "code": error.code})  # noqa: TRY400 - one line, no traceback
        return error.exit_code


def _work(name: str, settings: Settings) -> int:
    control, state = Control(name), State(settings.hub.state)
    _stop_when_told(control)
    loop = _loop(name, settings, state, control)
    beat = Beat(control, state, loop.detail, LOG)
    beat.once()
    beat.start()
    try:
        while not control.stopping.is_set():
            _run_once(loop, control, state)
        control.state = "stopped"
    except BaseException as error:
        hint = "look into the log; the worker is started again"
        control.failed(SyncHubError("unexpected", f"{type(error).__name__}: {error}", hint=hint))
        raise
    finally:
        beat.end()
        state.close()
    return 0


def _run_once(loop: Loop, control: Control, state: State) -> None:
    """Run the loop; when it needs a person, wait until someone asks to try again."""
    try:
        loop.run()
    except SyncHubError as error:
        control.failed(error)
        LOG.error("stopped: %s", error, extra={"action": "stop_worker", "code": error.code})  # noqa: TRY400
        answer_requests(control, state, done=False)  # what was asked before this failure was not about it
        while not control.stopping.is_set():
            control.wait(RETRY_LOOK_SECONDS)
            if control.asked:
                answer_requests(control, state, done=True)
                control.running()
                return


def _loop(name: str, settings: Settings, state: State, control: Control) -> Loop:
    kind, _, rest = name.partition(":")
    subject, _, member = rest.partition(":")
    if kind == "capture" and subject in settings.sources:
        from sync_hub.runtime.capture import Capture

        return Capture(subject, settings, state, control)
    if kind == "deliver" and subject in settings.targets:
        from sync_hub.runtime.deliver import Deliver

        return Deliver(subject, settings, state, control, int(member or 0))
    if name == "verify":
        from sync_hub.runtime.verify import Verify

        return Verify(settings, state, control)
    raise SyncHubError("unknown_worker", f"there is no worker {name}", hint=f"known are: {', '.join(names(settings))}")


def _stop_when_told(control: Control) -> None:
    def stop() -> None:
        if not control.stopping.is_set():
            signal.setitimer(signal.ITIMER_REAL, DRAIN_SECONDS)  # nobody catches SIGALRM: it ends the process
            control.stopping.set()

    def stop_at_end_of_input() -> None:
        while os.read(0, 4096):
            pass
        stop()

    on_signals([signal.SIGTERM], stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    if not sys.stdin.isatty():
        threading.Thread(target=stop_at_end_of_input, name="stdin", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
