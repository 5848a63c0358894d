"""Functions that see NULL, several types, or whole expressions, and so are built by the compiler itself."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sqlglot import exp

from sync_hub.errors import Rejected
from sync_hub.mapping import comparisons
from sync_hub.mapping.faults import SyntaxProblem
from sync_hub.mapping.operands import Operand, apply, constant, convert, unify
from sync_hub.mapping.parse import INTERVAL as INTERVAL_LITERAL
from sync_hub.mapping.parse import place_of
from sync_hub.mapping.scope import Row, Run
from sync_hub.mapping.types import INTEGER, INTERVAL, SECRET, TEXT, UNKNOWN
from sync_hub.mapping.values import to_text

if TYPE_CHECKING:
    from sync_hub.mapping.compile import Compiler


def coalesce(compiler: Compiler, nodes: list[exp.Expr], place: int) -> Operand:
    """The first value that is not NULL."""
    parts = unify(_several(compiler, nodes, "coalesce", place), "coalesce")
    runs = [part.run for part in parts]

    def run(row: Row) -> Any:
        for part in runs:
            value = part(row)
            if value is not None:
                return value
        return None

    return Operand(parts[0].type, run, place)


def _several(compiler: Compiler, nodes: list[exp.Expr], name: str, place: int, least: int = 1) -> list[Operand]:
    if len(nodes) < least:
        raise SyntaxProblem(f"{name} needs at least {least} argument{'s' if least > 1 else ''}", place)
    return compiler.operands(nodes)


def nullif(compiler: Compiler, nodes: list[exp.Expr], place: int) -> Operand:
    """NULL when both are equal, with the type of the first."""
    if len(nodes) != 2:
        raise SyntaxProblem("nullif takes two arguments", place)
    first, second = compiler.operands(nodes)
    if first.type.kind == "unknown":
        first = convert(first, TEXT)
    same, value = comparisons.compare("=", first, second, place).run, first.run
    return Operand(first.type, lambda row: None if same(row) else value(row), place)


def extreme(compiler: Compiler, nodes: list[exp.Expr], place: int, name: str, sign: str) -> Operand:
    """GREATEST and LEAST: NULLs do not count."""
    parts = unify(_several(compiler, nodes, name, place), name)
    comparisons.compare(sign, parts[0], parts[0], place)
    before, runs = comparisons.comparison_of(sign, parts[0].type), [part.run for part in parts]

    def run(row: Row) -> Any:
        best = None
        for part in runs:
            value = part(row)
            if value is not None and (best is None or before(value, best)):
                best = value
        return best

    return Operand(parts[0].type, run, place)


def greatest(compiler: Compiler, nodes: list[exp.Expr], place: int) -> Operand:
    """The greatest value."""
    return extreme(compiler, nodes, place, "greatest", ">")


def least(compiler: Compiler, nodes: list[exp.Expr], place: int) -> Operand:
    """The least value."""
    return extreme(compiler, nodes, place, "least", "<")


def concat(compiler: Compiler, nodes: list[exp.Expr], place: int) -> Operand:
    """All values as text, NULLs left out."""
    runs = [_printed(part).run for part in _several(compiler, nodes, "concat", place)]
    return Operand(TEXT, lambda row: "".join([text for run in runs if (text := run(row)) is not None]), place)


def concat_ws(compiler: Compiler, nodes: list[exp.Expr], place: int) -> Operand:
    """All values as text with a separator, NULLs left out."""
    separator, *parts = _several(compiler, nodes, "concat_ws", place, 2)
    between, runs = convert(separator, TEXT).run, [_printed(part).run for part in parts]

    def run(row: Row) -> str | None:
        separator = between(row)
        texts = [part(row) for part in runs]
        return None if separator is None else separator.join([text for text in texts if text is not None])

    return Operand(TEXT, run, place)


def try_(compiler: Compiler, nodes: list[exp.Expr], place: int) -> Operand:
    """NULL where the argument would be rejected."""
    if len(nodes) != 1:
        raise SyntaxProblem("try takes one argument", place)
    operand = compiler.operand(nodes[0])
    return Operand(operand.type, tried(operand.run), place)


def lookup(compiler: Compiler, nodes: list[exp.Expr], place: int) -> Operand:
    """A value of a lookup table, found when compiling, so that a row costs one dictionary access."""
    if not 2 <= len(nodes) <= 3:
        raise SyntaxProblem("lookup takes a table, a key, and perhaps a column", place, "lookup('countries', code)")
    name = _literal_text(nodes[0], "the lookup's name")
    table = compiler.scope.lookups.get(name)
    if table is None:
        close = difflib.get_close_matches(name, list(compiler.scope.lookups), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"write lookups/{name}.csv beside the mapping"
        raise SyntaxProblem(f"there is no lookup {name!r}", place_of(nodes[0]), hint)
    column = _literal_text(nodes[2], "the lookup's column") if len(nodes) == 3 else ""
    try:
        values = table.values(column)
    except KeyError as error:
        hint = f"columns are: {', '.join(table.columns)}"
        raise SyntaxProblem(f"the lookup {name!r} has no column {column!r}", place_of(nodes[2]), hint) from error
    return apply(TEXT, values.get, [compiler.as_text(compiler.operand(nodes[1]))], place)


def secret(compiler: Compiler, nodes: list[exp.Expr], place: int) -> Operand:
    """A secret from the environment; its type is one that only hmac_sha256 takes."""
    if len(nodes) != 1:
        raise SyntaxProblem("secret takes a name", place, "secret('NAME')")
    name = _literal_text(nodes[0], "the secret's name")
    value = compiler.scope.secrets.get(name)
    if not value:
        raise SyntaxProblem(f"the secret {name} is not set", place, f"set the environment variable {name}")
    compiler.secrets.add(name)
    return constant(SECRET, value, place)


def interval(compiler: Compiler, nodes: list[exp.Expr], place: int) -> Operand:
    """The literal interval '…'."""
    if len(nodes) != 1 or not isinstance(nodes[0], exp.Literal):
        raise SyntaxProblem("interval is followed by a text", place, "interval '1 day'")
    return convert(constant(UNKNOWN, str(nodes[0].this), place_of(nodes[0])), INTERVAL)


def array_to_string(compiler: Compiler, nodes: list[exp.Expr], place: int) -> Operand:
    """Elements joined with a separator."""
    array, *texts = _several(compiler, nodes, "array_to_string", place, 2)
    if array.type.element is None or len(texts) > 2:
        raise SyntaxProblem("array_to_string takes an array, a separator, and perhaps a text for NULL", place)
    show = to_text(array.type.element) or str
    if array.type.element.kind == "bool":
        show = _letter

    def run(items: list[Any], separator: str, missing: str | None = None) -> str:
        shown = [missing if item is None else show(item) for item in items]
        return separator.join([text for text in shown if text is not None])

    return apply(TEXT, run, [array, *(convert(text, TEXT) for text in texts)], place)


def cardinality(compiler: Compiler, nodes: list[exp.Expr], place: int) -> Operand:
    """How many elements an array has."""
    (array,) = _several(compiler, nodes, "cardinality", place)
    if array.type.element is None:
        raise SyntaxProblem(f"an array is expected, not {array.type}", array.place)
    return apply(INTEGER, len, [array], place)


def _letter(value: bool) -> str:
    return "t" if value else "f"


def _printed(operand: Operand) -> Operand:
    """As `concat` prints a value: booleans as one letter."""
    if operand.type.kind == "unknown":
        return convert(operand, TEXT)
    if operand.type.kind == "secret":
        raise SyntaxProblem("a secret may only be the key of hmac_sha256", operand.place)
    show = _letter if operand.type.kind == "bool" else to_text(operand.type)
    return operand if show is None else apply(TEXT, show, [operand], operand.place)


def tried(run: Run) -> Run:
    """NULL where computing would be rejected."""

    def attempt(row: Row) -> Any:
        try:
            return run(row)
        except (Rejected, ArithmeticError):
            return None

    return attempt


def _literal_text(node: exp.Expr, what: str) -> str:
    if not isinstance(node, exp.Literal) or not node.args.get("is_string"):
        raise SyntaxProblem(f"{what} must be a literal text", place_of(node))
    return str(node.this)


FORMS: Final[dict[str, Callable[[Compiler, list[exp.Expr], int], Operand]]] = {
    "coalesce": coalesce,
    "nullif": nullif,
    "greatest": greatest,
    "least": least,
    "concat": concat,
    "concat_ws": concat_ws,
    "try": try_,
    "lookup": lookup,
    "secret": secret,
    "array_to_string": array_to_string,
    "cardinality": cardinality,
    INTERVAL_LITERAL: interval,
}
