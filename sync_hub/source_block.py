"""Reading an envelope's `source` block."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Struct

from sync_hub.model import SourceInfo


class _Block(Struct, gc=False):
    name: str = ""
    connector: str = ""
    snapshot: str | bool | None = None
    db: str | None = None
    schema: str | None = None
    table: str = ""
    ts_ms: int | None = None
    ts_us: int | None = None
    lsn: int | None = None
    origin: str | None = None
    syncVersion: str = ""


_EARLIEST, _LATEST = (
    (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    for moment in (datetime.min, datetime.max)
)
"""What may be a time, in microseconds since 1970: others write what they like."""

_decode = msgspec.json.Decoder(_Block).decode


def read_source(block: bytes) -> tuple[SourceInfo, str]:
    """What a block says, and the version in it: empty where Debezium wrote it. Raises what bad JSON causes."""
    found = _decode(block)
    schema = found.schema or ""
    committed_at = found.ts_us if found.ts_us is not None else (found.ts_ms or 0) * 1000
    if not _EARLIEST <= committed_at <= _LATEST:
        raise ValueError("its `ts_ms` is no time")
    info = SourceInfo(
        name=found.name,
        schema=schema if found.syncVersion else schema or found.db or "",
        table=found.table,
        committed_at=committed_at,
        snapshot=str(found.snapshot or "false").lower() != "false",
        database=found.db or "",
        lsn=found.lsn or 0,
        connector=found.connector,
        origin=found.origin or "",
    )
    return info, found.syncVersion
