"""Rows of a captured table as they are now: pages by key, rows by key, all rows; as the wire values of its events."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg
from msgspec import Struct

from connectors.pgtypes import canonical_key, from_wire, wire_converter
from connectors.postgresql import quote, quote_table
from sync_hub.model import Column, Table

Connection = psycopg.Connection[tuple[Any, ...]]
Row = dict[str, Any]

KEYS_PER_SELECT: Final = 1000
PLACE: Final = "\x00"
"""Stands for a parameter: no name can hold it, while a percent sign is possible."""


class Page(Struct, frozen=True):
    """Rows by key; `snapshot` is pg_current_snapshot(), `last_key` the last row's key in PostgreSQL's text."""

    snapshot: str
    rows: list[Row]
    last_key: list[str]
    size_bytes: int


class TableReader:
    """Builds and runs the selects of one table. Raises psycopg errors: the caller says who met them."""

    def __init__(self, table: Table, *, partitioned: bool) -> None:
        self.table = table
        self.columns = tuple(column for column in table.columns if column.carried)
        self.names = tuple(column.name for column in self.columns)
        self.key = table.key
        self.to_key = key_maker(table)
        self._by_name = {column.name: column for column in table.columns}
        only = "" if partitioned else "only "
        self._from = f"{only}{quote_table(table.schema, table.name)} t"
        self._order = ", ".join(f"t.{quote(name)}" for name in self.key)

    def chunk(self, connection: Connection, after: Sequence[Any] | None, rows: int, where: str = "") -> Page:
        """The next rows by key, with what the one statement that read them saw."""
        conditions, parameters = [], []
        if after is not None:
            places = ", ".join(f"{PLACE}::{self._by_name[name].declared}" for name in self.key)
            conditions.append(f"({self._order}) > ({places})")
            parameters = [str(value) for value in after]
        if where:
            conditions.append(f"({where}\n)")
        chosen = f"where {' and '.join(conditions)}" if conditions else ""
        return self._page(connection, f"{chosen} order by {self._order} limit {int(rows)}", parameters)

    def keyed(self, connection: Connection, keys: Sequence[Mapping[str, Any]]) -> Page:
        """Those of these rows that exist, in key order, with what the one statement that read them saw."""
        return self._page(connection, *self._where(keys))

    def canonical(self, key: Mapping[str, Any]) -> Row:
        """A key as events spell it, whatever spelling of its values was given."""
        spelled = {}
        for name in self.key:
            kind, value = self._by_name[name].type, key[name]
            convert = wire_converter(kind)
            text = {True: "t", False: "f"}[value] if isinstance(value, bool) else from_wire(kind)(value)
            spelled[name] = text if convert is None else convert(text)
        return self.to_key(spelled)

    def _page(self, connection: Connection, chosen: str, parameters: Sequence[Any]) -> Page:
        order = ", ".join(f"r.{quote(name)}" for name in self.key)
        columns = ", ".join(f"t.{quote(name)}" for name in self.names)
        statement = (
            "select s.snapshot, r.* from (select pg_catalog.pg_current_snapshot()::text as snapshot) s "
            f"left join lateral (select {columns} from {self._from} {chosen}) r on true order by {order}"
        )
        result = _execute(connection, statement, parameters)
        snapshot = (result.get_value(0, 0) or b"").decode()
        first = self.names.index(self.key[0]) + 1
        if result.get_value(0, first) is None:
            return Page(snapshot, [], [], 0)
        indexes = [self.names.index(name) + 1 for name in self.key]
        last = [(result.get_value(result.ntuples - 1, index) or b"").decode() for index in indexes]
        rows_read, size = _rows(result, self.columns, 1)
        return Page(snapshot, rows_read, last, size)

    def by_keys(self, connection: Connection, keys: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[Row]:
        """Those of these rows that exist, in key order; wire values of `columns`, each with the key's own columns."""
        wanted = [self._by_name[name] for name in dict.fromkeys((*self.key, *columns))]
        listed = ", ".join(f"t.{quote(column.name)}" for column in wanted)
        where, parameters = self._where(keys)
        result = _execute(connection, f"select {listed} from {self._from} {where} order by {self._order}", parameters)
        return _rows(result, wanted, 0)[0]

    def all(self, connection: Connection, columns: Sequence[str]) -> Iterator[Row]:
        """Every row in key order, streamed, as one statement sees them."""
        wanted = [self._by_name[name] for name in columns]
        converters = [(column.name, wire_converter(column.type)) for column in wanted]
        listed = ", ".join(f"t.{quote(name)}" for name in columns)
        statement = f"copy (select {listed} from {self._from} order by {self._order}) to stdout"
        with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for values in copy.rows():
                yield {
                    name: value if value is None or convert is None else convert(value)
                    for (name, convert), value in zip(converters, values, strict=True)
                }

    def _where(self, keys: Sequence[Mapping[str, Any]]) -> tuple[str, list[Any]]:
        columns = [self._by_name[name] for name in self.key]
        texts = [[from_wire(column.type)(key[column.name]) for key in keys] for column in columns]
        if len(columns) == 1 and not columns[0].type.endswith("[]"):
            return f"where t.{quote(columns[0].name)} = any ({PLACE}::{columns[0].declared}[])", texts
        arrays = ", ".join(f"{PLACE}::text[]" for _ in columns)
        names = ", ".join(f"k{number}" for number in range(len(columns)))
        same = " and ".join(
            f"t.{quote(column.name)} = k.k{number}::{column.declared}" for number, column in enumerate(columns)
        )
        return f"join unnest({arrays}) k({names}) on {same}", texts


def _rows(result: psycopg.pq.abc.PGresult, columns: Sequence[Column], first: int) -> tuple[list[Row], int]:
    """The result's rows as wire values, and how many bytes they are as text."""
    get, size = result.get_value, 0
    rows: list[Row] = [{} for _ in range(result.ntuples)]
    for place, column in enumerate(columns, first):
        name, convert = column.name, wire_converter(column.type)
        for number, row in enumerate(rows):
            value = get(number, place)
            if value is None:
                row[name] = None
            else:
                size += len(value)
                text = value.decode()
                row[name] = text if convert is None else convert(text)
    return rows, size


def _execute(connection: Connection, statement: str, parameters: Sequence[Any]) -> psycopg.pq.abc.PGresult:
    """Run a statement whose parameters are marked PLACE: names may hold a percent sign."""
    text = statement.replace("%", "%%").replace(PLACE, "%s")
    result = connection.execute(text.encode(), parameters).pgresult
    if result is None:
        raise psycopg.InterfaceError("the statement gave no result")
    return result


class KeyMaker:
    """Makes event keys of one table: canonical wire values by name, in the key's order."""

    def __init__(self, names: tuple[str, ...], types: Mapping[str, str]) -> None:
        self.names = names
        self._converters = [(name, canonical_key(types[name])) for name in names]
        self._plain = all(convert is None for _, convert in self._converters)
        self._single = names[0] if self._plain and len(names) == 1 else None

    def __call__(self, row: Mapping[str, Any]) -> Row:
        """The key of a row that has all key columns."""
        if self._single is not None:
            return {self._single: row[self._single]}
        if self._plain:
            return {name: row[name] for name in self.names}
        return {
            name: row[name] if convert is None or row[name] is None else convert(row[name])
            for name, convert in self._converters
        }


def key_maker(table: Table) -> KeyMaker:
    """The maker of a table's event keys."""
    return KeyMaker(table.key, {column.name: column.type for column in table.columns})


def key_identity(key: Mapping[str, Any]) -> Hashable:
    """A key as something to compare and hash: equal for equal keys."""
    values = tuple(key.values())
    try:
        hash(values)
    except TypeError:
        return repr(values)
    return values
