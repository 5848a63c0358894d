"""The parked records of a PostgreSQL target; the caller owns connection and transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg

from connectors.postgresql import quote_table
from connectors.sinks.parked import COLUMNS, KEY, TABLE, UPSERT, parked, selected, values
from sync_hub.model import Parked

_CREATE: Final = """create table if not exists {table} (
    pipeline text collate "C" not null,
    topic text collate "C" not null,
    partition int not null,
    seq bigint not null,
    record_offset bigint not null,
    source_key text not null,
    version text not null,
    state text not null,
    code text not null,
    message text not null,
    sqlstate text not null,
    hint text not null,
    attempts int not null,
    first_at double precision not null,
    last_at double precision not null,
    next_at double precision,
    correlation_id text not null,
    reason text not null,
    closed_at double precision,
    record_key bytea,
    record_value bytea,
    record_headers text not null,
    primary key (pipeline, topic, partition, seq)
)"""


class ParkedRows:
    """Statements on `sync_hub_parked` in one schema."""

    def __init__(self, schema: str) -> None:
        table = quote_table(schema, TABLE)
        places = ", ".join(f"${number}" for number in range(1, len(COLUMNS) + 1))
        self.create = _CREATE.format(table=table)
        self._store = f"insert into {table} as known ({', '.join(COLUMNS)}) values ({places}) {UPSERT}"
        self._from = f"from {table} where pipeline = any($1) and ($2 or closed_at is null)"
        self._order = f"order by first_at, {', '.join(KEY)}"

    def store(self, cursor: psycopg.RawCursor[Any], rows: Sequence[Parked]) -> None:
        """Insert rows, or replace what is known of them."""
        cursor.executemany(self._store, [values(row) for row in rows])

    def find(
        self,
        cursor: psycopg.RawCursor[Any],
        pipelines: Sequence[str],
        *,
        closed: bool,
        records: bool,
        seqs: Sequence[int],
    ) -> list[Parked]:
        """Rows of these pipelines, oldest first."""
        chosen = "and seq = any($3)" if seqs else "and $3::bigint[] is not null"
        query = f"select {selected(records=records)} {self._from} {chosen} {self._order}"
        return [parked(row) for row in cursor.execute(query, (list(pipelines), closed, list(seqs)))]
