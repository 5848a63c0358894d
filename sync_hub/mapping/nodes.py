"""The nodes of SQL that expressions may have, and what each compiles to: operators, conditions, casts, grammar."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sqlglot import exp

from sync_hub.errors import Rejected
from sync_hub.mapping import calendar_fields, documents, forms, numerics, operators, patterns
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
_SIGNS: Final[dict[type[exp.Expr], str]] = {
    exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%", exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<",
    exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
}  # fmt: skip


def _column(compiler: Compiler, node: exp.Expr) -> Operand:
    return compiler.column(node)


def literal(compiler: Compiler, node: exp.Expr) -> Operand:
    """`literal`."""
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
    """`raw`."""
    return constant(UNKNOWN, str(node.this), place_of(node))


def escaped(compiler: Compiler, node: exp.Expr) -> Operand:
    """`escaped`."""
    return constant(UNKNOWN, _ESCAPE.sub(_unescape, str(node.this)), place_of(node))


def null(compiler: Compiler, node: exp.Expr) -> Operand:
    """NULL."""
    return null_operand(place_of(node))


def boolean(compiler: Compiler, node: exp.Expr) -> Operand:
    """`boolean`."""
    return constant(BOOLEAN, bool(node.this), place_of(node))


def clock(compiler: Compiler, node: exp.Expr) -> Operand:
    """`clock`."""
    raise _no_clock(place_of(node))


def paren(compiler: Compiler, node: exp.Expr) -> Operand:
    """`paren`."""
    return compiler.operand(node.this)


def arithmetic(compiler: Compiler, node: exp.Expr) -> Operand:
    """`arithmetic`."""
    left, right = compiler.operands([node.this, node.args["expression"]])
    return operators.arithmetic(_SIGNS[type(node)], left, right, place_of(node))


def power(compiler: Compiler, node: exp.Expr) -> Operand:
    """`power`."""
    return compiler.chosen("power", compiler.operands([node.this, node.args["expression"]]), place_of(node))


def negative(compiler: Compiler, node: exp.Expr) -> Operand:
    """`negative`."""
    return operators.negative(compiler.operand(node.this), place_of(node))


def comparison(compiler: Compiler, node: exp.Expr) -> Operand:
    """`comparison`."""
    left, right = node.this, node.args["expression"]
    if isinstance(right, exp.Anonymous) and right.this == f"{PREFIX}any":
        return _any(compiler, node, left, right)
    first, second = compiler.operands([left, right])
    return operators.compare(_SIGNS[type(node)], first, second, place_of(node))


def _any(compiler: Compiler, node: exp.Expr, left: exp.Expr, call: exp.Anonymous) -> Operand:
    if not isinstance(node, exp.EQ) or len(call.expressions) != 1:
        raise SyntaxProblem("only `= any(array)` is allowed", place_of(node))
    first, array = compiler.operands([left, call.expressions[0]])
    if array.type.element is None:
        raise SyntaxProblem(f"an array is expected, not {array.type}", array.place)
    first = convert(first, array.type.element)
    equal = operators.comparison_of("=", array.type.element)

    needle, haystack = first.run, array.run

    def search(row: Row) -> bool | None:
        value, items = needle(row), haystack(row)
        if items is None or (value is None and items):
            return None
        if any(item is not None and equal(value, item) for item in items):
            return True
        return None if None in items else False

    return Operand(BOOLEAN, search, place_of(node))


def negation(compiler: Compiler, node: exp.Expr) -> Operand:
    """`negation`."""
    return apply(BOOLEAN, lambda value: not value, [compiler.condition(node.this)], place_of(node))


def logic(compiler: Compiler, node: exp.Expr) -> Operand:
    """`logic`."""
    parts = [compiler.condition(part) for part in chain(node)]
    run = operators.all_of(parts) if isinstance(node, exp.And) else operators.any_of(parts)
    return Operand(BOOLEAN, run, place_of(node))


def joined(compiler: Compiler, node: exp.Expr) -> Operand:
    """`joined`."""
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


def is_(compiler: Compiler, node: exp.Expr) -> Operand:
    """`is null`, `is true`."""
    wanted, negate = node.args["expression"], bool(node.args.get("negate"))
    if isinstance(wanted, exp.Null):
        run = compiler.operand(node.this).run
        return Operand(BOOLEAN, lambda row: (run(row) is None) is not negate, place_of(node))
    if isinstance(wanted, exp.Boolean):
        run, value = compiler.condition(node.this).run, bool(wanted.this)
        return Operand(BOOLEAN, lambda row: (run(row) is value) is not negate, place_of(node))
    raise SyntaxProblem("IS is followed by NULL, TRUE, FALSE or DISTINCT FROM", place_of(node))


def distinct(compiler: Compiler, node: exp.Expr) -> Operand:
    """`distinct`."""
    left, right = unify(compiler.operands([node.this, node.args["expression"]]), "IS DISTINCT FROM")
    operators.compare("=", left, right, place_of(node))
    equal, first, second = operators.comparison_of("=", left.type), left.run, right.run
    negate = isinstance(node, exp.NullSafeNEQ)

    def run(row: Row) -> bool:
        value, other = first(row), second(row)
        same = value is other if value is None or other is None else equal(value, other)
        return same is not negate

    return Operand(BOOLEAN, run, place_of(node))


def between(compiler: Compiler, node: exp.Expr) -> Operand:
    """`between`."""
    operand, low, high = compiler.operands([node.this, node.args["low"], node.args["high"]])
    place = place_of(node)
    parts = [operators.compare(">=", operand, low, place), operators.compare("<=", operand, high, place)]
    return Operand(BOOLEAN, operators.all_of(parts), place)


def in_(compiler: Compiler, node: exp.Expr) -> Operand:
    """`in`."""
    parts = unify(compiler.operands([node.this, *node.expressions]), "IN")
    operators.compare("=", parts[0], parts[0], place_of(node))
    return Operand(BOOLEAN, operators.membership(parts[0], parts[1:]), place_of(node))


def like(compiler: Compiler, node: exp.Expr) -> Operand:
    """`like`."""
    return _like(compiler, node, "\\")


def like_with_escape(compiler: Compiler, node: exp.Expr) -> Operand:
    """`like_with_escape`."""
    inner, escape = node.this, node.args["expression"]
    if not isinstance(inner, exp.Like | exp.ILike) or not isinstance(escape, exp.Literal) or len(escape.name) > 1:
        raise SyntaxProblem("ESCAPE takes one character, after LIKE", place_of(node))
    return _like(compiler, inner, escape.name)


def _like(compiler: Compiler, node: exp.Expr, escape: str) -> Operand:
    text, pattern = (convert(part, TEXT) for part in compiler.operands([node.this, node.args["expression"]]))
    fold, negate = isinstance(node, exp.ILike), bool(node.args.get("negate"))
    if pattern.constant and pattern.value is not None:
        try:
            match = patterns.like(pattern.value, escape, fold=fold)
        except Rejected as error:
            raise SyntaxProblem(error.message, pattern.place) from error
        return apply(BOOLEAN, lambda value: match(value) is not negate, [text], place_of(node))
    return apply(
        BOOLEAN,
        lambda value, like: patterns.like(like, escape, fold=fold)(value) is not negate,
        [text, pattern],
        place_of(node),
    )


def regex(compiler: Compiler, node: exp.Expr) -> Operand:
    """`regex`."""
    flags = [constant(TEXT, "i")] if isinstance(node, exp.RegexpILike) else []
    return compiler.chosen(
        "regexp_like", [*compiler.operands([node.this, node.args["expression"]]), *flags], place_of(node)
    )


def json(compiler: Compiler, node: exp.Expr) -> Operand:
    """`json`."""
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
    """`at_time_zone`."""
    moment, zone = compiler.operands([node.this, node.args["zone"]])
    if moment.type.kind in {"date", "unknown"}:
        moment = convert(moment, TIMESTAMPTZ)
    return compiler.chosen("timezone", [zone, moment], place_of(node))


def element(compiler: Compiler, node: exp.Expr) -> Operand:
    """`element`."""
    if len(node.expressions) != 1:
        raise SyntaxProblem("one index is expected", place_of(node))
    array, index = compiler.operands([node.this, node.expressions[0]])
    if array.type.element is None:
        raise SyntaxProblem(f"an array is expected, not {array.type}", array.place)
    get = lambda items, at: items[at - 1] if 1 <= at <= len(items) else None  # noqa: E731
    return apply(array.type.element, get, [array, convert(index, INTEGER)], place_of(node))


def case(compiler: Compiler, node: exp.Expr) -> Operand:
    """`case`."""
    subject, branches = node.args.get("this"), node.args["ifs"]
    conditions = []
    for branch in branches:
        if subject is None:
            conditions.append(compiler.condition(branch.this).run)
        else:
            first, second = compiler.operands([subject, branch.this])
            conditions.append(operators.compare("=", first, second, place_of(branch)).run)
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
    """`cast`."""
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
    """`extract`."""
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
    """`trim`."""
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(str(node.args.get("position") or "").upper(), "btrim")
    parts = [node.this] + ([node.args["expression"]] if node.args.get("expression") is not None else [])
    return compiler.chosen(name, compiler.operands(parts), place_of(node))


def substring(compiler: Compiler, node: exp.Expr) -> Operand:
    """`substring`."""
    if node.args.get("start") is None:
        raise SyntaxProblem("substring needs a position", place_of(node), "substring(x from 2 for 3)")
    parts = [node.this, node.args["start"]] + ([node.args["length"]] if node.args.get("length") is not None else [])
    return compiler.chosen("substring", compiler.operands(parts), place_of(node))


def position(compiler: Compiler, node: exp.Expr) -> Operand:
    """`position`."""
    return compiler.chosen("strpos", compiler.operands([node.this, node.args["substr"]]), place_of(node))


def call(compiler: Compiler, node: exp.Expr) -> Operand:
    """`call`."""
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


def _unknown_function(name: str, place: int) -> SyntaxProblem:
    if name in _RANDOM:
        return SyntaxProblem(
            f"{name} is refused: the same event must always give the same row", place, "use uuid_v5(namespace, name)"
        )
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
    exp.Not: (negation, frozenset({"this"})),
    exp.Pow: (power, _BINARY),
    exp.DPipe: (joined, _BINARY | {"safe"}),
    exp.And: (logic, _BINARY),
    exp.Or: (logic, _BINARY),
    exp.Is: (is_, _BINARY | {"negate"}),
    exp.NullSafeEQ: (distinct, _BINARY),
    exp.NullSafeNEQ: (distinct, _BINARY),
    exp.Between: (between, frozenset({"this", "low", "high"})),
    exp.In: (in_, frozenset({"this", "expressions"})),
    exp.Like: (like, _BINARY | {"negate"}),
    exp.ILike: (like, _BINARY | {"negate"}),
    exp.Escape: (like_with_escape, _BINARY),
    exp.RegexpLike: (regex, _BINARY),
    exp.RegexpILike: (regex, _BINARY),
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
    NODES[_comparison] = (comparison, _BINARY)
