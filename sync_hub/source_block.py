"""Reading an envelope's `source` block: what all events of a table in a transaction share is read once for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct

from sync_hub.model import SourceInfo, version_prefix, version_suffix

_BEFORE_VERSION: Final = b'"syncVersion":"'
_VERSION_AND_END: Final = f'{version_prefix(0, 0)}{version_suffix(0)}"}}'.encode()
_WIDTH: Final = len(_VERSION_AND_END)
_TO_ZERO: Final = bytes.maketrans(b"123456789abcdef", b"0" * 15)


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


class SourceReader:
    """`read_source`, the fast way: in our blocks the version comes last, and all before it is as in the block before.

    May be used by several threads.
    """

    def __init__(self) -> None:
        self._newest = (b"", SourceInfo(name="", schema="", table="", committed_at=0))

    def read(self, block: bytes) -> tuple[SourceInfo, str]:
        """See `read_source`."""
        beginning, info = self._newest
        end = block[-_WIDTH:]
        if block[:-_WIDTH] == beginning and end.translate(_TO_ZERO) == _VERSION_AND_END:
            return info, end[:-2].decode()
        info, version = read_source(block)
        if block.endswith(_BEFORE_VERSION, 0, -_WIDTH) and end.translate(_TO_ZERO) == _VERSION_AND_END:
            self._newest = (block[:-_WIDTH], info)
        return info, version
