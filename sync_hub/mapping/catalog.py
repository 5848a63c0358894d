"""Saved catalogs: `config/catalog/<source>.yaml`, so that mappings can be tested where no database is at hand."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sync_hub.errors import ConfigError
from sync_hub.model import Column, Table
from sync_hub.yaml import Node, load_file

_FLAGS = {"not null": ("nullable", False), "default": ("default", True), "generated": ("generated", True)} | {
    "not in the log": ("carried", False)
}
_BARE = re.compile(r"^[A-Za-z_][\w.-]*$")
_TYPE = re.compile(r"^[a-z][a-z0-9 _;(),\[\]]*$")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_HEAD = "# Tables of the source {name} as its catalog had them: `sync-hub check --save` writes this file.\n"


def save_catalog(path: Path, name: str, tables: Sequence[Table]) -> None:
    """Write the tables of a source; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(catalog_text(name, tables), encoding="utf-8")


def catalog_text(name: str, tables: Sequence[Table]) -> str:
    """The tables of a source as they are saved, sorted by name."""
    lines = [_HEAD.format(name=name)]
    for table in sorted(tables, key=lambda table: table.full_name):
        lines.append(f"{_quoted(table.full_name)}:\n")
        lines.append(f"  key: [{', '.join(map(_quoted, table.key))}]\n")
        if table.unique:
            groups = ", ".join(f"[{', '.join(map(_quoted, group))}]" for group in table.unique)
            lines.append(f"  unique: [{groups}]\n")
        lines.append("  columns:\n")
        lines += [f"    {_quoted(column.name)}: {_quoted_type(_written(column))}\n" for column in table.columns]
    return "".join(lines)


def load_catalog(path: Path) -> dict[str, Table]:
    """The saved tables by full name. Raises `ConfigError`."""
    tables: dict[str, Table] = {}
    for node in load_file(path):
        if not isinstance(node.value, dict):
            raise ConfigError("bad_catalog", "tables are expected", where=node.where(), hint=_HINT)
        tables |= {name: _table(node, name, value) for name, value in node.value.items()}
    return tables


_HINT = "sync-hub check --save writes the file again"


def _table(node: Node, full_name: str, value: Any) -> Table:
    columns = value.get("columns") if isinstance(value, dict) else None
    if not isinstance(columns, dict):
        raise ConfigError("bad_catalog", f"{full_name} has no columns", where=node.where(full_name), hint=_HINT)
    schema, _, name = full_name.rpartition(".")
    return Table(
        schema,
        name,
        tuple(_column(node, full_name, name, written) for name, written in columns.items()),
        key=tuple(value.get("key") or ()),
        unique=tuple(tuple(group) for group in value.get("unique") or ()),
    )


def _column(node: Node, table: str, name: str, written: Any) -> Column:
    if not isinstance(written, str):
        raise ConfigError("bad_catalog", "a type is expected", where=node.where(table, "columns", name), hint=_HINT)
    type_, *flags = (part.strip() for part in written.split(";"))
    settings: dict[str, Any] = {"declared": type_}
    for flag in flags:
        if flag.startswith("declared "):
            settings["declared"] = flag.removeprefix("declared ")
        elif flag in _FLAGS:
            settings[_FLAGS[flag][0]] = _FLAGS[flag][1]
        else:
            where = node.where(table, "columns", name)
            raise ConfigError(
                "bad_catalog", f"{flag!r} is not known", where=where, hint=f"known are: {', '.join(_FLAGS)}"
            )
    return Column(name, type_, **settings)


def _written(column: Column) -> str:
    parts = [column.type]
    if column.declared and column.declared != column.type:
        parts.append(f"declared {column.declared}")
    parts += [word for word, (name, value) in _FLAGS.items() if getattr(column, name) is value]
    return "; ".join(parts)


def _quoted(text: str) -> str:
    if _BARE.match(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text, ensure_ascii=False)


def _quoted_type(text: str) -> str:
    return text if _TYPE.match(text) else json.dumps(text, ensure_ascii=False)
