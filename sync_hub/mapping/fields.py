"""Target columns: from a mapping's fields and a source table's columns to functions that give wire values."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from sync_hub.errors import Rejected
from sync_hub.mapping.casts import cast
from sync_hub.mapping.faults import SyntaxProblem
from sync_hub.mapping.scope import EVENT_FACTS, FACTS, Expression, Run, Scope, reader
from sync_hub.mapping.spec import FieldSpec, MappingSpec, Path
from sync_hub.mapping.types import BIGINT, BOOLEAN, INTEGER, NUMERIC, TEXT, SqlType, parse_type
from sync_hub.mapping.values import from_text, to_wire
from sync_hub.model import Column

_PLAIN = re.compile(r"^[a-z_][a-z0-9_]*$")
_LITERALS: Final = frozenset({"null", "true", "false"})
_CREATABLE: Final = frozenset(
    {
        "inet", "cidr", "macaddr", "macaddr8", "money", "bit", "bit varying", "xml", "tsvector", "tsquery", "point",
        "line", "lseg", "box", "path", "polygon", "circle", "pg_lsn", "time with time zone", "int4range", "int8range",
        "numrange", "tsrange", "tstzrange", "daterange",
    }
)  # fmt: skip


class Field(Struct, frozen=True):
    """One target column, compiled. `run` takes a source row (with facts, where used) and gives a wire value.

    `column` is the source column it is, when it is nothing else: its value is passed on untouched.
    """

    name: str
    run: Run
    type: SqlType
    nullable: bool
    expression: Expression
    column: str = ""
    path: Path = ()

    @property
    def from_event(self) -> bool:
        """Whether it needs facts that a row read from the source does not have."""
        return bool(self.expression.facts & EVENT_FACTS)

    @property
    def type_name(self) -> str:
        """A type that any PostgreSQL knows: what only the source's catalog defines is text."""
        base = self.type.element or self.type
        if (base.kind == "other" and base.name not in _CREATABLE) or base.name in {"citext", "unknown"}:
            return "text[]" if self.type.element else "text"
        return str(self.type)


def compile_text(spec: MappingSpec, text: str, path: Path, scope: Scope) -> Expression:
    """Compile one expression of a mapping; a column by itself needs no parser. Raises `ConfigError`."""
    plain = text.strip()
    if _PLAIN.match(plain) and plain not in _LITERALS:
        if plain in scope.columns:
            type_ = scope.columns[plain]
            return Expression(type_, reader(plain, type_), reads=frozenset({plain}), column=plain)
        if plain in scope.facts:
            return Expression(FACTS[plain], reader(plain, FACTS[plain]), facts=frozenset({plain}))
    from sync_hub.mapping.compile import compile_expression

    try:
        return compile_expression(text, scope)
    except SyntaxProblem as problem:
        raise spec.error(
            "bad_expression", problem.message, *path, hint=problem.hint, offset=problem.offset
        ) from problem


def compile_fields(
    spec: MappingSpec, fields: Sequence[FieldSpec], scope: Scope, columns: Mapping[str, Column]
) -> list[Field]:
    """Compile fields in order."""
    return [
        _constant(spec, field) if field.is_constant else _expression(spec, field, scope, columns) for field in fields
    ]


def copied(names: Sequence[str], scope: Scope, columns: Mapping[str, Column], paths: Mapping[str, Path]) -> list[Field]:
    """Columns taken as they are."""
    out = []
    for name in names:
        type_ = scope.columns[name]
        expression = Expression(type_, reader(name, type_), reads=frozenset({name}), column=name)
        column = columns[name]
        out.append(
            Field(name, operator.itemgetter(name), type_, column.nullable, expression, name, paths.get(name, ()))
        )
    return out


def _declared(spec: MappingSpec, field: FieldSpec) -> SqlType | None:
    if not field.type:
        return None
    type_ = parse_type(field.type)
    base = type_.element or type_
    if base.kind == "other" and base.name not in _CREATABLE:
        path = (*field.path[:-1], "type")
        raise spec.error("unknown_type", f"there is no type {field.type!r}", *path, hint="numeric(12,2), text, date …")
    return type_


def _expression(spec: MappingSpec, field: FieldSpec, scope: Scope, columns: Mapping[str, Column]) -> Field:
    expression = compile_text(spec, field.expression, field.path, scope)
    wanted = _declared(spec, field)
    nullable = columns[expression.column].nullable if expression.column else True
    if wanted is None or wanted == expression.type:
        if expression.column:
            name = expression.column
            return Field(field.name, operator.itemgetter(name), expression.type, nullable, expression, name, field.path)
        return Field(field.name, _wired(expression), expression.type, nullable, expression, path=field.path)
    convert = cast(expression.type, wanted, strict=True)
    if convert is None:
        hint = "give another type, or cast inside the expression"
        raise spec.error("unknown_type", f"{expression.type} cannot become {wanted}", *field.path, hint=hint)
    run = expression.run
    typed = Expression(
        wanted,
        lambda row: None if (value := run(row)) is None else convert(value),
        expression.reads,
        expression.facts,
        expression.secrets,
        functions=expression.functions,
    )
    return Field(field.name, _wired(typed), wanted, nullable, typed, path=field.path)


def _wired(expression: Expression) -> Run:
    run, convert = expression.run, to_wire(expression.type)
    if convert is None:
        return run
    return lambda row: None if (value := run(row)) is None else convert(value)


def _constant(spec: MappingSpec, field: FieldSpec) -> Field:
    value, type_ = field.value, TEXT
    if isinstance(value, bool):
        type_ = BOOLEAN
    elif isinstance(value, int):
        type_ = INTEGER if abs(value) < 1 << 31 else BIGINT if abs(value) < 1 << 63 else NUMERIC
        value = str(value) if type_ is NUMERIC else value
    elif field.is_decimal:
        type_ = NUMERIC
    wanted = _declared(spec, field)
    if wanted is not None and value is not None and wanted != type_:
        value, type_ = _typed_constant(spec, field, wanted), wanted
    type_ = wanted or type_
    expression = Expression(type_, lambda _: value, constant=True)
    return Field(field.name, lambda _: value, type_, value is None, expression, path=field.path)


def _typed_constant(spec: MappingSpec, field: FieldSpec, wanted: SqlType) -> Any:
    text = field.value if isinstance(field.value, str) else str(field.value).lower()
    try:
        convert = cast(TEXT, wanted, strict=True) or from_text(wanted)
        value = convert(text) if convert else text
    except Rejected as error:
        raise spec.error("bad_value", f"{text!r} is not a valid {wanted}: {error.message}", *field.path) from error
    show = to_wire(wanted)
    return show(value) if show else value
