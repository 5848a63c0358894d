"""A copy of what is parked, for systems that read topics: the record as it was, with the error in its headers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from sync_hub.errors import SyncHubError
from sync_hub.model import Outgoing, Parked
from sync_hub.ports import Broker
from sync_hub.runtime import parking

LOG = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 5.0
HEADER: Final = "sync_hub_"


def topic_name(hub: str) -> str:
    """The topic of a hub's parked records."""
    return f"{hub}.parked"


class ParkedTopic:
    """Publishes records once they are parked. The target has them durably: a copy that fails is told and left out."""

    def __init__(self, hub: str, broker: Broker) -> None:
        self._topic = topic_name(hub)
        self._broker = broker
        self._made = False

    def publish(self, rows: Sequence[Parked]) -> None:
        """Copy records that were parked now, as far as they come with what was in the topic."""
        new = [row for row in rows if row.has_record]
        if not new:
            return
        try:
            if not self._made:
                self._broker.create_topics([self._topic])
                self._made = True
            self._broker.publish([self._copy(row) for row in new])
            if not self._broker.flush(FLUSH_SECONDS):
                LOG.warning("%d parked records may be missing in %s", len(new), self._topic, extra={"action": "park"})
        except SyncHubError as error:
            facts = {"action": "park", "code": error.code}
            LOG.warning("%d parked records are missing in %s: %s", len(new), self._topic, error, extra=facts)

    def _copy(self, row: Parked) -> Outgoing:
        told = {
            "id": row.id, "pipeline": row.pipeline, "topic": row.topic, "partition": str(row.partition),
            "offset": str(row.offset), "code": row.code, "message": row.message, "sqlstate": row.sqlstate,
            "correlation_id": row.correlation_id,
        }  # fmt: skip
        headers = [(HEADER + name, value.encode()) for name, value in told.items() if value]
        partition = None if row.record_key else 0
        before = parking.record(row).headers or []
        return Outgoing(self._topic, row.record_key, row.record_value, [*before, *headers], partition)
