"""Pipelines as the hub knows them: which mappings were applied, and what a deliver worker makes of each."""

from __future__ import annotations

import logging
import os
import re
import time
import uuid
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from sync_hub.envelope import topic_name
from sync_hub.errors import ConfigError, Fatal, SyncHubError
from sync_hub.failpoints import failpoint
from sync_hub.mapping.apply import CompiledMapping, compile_mapping
from sync_hub.mapping.check import check_mapping
from sync_hub.mapping.faults import SyntaxProblem
from sync_hub.mapping.loader import Bundle, load_bundles
from sync_hub.mapping.spec import MappingSpec, parse_spec
from sync_hub.model import Column, Finding, Offset, Parked, SinkBatch, Table, TopicInfo, TopicPartition
from sync_hub.ports import BlockSink, Broker, Sink
from sync_hub.runtime.batch import Item
from sync_hub.runtime.beginning import Found
from sync_hub.runtime.control import Rate
from sync_hub.runtime.parked_limits import Share, newly_parked
from sync_hub.runtime.parking import Held, closed, with_seqs, without_record
from sync_hub.settings import Settings
from sync_hub.state import Pipeline, State, Step

LOG = logging.getLogger(__name__)

_NAME = re.compile(r"^\s*[a-z_][a-z0-9_]*\s*$")


BEGINNING = frozenset({"new", "starting", "adopting"})
"""Phases in which a missing target table is made: all its rows are about to be loaded."""
LOADING = frozenset({"adopting", "ready", "loading"})
COPYING = "copying"
"""The phase in which existing rows go straight to the view; its events wait."""
COPIED_ROWS = "#copied"
"""Where a topic's offsets have one a partition, this has how many rows were copied; no topic can have such a name."""


def configured(settings: Settings) -> dict[str, tuple[Bundle, MappingSpec]]:
    """The mappings in the files, by name. Raises `ConfigError` for the first that is wrong."""
    found = {}
    for bundle in load_bundles(settings.mappings, settings.root):
        spec = parse_spec(bundle)
        for kind, name, known in (("source", spec.source, settings.sources), ("target", spec.target, settings.targets)):
            if name not in known:
                raise spec.error(
                    f"unknown_{kind}",
                    f"mapping {spec.name} names the {kind} {name!r}, which is not configured",
                    *(("from", "source") if kind == "source" else ("to", "target")),
                    hint=f"configured are: {', '.join(sorted(known))}",
                )
        _refuse_broken(spec)
        found[bundle.name] = (bundle, spec)
    return found


def _refuse_broken(spec: MappingSpec) -> None:
    """What is no expression whatever the tables are; the rest is compiled when the source has been described."""
    from sync_hub.mapping.parse import parse

    fields = (*spec.fields, *spec.on_delete_set)
    texts = [(field.path, field.expression) for field in fields if not field.is_constant]
    for path, text in [*texts, (("where",), spec.where or "true")]:
        if _NAME.match(text):
            continue  # a column, whose name may be a word of SQL
        try:
            parse(text)
        except SyntaxProblem as problem:
            raise spec.error(
                "bad_expression",
                problem.message,
                *path,
                hint=problem.hint or "look for a missing bracket, quote or comma",
                offset=problem.offset,
            ) from problem


def register(settings: Settings, state: State) -> list[str]:
    """Apply mappings never applied before, forget those whose file is gone; return those that differ from their file.

    A mapping that was applied runs on as it was; its changed file is pending until someone applies it. One that has not
    begun, because it was wrong, say, is taken from its file again.
    """
    found, pending = configured(settings), []
    applied = {pipeline.name: pipeline for pipeline in state.pipelines()}
    for name in applied.keys() - found.keys():
        state.remove_pipeline(name)
    for name, (bundle, spec) in found.items():
        text, known = msgspec.json.encode(bundle).decode(), applied.get(name)
        new = Pipeline(name, spec.source, spec.table, spec.target, text, time.time(), "new")
        if known is None:
            state.add_pipeline(new)
        elif differs(bundle, known) and (known.phase != "new" or state.apply([Step(name, known, new)])):
            pending.append(name)  # else it never began: nothing rests on what it was
    return pending


def stored_bundle(pipeline: Pipeline) -> Bundle:
    """What an applied pipeline is compiled from."""
    return msgspec.json.decode(pipeline.bundle, type=Bundle)


def differs(bundle: Bundle, pipeline: Pipeline) -> bool:
    """Whether a file's mapping, or a lookup it uses, is not what was applied."""
    stored = stored_bundle(pipeline)
    return (bundle.document.strip(), bundle.lookups) != (stored.document.strip(), stored.lookups)


RELOADING = "reloading"


def shown_phase(pipeline: Pipeline) -> str:
    """Its phase, as far as what it is doing depends on it: one that is loaded again has rows already."""
    return RELOADING if pipeline.unproven and pipeline.phase in LOADING else pipeline.phase


class Delivery:
    """One pipeline in one deliver worker: the compiled mapping, its offset rows, its figures and its error."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.name = pipeline.name
        self.topic = topic_name(pipeline.source, pipeline.table)
        self.info: TopicInfo
        self.mapping: CompiledMapping
        self.target: Table
        self.shared = False
        self.copyable = False
        self.copying = False
        self.offsets: dict[int, Offset] = {}
        self.held = Held()
        self.share = Share()
        self._person_looked = False
        self.error: SyncHubError | None = None
        self.waiting_for: str | None = None
        self.applied = Rate()
        self.arrived = Rate()
        self.caught_up = False
        self.since = time.time()
        self._state = ""

    @property
    def active(self) -> bool:
        """Whether it applies events now."""
        return self.error is None and self.waiting_for is None

    def state(self, phase: str, *, paused: bool) -> str:
        """What it is doing, in health's words; `since` follows."""
        if self.error is not None:
            now = "failed"
        elif paused:
            now = "paused"
        elif self.waiting_for:
            now = "retrying" if self.waiting_for in {"broker", "target"} else "snapshotting"
        elif phase == RELOADING:
            now = "reloading"
        elif phase != "loaded":
            now = "snapshotting"
        else:
            now = "running" if self.caught_up else "catching_up"
        if now != self._state:
            self._state, self.since = now, time.time()
        return now

    def compile(self, table: Table) -> None:
        """Compile the mapping for the source table as capture described it. Raises `ConfigError`."""
        self.mapping = compile_mapping(stored_bundle(self.pipeline), table, secrets=os.environ)

    def fit(self, sink: Sink, table: Table, shared_by: Sequence[str], *, copy: bool) -> None:
        """Check the mapping against both catalogs; the target's table is made and widened if the mapping says `create`.

        `copy`: whether existing rows may go straight to the view.
        """
        spec = self.mapping.spec
        target = sink.describe(spec.target_table)
        if spec.create:
            target = self._made(sink, target)
        refuse(check_mapping(self.mapping, table, target))
        if target is not None:
            self.target = target
            self.mapping.fit(target)
        self.shared = len(shared_by) > 1
        if self.shared:
            sink.share(spec.target_table, shared_by)
        wanted = copy and not self.shared and isinstance(sink, BlockSink)
        self.copyable = wanted and bool(self.mapping.copied(self.mapping.columns, self.target))

    def _made(self, sink: Sink, target: Table | None) -> Table | None:
        """The target's table as this mapping needs it, while all its rows are about to be loaded; else it must be so.

        Columns are added only where rows are loaded again: a table that a new mapping finds may be somebody else's.
        """
        spec, phase, columns = self.mapping.spec, self.pipeline.phase, self.mapping.target_columns()
        if target is None and phase not in BEGINNING:
            raise Fatal(
                "target_table_missing",
                f"pipeline {self.name}: the table {spec.target_table} is gone from target {spec.target}, and its rows "
                "with it",
                hint="restore it, or load the pipeline again",
                command=f"sync-hub snapshot {self.name} --reload",
            )
        if target is None:
            schema, _, name = spec.target_table.rpartition(".")
            sink.create(Table(schema, name, columns, key=self.mapping.key, unique=(self.mapping.key,)))
            return sink.describe(spec.target_table)
        lacking = missing_columns(self.mapping, target)
        if lacking and phase == "adopting":
            ddl = sink.add_columns(spec.target_table, lacking)
            LOG.info("pipeline %s: %s", self.name, ddl, extra={"action": "add_columns"})
            return sink.describe(spec.target_table)
        if lacking and phase not in BEGINNING:
            raise Fatal(
                "unknown_target_column",
                f"pipeline {self.name}: target table {spec.target_table} has no column "
                f"{', '.join(column.name for column in lacking)}",
                hint="have it added, and all rows written again",
                command=f"sync-hub apply {self.name}",
            )
        return target

    def start(self, found: Found, sink: Sink, broker: Broker, state: State) -> None:
        """Make sure of an offset row for every partition. A pipeline that is new starts at the topic's end.

        What was found holds for one that was under way before; for one that began or was loaded again since, it may be
        from before another worker moved its offsets, and is looked at anew.
        """
        self.info = found.info
        phase = state.phase(self.name)
        begins = not (BEGINNING.isdisjoint({phase, self.pipeline.phase}) and found.rows)
        starts = broker.start_offsets([self.topic]) if begins else found.starts
        rows = sink.load_offsets([self.name]) if begins else found.rows
        if phase == "adopting":
            rows = self._adopt(rows, starts, sink, broker)
        if not rows and phase not in {"new", "starting"}:
            raise Fatal(
                "offsets_lost",
                f"target {self.pipeline.target} no longer knows how far pipeline {self.name} has come",
                hint="it was restored from a backup, or sync_hub_offsets was emptied: load the pipeline again",
                command=f"sync-hub snapshot {self.name} --reload",
            )
        if phase == "new" and rows and state.phase(self.name) == "new":
            raise Fatal(
                "offsets_without_state",
                f"pipeline {self.name} has offsets in target {self.pipeline.target}, but this hub never applied it",
                hint="another hub writes there, or this hub's state was lost: then load it again",
                command=f"sync-hub snapshot {self.name} --reload",
            )
        if not rows:
            state.advance_phase([self.name], "starting", only_from=["new"])
            sink.start_offsets([*self._at_end(broker), *self._nothing_copied()])
            failpoint("after_start_offsets")
            rows = sink.load_offsets([self.name])
        copied = copy_row(rows)
        rows = self.own(rows)
        self._prove(rows)
        self._prove_bounds(rows, starts, broker.end_offsets([self.topic]) if begins else found.ends)
        if self._person_looked:
            looked_at = {place.partition: end for place, end in broker.end_offsets([self.topic]).items()}
            self.share, self._person_looked = Share(looked_at), False
        to_copy = copied is not None and bool(copied.topic_id)
        if begins:
            state.advance_phase([self.name], COPYING if to_copy else "ready", only_from=["new", "starting"])
            state.adopted(self.pipeline)
        self.copying = state.phase(self.name) == COPYING
        if copied and to_copy and not self.copying:  # who still copies must not go on beside the events
            sink.write(SinkBatch([(copied, replace(copied, topic_id=""))], []))

    def _nothing_copied(self) -> list[Offset]:
        """The row that copying moves on; its `topic_id` is empty once nothing is to be copied any more."""
        if not self.copyable:
            return []
        return [Offset(self.name, self.topic + COPIED_ROWS, 0, uuid.uuid4().hex, 0, "", self.mapping.hash)]

    def _adopt(
        self, rows: Sequence[Offset], starts: Mapping[TopicPartition, int], sink: Sink, broker: Broker
    ) -> list[Offset]:
        """Fit the offset rows to the mapping and the topic as they are now: all rows are about to be loaded again.

        Reading goes on where it stood if that place is still in the same topic, else at its end. What is parked gives
        way to the rows that come: one that is gone from the source has no event that would take its place.
        """
        ends = {row.partition: row for row in self._at_end(broker)}
        ours = {row.partition: row for row in rows if row.topic == self.topic}
        known = {place: row for place, row in ours.items() if place in ends}
        same = known.keys() == ends.keys() and all(
            row.topic_id == self.info.id and starts[row.place] <= row.next_offset <= ends[place].next_offset
            for place, row in known.items()
        )
        adopted = {
            place: replace(row, mapping_hash=self.mapping.hash) if same else ends[place] for place, row in known.items()
        }
        now = time.time()
        given_up = [closed(row, "superseded", now) for row in sink.find_parked([self.name]) if row.partition in ours]
        pairs = with_seqs({place: (row, adopted.get(place, row)) for place, row in ours.items()}, given_up)
        moved = [pair for pair in pairs.values() if pair[0] != pair[1]]
        if moved:
            sink.write(SinkBatch(moved, [], given_up))
        sink.start_offsets([row for place, row in ends.items() if place not in known])
        return sink.load_offsets([self.name])

    def _at_end(self, broker: Broker) -> list[Offset]:
        """Offset rows at the topic's end, in one moment for all partitions: a barrier is behind all of them or none."""
        ends = broker.end_offsets([self.topic])
        while (again := broker.end_offsets([self.topic])) != ends:
            ends = again
        return [self._offset(place.partition, end) for place, end in sorted(ends.items())]

    def load(self, rows: Sequence[Offset], partitions: Sequence[int]) -> None:
        """Take the offset rows of the partitions that this worker reads."""
        mine = self.own(rows)
        self._prove(mine)
        self.offsets = {row.partition: row for row in mine if row.partition in partitions}

    def own(self, rows: Sequence[Offset]) -> list[Offset]:
        """Of a target's offset rows those of this pipeline and its topic as it is.

        Partitions that only a former topic had are left over from before it was loaded again.
        """
        partitions, known = self.info.partitions, self.info.id
        mine = [row for row in rows if row.pipeline == self.name and row.topic == self.topic]
        return [row for row in mine if row.partition < partitions or row.topic_id == known]

    def hold(self, rows: Sequence[Parked]) -> None:
        """Take the open parked records of the partitions that this worker reads."""
        self.held = Held(rows)

    def resume(self) -> None:
        """Forget why it stopped, because a person asks for it.

        After `too_many_parked` what is in the topic when it starts again is not judged by `limits.parked_share`: rows
        that were mended lie behind the wrong ones, for which it would stop again and again.
        """
        self._person_looked = self.error is not None and self.error.code == "too_many_parked"
        self.error, self.share = None, Share()

    def written(
        self, moved: Mapping[int, tuple[Offset, Offset]], items: Sequence[Item], parked: Sequence[Parked]
    ) -> list[Parked]:
        """A transaction with these offset rows, before and after, and these parked records was committed.

        Returns those that are parked from now on.
        """
        self.offsets |= {partition: after for partition, (_, after) in moved.items()}
        new = newly_parked(self.held, parked)
        self.share.add(items, new)
        self.applied.add(max(0, len(items) - len(new)))
        self.held.store(map(without_record, parked))
        return new

    def _offset(self, partition: int, next_offset: int) -> Offset:
        return Offset(self.name, self.topic, partition, self.info.id, next_offset, "", self.mapping.hash)

    def _prove(self, rows: Sequence[Offset]) -> None:
        """The offsets must belong to this topic, all its partitions, and this mapping."""
        if {row.topic_id for row in rows} - {self.info.id}:
            raise Fatal(
                "topic_recreated",
                f"topic {self.topic} is not the one that the offsets of pipeline {self.name} belong to",
                hint="it was deleted and created again: what was in it is lost",
                command=f"sync-hub recover {self.pipeline.source}",
            )
        if {row.partition for row in rows} != set(range(self.info.partitions)):
            raise Fatal(
                "partitions_changed",
                f"topic {self.topic} has {self.info.partitions} partitions, pipeline {self.name} knows {len(rows)}",
                hint="partitions are changed through the hub only, because order per key would be lost",
                command=f"sync-hub recover {self.pipeline.source}",
            )
        if {row.mapping_hash for row in rows} - {self.mapping.hash}:
            raise Fatal(
                "mapping_differs",
                f"pipeline {self.name}: the target was written by another version of the mapping, a lookup or a secret",
                hint="restore it, or load the pipeline again",
                command=f"sync-hub snapshot {self.name} --reload",
            )

    def _prove_bounds(
        self, rows: Sequence[Offset], starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> None:
        """What comes next must still be in the topic."""
        for row in rows:
            start, end = starts[row.place], ends[row.place]
            if not start <= row.next_offset <= end:
                raise Fatal(
                    "offset_gone",
                    f"pipeline {self.name} comes next to record {row.next_offset} of {self.topic}/{row.partition}, "
                    f"which holds {start} to {end}",
                    hint="records were deleted before they were applied: load the pipeline again",
                    command=f"sync-hub recover {self.pipeline.source}",
                )


def is_copy_row(row: Offset) -> bool:
    """Whether this says how far copying came, not where a partition is read."""
    return row.topic.endswith(COPIED_ROWS)


def copy_row(rows: Sequence[Offset]) -> Offset | None:
    """Of one pipeline's offsets, the row that says how far copying came."""
    return next(filter(is_copy_row, rows), None)


def missing_columns(mapping: CompiledMapping, target: Table) -> tuple[Column, ...]:
    """What a mapping writes and its target's table has not, in the mapping's order."""
    there = {column.name for column in target.columns}
    return tuple(column for column in mapping.target_columns() if column.name not in there)


def refuse(findings: Sequence[Finding]) -> None:
    """Raise `ConfigError` for the first finding that is an error."""
    for finding in findings:
        if finding.severity == "error":
            raise ConfigError(
                finding.code, finding.message, where=finding.path, hint=finding.hint, command=finding.command
            )


def by_table(pipelines: Sequence[Pipeline]) -> dict[str, list[str]]:
    """Which pipelines write to each table of one target, those included that cannot run now."""
    tables: dict[str, list[str]] = {}
    for pipeline in pipelines:
        tables.setdefault(parse_spec(stored_bundle(pipeline)).target_table, []).append(pipeline.name)
    return tables
