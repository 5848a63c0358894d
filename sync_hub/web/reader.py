"""Reads health for everybody who asks: at most once a second, with a memory of what the state does not store."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from sync_hub import __version__
from sync_hub.errors import SyncHubError, Unavailable
from sync_hub.runtime.worker import names as worker_names
from sync_hub.settings import Settings
from sync_hub.state import State
from sync_hub.web import diagnosis, health, problems
from sync_hub.web.facts import Facts, iso, read
from sync_hub.web.mappings import Mappings
from sync_hub.web.problems import Problem

Document = dict[str, Any]

CACHED_SECONDS = 1.0
GROWTH_SECONDS = 600.0
"""How far back the growth of retained log is measured."""
GROWTH_MEASURED_SECONDS = 120.0
IN_SIGHT_SECONDS = 86400.0


class HealthReader:
    """One a process. Safe to use from several threads."""

    def __init__(self, settings: Settings, state: State, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.state = state
        self._clock = clock
        self._lock = threading.Lock()
        self._ahead_seconds = 0.0
        self._beaten: set[str] = set()
        self._first_seen: dict[tuple[str, str], float] = {}
        self._retained: dict[str, deque[tuple[float, int]]] = {}
        self._mappings = Mappings(settings)
        self._cached: tuple[float, Document] | None = None

    def document(self) -> Document:
        """The health document. A state that cannot be read is a problem in it, not an error."""
        with self._lock:
            started = time.monotonic()
            if self._cached is None or started - self._cached[0] >= CACHED_SECONDS:
                self._cached = (started, self._read())
            return self._cached[1]

    def ready(self) -> str:
        """Empty when the state can be read and every worker has beaten since this process began; else what is missing.

        Workers that are lost later do not take it back: that is for health to say.
        """
        document = self.document()
        for problem in document["problems"]:
            if problem["code"] == "state_unavailable":
                return str(problem["message"])
        fresh = {worker["name"] for worker in document["workers"] if worker["state"] not in ("lost", "stopped")}
        self._beaten |= fresh
        missing = [name for name in worker_names(self.settings) if name not in self._beaten]
        return f"not yet heard of: {', '.join(missing)}" if missing else ""

    def fresh(self) -> None:
        """Forget what is cached: something was changed through this process."""
        with self._lock:
            self._cached = None

    def _read(self) -> Document:
        now = self._clock() + self._ahead_seconds
        try:
            facts = read(self.settings, self.state, now)
        except Unavailable as error:
            return self._unreadable(error, now)
        self._ahead_seconds += facts.now - now
        mappings, broken = self._mappings.read(facts.pipelines)
        document = health.document(self.settings, facts, mappings)
        found = [*diagnosis.find(self.settings, facts, document), *broken]
        found += self._running_full(document, facts)
        return self._completed(document, found, facts.now)

    def _completed(self, document: Document, found: list[Problem], now: float) -> Document:
        known = {problem.identity for problem in found}
        self._first_seen = {key: at for key, at in self._first_seen.items() if key in known}
        document["problems"] = [self._shown(problem, document, now) for problem in found]
        severities = {problem.severity for problem in found}
        document["status"] = next(
            (level for level in (problems.FAILING, problems.DEGRADED) if level in severities), "ok"
        )
        moments = [problem.act_before for problem in found if problem.act_before is not None]
        document["act_before"] = iso(min(moments, default=None))
        return document

    def _shown(self, problem: Problem, document: Document, now: float) -> Document:
        since = problem.since if problem.since is not None else self._first_seen.setdefault(problem.identity, now)
        owners = {document["pipelines"][name]["owner"] for name in problem.affects if name in document["pipelines"]}
        return {
            "code": problem.code,
            "severity": problem.severity,
            "subject": problem.subject,
            "since": iso(since),
            "message": one_line(problem.message),
            "hint": one_line(problem.hint),
            "command": problem.command,
            "affects": list(problem.affects),
            "owner": owners.pop() if len(owners) == 1 else None,
            "act_before": iso(problem.act_before),
        }

    def _unreadable(self, error: SyncHubError, now: float) -> Document:
        document: Document = {
            "status": problems.FAILING,
            "hub": self.settings.hub.name,
            "version": __version__,
            "time": iso(now),
            "act_before": None,
            "problems": [],
            "workers": [],
            "sources": {},
            "pipelines": {},
        }
        problem = Problem("state_unavailable", problems.FAILING, "hub", error.message, error.hint, error.command)
        return self._completed(document, [problem], now)

    def _running_full(self, document: Document, facts: Facts) -> list[Problem]:
        """Sources whose retained log grows towards their limit: when it will be reached at the present rate."""
        found = []
        for name, source in document["sources"].items():
            size, limit = source["retained_log_bytes"], source["retained_log_limit_bytes"]
            limit = limit or self.settings.limits.retained_log.fail
            if size is None:
                self._retained.pop(name, None)
                continue
            samples = self._retained.setdefault(name, deque())
            full_at = _full_at(samples, facts.now, int(size), int(limit))
            if full_at is not None:
                found.append(
                    Problem(
                        "log_filling",
                        problems.DEGRADED,
                        f"source:{name}",
                        f"at the present rate the log that {name} keeps reaches its limit at {iso(full_at)}",
                        "find out what holds capture back",
                        f"sync-hub status {name}",
                        affects=problems.affected(f"source:{name}", document),
                        act_before=full_at,
                    )
                )
        return found


def _full_at(samples: deque[tuple[float, int]], now: float, size: int, limit: int) -> float | None:
    """When `limit` is reached, if the size has only grown for a minute; `samples` are kept for ten."""
    if samples and size < samples[-1][1]:
        samples.clear()
    samples.append((now, size))
    while samples[0][0] < now - GROWTH_SECONDS:
        samples.popleft()
    first_at, first_size = samples[0]
    if now - first_at < GROWTH_MEASURED_SECONDS or size <= first_size:
        return None
    seconds = max(0.0, limit - size) * (now - first_at) / (size - first_size)
    return now + seconds if seconds < IN_SIGHT_SECONDS else None


def one_line(text: str) -> str:
    """Text without line breaks and control characters, for one line of a log, a table or an answer."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
