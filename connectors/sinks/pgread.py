"""Reads rows of a PostgreSQL target as wire values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import psycopg
from psycopg import RawCursor

from connectors.pgtypes import SUM_KIND, can_sum, from_wire, summed, wire_converter
from connectors.postgresql import quote, quote_table
from connectors.sinks.pgstatements import cast_type
from sync_hub.errors import Fatal
from sync_hub.model import Column, RangeSum, Table

FETCH_ROWS: Final = 2000
_PLACE: Final = Column("place", "bigint")
_ROUNDED: Final = ("numeric", "timestamp", "time", "interval")


def everything(
    connection: psycopg.Connection[Any], table: Table, columns: Sequence[str], flag: str = ""
) -> Iterator[tuple[Any, ...]]:
    """All rows, or those whose presence flag is set, streamed in one snapshot; the connection is busy until the end."""
    described = _columns(table, columns)
    cursor = RawCursor(connection)
    cursor.execute(
        "begin isolation level repeatable read read only;"
        f"declare sync_hub_read no scroll cursor for {_select(table, described)}{_present(table, flag, 'where')}"
    )
    while True:
        cursor.execute(f"fetch {FETCH_ROWS} from sync_hub_read")
        rows = _rows(cursor, described)
        yield from rows
        if len(rows) < FETCH_ROWS:
            return


def find(
    cursor: RawCursor[Any],
    table: Table,
    columns: Sequence[str],
    key: Sequence[str],
    keys: Sequence[Sequence[Any]],
    flag: str,
) -> list[tuple[Any, ...] | None]:
    """For each of the keys the row whose key columns equal it, as the table compares."""
    if not keys:
        return []
    described, parts = _columns(table, columns), _columns(table, key)
    texts = [
        [None if value is None else from_wire(part.type)(value) for value in values]
        for part, values in zip(parts, zip(*keys, strict=True), strict=True)
    ]
    arrays = ", ".join(f"${number}::text[]" for number in range(1, len(parts) + 1))
    names = ", ".join(f"k{number}" for number in range(len(parts)))
    equal = " and ".join(f"t.{quote(part.name)} = k.k{number}::{cast_type(part)}" for number, part in enumerate(parts))
    wanted = ", ".join(f"t.{quote(column.name)}" for column in described)
    cursor.execute(
        f"select k.place, {wanted} from {quote_table(table.schema, table.name)} t"
        f" join unnest({arrays}) with ordinality as k ({names}, place) on {equal}{_present(table, flag, 'where')}",
        texts,
    )
    found: list[tuple[Any, ...] | None] = [None] * len(keys)
    for place, *values in _rows(cursor, [_PLACE, *described]):
        found[place - 1] = tuple(values)
    return found


Between = tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]


def checksum(
    cursor: RawCursor[Any], table: Table, key: Sequence[str], columns: Sequence[str], between: Between, flag: str
) -> RangeSum | None:
    """The sum over these columns of the rows in a key range; None where the types do not allow one."""
    described, parts = _columns(table, columns), _columns(table, key)
    if not can_sum([column.type for column in described], [part.type for part in parts]):
        return None
    names = ", ".join(summed(f"t.{quote(column.name)}", column.type) for column in described)
    where, parameters = _between(table, parts, between, flag)
    cursor.execute(
        f"select count(*), coalesce(sum(pg_catalog.hash_record_extended(row({names}), 0)), 0)::text"
        f" from {quote_table(table.schema, table.name)} t{where}",
        parameters,
    )
    [(rows, digest)] = cursor.fetchall()
    return RangeSum(SUM_KIND, rows, digest)


def rows_between(
    cursor: RawCursor[Any],
    table: Table,
    columns: Sequence[str],
    key: Sequence[str],
    between: Between,
    flag: str,
    limit: int,
) -> list[tuple[Any, ...]] | None:
    """Rows in a key range, at most `limit`; None where keys of such types have no order that all databases share."""
    described, parts = _columns(table, columns), _columns(table, key)
    if not can_sum([], [part.type for part in parts]):
        return None
    where, parameters = _between(table, parts, between, flag)
    cursor.execute(f"{_select(table, described)}{where} limit {int(limit)}", parameters)
    return _rows(cursor, described)


def _between(table: Table, key: Sequence[Column], between: Between, flag: str) -> tuple[str, list[Any]]:
    order = ", ".join(f"t.{quote(part.name)}" for part in key)
    conditions: list[str] = []
    parameters: list[str] = []
    for bound, sign in zip(between, (">", "<="), strict=True):
        if bound is not None:
            places = ", ".join(f"${len(parameters) + n}::{cast_type(part)}" for n, part in enumerate(key, 1))
            conditions.append(f"({order}) {sign} ({places})")
            parameters += [str(value) for value in bound]
    where = f" where {' and '.join(conditions)}" if conditions else ""
    return where + _present(table, flag, "and" if where else "where"), parameters


def as_stored(
    cursor: RawCursor[Any], table: Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> list[tuple[Any, ...]]:
    """What these wire values would be once written and read back. Raises psycopg errors for what is no value."""
    described = _columns(table, columns)
    texts = [
        [None if value is None else from_wire(column.type)(value) for value in values]
        for column, values in zip(described, zip(*rows, strict=True), strict=True)
    ]
    arrays = ", ".join(f"${number}::text[]" for number in range(1, len(described) + 1))
    names = ", ".join(f"c{number}" for number in range(len(described)))
    cast = ", ".join(f"r.c{number}::{_stored_type(column)}" for number, column in enumerate(described))
    cursor.execute(f"select {cast} from unnest({arrays}) with ordinality as r ({names}, n) order by r.n", texts)
    return _rows(cursor, described)


def _stored_type(column: Column) -> str:
    """With the precision that a written value is rounded to; but not with a length, beyond which it is refused."""
    return column.type if column.type.startswith(_ROUNDED) else cast_type(column)


def _present(table: Table, flag: str, word: str) -> str:
    """A condition on the presence flag, where the table has it: else it is not shared."""
    return f" {word} t.{quote(flag)}" if any(column.name == flag for column in table.columns) else ""


def _select(table: Table, columns: Sequence[Column]) -> str:
    names = ", ".join(f"t.{quote(column.name)}" for column in columns)
    return f"select {names} from {quote_table(table.schema, table.name)} t"


def _columns(table: Table, names: Sequence[str]) -> list[Column]:
    known = {column.name: column for column in table.columns}
    missing = [name for name in names if name not in known]
    if missing:
        raise Fatal("target_column_missing", f"{table.full_name} has no column {missing[0]}", hint="add the column")
    return [known[name] for name in names]


def _rows(cursor: RawCursor[Any], columns: Sequence[Column]) -> list[tuple[Any, ...]]:
    result = cursor.pgresult
    if result is None:
        return []
    get = result.get_value
    count = result.ntuples
    read = [
        _column([get(row, place) for row in range(count)], wire_converter(column.type))
        for place, column in enumerate(columns)
    ]
    return list(zip(*read, strict=True))


def _column(values: Sequence[bytes | None], convert: Callable[[str], Any] | None) -> list[Any]:
    if convert is None:
        return [None if value is None else value.decode() for value in values]
    return [None if value is None else convert(value.decode()) for value in values]
