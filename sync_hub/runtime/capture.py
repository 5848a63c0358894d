"""The first loop: read the source's log, publish until durable, save the position, acknowledge. In that order, always.

While the broker makes one batch durable, the next one is read and encoded: `flush` comes before the next `publish`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

import msgspec

from sync_hub.envelope import Encoder, topic_name
from sync_hub.errors import ConfigError, Fatal, PublishingBroken, Unavailable
from sync_hub.failpoints import failpoint
from sync_hub.model import ChangeEvent, Heartbeat, Outgoing, SourceBatch, Table, TopicInfo, TopicPartition
from sync_hub.ports import Broker, Source
from sync_hub.runtime.control import (
    RAISE_EPOCH,
    RECOVER,
    STALLED_SECONDS,
    WHEN_OPENING,
    Control,
    Rate,
    answer_requests,
    described,
)
from sync_hub.runtime.retry import Backoff
from sync_hub.runtime.snapshot import Snapshots
from sync_hub.settings import Settings
from sync_hub.state import Progress, State, position_moved
from sync_hub.state_snapshots import PROMOTED, RECOVERY, Snapshot

LOG = logging.getLogger(__name__)

READ_SECONDS = 0.05
FLUSH_SECONDS = 0.5
SAVE_SECONDS = 0.2
"""A position is saved at most this often: what lies between is read again after a crash and skipped as known."""
PROOF_SECONDS = 1.0
"""What waited in the log comes within this time, old heartbeats too: one that comes later shows that it flows."""
DRAIN_SECONDS = 5.0
RECORD_OVERHEAD_BYTES = 512


class Capture:
    """One source's worker. `run` returns when asked to stop, and raises `Fatal` when a person is needed."""

    def __init__(self, source_name: str, settings: Settings, state: State, control: Control) -> None:
        self._name = source_name
        self._settings = settings
        self._state = state
        self._control = control
        self._raise_epoch = False
        self._events = Rate()
        self._session: Session | None = None
        self._phase = "stopped"

    def run(self) -> None:
        """Capture until stopped; what is not available is tried again for ever, with backoff."""
        control, backoff = self._control, Backoff()
        while not control.stopping.is_set():
            if self._paused():
                self._phase = "paused"
                control.running()
                control.wait(0.2)
                continue
            try:
                self._capture(backoff)
            except Unavailable as error:
                if isinstance(error, PublishingBroken):
                    self._broken()
                seconds = backoff.next_seconds()
                control.backing_off(error)
                LOG.warning("%s; next attempt in %.1f s", error, seconds, extra={"action": "retry", "code": error.code})
                if control.wait_to_retry(seconds):
                    answer_requests(control, self._state, done=True)
                    backoff.reset()

    def detail(self) -> dict[str, Any]:
        """Figures for the beat; called from the beat's thread."""
        session = self._session
        snapshot = session.snapshots.figures() if session else None
        state = "failed" if self._control.state == "failed" else self._phase
        return {
            "kind": "capture",
            "source": self._name,
            "state": "snapshotting" if snapshot and state == "streaming" else state,
            "position": session.saved if session else None,
            "events_total": self._events.total,
            "events_per_second": self._events.figure(),
            "last_event_at": self._events.last_at,
            "heartbeat_seconds": _heartbeat_seconds(self._settings, self._name),
            "status": session.source_status if session else {},
            "snapshot": snapshot,
            "waiting": session.snapshots.blocked_by if session else "",
            "error": described(self._control.error),
        }

    def _paused(self) -> bool:
        return f"source:{self._name}" in self._control.paused

    def _capture(self, backoff: Backoff) -> None:
        source = self._settings.source(self._name)
        broker = self._settings.new_broker()
        try:
            session = Session(self._name, source, broker, self._state, self._settings, self._control)
            try:
                self._open(session)
                self._session, self._phase = session, "streaming"
                self._stream(session, backoff)
            except Fatal as error:
                if self._state.position(self._name) != session.saved:  # then it says nothing about the log as it is
                    raise position_moved(self._name) from error
                raise
        finally:
            self._session, self._phase = None, "stopped"
            with closing(broker):  # which may fail, and must not keep the source's log from the next attempt
                source.close()

    def _stream(self, session: Session, backoff: Backoff) -> None:
        while not (self._control.stopping.is_set() or self._paused() or self._control.recover):
            self._control.turn()
            answer_requests(self._control, self._state, done=False)
            while probe := self._control.take_probe():
                session.snapshots.probes.take(probe)
            self._events.add(session.turn())
            if self._control.state != "backing_off" or session.proven:
                self._control.running()
                backoff.reset()
        session.drain()

    def _open(self, session: Session) -> None:
        """Open the log; under a higher epoch where a hole in publishing is possible, also one before a crash.

        What was asked for when opening is done again when it does not come to its end.
        """
        asked = [one for one in self._state.wishes(self._control.name)[1] if one.action in WHEN_OPENING]
        anew = any(one.action == RECOVER for one in asked)
        session.open(raise_epoch=self._raise_epoch or bool(asked), anew=anew)
        self._raise_epoch = self._control.recover = False
        for request in asked:
            self._state.finish_request(request.id, {"ok": True})

    def _broken(self) -> None:
        """Remember, beyond this process, that nothing may be sent again under this epoch."""
        self._raise_epoch = True
        try:
            self._state.ask(self._control.name, RAISE_EPOCH, {})
        except Unavailable as error:
            LOG.warning("%s", error, extra={"action": "raise_epoch", "code": error.code})


class Session:
    """One connection to the source's log and the broker, from `open` until something fails or stops."""

    def __init__(
        self, name: str, source: Source, broker: Broker, state: State, settings: Settings, control: Control
    ) -> None:
        options = settings.sources[name].options
        self._name = name
        self._source = source
        self._broker = broker
        self._state = state
        self._control = control
        self._load = getattr(options, "snapshot", "initial") != "never"
        self._chunk_rows = int(getattr(options, "snapshot_rows", 0))
        self._encoder = Encoder(cloudevents=getattr(options, "cloudevents", False))
        self._heartbeat_seconds = _heartbeat_seconds(settings, name)
        self._topics: dict[str, TopicInfo] = {}
        self._ends: dict[str, list[int]] = {}
        self._unsaved = _Unsaved()
        self._save_at = 0.0
        self._heartbeat_at = 0.0
        self.saved: str | None = None
        self.proven = False
        """Whether events became durable, or none came for a moment: being opened does not show that it flows."""
        self._settled_at = 0.0
        self.source_status: dict[str, Any] = {}
        self.snapshots: Snapshots

    def open(self, *, raise_epoch: bool, anew: bool = False) -> None:
        """Describe the tables, make sure of their topics, and open the log where the stored position says.

        `anew` is recovery: the position is given up, and every pipeline of the source loaded again and verified.
        """
        known = self.saved = self._state.position(self._name)
        if anew:
            self._source.forget(known)
            self._state.reload([one.name for one in self._state.pipelines() if one.source == self._name], RECOVERY)
        tables = self._describe()
        self._topics = self._broker.create_topics([topic_name(self._name, table) for table in tables])
        ends = self._broker.end_offsets(self._topics)
        for topic, info in self._topics.items():
            self._ends[topic] = [ends[TopicPartition(topic, number)] for number in range(info.partitions)]
        if not anew:
            self._refuse_other_topics()
        self._broker.publish([])
        failpoint("before_open")
        position = self._source.open(None if anew else known, raise_epoch=raise_epoch)
        if self._source.status().get("timeline_changed"):
            self._state.doubt(self._pipelines(tables), PROMOTED)
        if anew:
            self._state.begin_position(self._name, position)
        else:
            self._state.save_position(self._name, position, after=known)
        self._state.save_tables(self._name, list(tables.values()))
        self.saved = position
        self._settled_at = time.monotonic() + PROOF_SECONDS
        self.snapshots = Snapshots(
            self._name, self._source, self._state, tables, load=self._load, chunk_rows=self._chunk_rows
        )

    def _pipelines(self, tables: Iterable[str]) -> list[str]:
        """Those whose rows are in their targets, or on their way there."""
        names = set(tables)
        mine = [one for one in self._state.pipelines() if one.source == self._name and one.table in names]
        return [one.name for one in mine if one.phase in {"copying", "loading", "loaded"} or one.unproven]

    def _load_changed(self) -> None:
        """Tables that changed without events are described anew, and their pipelines loaded again."""
        changed = self._source.take_changed()
        if changed:
            self._state.save_tables(self._name, list(self._describe().values()))
            for table, reason in changed.items():
                LOG.warning("%s: %s", table, reason, extra={"action": "reload", "table": table})
                self._state.reload(self._pipelines([table]), f"{table}: {reason}")

    def _refuse_other_topics(self) -> None:
        """A key must stay in its partition, and what was proven to be published must still be there."""
        for progress in self._state.progress(self._name, limit=1):
            for topic, ends in progress.offsets.items():
                info = self._topics.get(topic)
                if info is not None and info.partitions != len(ends):
                    raise Fatal(
                        "partitions_changed",
                        f"topic {topic} had {len(ends)} partitions and now has {info.partitions}: order per key would "
                        "be lost",
                        hint="partitions are changed through the hub only",
                        command=f"sync-hub recover {self._name}",
                    )
                if info is not None and any(now < end for now, end in zip(self._ends[topic], ends, strict=True)):
                    raise Fatal(
                        "topic_truncated",
                        f"topic {topic} ends before what was published to it: {self._ends[topic]}, not {ends}",
                        hint="it was created again or restored from an older copy: events are missing",
                        command=f"sync-hub recover {self._name}",
                    )

    def turn(self) -> int:
        """Read, make the batch before durable, publish; returns how many events were published."""
        batch = self._source.read(READ_SECONDS)
        failpoint("after_read")
        records = self._records(batch.events)
        if not self._flush():
            return 0
        self._save()
        if records:
            self._broker.publish(records)
            failpoint("after_publish")
        self._unsaved.add(batch, self.snapshots)
        if not batch.events:
            self._flush()
            self._save()
        self._heartbeat()
        self._load_changed()
        self.snapshots.turn()
        return len(batch.events)

    def drain(self) -> None:
        """Give what was published a last chance to become durable, and save how far it came."""
        if self._broker.flush(DRAIN_SECONDS):
            self._unsaved.durable = True
            self._save(now=True)

    def _describe(self) -> dict[str, Table]:
        tables = {}
        for name in self._source.tables():
            table = self._source.describe(name)
            if table is None:
                raise ConfigError(
                    "table_missing",
                    f"sources.{self._name}: there is no table {name}",
                    hint="create it, or remove it from `tables`",
                    command="sync-hub check",
                )
            tables[name] = table
        return tables

    def _flush(self) -> bool:
        """Wait until all that was published is durable, however long it takes; False when told to stop meanwhile."""
        slow_at = time.monotonic() + STALLED_SECONDS
        while not self._broker.flush(FLUSH_SECONDS):
            self._source.keep_alive()
            self._control.turn()
            if self._control.stopping.is_set():
                return False
            if time.monotonic() >= slow_at and self._control.state != "backing_off":
                self._control.backing_off(_broker_slow())
        failpoint("after_flush")
        self._unsaved.durable = True
        self.proven = self.proven or self._unsaved.events
        return True

    def _save(self, *, now: bool = False) -> None:
        """Store the newest position whose events are all durable, then let the source forget it."""
        unsaved = self._unsaved
        if not unsaved.durable or unsaved.position is None:
            return
        if not (now or unsaved.chunks or unsaved.heartbeat) and time.monotonic() < self._save_at:
            return
        failpoint("before_save")
        self._state.save_position(
            self._name,
            unsaved.position,
            after=self.saved,
            progress=self._progress(unsaved),
            snapshots=unsaved.snapshots,
        )
        self.saved = unsaved.position
        self.proven = self.proven or (unsaved.heartbeat is not None and time.monotonic() >= self._settled_at)
        failpoint("before_ack")
        self._source.acknowledge(unsaved.position)
        failpoint("after_ack")
        self.snapshots.stored()
        self._save_at = time.monotonic() + SAVE_SECONDS
        self._unsaved = _Unsaved()

    def _progress(self, unsaved: _Unsaved) -> Progress | None:
        if unsaved.heartbeat is None:
            return None
        for (topic, partition), offset in self._broker.published().items():
            if topic in self._ends:
                self._ends[topic][partition] = max(self._ends[topic][partition], offset)
        heartbeat = unsaved.heartbeat
        return Progress(self._name, heartbeat.position, heartbeat.source_time, time.time(), self._ends)

    def _heartbeat(self) -> None:
        now = time.monotonic()
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + (self._heartbeat_seconds if self.proven else PROOF_SECONDS)
            self._source.heartbeat()
            self.source_status = self._source.status()

    def _records(self, events: Sequence[ChangeEvent]) -> list[Outgoing]:
        if not events:
            return []
        records = self._encoder.encode(events)
        if any(record.key is None for record in records):
            records = list(self._spread(records))
        return self._fitting(records, events)

    def _spread(self, records: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """A barrier goes to every partition of its topic, in its place."""
        spread = []
        for record in records:
            if record.key is None:
                partitions = range(self._topics[record.topic].partitions)
                spread += [msgspec.structs.replace(record, partition=partition) for partition in partitions]
            else:
                spread.append(record)
        return spread

    def _fitting(self, records: list[Outgoing], events: Sequence[ChangeEvent]) -> list[Outgoing]:
        """Replace what the topic would refuse as too large: by the event without its old row, else by a reference."""
        limits = {topic: info.max_record_bytes - RECORD_OVERHEAD_BYTES for topic, info in self._topics.items()}
        if not any(len(record.value or b"") > limits[record.topic] for record in records):
            return records
        by_version = {event.version: event for event in events}
        return [
            record if len(record.value or b"") <= limits[record.topic] else self._smaller(record, by_version, limits)
            for record in records
        ]

    def _smaller(self, record: Outgoing, events: Mapping[str, ChangeEvent], limits: Mapping[str, int]) -> Outgoing:
        version = (record.value or b"").rsplit(b'"', 2)[-2].decode()
        event = msgspec.structs.replace(events[version], before=None)
        smaller = self._encoder.encode([event])[0]
        if len(smaller.value or b"") > limits[record.topic]:
            size = len(record.value or b"")
            smaller = self._encoder.encode([msgspec.structs.replace(event, after=None, oversize_bytes=size)])[0]
        return smaller


class _Unsaved:
    """What the batches since the last save have brought. `durable` covers all of it or nothing."""

    def __init__(self) -> None:
        self.durable = False
        self.position: str | None = None
        self.heartbeat: Heartbeat | None = None
        self.events = False
        self.chunks = False
        self.snapshots: list[Snapshot] = []

    def add(self, batch: SourceBatch, snapshots: Snapshots) -> None:
        """Take in a batch that was just published."""
        self.durable = False
        self.position = batch.position or self.position
        self.heartbeat = batch.heartbeat or self.heartbeat
        self.events = self.events or bool(batch.events)
        self.chunks = self.chunks or bool(batch.chunks)
        self.snapshots += snapshots.collect(batch)


def _broker_slow() -> Unavailable:
    return Unavailable(
        "broker_slow",
        f"broker: what was published is not durable after {STALLED_SECONDS:.0f} s",
        hint="do its servers run? look at disks, replicas in sync, network: nothing is lost meanwhile",
        command="sync-hub check",
    )


def _heartbeat_seconds(settings: Settings, name: str) -> float:
    return float(getattr(settings.sources[name].options, "heartbeat_seconds", 2.0))
