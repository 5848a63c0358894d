"""From a mapping's text and a source table to its compiled parts: fields, key, condition, and the hash of it all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from sync_hub.mapping.fields import Field, compile_fields, compile_text, copied
from sync_hub.mapping.loader import Bundle
from sync_hub.mapping.lookups import parse_lookup
from sync_hub.mapping.scope import EVENT_FACTS, FACTS, Expression, Row, Scope
from sync_hub.mapping.spec import MappingSpec
from sync_hub.mapping.types import SqlType, parse_type
from sync_hub.model import Table


class Scopes:
    """What the expressions of one mapping may name: in fields, in the key, in `where`."""

    def __init__(self, bundle: Bundle, table: Table, secrets: Mapping[str, str]) -> None:
        self.catalog = {column.name: column for column in table.columns}
        self.types: dict[str, SqlType] = {
            column.name: parse_type(column.type) for column in table.columns if column.carried
        }
        refused = {
            column.name: f"the log cannot carry the column {column.name} (it is computed when read)"
            for column in table.columns
            if not column.carried
        }
        lookups = {name: parse_lookup(name, text) for name, text in bundle.lookups.items()}
        self.row = Scope(self.types, lookups, secrets, FACTS, refused)
        keys = {name: type_ for name, type_ in self.types.items() if name in table.key}
        not_key = {
            name: f"the column {name} is not part of the source's key ({', '.join(table.key) or 'there is none'}), "
            "and deletes carry only the key"
            for name in self.types
            if name not in table.key
        }
        only = f"use the source's key: {', '.join(table.key)}" if table.key else "give the source's table a primary key"
        self.key = Scope(keys, lookups, secrets, FACTS, refused | not_key, only)
        steady = {name: type_ for name, type_ in FACTS.items() if name not in EVENT_FACTS}
        self.key_only = Scope(keys, lookups, secrets, steady, refused | not_key, only)
        self.condition = Scope(self.types, lookups, secrets, steady, refused)


def target_fields(spec: MappingSpec, table: Table, scope: Scope) -> list[Field]:
    """The target's columns in order: fields first, then what is copied."""
    catalog = {column.name: column for column in table.columns}
    fields = compile_fields(spec, spec.fields, scope, catalog)
    names = {field.name for field in fields}
    if spec.copy is None:
        for index, name in enumerate(spec.copy_except):
            if name not in catalog:
                raise spec.error("unknown_column", f"{table.full_name} has no column {name}", "except", index)
        wanted = [name for name in scope.columns if name not in names and name not in spec.copy_except]
        return fields + copied(wanted, scope, catalog, {})
    for index, name in enumerate(spec.copy):
        if name in names:
            raise spec.error("duplicate_column", f"{name!r} is a field already", "copy", index)
        if name not in scope.columns:
            compile_text(spec, '"' + name.replace('"', '""') + '"', ("copy", index), scope)
    paths = {name: ("copy", index) for index, name in enumerate(spec.copy)}
    return fields + copied(spec.copy, scope, catalog, paths)


def unmarked_fields(fields: Sequence[Field], marks: Sequence[Field]) -> list[Field]:
    """NULL for what only `on_delete: set` writes: a row that comes back is not deleted any more."""
    written = {field.name for field in fields}
    return [
        Field(mark.name, _null, mark.type, nullable=True, expression=Expression(mark.type, _null, constant=True))
        for mark in marks
        if mark.name not in written
    ]


def _null(_row: Row) -> None:
    return None


def key_fields(spec: MappingSpec, fields: Sequence[Field], scopes: Scopes) -> list[Field]:
    """The key's fields, compiled so that they see nothing but the source's key."""
    known = {field.name: field for field in fields}
    specs = {field.name: field for field in spec.fields}
    out = []
    for index, name in enumerate(spec.key):
        if name not in known:
            hint = f"name it under fields or copy; there are: {', '.join(known)}"
            raise spec.error("unknown_column", f"the key column {name!r} is not written", "key", index, hint=hint)
        if name in specs:
            out += compile_fields(spec, [specs[name]], scopes.key_only, scopes.catalog)
        elif name in scopes.key_only.columns:
            out.append(known[name])
        else:
            scope = scopes.key_only
            raise spec.error("bad_expression", scope.refused[name], "key", index, hint=scope.refused_hint)
    return out


def respelled_keys(fields: Sequence[Field], source: Table, target: Table) -> list[int]:
    """The places of those key fields that must be written as events spell them.

    Events spell a key in one way, rows as they please: 7.5 and 7.50. Where the target takes both for one key, a row may
    keep its spelling; elsewhere a delete would look for another key than the row has.
    """
    given = {column.name: _spellings(column.type) for column in source.columns}
    taken = {column.name: column for column in target.columns}
    declared = {column.name: column.declared or column.type for column in source.columns}

    def alike(field: Field) -> bool:
        column = taken.get(field.name)
        if column is None or not field.column or _spellings(column.type) != given[field.column]:
            return False
        # Where arrays are text, the type of their elements says nothing about which of them are equal.
        return not column.type.endswith("[]") or (column.declared or column.type) == declared[field.column]

    return [
        place
        for place, field in enumerate(fields)
        if any(given.get(name) for name in field.expression.reads) and not alike(field)
    ]


def _spellings(type_name: str) -> str:
    """Which values this type takes for equal, if equal ones may be spelled in several ways; else empty."""
    element = type_name.removesuffix("[]")
    type_ = parse_type(element.rpartition(".")[2])  # citext may be in any schema
    found = type_.kind if type_.kind in {"numeric", "float", "interval"} else ""
    found = type_.name if type_.name in {"character", "citext"} else found
    return found + type_name[len(element) :] if found else ""


def row_condition(spec: MappingSpec, scopes: Scopes) -> Expression | None:
    """The row filter, which may use nothing that a row read from the source does not have."""
    if spec.where is None:
        return None
    expression = compile_text(spec, spec.where, ("where",), scopes.condition)
    if expression.type.kind != "bool":
        raise spec.error(
            "bad_expression", f"where is {expression.type}, not a condition", "where", hint="compare it: … = …"
        )
    return expression


def mapping_hash(
    spec: MappingSpec, bundle: Bundle, fields: Sequence[Field], used: set[str], secrets: Mapping[str, str]
) -> str:
    """Changes with whatever changes rows: the mapping without its tests and descriptions, lookups, secrets, columns."""
    document = {name: value for name, value in spec.node.value.items() if name not in {"tests", "description", "owner"}}
    covered = {
        "document": document,
        "lookups": bundle.lookups,
        "secrets": {name: hashlib.sha256(f"{name}\0{secrets[name]}".encode()).hexdigest() for name in sorted(used)},
        "columns": [(field.name, field.type_name) for field in fields],
    }
    text = json.dumps(covered, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
