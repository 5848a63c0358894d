"""A hub's state as its workers would write it: real settings and a real store, beats at chosen moments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import sqlalchemy as sa

from sync_hub import state as state_module
from sync_hub.settings import Settings, load
from sync_hub.state import Pipeline, Progress, State
from sync_hub.state_snapshots import Snapshot
from sync_hub.state_verifications import Report, Verification, VerificationOptions

NOW = 1_800_000_000.0
TOPIC = "erp.public.customers"

CONFIG = """
hub: {name: acme, state: "sqlite:///state.db"}
broker: {type: embedded, path: log.db, partitions: 2}
sources:
  erp: {type: postgres, dsn: "postgresql://nobody:dsn-canary@127.0.0.1:1/erp", tables: [public.customers]}
targets:
  crm: {type: sqlite, path: crm.db}
mappings: [mappings/]
"""


class HubState:
    """One hub in a folder. `now` is the clock that its beats and `HealthReader` share."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        (folder / "config").mkdir(parents=True, exist_ok=True)
        (folder / "mappings").mkdir(exist_ok=True)
        self.file = folder / "config" / "hub.yaml"
        self.file.write_text(config)
        self.settings: Settings = load(self.file, {})
        self.state = State(self.settings.hub.state)
        self.now = NOW

    def clock(self) -> float:
        """The time of this hub."""
        return self.now

    def pipeline(self, name: str = "customer_to_crm", *, phase: str = "loaded", **fields: Any) -> None:
        """Apply a pipeline."""
        values = {"source": "erp", "table": "public.customers", "target": "crm"} | fields
        document = f"mapping: {name}\nowner: {name}@example.com\ndescription: What {name} is for\n"
        bundle = {"name": name, "file": f"mappings/{name}.yaml", "line": 1, "document": document, "lookups": {}}
        self.state.add_pipeline(
            Pipeline(
                name, values["source"], values["table"], values["target"], json.dumps(bundle), self.now - 3600, phase
            )
        )

    def capture(self, source: str = "erp", *, state: str = "running", host: str = "host-a", **detail: Any) -> None:
        """One beat of a capture worker, now."""
        self.beat(f"capture:{source}", state, host, capture_detail(source, self.now) | detail)

    def deliver(
        self,
        target: str = "crm",
        pipelines: dict[str, dict[str, Any]] | None = None,
        *,
        member: str = "",
        state: str = "running",
        host: str = "host-a",
        **detail: Any,
    ) -> None:
        """One beat of a deliver worker, now; `pipelines` may leave out what `report` fills in."""
        reports = {name: report(self.now) | part for name, part in (pipelines or {}).items()}
        values = {"kind": "deliver", "target": target, "pipelines": reports, "error": None, "turn_at": self.now}
        self.beat(f"deliver:{target}{member}", state, host, values | detail)

    def beat(self, name: str, state: str, host: str, detail: dict[str, Any]) -> None:
        """Write a beat as if from another process and machine, at this hub's time."""
        with (
            mock.patch.object(state_module.time, "time", self.clock),
            mock.patch.object(state_module.socket, "gethostname", lambda: host),
        ):
            self.state.beat(name, state, detail)
            if name != "verify":  # it runs beside all others
                self.state.beat("verify", "running", {"kind": "verify", "turn_at": self.now, "error": None})

    def progress(
        self, ends: list[int], *, source: str = "erp", topic: str = TOPIC, age: float = 0.0, transit: float = 0.0
    ) -> None:
        """A heartbeat, stored `age` seconds ago, written `transit` seconds before."""
        stored_at = self.now - age
        entry = Progress(source, "0/1", stored_at - transit, stored_at, {topic: ends})
        self.state.save_position(source, "0/1", after=self.state.position(source), progress=entry)

    def snapshot(self, name: str = "s1", *pipelines: str, **fields: Any) -> None:
        """Existing rows that are being loaded; by default half of a new pipeline's."""
        values: dict[str, Any] = {
            "state": "running",
            "rows_done": 5,
            "rows_estimated": 10,
            "asked_at": self.now,
        } | fields
        wanted = pipelines or ("customer_to_crm",)
        self.state.snapshots.ask(Snapshot(name, "erp", "public.customers", wanted, **values))

    def verification(
        self,
        name: str = "v1",
        *,
        pipeline: str = "customer_to_crm",
        age: float | None = 0.0,
        sample: int = 0,
        **fields: Any,
    ) -> None:
        """A verification that ended `age` seconds ago, by default well; None: it goes on."""
        report = Report(**{"matched": 12, "rows_done": 12, "rows_estimated": 12} | fields.pop("report", {}))
        at = self.now - (age or 0.0)
        values: dict[str, Any] = {
            "state": "running" if age is None else "done",
            "asked_at": at - 2,
            "started_at": at - 1,
        } | fields
        options = VerificationOptions(sample=sample)
        finished_at = None if age is None else at
        self.state.verifications.ask(
            [Verification(name, pipeline, options=options, report=report, finished_at=finished_at, **values)]
        )

    def well(self) -> None:
        """Everything runs and everything is proven, now."""
        self.capture()
        self.deliver(pipelines={"customer_to_crm": {"offsets": {"0": 5, "1": 7}}})
        self.progress([5, 7])

    def execute(self, statement: str, **values: Any) -> None:
        """Change the store behind the hub's back."""
        with sa.create_engine(self.settings.hub.state).begin() as connection:
            connection.execute(sa.text(statement), values)


def capture_detail(source: str, now: float) -> dict[str, Any]:
    """What a capture worker that streams says."""
    status = {"position": "0/16B3748", "retained_log_bytes": 1 << 20, "retained_log_limit_bytes": None}
    return {
        "kind": "capture",
        "source": source,
        "state": "streaming",
        "position": "0/16B3748",
        "events_total": 12345,
        "events_per_second": 12.5,
        "last_event_at": now - 1,
        "heartbeat_seconds": 2.0,
        "status": status | {"slot_status": "reserved"},
        "snapshot": None,
        "waiting": "",
        "error": None,
        "restarts_last_hour": 0,
        "turn_at": now,
    }


def report(now: float) -> dict[str, Any]:
    """What a deliver worker says about a pipeline that runs."""
    return {
        "topic": TOPIC,
        "state": "running",
        "since": now - 600,
        "waiting_for": None,
        "applied_total": 12000,
        "applied_per_second": 12.5,
        "arriving_per_second": 12.5,
        "last_applied_at": now - 1,
        "offsets": {"0": 5, "1": 7},
        "attempt": 0,
        "next_attempt_at": None,
        "error": None,
    }
