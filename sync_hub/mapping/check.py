"""Mappings against the catalogs of both ends, before anything runs: what would fail later is found here."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Final

from sync_hub.errors import ConfigError
from sync_hub.mapping.apply import CompiledMapping, compile_mapping
from sync_hub.mapping.fields import Field
from sync_hub.mapping.loader import Bundle
from sync_hub.mapping.types import INT_BITS, SqlType, parse_type
from sync_hub.model import Column, Finding, Severity, Table

_LOSSY: Final = frozenset(
    {
        "mask", "left", "right", "substring", "substr", "split_part", "round", "trunc", "floor", "ceil", "ceiling",
        "mod", "abs", "sign", "length", "date_trunc", "regexp_replace", "translate", "lower", "upper", "initcap",
        "trim", "btrim", "ltrim", "rtrim", "replace", "coalesce", "lookup",
    }
)  # fmt: skip
_INJECTIVE: Final = frozenset({"md5", "sha256", "hmac_sha256", "uuid_v5", "concat_ws", "lpad", "reverse", "encode"})
_FITS: Final[dict[str, frozenset[str]]] = {
    "bool": frozenset({"bool", "text", "other"}),
    "int": frozenset({"int", "numeric", "float", "text", "bool", "other"}),
    "numeric": frozenset({"numeric", "float", "text", "other"}),
    "float": frozenset({"float", "numeric", "text", "other"}),
    "text": frozenset({"text", "other"}),
    "date": frozenset({"date", "timestamp", "timestamptz", "text", "other"}),
    "time": frozenset({"time", "text", "interval", "other"}),
    "timestamp": frozenset({"timestamp", "timestamptz", "text", "other"}),
    "timestamptz": frozenset({"timestamptz", "timestamp", "text", "other"}),
    "interval": frozenset({"interval", "text", "other"}),
    "json": frozenset({"json", "jsonb", "text", "other"}),
    "jsonb": frozenset({"json", "jsonb", "text", "other"}),
    "bytea": frozenset({"bytea", "other"}),
    "uuid": frozenset({"uuid", "text", "other"}),
    "array": frozenset({"array", "text", "json", "jsonb", "other"}),
}


def check_mapping(
    mapping: CompiledMapping | Bundle,
    source_table: Table,
    target_table: Table | None,
    secrets: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Everything wrong with a mapping between these two tables; `target_table` None: it does not exist.

    A bundle is compiled first (with `secrets`), and what that finds is the only finding. Never raises `ConfigError`.
    """
    if isinstance(mapping, Bundle):
        try:
            mapping = compile_mapping(mapping, source_table, secrets=secrets or {})
        except ConfigError as error:
            return [Finding(error.code, "error", error.where, error.message, error.hint, error.command)]
    return list(_Check(mapping, source_table, target_table).findings())


class _Check:
    def __init__(self, mapping: CompiledMapping, source: Table, target: Table | None) -> None:
        self._mapping = mapping
        self._spec = mapping.spec
        self._source = source
        self._target = target
        self._columns = {column.name: column for column in target.columns} if target else {}

    def findings(self) -> Iterator[Finding]:
        yield from self._source_key()
        if self._target is None:
            if not self._spec.create:
                name = f"target {self._spec.target} has no table {self._spec.target_table}"
                yield self._found("target_table_missing", name, "to", "table", hint="write create: true under `to`")
            return
        marked = self._mapping.unmarked_columns
        for field in (*self._mapping.fields, *self._mapping.mark_fields):
            if field.path or field.name not in marked:
                yield from self._field(field)
        for name in sorted(marked & self._columns.keys()):
            if not self._columns[name].nullable:
                message = f"{name} takes no NULL, which stands for a row that is there"
                hint = f"say under `fields` what {name} is then"
                yield self._found("marked_column_not_null", message, "on_delete", "set", name, hint=hint)
        yield from self._target_key()
        yield from self._unwritten()

    def _found(
        self, code: str, message: str, *path: str | int, hint: str = "", severity: Severity = "error"
    ) -> Finding:
        return Finding(code, severity, self._spec.node.where(*path), f"mapping {self._spec.name}: {message}", hint)

    def _source_key(self) -> Iterator[Finding]:
        if not self._source.key:
            message = f"the source table {self._source.full_name} has no key: its events could not be told apart"
            yield self._found("source_without_key", message, "from", "table", hint="give it a primary key")
            return
        read = {name for field in self._mapping.key_fields for name in field.expression.reads}
        missing = [name for name in self._source.key if name not in read]
        if missing:
            message = f"the key leaves out the source's key column {', '.join(missing)}: different rows would be one"
            yield self._found(
                "key_too_short", message, "key", hint=f"the source's key is {', '.join(self._source.key)}"
            )
        for field in self._mapping.key_fields:
            uncertain = sorted(field.expression.functions - _INJECTIVE)
            if uncertain and not field.column:
                message = f"the key column {field.name} uses {', '.join(uncertain)}: different rows may become one"
                hint = "use the column itself, or a hash of it"
                yield self._found("key_may_collide", message, *field.path, hint=hint, severity="warning")

    def _field(self, field: Field) -> Iterator[Finding]:
        column = self._columns.get(field.name)
        if column is None:
            close = difflib.get_close_matches(field.name, self._columns, n=1)
            hint = f"did you mean {close[0]}?" if close else f"add it there; it has: {', '.join(self._columns)}"
            message = f"target table {self._spec.target_table} has no column {field.name}"
            yield self._found("unknown_target_column", message, *field.path, hint=hint)
            return
        if column.generated:
            message = f"the target computes {field.name} itself: it cannot be written"
            yield self._found("target_column_generated", message, *field.path, hint="leave it out of the mapping")
        yield from self._type(field, column)
        if not column.nullable and field.nullable and field.name not in self._mapping.key:
            message = f"{field.name} may be NULL, which the target refuses"
            hint = "coalesce(…, …) gives another value"
            yield self._found("null_into_not_null", message, *field.path, hint=hint, severity="warning")
        lossy = sorted(field.expression.functions & _LOSSY)
        if lossy and any(field.name in group for group in self._unique()):
            severity: Severity = "error" if "mask" in lossy else "warning"
            message = f"{field.name} is unique in the target, but {', '.join(lossy)} makes different values equal"
            yield self._found(
                "lossy_unique", message, *field.path, hint="use hmac_sha256(column, secret('NAME'))", severity=severity
            )

    def _unique(self) -> list[frozenset[str]]:
        return [frozenset(group) for group in self._target.unique] if self._target else []

    def _type(self, field: Field, column: Column) -> Iterator[Finding]:
        given, wanted = field.type, parse_type(column.type)
        if (field.expression.constant and given.kind in {"text", "unknown"}) or given == wanted:
            return
        if wanted.kind not in _FITS.get(given.kind, {wanted.kind}):
            message = f"{field.name} is {given}, the target's column {wanted}"
            hint = f"cast it: ({field.column or '…'})::{wanted}"
            yield self._found("type_does_not_fit", message, *field.path, hint=hint)
        elif doubt := _doubt(given, wanted):
            message = f"{field.name} is {given}, the target's column {wanted}: {doubt}"
            yield self._found("type_may_not_fit", message, *field.path, severity="warning")

    def _target_key(self) -> Iterator[Finding]:
        if frozenset(self._mapping.key) not in self._unique():
            key = ", ".join(self._mapping.key)
            message = f"({key}) is not unique in target table {self._spec.target_table}"
            known = "; ".join(f"({', '.join(group)})" for group in self._target.unique) if self._target else ""
            hint = (
                f"unique there: {known}" if known else f"alter table {self._spec.target_table} add primary key ({key})"
            )
            yield self._found("key_not_unique", message, "key", hint=hint)

    def _unwritten(self) -> Iterator[Finding]:
        for name, column in self._columns.items():
            needed = not (column.nullable or column.default or column.generated)
            if needed and name not in self._mapping.columns:
                message = (
                    f"target column {name} is NOT NULL without a default, and not written: no row could be inserted"
                )
                yield self._found("not_null_unwritten", message, "fields", hint="map it, or give it a default")


def _doubt(given: SqlType, wanted: SqlType) -> str:
    """Why a value of a type may not fit another that takes most of them; empty when all fit."""
    if given.kind == wanted.kind == "int" and INT_BITS[given.name] > INT_BITS[wanted.name]:
        return "large numbers do not fit"
    if given.kind == "int" and wanted.kind == "bool":
        return "only 0 and 1 fit"
    if given.kind == "timestamp" and wanted.kind == "timestamptz":
        return "it is taken as UTC"
    if (
        given.kind == wanted.kind == "text"
        and wanted.length is not None
        and (given.length or wanted.length + 1) > wanted.length
    ):
        return "longer texts do not fit"
    if given.kind == wanted.kind == "numeric" and wanted.length is not None:
        return _numeric_doubt(given, wanted)
    if given.kind == "numeric" and wanted.kind == "float":
        return "not every decimal is exact there"
    return ""


def _numeric_doubt(given: SqlType, wanted: SqlType) -> str:
    wanted_scale, wanted_whole = wanted.scale or 0, (wanted.length or 0) - (wanted.scale or 0)
    if given.length is None or (given.scale or 0) > wanted_scale:
        return "more digits after the point are rounded"
    return "large numbers do not fit" if given.length - (given.scale or 0) > wanted_whole else ""
