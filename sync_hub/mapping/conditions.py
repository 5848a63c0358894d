"""Conditions: what comparisons, logic, IN, BETWEEN and LIKE compile to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlglot import exp

from sync_hub.errors import Rejected
from sync_hub.mapping import comparisons, patterns
from sync_hub.mapping.faults import SyntaxProblem
from sync_hub.mapping.operands import Operand, apply, constant, convert, unify
from sync_hub.mapping.parse import PREFIX, chain, place_of
from sync_hub.mapping.scope import Row
from sync_hub.mapping.types import BOOLEAN, TEXT

if TYPE_CHECKING:
    from sync_hub.mapping.compile import Compiler

_SIGNS: Final[dict[type[exp.Expr], str]] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
}  # fmt: skip


def comparison(compiler: Compiler, node: exp.Expr) -> Operand:
    """Two values compared; with `= any(array)`, one and an array's elements."""
    left, right = node.this, node.args["expression"]
    if isinstance(right, exp.Anonymous) and right.this == f"{PREFIX}any":
        return _any(compiler, node, left, right)
    first, second = compiler.operands([left, right])
    return comparisons.compare(_SIGNS[type(node)], first, second, place_of(node))


def _any(compiler: Compiler, node: exp.Expr, left: exp.Expr, call: exp.Anonymous) -> Operand:
    if not isinstance(node, exp.EQ) or len(call.expressions) != 1:
        raise SyntaxProblem("only `= any(array)` is allowed", place_of(node))
    first, array = compiler.operands([left, call.expressions[0]])
    if array.type.element is None:
        raise SyntaxProblem(f"an array is expected, not {array.type}", array.place)
    first = convert(first, array.type.element)
    equal = comparisons.comparison_of("=", array.type.element)

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
    """NOT: of NULL it is NULL."""
    return apply(BOOLEAN, lambda value: not value, [compiler.condition(node.this)], place_of(node))


def logic(compiler: Compiler, node: exp.Expr) -> Operand:
    """A chain of AND or of OR, however long."""
    parts = [compiler.condition(part) for part in chain(node)]
    run = comparisons.all_of(parts) if isinstance(node, exp.And) else comparisons.any_of(parts)
    return Operand(BOOLEAN, run, place_of(node))


def is_(compiler: Compiler, node: exp.Expr) -> Operand:
    """IS NULL, IS TRUE and their opposites: never NULL themselves."""
    wanted, negate = node.args["expression"], bool(node.args.get("negate"))
    if isinstance(wanted, exp.Null):
        run = compiler.operand(node.this).run
        return Operand(BOOLEAN, lambda row: (run(row) is None) is not negate, place_of(node))
    if isinstance(wanted, exp.Boolean):
        run, value = compiler.condition(node.this).run, bool(wanted.this)
        return Operand(BOOLEAN, lambda row: (run(row) is value) is not negate, place_of(node))
    raise SyntaxProblem("IS is followed by NULL, TRUE, FALSE or DISTINCT FROM", place_of(node))


def distinct(compiler: Compiler, node: exp.Expr) -> Operand:
    """IS [NOT] DISTINCT FROM: NULL is like any other value."""
    left, right = unify(compiler.operands([node.this, node.args["expression"]]), "IS DISTINCT FROM")
    comparisons.compare("=", left, right, place_of(node))
    equal, first, second = comparisons.comparison_of("=", left.type), left.run, right.run
    negate = isinstance(node, exp.NullSafeNEQ)

    def run(row: Row) -> bool:
        value, other = first(row), second(row)
        same = value is other if value is None or other is None else equal(value, other)
        return same is not negate

    return Operand(BOOLEAN, run, place_of(node))


def between(compiler: Compiler, node: exp.Expr) -> Operand:
    """Both ends included."""
    operand, low, high = compiler.operands([node.this, node.args["low"], node.args["high"]])
    place = place_of(node)
    parts = [comparisons.compare(">=", operand, low, place), comparisons.compare("<=", operand, high, place)]
    return Operand(BOOLEAN, comparisons.all_of(parts), place)


def in_(compiler: Compiler, node: exp.Expr) -> Operand:
    """One value among others."""
    parts = unify(compiler.operands([node.this, *node.expressions]), "IN")
    comparisons.compare("=", parts[0], parts[0], place_of(node))
    return Operand(BOOLEAN, comparisons.membership(parts[0], parts[1:]), place_of(node))


def like(compiler: Compiler, node: exp.Expr) -> Operand:
    """LIKE and ILIKE with the usual escape, a backslash."""
    return _like(compiler, node, "\\")


def like_with_escape(compiler: Compiler, node: exp.Expr) -> Operand:
    """LIKE … ESCAPE with another character, or none."""
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
    """The operators ~ and ~*."""
    flags = [constant(TEXT, "i")] if isinstance(node, exp.RegexpILike) else []
    return compiler.chosen(
        "regexp_like", [*compiler.operands([node.this, node.args["expression"]]), *flags], place_of(node)
    )
