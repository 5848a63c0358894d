"""What differs between a mapping as it was applied and as its file says now: in its text, and for rows. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct

from sync_hub.errors import Rejected
from sync_hub.mapping.apply import CompiledMapping
from sync_hub.mapping.lookups import parse_lookup
from sync_hub.mapping.spec import FieldSpec, MappingSpec
from sync_hub.model import ABSENT, Table

EXAMPLES = 3
"""How many old and new values are kept of each field."""

_SETTINGS = ("from", "to", "key", "copy", "except", "where", "on_delete")


class FieldChange(Struct, frozen=True):
    """A target column that is written from now on, differently, or no more; `old` and `new` as in the file."""

    name: str
    change: Literal["added", "changed", "removed"]
    old: str = ""
    new: str = ""


class SettingChange(Struct, frozen=True):
    """What is no field: `where`, `on_delete`, `key` …, or a lookup's contents. Empty: it was or is not there."""

    name: str
    old: str
    new: str


class Example(Struct, frozen=True):
    """What a field gives for one row; `old` is missing where the field is new."""

    key: dict[str, Any]
    field: str
    new: Any
    old: Any = ABSENT


class Rejection(Struct, frozen=True):
    """A row that the changed mapping rejects."""

    key: dict[str, Any]
    code: str
    message: str


class Sample(Struct, frozen=True):
    """What a changed mapping does to some rows of the source.

    `changed` rows are in the view before and after, with other values; `entering` ones only after, `leaving` ones only
    before. `nulls` counts per field the rows for which it becomes NULL. `rejected` are rejected from now on, `mended`
    no longer.
    """

    rows: int
    changed: int
    entering: int
    leaving: int
    rejected: int
    mended: int
    nulls: dict[str, int]
    examples: tuple[Example, ...]
    rejection: Rejection | None = None


def field_changes(old: MappingSpec, new: MappingSpec, table: Table) -> tuple[FieldChange, ...]:
    """The target columns that differ, in the file's order, those that are no longer written last."""
    before, after = field_texts(old, table), field_texts(new, table)
    found = [
        FieldChange(name, "changed" if name in before else "added", before.get(name, ""), text)
        for name, text in after.items()
        if before.get(name) != text
    ]
    return (*found, *(FieldChange(name, "removed", text) for name, text in before.items() if name not in after))


def field_texts(spec: MappingSpec, table: Table) -> dict[str, str]:
    """What each target column is made of, as the file says it; a column that is copied is its name."""
    texts = {field.name: _text(field) for field in spec.fields}
    copied = [column.name for column in table.columns if column.carried and column.name not in spec.copy_except]
    return texts | {name: name for name in (copied if spec.copy is None else spec.copy) if name not in texts}


def key_differs(old: MappingSpec, new: MappingSpec, table: Table) -> bool:
    """Whether rows get other keys in the target: by other columns, or by other expressions for them."""
    before, after = field_texts(old, table), field_texts(new, table)
    return set(old.key) != set(new.key) or any(before.get(name) != after.get(name) for name in new.key)


def setting_changes(old: MappingSpec, new: MappingSpec) -> list[SettingChange]:
    """What differs beside fields, tests and descriptions."""
    before, after = old.node.value, new.node.value
    return [
        SettingChange(name, _shown(before.get(name)), _shown(after.get(name)))
        for name in _SETTINGS
        if before.get(name) != after.get(name)
    ]


def lookup_changes(old: dict[str, str], new: dict[str, str]) -> list[SettingChange]:
    """Lookups that came, went, or have other contents."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            before, after = _rows(name, old.get(name)), _rows(name, new.get(name))
            found.append(SettingChange(f"lookup {name}", before, f"{after}, changed" if before == after else after))
    return found


def compare_rows(old: CompiledMapping | None, new: CompiledMapping, rows: Iterable[dict[str, Any]]) -> Sample:
    """Map rows of the source both ways; `old` None: there is nothing to compare with, or it no longer compiles."""
    count = _Count(old, new)
    for row in rows:
        count.add(row)
    return count.sample()


class _Count:
    def __init__(self, old: CompiledMapping | None, new: CompiledMapping) -> None:
        self._old, self._new = old, new
        places = {name: place for place, name in enumerate(old.columns)} if old is not None else {}
        self._pairs = [(name, places.get(name), place) for place, name in enumerate(new.columns)]
        self._rows = self._changed = self._entering = self._leaving = self._rejected = self._mended = 0
        self._nulls: dict[str, int] = {}
        self._examples: dict[str, list[Example]] = {}
        self._rejection: Rejection | None = None

    def add(self, row: dict[str, Any]) -> None:
        self._rows += 1
        key = {name: row[name] for name in self._new.source_table.key}
        before = None if self._old is None else _mapped(self._old, row)
        after = _mapped(self._new, row)
        if isinstance(after, Rejected):
            if not isinstance(before, Rejected):
                self._rejected += 1
                self._rejection = self._rejection or Rejection(key, after.code, after.message)
            return
        if isinstance(before, Rejected):
            self._mended += 1
        elif before is not None and after is not None:
            self._compare(key, before, after)
        elif self._old is not None:
            self._entering += after is not None
            self._leaving += before is not None

    def _compare(self, key: dict[str, Any], before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
        changed = False
        for name, old_place, place in self._pairs:
            new, old = after[place], ABSENT if old_place is None else before[old_place]
            if new is ABSENT or old == new:
                continue
            changed |= old is not ABSENT
            self._nulls[name] = self._nulls.get(name, 0) + (new is None)
            examples = self._examples.setdefault(name, [])
            if len(examples) < EXAMPLES:
                examples.append(Example(key, name, new, old))
        self._changed += changed

    def sample(self) -> Sample:
        return Sample(
            self._rows,
            self._changed,
            self._entering,
            self._leaving,
            self._rejected,
            self._mended,
            {name: count for name, count in self._nulls.items() if count},
            tuple(example for examples in self._examples.values() for example in examples),
            self._rejection,
        )


def _mapped(mapping: CompiledMapping, row: dict[str, Any]) -> tuple[Any, ...] | Rejected | None:
    try:
        return mapping.map_row(row)
    except Rejected as error:
        return error


def _text(field: FieldSpec) -> str:
    text = field.expression
    if field.is_constant:
        text = field.value if field.is_decimal else _literal(field.value)
    return f"({text})::{field.type}" if field.type else text


def _literal(value: Any) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else json.dumps(value)


def _shown(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _rows(name: str, text: str | None) -> str:
    if text is None:
        return ""
    count = len(parse_lookup(name, text).rows)
    return f"{count} row{'s' * (count != 1)}"
