"""The SQL of one mapping on one target table, from the staging table or without it. Pure: descriptions in, text out.

A statement on staged rows takes their number as `$1`. Values are staged as text, and cast here to the column's type
*without* its length: an explicit cast to `varchar(5)` would cut silently, an assignment refuses what is too long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final

from connectors.pgtypes import base_name
from connectors.postgresql import quote, quote_table
from connectors.sinks.changes import FLAG_PREFIX, flag_column
from connectors.sinks.pgstage import STAGE
from sync_hub.errors import Fatal
from sync_hub.model import Column, Table, TableWrite

_LENGTH: Final = re.compile(r"\([^()]*\)")
_CASTS: Final = {"character varying": "text", "character": "bpchar", "bit": "bit varying"}
"""Casting to these types without a length would still mean a length of one, or cut; these take any length."""

_BYTEWISE: Final = frozenset(
    ("smallint", "integer", "bigint", "uuid", "date", "oid", "boolean", "bytea", "timestamp with time zone", "inet")
)
"""Types whose equal values look equal: a row found by such a key need not have the key written again."""
_BEFORE_ROW_INSERT: Final = 1 | 2 | 4
"""Bits of `pg_trigger.tgtype`, from PostgreSQL's `catalog/pg_trigger.h`: for each row, before, insert."""
_READ_ALIKE: Final = _BYTEWISE | {
    *("numeric", "real", "double precision", "text", "character varying", "character", "bpchar", "enum"),
    *("timestamp without time zone", "time without time zone", "time with time zone", "json", "jsonb", "bit"),
    *("bit varying", "cidr", "macaddr", "name", "money"),
}
"""Types whose input takes a text as casting it and then assigning it does; `interval hour` reads `5` as hours."""
_QUOTE: Final = "'"


def cast_type(column: Column) -> str:
    """What to cast a staged text to, so that assigning it to the column checks lengths and constraints."""
    declared = column.declared if column.type.removesuffix("[]") == "enum" and column.declared else column.type
    array = "[]" if declared.endswith("[]") else ""
    bare = _LENGTH.sub("", declared.removesuffix("[]")) if declared == column.type else declared.removesuffix("[]")
    return _CASTS.get(bare, bare) + array


class Statements:
    """The statements that apply changes of one mapping to one table, as the table is now in the catalog."""

    def __init__(self, table: Table, write: TableWrite) -> None:
        self._table = table
        self._by_name = {column.name: column for column in table.columns}
        self._write = write
        self.name = quote_table(table.schema, table.name)
        self.columns = [self._column(name) for name in write.columns]
        self.key = [self._column(name) for name in write.key]
        self.marked = [self._column(name) for name in write.mark_columns]
        self._flag = flag_column(write.pipeline) if write.shared else ""
        if self._flag:
            self._column(self._flag)
        if set(write.key) not in [set(unique) for unique in table.unique]:
            raise Fatal(
                "target_key_not_unique",
                f"{table.full_name} has no unique constraint on {', '.join(write.key)}",
                hint="add a primary key or a unique, not deferrable constraint on exactly these columns",
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

    @cached_property
    def upsert(self) -> list[str]:
        """Insert rows, or update those whose key is there: in one statement where a new row needs no other column."""
        if not self._needs_columns_of_others:
            return [self._insert()]
        assigned = self._assigned(range(len(self.columns)))
        if self._flag:
            assigned.append((self._flag, "true"))
        update = self._update(assigned, self._matches(self._key_places)) if assigned else ""
        return [update, self._insert(missing_only=True)]

    @cached_property
    def copy(self) -> str:
        """Copy new rows straight into the table, as `pgstage.copy_rows` has them; `guard_new` comes first.

        Empty: other mappings write parts of the rows, or COPY may read the text of a value otherwise than a cast.
        """
        alike = all(base_name(column.type.removesuffix("[]")) in _READ_ALIKE for column in self.columns)
        if self._flag or self._needs_columns_of_others or not alike:
            return ""
        given = _list(column.name for column in self.columns if not column.generated)
        return f"copy {self.name} ({given}) from stdin (format text, encoding 'UTF8')"

    @cached_property
    def update_known(self) -> str:
        """Update whole rows that are there; `guard_known` comes first.

        Empty: nothing to set, or other mappings write parts of the rows.
        """
        return "" if self._flag else self.update(range(len(self.columns)))

    @cached_property
    def lock(self) -> str:
        """Nobody changes the table until the transaction ends: what a guard has found stays so."""
        return f"lock table only {self.name} in row exclusive mode"

    @cached_property
    def guard_new(self) -> str:
        """Finds one row when COPY does what an upsert of rows that are not there does.

        The key is unique, at once and in all rows, and no rule stands in for an insert or update: COPY knows none.
        """
        names = ", ".join(f"'{name.replace(_QUOTE, 2 * _QUOTE)}'" for name in sorted(self._write.key))
        columns = (
            'select attname::text collate "C" from pg_attribute where attrelid = t.oid '
            "and attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1]) order by 1"
        )
        return (
            f"select from pg_class t where t.oid = {self._regclass} and exists ("
            "select from pg_index i where i.indrelid = t.oid and i.indisunique and i.indimmediate and i.indisvalid "
            f"and i.indpred is null and not i.indisexclusion and array({columns}) = array[{names}]::text[]"
            ") and not exists (select from pg_rewrite where ev_class = t.oid and ev_type in ('2', '3'))"
        )

    @cached_property
    def guard_known(self) -> str:
        """As `guard_new`, when an update does what an upsert of rows that are there does.

        No trigger sees rows before they are inserted, because an upsert assigns what it makes of them; and no tables
        inherit from this one, whose rows may have the same keys.
        """
        parts = "select t.oid union all select relid from pg_partition_tree(t.oid)"
        before = f"tgtype & {_BEFORE_ROW_INSERT} = {_BEFORE_ROW_INSERT} and tgenabled <> 'D'"
        return (
            f"{self.guard_new} and not exists (select from pg_trigger where tgrelid in ({parts}) and {before}) "
            "and not (t.relkind = 'r' and t.relhassubclass)"
        )

    @property
    def _regclass(self) -> str:
        return f"'{self.name.replace(_QUOTE, 2 * _QUOTE)}'::regclass"

    @cached_property
    def vacate(self) -> str:
        """Give up unique values that the staged rows are to lose, so that others may take them. Empty: there are none.

        Only where a column of the constraint may be NULL for a moment. Never by deleting and inserting: that would lose
        columns of other mappings, and fire ON DELETE CASCADE.
        """
        key, places = set(self._write.key), {column.name: place for place, column in enumerate(self.columns)}
        free = []
        for unique in self._table.unique:
            columns = [self._by_name[name] for name in unique if name in places and name not in key]
            if set(unique) != key:
                free += [column for column in columns if column.nullable and not column.generated][:1]
        if not free:
            return ""
        differs = " or ".join(
            f"t.{quote(column.name)} is distinct from {self._staged(places[column.name], column)}" for column in free
        )
        return self._update(
            [(column.name, "null") for column in free], f"{self._matches(self._key_places)} and ({differs})"
        )

    def update(self, present: Sequence[int]) -> str:
        """Update the columns at these places in rows that are there; insert nothing. Empty: nothing to set."""
        assigned = self._assigned(present)
        mine = f" and t.{quote(self._flag)}" if self._flag else ""
        return self._update(assigned, self._matches(self._key_places) + mine) if assigned else ""

    @cached_property
    def mark(self) -> str:
        """Set the marked columns where `on_delete` sets some instead of removing the row."""
        first = 2 * len(self.key)
        assigned = [(column.name, self._staged(first + place, column)) for place, column in enumerate(self.marked)]
        return self._update(assigned, self._gone())

    @cached_property
    def delete(self) -> list[str]:
        """Remove rows; of shared rows only this mapping's part, and the row when no other mapping has a part."""
        if not self._flag:
            return [f"delete from {self.name} t using {STAGE} s where s.m = $1 and {self._gone()}"]
        return [
            f"delete from {self.name} t using {STAGE} s where s.m = $1 and {self._gone()} and not {self._others()}",
            self._update(self._cleared(), self._gone()),
        ]

    @cached_property
    def truncate_delete(self) -> list[str]:
        """Remove all rows, under the same rule. DELETE, not TRUNCATE: it needs no more than the DELETE privilege."""
        if not self._flag:
            return [f"delete from {self.name}"]
        mine = f"t.{quote(self._flag)}"
        cleared = ", ".join(f"{quote(name)} = {value}" for name, value in self._cleared())
        return [
            f"delete from {self.name} t where {mine} and not {self._others()}",
            f"update {self.name} t set {cleared} where {mine}",
        ]

    @cached_property
    def truncate_mark(self) -> str:
        """Mark all rows; the values are parameters `$1` and on, as text."""
        assigned = ", ".join(
            f"{quote(column.name)} = ${place}::text::{cast_type(column)}" for place, column in enumerate(self.marked, 1)
        )
        where = f" where t.{quote(self._flag)}" if self._flag else ""
        return f"update {self.name} t set {assigned}{where}"

    def _insert(self, *, missing_only: bool = False) -> str:
        staged = [(column, place) for place, column in enumerate(self.columns) if not column.generated]
        names = [column.name for column, _ in staged]
        values = [self._staged(place, column) for column, place in staged]
        key = set(self._write.key)
        assigned = [
            f"{quote(column.name)} = excluded.{quote(column.name)}"
            for column, _ in staged
            if column.name not in key or not _bytewise(column)
        ]
        if self._flag:
            names.append(self._flag)
            values.append("true")
            assigned.append(f"{quote(self._flag)} = true")
        missing = order = ""
        if missing_only:
            missing = f" and not exists (select from {self.name} t where {self._matches(self._key_places)})"
        if self._flag:  # other mappings write the same rows: one order of locking for all
            order = " order by " + ", ".join(str(names.index(name) + 1) for name in sorted(key))
        return (
            f"insert into {self.name} ({_list(names)}) overriding system value "
            f"select {', '.join(values)} from {STAGE} s where s.m = $1{missing}{order} "
            f"on conflict ({_list(self._write.key)}) do "
            + (f"update set {', '.join(assigned)}" if assigned else "nothing")
        )

    def _assigned(self, places: Iterable[int]) -> list[tuple[str, str]]:
        key = set(self._write.key)
        return [
            (column.name, self._staged(place, column))
            for place, column in ((place, self.columns[place]) for place in places)
            if not column.generated and (column.name not in key or not _bytewise(column))
        ]

    @cached_property
    def _key_places(self) -> list[int]:
        return [self._write.columns.index(name) for name in self._write.key]

    def _update(self, assigned: Iterable[tuple[str, str]], where: str) -> str:
        columns = ", ".join(f"{quote(name)} = {value}" for name, value in assigned)
        return f"update {self.name} t set {columns} from {STAGE} s where s.m = $1 and {where}"

    def _staged(self, place: int, column: Column) -> str:
        return f"s.c{place}::{cast_type(column)}"

    def _matches(self, places: Sequence[int]) -> str:
        return " and ".join(
            f"t.{quote(column.name)} = {self._staged(place, column)}"
            for place, column in zip(places, self.key, strict=True)
        )

    def _gone(self) -> str:
        """The key is the old one and not, as the table compares, the new one; of shared rows those with our part.

        The new key is compared with the column, not with the old key's text: only a column has its collation.
        """
        width = len(self.key)
        spared = f"(s.c{width} is null or not ({self._matches(range(width, 2 * width))}))"
        mine = f" and t.{quote(self._flag)}" if self._flag else ""
        return f"{self._matches(range(width))} and {spared}{mine}"

    def _others(self) -> str:
        flags = [
            f"coalesce(t.{quote(name)}, false)"
            for name, column in self._by_name.items()
            if name.startswith(FLAG_PREFIX) and name != self._flag and column.type == "boolean"
        ]
        return f"({' or '.join(flags)})" if flags else "false"

    def _cleared(self) -> list[tuple[str, str]]:
        key = set(self._write.key)
        cleared = [
            (column.name, "null" if column.nullable else "default")
            for column in self.columns
            if column.name not in key and not column.generated
        ]
        return [*cleared, (self._flag, "null")]

    @property
    def _needs_columns_of_others(self) -> bool:
        written = {column.name for column in self.columns}
        return any(
            not (column.nullable or column.default or column.generated or column.name in written)
            for column in self._table.columns
        )


def _bytewise(column: Column) -> bool:
    return column.type in _BYTEWISE


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(quote, names))
