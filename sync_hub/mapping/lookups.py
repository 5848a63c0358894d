"""Lookup tables: CSV files whose first column is the key."""

from __future__ import annotations

import csv
import io

from msgspec import Struct

from sync_hub.errors import ConfigError


class Lookup(Struct, frozen=True):
    """A lookup table: named columns, and rows by their key. An empty cell is NULL."""

    name: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str | None, ...]]

    def values(self, column: str = "") -> dict[str, str | None]:
        """Key → value of a column; without a name that of the second column. Raises `KeyError` for an unknown one."""
        if column and column not in self.columns:
            raise KeyError(column)
        index = self.columns.index(column) if column else 1
        return {key: row[index] for key, row in self.rows.items()}


def parse_lookup(name: str, text: str) -> Lookup:
    """The table in a CSV text (comma, quotes, a header). Raises `ConfigError` that names file and line."""
    file = f"lookups/{name}.csv"
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: dict[str, tuple[str | None, ...]] = {}
    columns: tuple[str, ...] = ()
    try:
        for cells in reader:
            if not cells or not any(cells):
                continue
            where = f"{file}:{reader.line_num}:1"
            if not columns:
                columns = _header(cells, where)
                continue
            if len(cells) != len(columns):
                raise ConfigError(
                    "bad_lookup", f"{len(cells)} cells, the header has {len(columns)}", where=where, hint="quote commas"
                )
            if cells[0] in rows:
                raise ConfigError("bad_lookup", f"the key {cells[0]!r} is there twice", where=where)
            rows[cells[0]] = tuple(cell or None for cell in cells)
    except csv.Error as error:
        raise ConfigError("bad_lookup", f"not CSV: {error}", where=f"{file}:{reader.line_num}:1") from error
    if not columns:
        raise ConfigError("bad_lookup", "the file is empty", where=f"{file}:1:1", hint="it needs a header")
    return Lookup(name, columns, rows)


def _header(cells: list[str], where: str) -> tuple[str, ...]:
    columns = tuple(cell.strip() for cell in cells)
    if len(columns) < 2:
        raise ConfigError("bad_lookup", "a key and at least one more column are needed", where=where)
    if len(set(columns)) != len(columns) or not all(columns):
        raise ConfigError("bad_lookup", "every column needs a name of its own", where=where)
    return columns
