"""Rows of a captured table as they are now: pages by key, rows by key, all rows; as the wire values of its events."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg
from msgspec import Struct

from connectors.pgtypes import SUM_KIND, can_sum, canonical_key, from_wire, summed, wire_converter
from connectors.postgresql import classify, literal, quote, quote_table
from sync_hub.errors import Rejected
from sync_hub.model import Column, RangeSum, Table

Connection = psycopg.Connection[tuple[Any, ...]]
Row = dict[str, Any]

KEYS_PER_SELECT: Final = 1000
PLACE: Final = "\x00"
"""Stands for a parameter: no name can hold it, while a percent sign is possible."""
_SIZE, _UP_TO, _NEXT = (quote(f"sync_hub {name}") for name in ("size", "up_to", "next"))
_WITH_SNAPSHOT: Final = "select s.snapshot, r.* from (select pg_catalog.pg_current_snapshot()::text as snapshot) s"


_FIXED: Final = re.compile(
    r"(smallint|integer|bigint|real|double precision|boolean|uuid|oid|date|money|pg_lsn|(time|timestamp|interval).*"
    r"|numeric\(.*\)|(character|character varying|bit|bit varying)\(\d{1,3}\))"
)
"""Types whose values are short: their sizes are not worth counting."""
_RAW_SIZE: Final = re.compile(r"text|bytea|character varying(\(\d+\))?")
"""Types whose size the server knows without reading the value; of others it knows how large it is as stored."""


class Page(Struct, frozen=True):
    """Rows by key; `snapshot` is pg_current_snapshot(), `last_key` the last row's key in PostgreSQL's text.

    `cut`: there were more rows, which together would have been too large.
    """

    snapshot: str
    rows: list[Row]
    last_key: list[str]
    size_bytes: int
    cut: bool = False


class Found(Struct, frozen=True):
    """Rows with some columns, for the first `answered` of the keys that were asked for; the rest is as in `Page`."""

    snapshot: str
    rows: list[Row]
    answered: int
    size_bytes: int = 0


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

    def chunk(
        self, connection: Connection, after: Sequence[Any] | None, rows: int, where: str = "", *, size_bytes: int
    ) -> Page:
        """The next rows by key, with what the one statement that read them saw; only so many that `size_bytes` hold.

        At least one, however large it is.
        """
        chosen, parameters = self._after(after, where)
        return self._next(connection, chosen, parameters, rows, size_bytes)

    def filtered(
        self, connection: Connection, after: Sequence[Any] | None, rows: int, where: str, *, size_bytes: int
    ) -> tuple[Page, tuple[str, ...] | None]:
        """Of the next rows by key those that fulfil `where`, as `chunk` has them; and the key to go on after.

        However few rows a condition leaves, the statement looks at no more than `rows` of them, and a few that came.
        """
        chosen, parameters = self._after(after)
        listed = ", ".join(f"t.{quote(name)}" for name in self.key)
        statement = f"select {listed} from {self._from} {chosen} order by {self._order} offset {int(rows) - 1} limit 1"
        result = _execute(connection, statement, parameters)
        end = (
            [(result.get_value(0, place) or b"").decode() for place in range(len(self.key))] if result.ntuples else None
        )
        chosen, parameters = self._after(after, where, end)
        page = self._next(connection, chosen, parameters, rows, size_bytes)
        if page.cut or len(page.rows) == rows:
            end = page.last_key
        return page, None if end is None else tuple(end)

    def _next(self, connection: Connection, chosen: str, parameters: Sequence[Any], rows: int, size_bytes: int) -> Page:
        chosen = f"{chosen} order by {self._order} limit {int(rows)}"
        return self._page(connection, chosen, parameters, size_bytes=size_bytes)

    def checksum(
        self, connection: Connection, columns: Sequence[str], after: Sequence[Any] | None, rows: int
    ) -> RangeSum | None:
        """The sum over these columns of the next rows by key; None where the types do not allow one."""
        types = [self._by_name[name].type for name in columns]
        if not can_sum(types, [self._by_name[name].type for name in self.key]):
            return None
        chosen, parameters = self._after(after)
        listed = ", ".join(summed(f"t.{quote(name)}", kind) for name, kind in zip(columns, types, strict=True))
        order = ", ".join(f"k{number}" for number in range(len(self.key)))
        last = ", ".join(f"p.k{number}" for number in range(len(self.key)))
        keys = ", ".join(f"t.{quote(name)} as k{number}" for number, name in enumerate(self.key))
        # the page is read once; of its rows only the sum and the last key leave the server
        statement = (
            f"with page as materialized (select {keys}, pg_catalog.hash_record_extended(row({listed}), 0) as h"
            f" from {self._from} {chosen} order by {self._order} limit {int(rows)})"
            f" select s.n, s.digest, {last}"
            " from (select count(*) as n, coalesce(sum(h), 0)::text as digest from page) s"
            f" left join lateral (select * from page order by {order} offset greatest(s.n - 1, 0) limit 1) p on true"
        )
        result = _execute(connection, statement, parameters)
        texts = [(result.get_value(0, place) or b"").decode() for place in range(2 + len(self.key))]
        count = int(texts[0])
        return RangeSum(SUM_KIND, count, texts[1], tuple(texts[2:]) if count == rows else None)

    def copying(self, columns: Sequence[str], after: Sequence[Any] | None, rows: int) -> str:
        """A COPY of the next rows by key; `columns` are in the order given."""
        chosen, parameters = self._after(after)
        for parameter in parameters:
            chosen = chosen.replace(PLACE, literal(parameter), 1)
        listed = ", ".join(f"t.{quote(name)}" for name in columns)
        return f"copy (select {listed} from {self._from} {chosen} order by {self._order} limit {int(rows)}) to stdout"

    def _after(
        self, after: Sequence[Any] | None, where: str = "", end: Sequence[Any] | None = None
    ) -> tuple[str, list[Any]]:
        """The condition of what comes after a key, up to `end`, and fulfils `where`, with its parameters."""
        conditions, parameters = [], []
        places = ", ".join(f"{PLACE}::{self._by_name[name].declared}" for name in self.key)
        for sign, key in ((">", after), ("<=", end)):
            if key is not None:
                conditions.append(f"({self._order}) {sign} ({places})")
                parameters += [str(value) for value in key]
        if where:
            # A statement with a parameter is one statement, whatever the condition says.
            conditions.append(f"({where}\n) and {PLACE}::boolean")
            parameters.append("true")
        return (f"where {' and '.join(conditions)}" if conditions else ""), parameters

    def event_keys(self, connection: Connection, keys: Sequence[Mapping[str, Any]]) -> list[Row | None]:
        """Keys as events spell them, whatever spelling was given; None for what no row can have."""
        spelled: list[Row | None] = []
        for key in keys:
            try:
                spelled.append(self.canonical(key))
            except (ValueError, TypeError, KeyError, IndexError, Rejected):
                spelled.append(None)
        for start in range(0, len(keys), KEYS_PER_SELECT):
            self._leave_out(connection, spelled, range(start, min(start + KEYS_PER_SELECT, len(keys))))
        return spelled

    def _leave_out(self, connection: Connection, keys: list[Row | None], places: range) -> None:
        """Put None in the place of each key that the server does not take for one, found by halves."""
        known = [key for key in keys[places.start : places.stop] if key is not None]
        if not known or self._takes(connection, known):
            return
        if len(places) == 1:
            keys[places.start] = None
            return
        middle = len(places) // 2
        for half in (places[:middle], places[middle:]):
            self._leave_out(connection, keys, half)

    def _takes(self, connection: Connection, keys: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the key's types take all these values."""
        names = ", ".join(f"k{number}" for number in range(len(self.key)))
        arrays = ", ".join(f"{PLACE}::text[]" for _ in self.key)
        casts = ", ".join(f"count(k{number}::{self._by_name[name].declared})" for number, name in enumerate(self.key))
        try:
            _execute(connection, f"select {casts} from unnest({arrays}) k({names})", self._texts(keys))
        except UnicodeError:
            return False
        except psycopg.DatabaseError as error:
            if isinstance(classify(error, self.table.full_name), Rejected):  # also by the condition of a domain
                return False
            raise
        return True

    def canonical(self, key: Mapping[str, Any]) -> Row:
        """A key as events spell it, whatever spelling of its values was given."""
        spelled = {}
        for name in self.key:
            kind, value = self._by_name[name].type, key[name]
            convert = wire_converter(kind)
            text = {True: "t", False: "f"}[value] if isinstance(value, bool) else from_wire(kind)(value)
            spelled[name] = text if convert is None else convert(text)
        return self.to_key(spelled)

    def _page(self, connection: Connection, chosen: str, parameters: Sequence[Any], *, size_bytes: int) -> Page:
        order = ", ".join(f"r.{quote(name)}" for name in self.key)
        columns = ", ".join(f"t.{quote(name)}" for name in self.names)
        size = _size_of(self.columns)
        rows = f"select {columns}, null from {self._from} {chosen}"  # short rows: none are left out
        if size:
            rows = (
                f"select {columns}, t.{_NEXT} from (select t.*, {size} as {_SIZE}, sum({size}) over by_key as {_UP_TO},"
                f" lead(1) over by_key as {_NEXT} from (select {columns} from {self._from} {chosen}) t"
                f" window by_key as (order by {self._order} rows unbounded preceding)) t"
                f" where t.{_UP_TO} - t.{_SIZE} < {size_bytes}"
            )
        statement = f"{_WITH_SNAPSHOT} left join lateral ({rows}) r on true order by {order}"
        result = _execute(connection, statement, parameters)
        snapshot = (result.get_value(0, 0) or b"").decode()
        first = self.names.index(self.key[0]) + 1
        if result.get_value(0, first) is None:
            return Page(snapshot, [], [], 0)
        indexes = [self.names.index(name) + 1 for name in self.key]
        last = [(result.get_value(result.ntuples - 1, index) or b"").decode() for index in indexes]
        rows_read, read_bytes = _rows(result, self.columns, 1)
        cut = result.get_value(result.ntuples - 1, len(self.names) + 1) is not None
        return Page(snapshot, rows_read, last, read_bytes, cut)

    def found(
        self, connection: Connection, keys: Sequence[Mapping[str, Any]], columns: Sequence[str], size_bytes: int
    ) -> Found:
        """Those of these rows that exist, with their key and these columns, as one statement saw them.

        Answers for at least two keys, and for no more than `size_bytes` hold.
        """
        wanted = [self._by_name[name] for name in dict.fromkeys((*self.key, *columns))]
        listed = ", ".join(f"t.{quote(column.name)} as c{place}" for place, column in enumerate(wanted))
        named = ", ".join(f"t.c{place}" for place in range(len(wanted)))
        size = _size_of(wanted) or "0"
        statement = (
            f"{_WITH_SNAPSHOT} left join lateral (select t.place, t.next, {named}"
            f" from (select k.place, {listed}, {size} as size, sum({size}) over by_place as up_to,"
            f" lead(k.place) over by_place as next from {self._from} {self._joined()}"
            f" window by_place as (order by k.place rows unbounded preceding)) t"
            f" where t.up_to - t.size < {size_bytes} or t.place <= 2) r on true order by r.place"
        )
        result = _execute(connection, statement, self._texts(keys))
        snapshot = (result.get_value(0, 0) or b"").decode()
        if result.get_value(0, 1) is None:
            return Found(snapshot, [], len(keys))
        following = result.get_value(result.ntuples - 1, 2)
        rows, read_bytes = _rows(result, wanted, 3)
        return Found(snapshot, rows, len(keys) if following is None else int(following) - 1, read_bytes)

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
        column = self._by_name[self.key[0]]
        if len(self.key) == 1 and not column.type.endswith("[]"):
            return f"where t.{quote(column.name)} = any ({PLACE}::{column.declared}[])", self._texts(keys)
        return self._joined(), self._texts(keys)

    def _joined(self) -> str:
        """A join with the keys given as arrays of text; `k.place` counts them from one."""
        columns = [self._by_name[name] for name in self.key]
        arrays = ", ".join(f"{PLACE}::text[]" for _ in columns)
        names = ", ".join(f"k{number}" for number in range(len(columns)))
        same = " and ".join(
            f"t.{quote(column.name)} = k.k{number}::{column.declared}" for number, column in enumerate(columns)
        )
        return f"join unnest({arrays}) with ordinality k({names}, place) on {same}"

    def _texts(self, keys: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        columns = [self._by_name[name] for name in self.key]
        return [[from_wire(column.type)(key[column.name]) for key in keys] for column in columns]


def _size_of(columns: Sequence[Column]) -> str:
    """SQL for the size of a row's values of variable length, without reading those out of line; empty: none."""
    long = [column for column in columns if not _FIXED.fullmatch(column.type)]
    functions = ["octet_length" if _RAW_SIZE.fullmatch(column.type) else "pg_column_size" for column in long]
    pairs = zip(functions, long, strict=True)
    sizes = [f"coalesce({function}(t.{quote(column.name)}), 0)" for function, column in pairs]
    return f"({' + '.join(sizes)})" if sizes else ""


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

    def all(self, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
        """The keys of many rows."""
        name = self._single
        return [self(row) for row in rows] if name is None else [{name: row[name]} for row in rows]


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
