"""The offsets of a PostgreSQL target: their table, and the compare-and-set that every transaction begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg
from msgspec.structs import astuple

from connectors.postgresql import quote_table
from sync_hub.model import Offset

TABLE: Final = "sync_hub_offsets"

_CREATE: Final = """create table if not exists {table} (
    pipeline text collate "C" not null,
    topic text collate "C" not null,
    partition int not null,
    topic_id text not null,
    next_offset bigint not null,
    last_version text not null,
    mapping_hash text not null,
    parked_seq bigint not null default 0,
    barrier text not null default '',
    primary key (pipeline, topic, partition)
) with (fillfactor = 50)"""

_COLUMNS: Final = "pipeline, topic, partition, topic_id, next_offset, last_version, mapping_hash, parked_seq, barrier"

_KEY: Final = ("pipeline", "topic", "partition")
_COMPARED: Final = ("topic_id", "next_offset", "mapping_hash", "parked_seq", "barrier")
_SET: Final = ("topic_id", "next_offset", "last_version", "mapping_hash", "parked_seq", "barrier")

# The rows are locked in primary key order, so that no two workers wait for each other. READ COMMITTED looks again at a
# row that was changed while this waited: it no longer fits, is not counted, and the caller rolls back.
_ADVANCE: Final = """with given as (
    select * from unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::bigint[], $6::text[], $7::bigint[],
        $8::text[], $9::text[], $10::bigint[], $11::text[], $12::text[], $13::bigint[], $14::text[])
    as given (pipeline, topic, partition, topic_id, next_offset, mapping_hash, parked_seq, barrier,
        new_topic_id, new_next_offset, new_last_version, new_mapping_hash, new_parked_seq, new_barrier)
), locked as (
    select o.pipeline, o.topic, o.partition
    from {table} o join given g
        on (o.pipeline, o.topic, o.partition) = (g.pipeline, g.topic, g.partition)
    order by o.pipeline, o.topic, o.partition
    for update of o
)
update {table} o
set topic_id = g.new_topic_id, next_offset = g.new_next_offset, last_version = g.new_last_version,
    mapping_hash = g.new_mapping_hash, parked_seq = g.new_parked_seq, barrier = g.new_barrier
from given g join locked l on (l.pipeline, l.topic, l.partition) = (g.pipeline, g.topic, g.partition)
where (o.pipeline, o.topic, o.partition) = (g.pipeline, g.topic, g.partition)
    and (o.topic_id, o.next_offset, o.mapping_hash, o.parked_seq, o.barrier)
        = (g.topic_id, g.next_offset, g.mapping_hash, g.parked_seq, g.barrier)"""


class Offsets:
    """Statements on `sync_hub_offsets` in one schema; the caller owns connection and transaction."""

    def __init__(self, schema: str) -> None:
        table = quote_table(schema, TABLE)
        self.create = _CREATE.format(table=table)
        self.advance = _ADVANCE.format(table=table)
        self._load = f"select {_COLUMNS} from {table} where pipeline = any($1) order by pipeline, topic, partition"
        self._start = (
            f"insert into {table} ({_COLUMNS}) select * from unnest($1::text[], $2::text[], $3::int[], $4::text[], "
            "$5::bigint[], $6::text[], $7::text[], $8::bigint[], $9::text[]) order by 1, 2, 3 on conflict do nothing"
        )

    def load(self, cursor: psycopg.RawCursor[Any], pipelines: Sequence[str]) -> list[Offset]:
        """The rows of these pipelines, in primary key order, in the one snapshot of one statement."""
        return [Offset(*row) for row in cursor.execute(self._load, (list(pipelines),))]

    def start(self, cursor: psycopg.RawCursor[Any], offsets: Sequence[Offset]) -> None:
        """Insert what is missing."""
        rows = [astuple(offset) for offset in offsets]
        cursor.execute(self._start, [list(column) for column in zip(*rows, strict=True)])


def advance_parameters(pairs: Sequence[tuple[Offset, Offset]]) -> list[list[Any]]:
    """Parameters of `Offsets.advance`, which updates as many rows as there are pairs, or fewer when offsets moved."""
    columns = [[getattr(old, name) for old, _ in pairs] for name in (*_KEY, *_COMPARED)]
    return columns + [[getattr(new, name) for _, new in pairs] for name in _SET]
