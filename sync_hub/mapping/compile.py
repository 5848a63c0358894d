"""From the text of an expression to one Python closure, through a list of allowed nodes: anything else is refused."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp

from sync_hub.errors import ConfigError
from sync_hub.mapping.faults import SyntaxProblem
from sync_hub.mapping.functions import OVERLOADS, choose
from sync_hub.mapping.functions.registry import Overload
from sync_hub.mapping.nodes import NODES
from sync_hub.mapping.operands import Operand, apply, constant, convert
from sync_hub.mapping.parse import parse, place_of
from sync_hub.mapping.scope import FACTS, Expression, Scope, reader
from sync_hub.mapping.types import BOOLEAN, TEXT, SqlType
from sync_hub.mapping.values import to_text


def compile_expression(text: str, scope: Scope) -> Expression:
    """Compile once; the result may run millions of times. Raises `SyntaxProblem`."""
    tree = parse(text)
    compiler = Compiler(scope)
    operand = compiler.operand(tree)
    if operand.type.kind == "secret":
        raise SyntaxProblem(
            "a secret may only be the key of hmac_sha256", operand.place, "hmac_sha256(column, secret('NAME'))"
        )
    if operand.type.kind == "unknown":
        operand = convert(operand, TEXT)
    return Expression(
        operand.type,
        operand.run,
        frozenset(compiler.reads),
        frozenset(compiler.facts),
        frozenset(compiler.secrets),
        operand.column,
        operand.constant,
        frozenset(compiler.functions),
    )


class Compiler:
    """Walks one tree; remembers what was read."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.reads: set[str] = set()
        self.facts: set[str] = set()
        self.secrets: set[str] = set()
        self.functions: set[str] = set()

    def operand(self, node: exp.Expr) -> Operand:
        """Compile one node with all below it."""
        known = NODES.get(type(node))
        if known is None:
            raise SyntaxProblem(f"{_kind(node)} is not allowed in expressions", place_of(node))
        build, allowed = known
        for name, value in node.args.items():
            if value not in (None, False, []) and name not in allowed:
                raise SyntaxProblem(f"{_kind(node)} with {name!r} is not allowed", place_of(node))
        return build(self, node)

    def operands(self, nodes: Sequence[exp.Expr]) -> list[Operand]:
        """Compile several nodes."""
        return [self.operand(node) for node in nodes]

    def column(self, node: exp.Expr) -> Operand:
        """A column of the row, or a fact of the event."""
        place = place_of(node)
        if node.args.get("table") is not None:
            raise SyntaxProblem("a column is written without its table", place, f"write {node.name}")
        identifier = node.this
        if not isinstance(identifier, exp.Identifier):
            raise SyntaxProblem("`*` is not allowed in expressions", place)
        name = identifier.name if identifier.args.get("quoted") else identifier.name.lower()
        type_ = self.scope.columns.get(name)
        if type_ is not None:
            self.reads.add(name)
            return Operand(type_, reader(name, type_), place, column=name)
        if name in self.scope.facts:
            self.facts.add(name)
            return Operand(FACTS[name], reader(name, FACTS[name]), place)
        raise self._unknown_column(identifier.name, place)

    def _unknown_column(self, name: str, place: int) -> SyntaxProblem:
        if name.lower() in self.scope.refused:
            return SyntaxProblem(self.scope.refused[name.lower()], place, self.scope.refused_hint)
        if name in FACTS:
            return SyntaxProblem(f"{name} cannot be used here: it belongs to the event, not to the row", place)
        known = [*self.scope.columns, *self.scope.facts]
        for column in known:
            if column.lower() == name.lower():
                return SyntaxProblem(f"there is no column {name}", place, f'write "{column}", with the double quotes')
        close = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"columns are: {', '.join(sorted(self.scope.columns))}"
        if not close and name.isidentifier():
            hint = f"for the text {name} write '{name}', alone {{value: {name}}}; {hint}"
        return SyntaxProblem(f"there is no column {name}", place, hint)

    def condition(self, node: exp.Expr) -> Operand:
        """Compile what must be a boolean."""
        operand = self.operand(node)
        if operand.type.kind not in {"bool", "unknown"}:
            raise SyntaxProblem(f"{operand.type} where a condition is expected", operand.place, "compare it: … = …")
        return convert(operand, BOOLEAN)

    def as_text(self, operand: Operand) -> Operand:
        """What the operand's `::text` gives, without a lone `t` for true."""
        if operand.type.kind in {"unknown", "text", "other"}:
            return convert(operand, TEXT)
        if operand.type.kind in {"secret", "array"}:
            raise SyntaxProblem(f"{operand.type} where text is expected", operand.place, "cast it: (…)::text")
        show = to_text(operand.type)
        return operand if show is None else apply(TEXT, show, [operand], operand.place)

    def chosen(self, name: str, arguments: list[Operand], place: int) -> Operand:
        """Call a function: the overload nearest to the arguments, with each converted to its parameter."""
        if name == "hmac_sha256" and len(arguments) == 2 and arguments[1].type.kind == "secret":
            arguments[1] = constant(TEXT, arguments[1].value, arguments[1].place)
        self.functions.add(name)
        overload = choose(name, [argument.type for argument in arguments])
        if overload is None:
            types = ", ".join(str(argument.type) for argument in arguments)
            known = "; ".join(_signature(name, item) for item in OVERLOADS[name])
            raise SyntaxProblem(f"there is no {name}({types})", place, f"there is: {known}")
        typed = [convert(item, wanted) for item, wanted in zip(arguments, overload.parameters, strict=False)]
        if not overload.prepared:
            return apply(overload.result, overload.run, typed, place)
        return self._prepared(name, overload.run, overload.prepared, overload.result, typed, place)

    def _prepared(
        self,
        name: str,
        run: Callable[..., Any],
        prepared: tuple[int, ...],
        result: SqlType,
        arguments: list[Operand],
        place: int,
    ) -> Operand:
        literals = [argument for index, argument in enumerate(arguments) if index in prepared]
        rest = [argument for index, argument in enumerate(arguments) if index not in prepared]
        for literal in literals:
            if not literal.constant or not isinstance(literal.value, str):
                raise SyntaxProblem(f"this argument of {name} must be a literal text", literal.place)
        try:
            return apply(result, run(*(literal.value for literal in literals)), rest, place)
        except ConfigError as error:
            raise SyntaxProblem(error.message, literals[0].place, error.hint) from error


def _signature(name: str, overload: Overload) -> str:
    return f"{name}({', '.join(map(str, overload.parameters))})"


def _kind(node: exp.Expr) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(node).__name__).upper()
