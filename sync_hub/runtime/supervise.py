"""`sync-hub run`: one process a worker, restarted with backoff; the web application; housekeeping on a schedule."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler

from sync_hub import failpoints
from sync_hub.alerts import jobs
from sync_hub.alerts.receivers import Receiver
from sync_hub.alerts.receivers import load as load_receivers
from sync_hub.alerts.receivers import names as receiver_names
from sync_hub.errors import ConfigError, SyncHubError, Unavailable
from sync_hub.model import TopicPartition
from sync_hub.ports import Broker
from sync_hub.runtime import logs, worker
from sync_hub.runtime.control import RESTARTS_VARIABLE
from sync_hub.runtime.parked_topic import topic_name as parked_topic_name
from sync_hub.runtime.pipelines import register
from sync_hub.runtime.retry import Backoff
from sync_hub.runtime.signals import on_signals
from sync_hub.settings import Settings
from sync_hub.state import State
from sync_hub.web.reader import HealthReader

LOG = logging.getLogger(__name__)

STOP_SECONDS = 9.0
"""A stopping worker that has not exited by then is killed: the whole stop stays under ten seconds."""
WATCH_SECONDS = 0.1
RESTART_SECONDS = 5.0
"""The longest wait before a worker that exits again and again is started again."""
HOUSEKEEPING_SECONDS = 60
ANSWERS_KEPT_SECONDS = 3600.0
"""How long who asked may look what came of a request."""


class Child:
    """One worker process and its restarts."""

    def __init__(self, name: str, config: Path) -> None:
        self.name = name
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff(first_seconds=0.2, max_seconds=RESTART_SECONDS)
        self._started_at = 0.0
        self._start_at = 0.0
        self.restarts: deque[float] = deque(maxlen=1000)

    @property
    def pid(self) -> int | None:
        """The process now running."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process with a pipe as its standard input."""
        command = [sys.executable, "-m", "sync_hub.runtime.worker", self.name, "-c", str(self._config)]
        recent = sum(1 for at in self.restarts if at > time.time() - 3600)
        environment = os.environ | {RESTARTS_VARIABLE: str(recent)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)
        self._started_at = time.monotonic()

    def watch(self) -> None:
        """Notice an exit, and start again when the backoff is over. A worker that ran a minute begins a new count."""
        now = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            if now - self._started_at > 60:
                self._backoff.reset()
            seconds = self._backoff.next_seconds()
            self._start_at = now + seconds
            self.restarts.append(time.time())
            LOG.warning(
                "worker %s exited with %s; starting again in %.1f s",
                self.name,
                self._process.returncode,
                seconds,
                extra={"action": "restart", "worker": self.name},
            )
            self._close()
        if self._process is None and now >= self._start_at:
            self.start()

    def ask_to_stop(self) -> None:
        """Close its standard input: drain and exit."""
        if self._process and self._process.stdin:
            self._process.stdin.close()

    def wait(self, until: float, hurry: threading.Event) -> None:
        """Wait for the exit until a monotonic time or until someone is in a hurry, then kill."""
        if self._process is None:
            return
        while self._process.poll() is None:
            if time.monotonic() < until and not hurry.wait(WATCH_SECONDS / 5):
                continue
            LOG.warning("worker %s did not stop in time", self.name, extra={"action": "kill", "worker": self.name})
            self._process.kill()
            self._process.wait()

    def _close(self) -> None:
        if self._process and self._process.stdin:
            self._process.stdin.close()
        self._process = None


def run(settings: Settings, only: Sequence[str] = (), ready: Callable[[str], None] | None = None) -> int:
    """Run the hub until SIGTERM or SIGINT; `ready` is told the console's address. Returns the exit code.

    A second signal does not wait for workers that are still finishing: what they had begun is done again next time.

    Raises `ConfigError` (a mapping is wrong) or `Unavailable` (port in use, state not writable) before any start.
    """
    logs.configure()
    failpoints.parsed(os.environ.get(failpoints.VARIABLE, ""))  # what is wrong is said before anything starts
    chosen = _chosen(settings, only)
    receivers = load_receivers(settings.alerts.to)
    listener = listen(settings.http.host, settings.http.port)
    state = State(settings.hub.state)
    state.check()
    for name in register(settings, state):
        LOG.warning(
            "mapping %s has changed and waits to be applied (run: sync-hub plan %s)",
            name,
            name,
            extra={"action": "pending", "mapping": name},
        )
    _forget_strangers(settings, state)
    stop, hurry = threading.Event(), threading.Event()
    on_signals((signal.SIGTERM, signal.SIGINT), stop.set, hurry.set)
    children = [Child(name, settings.file.resolve()) for name in chosen]
    try:
        for child in children:
            child.start()
        reader = HealthReader(settings, state)
        serve(reader, listener)
        scheduler = _schedule(reader, receivers)
        if ready:
            ready(f"http://{settings.http.host}:{listener.getsockname()[1]}")
        while not stop.wait(WATCH_SECONDS):
            for child in children:
                child.watch()
        scheduler.shutdown(wait=False)
    finally:
        stop_all(children, hurry)
        state.close()
    return 0


def stop_all(children: Sequence[Child], hurry: threading.Event) -> None:
    """Stop every worker, all at once, within `STOP_SECONDS`, or now when `hurry` is set."""
    until = time.monotonic() + STOP_SECONDS
    for child in children:
        child.ask_to_stop()
    for child in children:
        child.wait(until, hurry)


def listen(host: str, port: int) -> socket.socket:
    """Bind before anything starts: a port in use is an error here, not a server that died in a thread."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # by name: else asyncio leaves Nagle on
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        in_use = error.errno == errno.EADDRINUSE
        raise Unavailable(
            "port_in_use" if in_use else "cannot_listen",
            f"http: cannot listen on {host}:{port}: {error.strerror}",
            hint="stop what listens there, or set http.port (0 takes any free one)"
            if in_use
            else "correct http.host and http.port",
        ) from error
    return listener


def serve(reader: HealthReader, listener: socket.socket) -> threading.Thread:
    """Serve the web application in a thread that ends with the process."""
    import uvicorn

    from sync_hub.web.app import create

    config = uvicorn.Config(
        create(reader.settings, reader.state, reader=reader), log_config=None, access_log=False, lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True)
    thread.start()
    return thread


def _chosen(settings: Settings, only: Sequence[str]) -> list[str]:
    known = worker.names(settings)
    chosen = [name for name in known if not only or name in only or name.rpartition(":")[0] in only]
    missing = [
        name
        for name in only
        if not any(known_name == name or known_name.startswith(f"{name}:") for known_name in known)
    ]
    if missing:
        raise ConfigError("unknown_worker", f"there is no worker {missing[0]!r}", hint=f"known are: {', '.join(known)}")
    return chosen


def _forget_strangers(settings: Settings, state: State) -> None:
    """Beats of workers that are no longer configured would count as lost for ever."""
    known = set(worker.names(settings))
    strangers = [one.name for one in state.workers() if one.name not in known]
    if strangers:
        state.forget_workers(strangers)


def _schedule(reader: HealthReader, receivers: Sequence[Receiver]) -> BackgroundScheduler:
    settings, state = reader.settings, reader.state
    scheduler = BackgroundScheduler(job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": 60})
    scheduler.add_job(lambda: housekeeping(settings, state), "interval", seconds=HOUSEKEEPING_SECONDS)
    jobs.add(scheduler, reader, state, receivers)
    scheduler.start()
    return scheduler


def housekeeping(settings: Settings, state: State) -> None:
    """Thin out progress, and let the broker delete what every configured pipeline has read and is old enough."""
    try:
        for source in settings.sources:
            state.thin_progress(source)
        state.forget_answered(time.time() - ANSWERS_KEPT_SECONDS)
        state.verifications.forget_answers()
        forget_alerts(settings, state)
        broker = settings.new_broker()
        try:
            broker.retain(lowest_offsets(state) | _parked_ends(settings, broker), settings.topics.keep)
        finally:
            broker.close()
    except SyncHubError as error:
        LOG.warning("%s", error, extra={"action": "housekeeping", "code": error.code})


def forget_alerts(settings: Settings, state: State) -> None:
    """Remove old incidents, and what no receiver has taken for long."""
    given_up = state.alerts.forget(receiver_names(settings.alerts.to), time.time())
    if given_up:
        LOG.warning("%d alerts were given up: their receiver took none for a week", given_up, extra={"action": "alert"})


def _parked_ends(settings: Settings, broker: Broker) -> dict[TopicPartition, int]:
    """Copies of what is parked are kept for their time, whoever reads them."""
    topic = parked_topic_name(settings.hub.name)
    if not settings.topics.parked or topic not in broker.topics():
        return {}
    return broker.end_offsets([topic])


def lowest_offsets(state: State) -> dict[TopicPartition, int]:
    """Per partition, the lowest offset that a pipeline still needs, as its workers last told.

    A topic with a pipeline of unknown offsets is left out, so that nothing of it is deleted.
    """
    from sync_hub.envelope import topic_name

    told: dict[str, dict[str, dict[str, int]]] = {}
    for beat in state.workers():
        figures: dict[str, Any] = beat.detail.get("pipelines", {})
        for name, one in figures.items():
            known = told.setdefault(name, {}).setdefault(one["topic"], {})
            known |= {key: min(offset, known.get(key, offset)) for key, offset in one["offsets"].items()}
    lowest: dict[TopicPartition, int] = {}
    unknown: set[str] = set()
    for pipeline in state.pipelines():
        topic = topic_name(pipeline.source, pipeline.table)
        offsets = told.get(pipeline.name, {}).get(topic)
        if not offsets:
            unknown.add(topic)
            continue
        for partition, offset in offsets.items():
            place = TopicPartition(topic, int(partition))
            lowest[place] = min(offset, lowest.get(place, offset))
    return {place: offset for place, offset in lowest.items() if place.topic not in unknown}
