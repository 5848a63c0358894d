"""What is to be reached, as ratios within one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

PEER = "debezium"
RATE, VALUES, MEMORY, CPU = "rows_per_second", "values_per_second", "peak_mb", "cpu_us_per_row"
WORDS = {RATE: "rows/s", VALUES: "values/s", MEMORY: "peak MB", CPU: "µs of CPU a row"} | {
    f"latency_ms.{name}": f"latency {name}, ms" for name in ("p50", "p95", "p99", "max")
}
Median = Callable[[str, str, str, str], float | None]
"""The median of (leg, workload, subject, metric); None when it was not measured, or failed."""


@dataclass(frozen=True)
class Goal:
    """A metric of one subject, by itself or divided by that of another subject or workload."""

    leg: str
    workload: str
    subject: str
    metric: str
    bound: float
    at_least: bool = True
    against: str = ""
    """Another subject on the same workload."""
    beside: str = ""
    """Another workload of the same subject."""

    @property
    def text(self) -> str:
        """What is compared with what."""
        other = f" : {self.against}" if self.against else f" : its own on {self.beside}" if self.beside else ""
        return f"{self.leg} {self.workload}, {WORDS[self.metric]}, {self.subject}{other}"

    @property
    def sides(self) -> tuple[tuple[str, str], ...]:
        """Workload and subject of what is measured, and of what it is divided by."""
        own = (self.workload, self.subject)
        if not (self.against or self.beside):
            return (own,)
        return own, (self.beside or self.workload, self.against or self.subject)

    @property
    def sign(self) -> str:
        """Of the bound."""
        return "≥" if self.at_least else "≤"

    def value(self, median: Median) -> float | None:
        """What was reached; None when something was not measured."""
        own, *others = (median(self.leg, workload, subject, self.metric) for workload, subject in self.sides)
        if own is None or not others:
            return own
        return own / others[0] if others[0] else None

    def reached(self, value: float) -> bool:
        """Whether a value is as good as the bound, or better."""
        return value >= self.bound if self.at_least else value <= self.bound


def _goals() -> list[Goal]:
    hub, again = "confluent", "kafka-python"
    found = [
        Goal("capture", "a", hub, RATE, 4, against=PEER),
        Goal("capture", "a", hub, MEMORY, 1 / 10, at_least=False, against=PEER),
        Goal("capture", "a", "embedded", RATE, 4, against=PEER),
        *(Goal("deliver", one, hub, RATE, 4, against=PEER) for one in "abc"),
        *(Goal("deliver", one, hub, MEMORY, 1 / 8, at_least=False, against=PEER) for one in "abc"),
        *(Goal("end-to-end", one, hub, RATE, 5, against=PEER) for one in "abc"),
        *(Goal("end-to-end", one, again, RATE, 2.5, against=PEER) for one in "abc"),
        Goal("end-to-end", "b", hub, RATE, 0.5, against="postgres"),
        Goal("end-to-end", "a", hub, CPU, 30, at_least=False),
    ]
    for percentile, bound in (("p50", 10), ("p99", 30)):
        metric = f"latency_ms.{percentile}"
        found.append(Goal("latency", "i1000", hub, metric, bound, at_least=False))
        found.append(Goal("latency", "i1000", hub, metric, 1 / 3, at_least=False, against=PEER))
    return [
        *found,
        Goal("latency", "i5000", hub, "latency_ms.p99", 100, at_least=False),
        Goal("snapshot", "a", hub, RATE, 0.6, against="copy"),
        *(Goal("end-to-end", one, hub, VALUES, 0.8, beside="a") for one in ("a10", "f", "g")),
        *(Goal("end-to-end", one, hub, VALUES, 0.8, beside="h1") for one in ("h2", "h4", "h8")),
        *(Goal("end-to-end", one, hub, MEMORY, 1.2, at_least=False, beside="a") for one in ("a10", "f", "g")),
    ]


GOALS = _goals()
