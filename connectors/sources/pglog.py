"""Reads the log in batches: the handshake first, then whole transactions, marks and heartbeats in their places."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from connectors.sources.pgcomplete import Completion, Fetch
from connectors.sources.pgevents import EventAssembler
from connectors.sources.pgmessages import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogMessage,
    Message,
    Origin,
    Rows,
    Truncate,
    Update,
)
from connectors.sources.pgoutput import Decoder
from connectors.sources.pgposition import POSITION_UNPROVEN, Position, dump, format_lsn
from connectors.sources.pgsnapshot import Chunks
from connectors.sources.pgstream import LogStream
from connectors.sources.pgtables import CapturedTables
from sync_hub.errors import Fatal
from sync_hub.model import ChunkDone, Heartbeat, SourceBatch

LOG = logging.getLogger(__name__)

PREFIX: Final = "sync_hub"
"""Prefix of logical messages: the hub's heartbeats and marks, and what applications say about their transactions."""

BATCH_EVENTS: Final = 2_000
BATCH_BYTES: Final = 1_000_000
BATCH_SECONDS: Final = 0.02
MANY_TABLES: Final = 16
MOST_TIMES: Final = 4
"""A batch grows by its own size for every so many tables in it, up to so many times: its records go to as many topics,
few to each, and Kafka's work goes by its batches, not by records."""
CAUGHT_UP_MICROSECONDS: Final = 50_000
CUT_EVENTS: Final = 4_000
CUT_BYTES: Final = 4_000_000
VISIBLE_SECONDS: Final = 0.1
"""How often to look whether a transaction that values are needed from has become visible."""


class Log:
    """One connection to the log from `position` on.

    `fetch` reads what the log left out, so that events are whole before they are handed out. The first transaction must
    be the position's own, unless nothing was published yet: it is read and left out.
    """

    def __init__(
        self,
        stream: LogStream,
        tables: CapturedTables,
        assembler: EventAssembler,
        chunks: Chunks,
        position: Position,
        *,
        heartbeat_name: str,
        command: str,
        fetch: Fetch,
    ) -> None:
        self.stream = stream
        self.tables = tables
        self._assembler = assembler
        self._chunks = chunks
        self._heartbeat_name = heartbeat_name
        self._command = command
        self._fetch = fetch
        self._pending: tuple[Completion, SourceBatch] | None = None
        self._said_waiting = False
        self._ask_at = 0.0
        self._decoder = Decoder(tables.prepare)
        self._messages: Iterator[LogMessage] = iter(())
        """What was taken and is not handled yet."""
        self._most = CUT_EVENTS
        """A batch ends when it has so many events, within a transaction, too: some more, as rows come together."""
        self._position = position
        self._newest: Begin | None = None
        """The last whole transaction, where the position does not say it yet: there are many of them in a batch."""
        self.timeline_changed = False
        self._proven = False
        self._skipping = False
        self._moved = False
        self._bytes = 0
        """Of all that was taken since the last batch; what of it is left for the next one counts for this one."""
        self._batch_until = 0.0
        self._beat: float | None = None
        self._heartbeat: Heartbeat | None = None
        self._done: list[ChunkDone] = []
        self._row_handlers: dict[type, Callable[[Any], None]] = {
            Rows: assembler.rows,
            Insert: assembler.insert,
            Update: assembler.update,
            Delete: assembler.delete,
            Truncate: assembler.truncate,
            Message: self._message,
            Origin: lambda message: assembler.origin(message.name),
        }

    @property
    def position(self) -> Position:
        """The last whole transaction that was read, or what reading began with."""
        last = self._newest
        if last is None:
            return self._position
        return msgspec.structs.replace(
            self._position, lsn=format_lsn(last.lsn), xid=last.xid, committed_at=last.committed_at
        )

    def read(self, timeout_seconds: float) -> SourceBatch:
        """The next batch: see `Source.read`."""
        if self._chunks.discarded:
            return SourceBatch([], discarded=self._chunks.take_discarded())
        until = time.monotonic() + timeout_seconds
        if self._pending is not None:
            return self._part(*self._pending, until)
        assembler, handlers = self._assembler, self._row_handlers
        while True:
            message = next(self._messages, None)
            if message is None:
                taken = self.stream.take(self._wait_until(until))
                if not taken:
                    if self._moved and assembler.transaction is None:
                        return self._batch(until, inside=False)
                    return SourceBatch([], discarded=self._chunks.take_discarded())
                self._bytes += sum(map(len, taken))
                self._messages = self._decoder.decode_all(taken)
            elif type(message) not in handlers:
                if self._boundary(message) and self._full():
                    return self._batch(until, inside=False)
            elif not self._skipping:
                handlers[type(message)](message)
                if len(assembler.events) >= self._most or self._bytes >= CUT_BYTES:
                    return self._batch(until, inside=assembler.transaction is not None)

    def _wait_until(self, until: float) -> float:
        """How long to wait for more: with whole transactions in hand until the batch is due, or not at all.

        Not at all when the newest commit was sent fresh; what has come meanwhile is taken along. Commits sent late are
        a backlog at the server: more follows, though one message comes at a time.
        """
        if not self._moved or self._assembler.transaction is not None:
            return until
        committed_at = self._position.committed_at if self._newest is None else self._newest.committed_at
        fresh = self.stream.sent_at - committed_at < CAUGHT_UP_MICROSECONDS
        return 0.0 if fresh else min(until, self._batch_until)

    def _boundary(self, message: LogMessage) -> bool:
        """Begin or end a transaction; True at the end of one."""
        if isinstance(message, Begin):
            if not self._proven:
                self._prove(message, self.position)
            if not self._moved:
                self._batch_until = time.monotonic() + BATCH_SECONDS
            self._assembler.begin(message)
        elif isinstance(message, Commit):
            self._commit()
            return True
        return False

    def _prove(self, message: Begin, expected: Position) -> None:
        self._proven = True
        if expected.xid == 0:
            self._refuse_used(message, expected)
            return
        found = (message.lsn, message.xid, message.committed_at)
        if found != (expected.lsn_number, expected.xid, expected.committed_at):
            raise Fatal(
                POSITION_UNPROVEN,
                f"the log continues with transaction {message.xid} at {format_lsn(message.lsn)}, not with the last"
                f" one that was published: {expected.xid} at {expected.lsn}",
                hint="changes between may be lost: recovery makes a new slot and loads all its pipelines again",
                command=self._command,
            )
        self._skipping = True

    def _refuse_used(self, message: Begin, unused: Position) -> None:
        """A slot that nobody has read begins between transactions; a hub acknowledges one, which comes again."""
        if message.lsn == unused.lsn_number:
            raise Fatal(
                "slot_without_state",
                f"a hub has read the replication slot up to {unused.lsn}, and this one does not know what it published",
                hint="another hub of this name reads it, or this hub's state was lost: give this hub another name, or "
                "recover",
                command=self._command,
            )

    def _commit(self) -> None:
        begun = self._assembler.transaction
        self._assembler.commit()
        if self._skipping or begun is None:
            self._skipping, self._bytes = False, 0
            return
        self._moved = True
        self._newest = begun
        if self._beat is not None:
            self._heartbeat, self._beat = Heartbeat(dump(self._remembering()), self._beat), None

    def _full(self) -> bool:
        """Whether the batch ends at this commit, whatever follows."""
        if not self._moved:
            return False
        times = min(MOST_TIMES, 1 + len(self._assembler.tables_met) // MANY_TABLES)
        self._most = CUT_EVENTS * times
        return (
            len(self._assembler.events) >= BATCH_EVENTS * times
            or self._bytes >= BATCH_BYTES * times
            or time.monotonic() >= self._batch_until + BATCH_SECONDS * (times - 1)
        )

    def _remembering(self) -> Position:
        """The position with the tables as they are now, which is what it is from here on."""
        position, tables = self.position, self.tables.remembered()
        if tables != position.tables:
            position = msgspec.structs.replace(position, tables=tables)
        self._position, self._newest = position, None
        return position

    def _batch(self, until: float, *, inside: bool) -> SourceBatch:
        events, incomplete = self._assembler.take()
        position = None if inside else dump(self._remembering())
        heartbeat, self._heartbeat = self._heartbeat, None
        done, self._done = tuple(self._done), []
        self._moved, self._bytes, self._most = False, 0, CUT_EVENTS
        batch = SourceBatch(events, position, heartbeat, done, self._chunks.take_discarded())
        if not incomplete:
            return batch
        tables = self.tables.by_name
        completion = Completion(events, incomplete, lambda name: tables[name].order)
        return self._part(completion, msgspec.structs.replace(batch, events=[]), until)

    def _part(self, completion: Completion, batch: SourceBatch, until: float) -> SourceBatch:
        """The next whole events of a batch that the log left incomplete; its position comes with the last of them."""
        self._pending = completion, batch
        while True:
            now = time.monotonic()
            if now >= self._ask_at:
                events = completion.advance(self._fetch)
                if completion.done:
                    self._pending, self._said_waiting = None, False
                    discarded = batch.discarded + self._chunks.take_discarded()
                    return msgspec.structs.replace(batch, events=events, discarded=discarded)
                if events:
                    return SourceBatch(events, discarded=self._chunks.take_discarded())
                self._wait_visible(completion, now)
            if now >= until:
                return SourceBatch([], discarded=self._chunks.take_discarded())
            self.stream.report()
            time.sleep(max(0.0, min(self._ask_at, until) - now))

    def _wait_visible(self, completion: Completion, now: float) -> None:
        self._ask_at = now + VISIBLE_SECONDS
        if not self._said_waiting:
            self._said_waiting = True
            LOG.warning("waiting until %s is visible", completion.waits_for, extra={"action": "wait_visible"})

    def _message(self, message: Message) -> None:
        if message.prefix != PREFIX or not message.transactional:
            return
        try:
            said = msgspec.json.decode(message.content)
        except (msgspec.DecodeError, RecursionError):
            return  # an application's own use of the prefix
        if not isinstance(said, dict):
            return
        if "heartbeat" in said:
            if said["heartbeat"] == self._heartbeat_name and isinstance(said.get("time"), int | float):
                self._beat = float(said["time"])
        elif "mark" in said:
            self._mark(said["mark"])
        else:
            self._assembler.context(said)

    def _mark(self, mark: Any) -> None:
        chunk = self._chunks.take(mark) if isinstance(mark, str) else None
        if chunk is None:
            return
        request = chunk.request
        self._assembler.snapshot(self.tables.by_name[chunk.table].events, chunk.rows, chunk.asked, request)
        rows, touched = len(chunk.rows), tuple(chunk.touched)
        self._done.append(ChunkDone(request.run, chunk.table, request.number, rows, chunk.last_key, touched))
