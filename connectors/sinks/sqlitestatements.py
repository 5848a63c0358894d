"""The SQL of one mapping on one SQLite table, run once a row. Pure: descriptions in, text out.

A row's values are parameters by number: `?1` is the first written column, or the first part of a deleted key. SQLite
wants exactly as many values as there are numbers, so rows are cut to `written` places before they are bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from connectors.sinks.changes import FLAG_PREFIX, Present, flag_column
from connectors.sinks.sqlitecatalog import Described, quote
from connectors.sinks.sqlitetypes import Kind
from sync_hub.errors import Fatal
from sync_hub.model import Column, TableWrite


class SqliteStatements:
    """The statements that apply changes of one mapping to one table, as the table is now in the catalog."""

    def __init__(self, described: Described, write: TableWrite) -> None:
        self._described = described
        self._table = described.table
        self._by_name = {column.name: column for column in described.table.columns}
        self._write = write
        self.name = quote(described.table.name)
        self._columns = [self._column(name) for name in write.columns]
        self.whole = self.written(range(len(self._columns)))
        self.deleted = [described.kinds[self._column(name).name] for name in write.key] * 2
        self.marks = [described.kinds[self._column(name).name] for name in write.mark_columns]
        self._flag = flag_column(write.pipeline) if write.shared else ""
        if self._flag:
            self._column(self._flag)
        if set(write.key) not in [set(unique) for unique in self._table.unique]:
            raise Fatal(
                "target_key_not_unique",
                f"{self._table.full_name} has no unique constraint on {', '.join(write.key)}",
                hint="add a primary key or a unique constraint on exactly these columns",
            )

    def _column(self, name: str) -> Column:
        column = self._by_name.get(name)
        if column is None:
            raise Fatal(
                "target_column_missing",
                f"{self._table.full_name} has no column {name}",
                hint="add the column, or take it out of the mapping",
            )
        return column

    def written(self, present: Iterable[int]) -> Present:
        """Those of these places whose columns can be written: generated ones cannot."""
        return tuple(place for place in present if not self._columns[place].generated)

    def kinds(self, places: Present) -> list[Kind]:
        """How the columns at these places store values."""
        return [self._described.kinds[self._columns[place].name] for place in places]

    @cached_property
    def upsert(self) -> list[str]:
        """Insert rows, or update those whose key is there: in one statement where a new row needs no other column."""
        if not self._needs_columns_of_others:
            return [self._insert("true")]
        assigned = self._assigned(self.whole)
        if self._flag:
            assigned.append((self._flag, "1"))
        key = self._key(self.whole)
        update = [self._update(assigned, key)] if assigned else []
        return [*update, self._insert(f"not exists (select 1 from {self.name} where {key})")]

    @cached_property
    def vacated(self) -> Present:
        """Places of the key and of columns that may be NULL for a moment, one of each other unique constraint."""
        key = set(self._write.key)
        places = {self._columns[place].name: place for place in self.whole}
        free = []
        for unique in self._table.unique:
            columns = [self._by_name[name] for name in unique if name in places and name not in key]
            if set(unique) != key:
                free += [places[column.name] for column in columns if column.nullable][:1]
        return tuple([places[name] for name in self._write.key] + free) if free else ()

    @cached_property
    def vacate(self) -> str:
        """Give up unique values that a row is to lose, so that others may take them; for the places `vacated`."""
        width = len(self._write.key)
        free = {
            self._columns[place].name: f"?{number}" for number, place in enumerate(self.vacated, 1) if number > width
        }
        differs = " or ".join(f"{quote(name)} is not {value}" for name, value in free.items())
        key = self._matches(range(1, width + 1))
        return self._update([(name, "null") for name in free], f"{key} and ({differs})")

    def update(self, places: Present) -> str:
        """Update the columns at these places in rows that are there; insert nothing. Empty: nothing to set."""
        assigned = self._assigned(places)
        return self._update(assigned, self._key(places) + self._mine) if assigned else ""

    @cached_property
    def mark(self) -> str:
        """Set the marked columns where `on_delete` sets some instead of removing the row."""
        first = 2 * len(self._write.key) + 1
        assigned = [(name, f"?{place}") for place, name in enumerate(self._write.mark_columns, first)]
        return self._update(assigned, self._gone())

    @cached_property
    def delete(self) -> list[str]:
        """Remove rows; of shared rows only this mapping's part, and the row when no other mapping has a part."""
        gone = self._gone()
        if not self._flag:
            return [f"delete from {self.name} where {gone}"]
        return [f"delete from {self.name} where {gone} and not {self._others()}", self._update(self._cleared(), gone)]

    @cached_property
    def truncate_delete(self) -> list[str]:
        """Remove all rows, under the same rule."""
        if not self._flag:
            return [f"delete from {self.name}"]
        mine = quote(self._flag)
        return [
            f"delete from {self.name} where {mine} and not {self._others()}",
            self._update(self._cleared(), mine),
        ]

    @cached_property
    def truncate_mark(self) -> str:
        """Mark all rows."""
        assigned = [(name, f"?{place}") for place, name in enumerate(self._write.mark_columns, 1)]
        return self._update(assigned, quote(self._flag) if self._flag else "true")

    @property
    def _mine(self) -> str:
        return f" and {quote(self._flag)}" if self._flag else ""

    def _key(self, places: Present) -> str:
        names = [self._columns[place].name for place in places]
        return self._matches([names.index(name) + 1 for name in self._write.key])

    def _insert(self, where: str) -> str:
        written = [self._columns[place] for place in self.whole]
        names = [column.name for column in written]
        values = [f"?{number}" for number in range(1, len(written) + 1)]
        assigned = [
            f"{quote(column.name)} = excluded.{quote(column.name)}"
            for column in written
            if column.name not in self._write.key or not self._bytewise(column)
        ]
        if self._flag:
            names.append(self._flag)
            values.append("1")
            assigned.append(f"{quote(self._flag)} = 1")
        return (
            f"insert into {self.name} ({_list(names)}) select {', '.join(values)} where {where} "
            f"on conflict ({_list(self._write.key)}) do "
            + (f"update set {', '.join(assigned)}" if assigned else "nothing")
        )

    def _update(self, assigned: Iterable[tuple[str, str]], where: str) -> str:
        columns = ", ".join(f"{quote(name)} = {value}" for name, value in assigned)
        return f"update {self.name} set {columns} where {where}"

    def _assigned(self, places: Present) -> list[tuple[str, str]]:
        return [
            (column.name, f"?{number}")
            for number, column in enumerate((self._columns[place] for place in places), 1)
            if column.name not in self._write.key or not self._bytewise(column)
        ]

    def _bytewise(self, column: Column) -> bool:
        kind: Kind = self._described.kinds[column.name]
        return kind in ("integer", "boolean", "blob")

    def _matches(self, places: Sequence[int]) -> str:
        return " and ".join(f"{quote(name)} = ?{place}" for name, place in zip(self._write.key, places, strict=True))

    def _gone(self) -> str:
        """The key is the old one and not, as the column compares, the new one; of shared rows those with our part."""
        width = len(self._write.key)
        old, new = self._matches(range(1, width + 1)), self._matches(range(width + 1, 2 * width + 1))
        return f"{old} and (?{width + 1} is null or not ({new})){self._mine}"

    def _others(self) -> str:
        flags = [
            f"coalesce({quote(name)}, 0)"
            for name in self._by_name
            if name.startswith(FLAG_PREFIX) and name != self._flag and self._described.kinds[name] == "boolean"
        ]
        return f"({' or '.join(flags)})" if flags else "false"

    def _cleared(self) -> list[tuple[str, str]]:
        cleared = [
            (column.name, "null" if column.nullable else f"({self._described.defaults.get(column.name, 'null')})")
            for column in self._columns
            if column.name not in self._write.key and not column.generated
        ]
        return [*cleared, (self._flag, "null")]

    @property
    def _needs_columns_of_others(self) -> bool:
        return any(
            not (column.nullable or column.default or column.generated or column.name in self._write.columns)
            for column in self._table.columns
        )


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(quote, names))
