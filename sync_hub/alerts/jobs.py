"""What the supervisor does about alerts: a job that watches health, one that calls out, a thread a receiver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sync_hub.alerts import heartbeat, watch
from sync_hub.alerts.heartbeat import Heartbeat
from sync_hub.alerts.receivers import Receiver
from sync_hub.alerts.sender import Sender
from sync_hub.alerts.watch import Watch
from sync_hub.state import State
from sync_hub.web.reader import HealthReader


def add(scheduler: Any, reader: HealthReader, state: State, receivers: Sequence[Receiver]) -> None:
    """Start what sends, and have an APScheduler look after the rest."""
    senders = [Sender(receiver, state.alerts) for receiver in receivers]
    for sender in senders:
        sender.start()
    scheduler.add_job(Watch(reader, state.alerts, senders).look, "interval", seconds=watch.LOOK_SECONDS)
    settings = reader.settings.alerts.heartbeat
    if settings.url:
        calling = Heartbeat(settings, lambda: str(reader.document()["status"]))
        scheduler.add_job(calling.beat, "interval", seconds=heartbeat.LOOK_SECONDS)
