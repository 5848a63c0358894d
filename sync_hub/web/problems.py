"""What can be wrong, with stable codes.

Each code is described in `docs/reference/health.md`. A problem's `since` comes from what the state stores; where
nothing is stored (None), the reader fills in when it first saw the problem.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

Document = dict[str, Any]

DEGRADED, FAILING = "degraded", "failing"

_UNITS = ("B", "KB", "MB", "GB", "TB")

CODES = {
    "state_unavailable": "The hub's own state cannot be read.",
    "no_pipelines": "Nothing flows: no mapping has been applied.",
    "mapping_unreadable": "A mapping file cannot be read now; what was applied goes on.",
    "worker_missing": "A worker that the configuration asks for has never reported.",
    "worker_lost": "A worker has been silent for three beats.",
    "worker_failed": "A worker stopped because a person is needed.",
    "worker_stopped": "A worker was stopped and not started again.",
    "worker_backing_off": "A worker cannot work now and tries again.",
    "worker_stuck": "A worker beats, but its loop has not turned for a minute.",
    "source_failed": "Capture stopped because a person is needed.",
    "source_stopped": "Capture does not run.",
    "source_no_heartbeat": "No heartbeat has come back through the source's log.",
    "source_waiting": "Loading existing rows waits for a transaction at the source.",
    "snapshot_paused": "The loading of a view's existing rows was paused.",
    "retained_log": "The source keeps much log for the hub.",
    "log_filling": "The log kept at the source will reach its limit if nothing changes.",
    "slot_at_risk": "The source is about to drop log that the hub has not read.",
    "slot_lost": "The source has dropped log that the hub had not read.",
    "paused": "Somebody paused a source, target or pipeline.",
    "pipeline_missing": "No worker reports this pipeline.",
    "pipeline_waiting": "A pipeline has not begun, and nobody does anything about it.",
    "pipeline_failed": "A pipeline stopped because a person is needed.",
    "pipeline_stopped": "A pipeline does not run.",
    "pipeline_retrying": "A pipeline's target does not take its rows now; it tries again.",
    "parked": "Records that a mapping or target rejects are held with their error.",
    "view_unproven": "Something happened after which a view may differ from its source.",
    "view_differs": "A verification found that a view differs from its source.",
    "verification_failed": "The last verification of a view came to no end.",
    "verification_old": "A view was not verified for long.",
    "lag": "A pipeline is behind.",
    "lag_unknown": "Nothing proves how far a pipeline is behind.",
}

_STOPPING = {
    "worker_missing", "worker_lost", "worker_failed", "worker_stopped", "worker_backing_off", "source_failed",
    "source_stopped", "source_no_heartbeat", "slot_lost", "paused",
}  # fmt: skip


class Problem(Struct):
    """One thing that is wrong. `since` is in seconds since 1970, None when the state does not tell."""

    code: str
    severity: str
    subject: str
    message: str
    hint: str = ""
    command: str = ""
    since: float | None = None
    affects: tuple[str, ...] = ()
    act_before: float | None = None

    @property
    def stops(self) -> bool:
        """Whether it says by itself why what it affects stands still, with the severity that this has."""
        return self.code in _STOPPING and (self.code != "worker_lost" or self.severity == FAILING)

    @property
    def identity(self) -> tuple[str, str]:
        """The same problem keeps it while it lasts."""
        return (self.code, self.subject)


def affected(subject: str, health: Document) -> tuple[str, ...]:
    """The pipelines that a source's, target's or pipeline's problem touches."""
    kind, _, name = subject.partition(":")
    if kind == "pipeline":
        return (name,)
    return tuple(sorted(key for key, pipeline in health["pipelines"].items() if pipeline.get(kind) == name))


def said(who: str, error: Document, otherwise: str) -> str:
    """What an error says, and of whom; `otherwise` where there is none."""
    return f"{who}: {error.get('code', '')}: {error.get('message', '')}" if error else f"{who}: {otherwise}"


def seconds(text: str | None) -> float | None:
    """Seconds since 1970 of an ISO moment."""
    return None if text is None else datetime.fromisoformat(text).timestamp()


def short(text: str | None) -> str:
    """A moment for people: `2026-11-23 09:30:02 UTC`."""
    return "" if text is None else f"{text[:10]} {text[11:19]} UTC"


def counted(number: int, what: str) -> str:
    """`1 rejected record`, `2 rejected records`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def size(number: float) -> str:
    """Bytes in the unit that a person would choose."""
    unit = 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.0f} {_UNITS[unit]}" if unit == 0 or number >= 100 else f"{number:.1f} {_UNITS[unit]}"
