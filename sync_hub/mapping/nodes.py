"""The nodes of SQL that expressions may have, and what each compiles to: operators, conditions, casts, grammar."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sqlglot import exp

from sync_hub.errors import Rejected
from sync_hub.mapping import arithmetic as arithmetics
from sync_hub.mapping import calendar_fields, comparisons, conditions, documents, forms, numerics
from sync_hub.mapping.casts import cast as cast_between
from sync_hub.mapping.faults import SyntaxProblem
from sync_hub.mapping.functions import OVERLOADS, names
from sync_hub.mapping.operands import Operand, apply, constant, convert, strict, unify
from sync_hub.mapping.operands import null as null_operand
from sync_hub.mapping.parse import PREFIX, chain, place_of
from sync_hub.mapping.scope import Row
from sync_hub.mapping.types import (
    BIGINT,
    BOOLEAN,
    INTEGER,
    KNOWN,
    NUMERIC,
    TEXT,
    TIMESTAMPTZ,
    UNKNOWN,
    SqlType,
    parse_type,
)

if TYPE_CHECKING:
    from sync_hub.mapping.compile import Compiler

_TEXTUAL: Final = frozenset({"text", "unknown", "other"})
_CLOCK: Final = frozenset({"now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday"})
_RANDOM: Final = frozenset({"random", "gen_random_uuid", "uuid_generate_v4", "uuidv4", "uuidv7", "nextval"})
_SIGNS: Final[dict[type[exp.Expr], str]] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%"}


def _column(compiler: Compiler, node: exp.Expr) -> Operand:
    return compiler.column(node)


def literal(compiler: Compiler, node: exp.Expr) -> Operand:
    """A text, whose type its place decides, or a number: integer, bigint or numeric by its size."""
    place, text = place_of(node), str(node.this)
    if node.args.get("is_string"):
        return constant(UNKNOWN, text, place)
    if text.isdigit() and len(text) < 19:
        value = int(text)
        return constant(INTEGER if value < 1 << 31 else BIGINT, value, place)
    try:
        return constant(NUMERIC, numerics.parse_decimal(text), place)
    except Rejected as error:
        raise SyntaxProblem(error.message, place) from error


def raw(compiler: Compiler, node: exp.Expr) -> Operand:
    """A text in dollar quotes."""
    return constant(UNKNOWN, str(node.this), place_of(node))


def escaped(compiler: Compiler, node: exp.Expr) -> Operand:
    """A text with escapes: E'…'."""
    text = _ESCAPE.sub(_unescape, str(node.this))
    if "\0" in text:
        raise SyntaxProblem("a text cannot hold the character U+0000", place_of(node))
    return constant(UNKNOWN, text, place_of(node))


def null(compiler: Compiler, node: exp.Expr) -> Operand:
    """NULL, whose type its place decides."""
    return null_operand(place_of(node))


def boolean(compiler: Compiler, node: exp.Expr) -> Operand:
    """True or false."""
    return constant(BOOLEAN, bool(node.this), place_of(node))


def clock(compiler: Compiler, node: exp.Expr) -> Operand:
    """The current time: refused."""
    raise _no_clock(place_of(node))


def paren(compiler: Compiler, node: exp.Expr) -> Operand:
    """What stands in parentheses."""
    return compiler.operand(node.this)


def arithmetic(compiler: Compiler, node: exp.Expr) -> Operand:
    """Two values with + - * / or %."""
    left, right = compiler.operands([node.this, node.args["expression"]])
    return arithmetics.arithmetic(_SIGNS[type(node)], left, right, place_of(node))


def power(compiler: Compiler, node: exp.Expr) -> Operand:
    """The operator ^, which is the function power."""
    return compiler.chosen("power", compiler.operands([node.this, node.args["expression"]]), place_of(node))


def negative(compiler: Compiler, node: exp.Expr) -> Operand:
    """A minus sign before a value."""
    return arithmetics.negative(compiler.operand(node.this), place_of(node))


def joined(compiler: Compiler, node: exp.Expr) -> Operand:
    """A chain of ||, however long: NULL when one part is NULL."""
    parts = compiler.operands(chain(node))
    texts = {"text", "other"} if any(part.type.kind in {"json", "jsonb", "bytea"} for part in parts) else _TEXTUAL
    if all(part.type.kind not in texts for part in parts):
        raise SyntaxProblem(
            f"there is no {parts[0].type} || {parts[1].type}", place_of(node), "cast one side: (…)::text"
        )
    shown = [compiler.as_text(part) for part in parts]
    if all(part.constant for part in shown):
        return apply(TEXT, _join, shown, place_of(node))
    runs = [part.run for part in shown]

    def run(row: Row) -> str | None:
        values = [part(row) for part in runs]
        return None if None in values else "".join(values)

    return Operand(TEXT, run, place_of(node))


def json(compiler: Compiler, node: exp.Expr) -> Operand:
    """The operators -> ->> #> and #>>."""
    document, step = compiler.operands([node.this, node.args["expression"]])
    if document.type.kind not in {"json", "jsonb"}:
        raise SyntaxProblem(f"{document.type} where json is expected", document.place, "cast it: (…)::jsonb")
    scalar = isinstance(node, exp.JSONExtractScalar | exp.JSONBExtractScalar)
    if isinstance(node, exp.JSONBExtract | exp.JSONBExtractScalar):
        step, get = convert(step, parse_type("text[]")), documents.descend
    elif step.type.kind == "int":
        get = documents.element_or_self if document.type.kind == "jsonb" else documents.element  # type: ignore[assignment]  # each goes with its own type of step
    else:
        step, get = convert(step, TEXT), documents.member  # type: ignore[assignment]
    run: Callable[..., Any] = (lambda text, path: documents.as_text(get(text, path))) if scalar else get
    return apply(TEXT if scalar else document.type, run, [document, step], place_of(node))


def at_time_zone(compiler: Compiler, node: exp.Expr) -> Operand:
    """AT TIME ZONE, which is the function timezone."""
    moment, zone = compiler.operands([node.this, node.args["zone"]])
    if moment.type.kind in {"date", "unknown"}:
        moment = convert(moment, TIMESTAMPTZ)
    return compiler.chosen("timezone", [zone, moment], place_of(node))


def element(compiler: Compiler, node: exp.Expr) -> Operand:
    """An array's element, counted from 1; NULL when there is none."""
    if len(node.expressions) != 1:
        raise SyntaxProblem("one index is expected", place_of(node))
    array, index = compiler.operands([node.this, node.expressions[0]])
    if array.type.element is None:
        raise SyntaxProblem(f"an array is expected, not {array.type}", array.place)
    get = lambda items, at: items[at - 1] if 1 <= at <= len(items) else None  # noqa: E731
    return apply(array.type.element, get, [array, convert(index, INTEGER)], place_of(node))


def case(compiler: Compiler, node: exp.Expr) -> Operand:
    """CASE: branches are computed only when they are taken."""
    subject, branches = node.args.get("this"), node.args["ifs"]
    conditions = []
    for branch in branches:
        if subject is None:
            conditions.append(compiler.condition(branch.this).run)
        else:
            first, second = compiler.operands([subject, branch.this])
            conditions.append(comparisons.compare("=", first, second, place_of(branch)).run)
    otherwise = node.args.get("default")
    results = compiler.operands([branch.args["true"] for branch in branches])
    results = unify([*results, compiler.operand(otherwise) if otherwise is not None else null_operand()], "CASE")
    pairs, last = [(test, result.run) for test, result in zip(conditions, results, strict=False)], results[-1].run

    def run(row: Row) -> Any:
        for test, result in pairs:
            if test(row):
                return result(row)
        return last(row)

    return Operand(results[0].type, run, place_of(node))


def cast(compiler: Compiler, node: exp.Expr) -> Operand:
    """CAST, ::, a typed literal, or TRY_CAST."""
    wanted = _type_of(node.args["to"])
    operand = compiler.operand(node.this)
    convert_ = cast_between(TEXT if operand.type.kind == "unknown" else operand.type, wanted)
    if convert_ is None:
        raise SyntaxProblem(f"{operand.type} cannot be cast to {wanted}", place_of(node))
    if isinstance(node, exp.TryCast):
        return Operand(wanted, forms.tried(strict(convert_, [operand])), place_of(node))
    if operand.type.kind == "unknown" and operand.value is not None:
        return convert(operand, wanted)
    return apply(wanted, convert_, [operand], place_of(node))


def extract(compiler: Compiler, node: exp.Expr) -> Operand:
    """A field of a date, a time or an interval, as numeric."""
    name = calendar_fields.field_name(str(node.this.name))
    operand = compiler.operand(node.args["expression"])
    fields = calendar_fields.FIELDS.get(operand.type.kind)
    if fields is None:
        raise SyntaxProblem(f"extract takes a date, a time or an interval, not {operand.type}", operand.place)
    if name not in fields:
        hint = f"there are: {', '.join(sorted(fields))}"
        raise SyntaxProblem(f"{operand.type} has no field {name!r}", place_of(node), hint)
    return apply(NUMERIC, calendar_fields.extractor(name, operand.type.kind), [operand], place_of(node))


def trim(compiler: Compiler, node: exp.Expr) -> Operand:
    """TRIM in all its forms: btrim, ltrim or rtrim."""
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(str(node.args.get("position") or "").upper(), "btrim")
    parts = [node.this] + ([node.args["expression"]] if node.args.get("expression") is not None else [])
    return compiler.chosen(name, compiler.operands(parts), place_of(node))


def substring(compiler: Compiler, node: exp.Expr) -> Operand:
    """SUBSTRING (x FROM … FOR …)."""
    if node.args.get("start") is None:
        raise SyntaxProblem("substring needs a position", place_of(node), "substring(x from 2 for 3)")
    parts = [node.this, node.args["start"]] + ([node.args["length"]] if node.args.get("length") is not None else [])
    return compiler.chosen("substring", compiler.operands(parts), place_of(node))


def position(compiler: Compiler, node: exp.Expr) -> Operand:
    """POSITION (a IN b), which is strpos."""
    return compiler.chosen("strpos", compiler.operands([node.this, node.args["substr"]]), place_of(node))


def call(compiler: Compiler, node: exp.Expr) -> Operand:
    """A function, by its name in our tables."""
    place, name = place_of(node), str(node.this)
    if not name.startswith(PREFIX):
        raise SyntaxProblem(f"the function {name} is written without quotes", place)
    name = name.removeprefix(PREFIX)
    if name in forms.FORMS:
        compiler.functions.add(name)
        return forms.FORMS[name](compiler, node.expressions, place)
    if name in _CLOCK:
        raise _no_clock(place)
    if name not in OVERLOADS:
        raise _unknown_function(name, place)
    return compiler.chosen(name, compiler.operands(node.expressions), place)


def _type_of(node: exp.Expr) -> SqlType:
    text = node.sql(dialect="postgres").lower()
    type_ = parse_type(text)
    base = type_.element or type_
    if base.kind == "other":
        close = difflib.get_close_matches(base.name, KNOWN, n=1)
        hint = f"did you mean {close[0]}?" if close else "PostgreSQL's built-in scalar types are known"
        raise SyntaxProblem(f"there is no type {text}", place_of(node), hint)
    return type_


def _no_clock(place: int) -> SyntaxProblem:
    return SyntaxProblem(
        "the clock may not be read: the same event must always give the same row", place, "use _committed_at"
    )


_ELSEWHERE: Final = {
    "array_length": "cardinality(array)",
    "array_upper": "cardinality(array)",
    "len": "length(text)",
    "ifnull": "coalesce(value, otherwise)",
    "isnull": "coalesce(value, otherwise), or value is null",
    "nvl": "coalesce(value, otherwise)",
    "iif": "case when condition then value else otherwise end",
    "if": "case when condition then value else otherwise end",
    "instr": "strpos(text, part)",
    "charindex": "strpos(text, part)",
}
"""What other systems call otherwise; the name that is most like it would mislead."""


def _unknown_function(name: str, place: int) -> SyntaxProblem:
    if name in _RANDOM:
        return SyntaxProblem(
            f"{name} is refused: the same event must always give the same row", place, "use uuid_v5(namespace, name)"
        )
    elsewhere = _ELSEWHERE.get(name)
    if elsewhere:
        return SyntaxProblem(f"there is no function {name}", place, f"write {elsewhere}")
    close = difflib.get_close_matches(name, names(), n=1)
    hint = f"did you mean {close[0]}?" if close else "sync-hub mapping functions lists them all"
    return SyntaxProblem(f"there is no function {name}", place, hint)


_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|[0-7]{1,3}|.)", re.DOTALL)
_LETTERS: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "xu" and len(code) > 1:
        return chr(int(code[1:], 16))
    return chr(int(code, 8)) if code.isdigit() else _LETTERS.get(code, code)


def _join(*parts: str) -> str:
    return "".join(parts)


_Build = Callable[["Compiler", Any], Operand]
_BINARY: Final = frozenset({"this", "expression"})
NODES: Final[dict[type[exp.Expr], tuple[_Build, frozenset[str]]]] = {
    exp.Column: (_column, frozenset({"this", "table", "db", "catalog"})),
    exp.Literal: (literal, frozenset({"this", "is_string"})),
    exp.RawString: (raw, frozenset({"this"})),
    exp.ByteString: (escaped, frozenset({"this"})),
    exp.Null: (null, frozenset()),
    exp.Boolean: (boolean, frozenset({"this"})),
    exp.Paren: (paren, frozenset({"this"})),
    exp.Neg: (negative, frozenset({"this"})),
    exp.Not: (conditions.negation, frozenset({"this"})),
    exp.Pow: (power, _BINARY),
    exp.DPipe: (joined, _BINARY | {"safe"}),
    exp.And: (conditions.logic, _BINARY),
    exp.Or: (conditions.logic, _BINARY),
    exp.Is: (conditions.is_, _BINARY | {"negate"}),
    exp.NullSafeEQ: (conditions.distinct, _BINARY),
    exp.NullSafeNEQ: (conditions.distinct, _BINARY),
    exp.Between: (conditions.between, frozenset({"this", "low", "high"})),
    exp.In: (conditions.in_, frozenset({"this", "expressions"})),
    exp.Like: (conditions.like, _BINARY | {"negate"}),
    exp.ILike: (conditions.like, _BINARY | {"negate"}),
    exp.Escape: (conditions.like_with_escape, _BINARY),
    exp.RegexpLike: (conditions.regex, _BINARY),
    exp.RegexpILike: (conditions.regex, _BINARY),
    exp.JSONExtract: (json, _BINARY | {"only_json_types"}),
    exp.JSONExtractScalar: (json, _BINARY | {"only_json_types"}),
    exp.JSONBExtract: (json, _BINARY),
    exp.JSONBExtractScalar: (json, _BINARY),
    exp.AtTimeZone: (at_time_zone, frozenset({"this", "zone"})),
    exp.Bracket: (element, frozenset({"this", "expressions"})),
    exp.Case: (case, frozenset({"this", "ifs", "default"})),
    exp.Cast: (cast, frozenset({"this", "to"})),
    exp.TryCast: (cast, frozenset({"this", "to", "safe"})),
    exp.Extract: (extract, _BINARY),
    exp.Trim: (trim, _BINARY | {"position"}),
    exp.Substring: (substring, frozenset({"this", "start", "length"})),
    exp.StrPosition: (position, frozenset({"this", "substr"})),
    exp.Anonymous: (call, frozenset({"this", "expressions"})),
    exp.CurrentDate: (clock, frozenset()),
    exp.CurrentTime: (clock, frozenset()),
    exp.CurrentTimestamp: (clock, frozenset()),
    exp.Localtime: (clock, frozenset()),
    exp.Localtimestamp: (clock, frozenset()),
}
for _node in (exp.Add, exp.Sub, exp.Mul, exp.Mod):
    NODES[_node] = (arithmetic, _BINARY)
NODES[exp.Div] = (arithmetic, _BINARY | {"typed", "safe"})
for _comparison in (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE):
    NODES[_comparison] = (conditions.comparison, _BINARY)
