"""Comparison and three-valued logic. NaN equals itself and is greater than every number, as PostgreSQL has it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Final

from sync_hub.mapping.documents import comparable as comparable_document
from sync_hub.mapping.faults import SyntaxProblem
from sync_hub.mapping.operands import Operand, apply, unify
from sync_hub.mapping.scope import Row, Run
from sync_hub.mapping.types import BOOLEAN, SqlType, is_orderable

Binary = Callable[[Any, Any], Any]


def _same(left: Any, right: Any) -> bool:
    return bool(left == right or (left != left and right != right))  # noqa: PLR0124 - NaN is not itself


def _less(left: Any, right: Any) -> bool:
    if left == left and right == right:  # noqa: PLR0124
        return bool(left < right)
    return bool(left == left)  # noqa: PLR0124


def _greater(left: Any, right: Any) -> bool:
    if left == left and right == right:  # noqa: PLR0124
        return bool(left > right)
    return bool(right == right)  # noqa: PLR0124


_PLAIN: Final[dict[str, Binary]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WITH_NAN: Final[dict[str, Binary]] = {
    "=": _same,
    "<>": lambda left, right: not _same(left, right),
    "<": _less,
    "<=": lambda left, right: not _greater(left, right),
    ">": _greater,
    ">=": lambda left, right: not _less(left, right),
}


def _keyed(run: Binary, key: Callable[[Any], Any]) -> Binary:
    return lambda left, right: run(key(left), key(right))


def comparison_of(sign: str, type_: SqlType) -> Binary:
    """The function that compares two values of a type."""
    if type_.kind in {"numeric", "float"}:
        return _WITH_NAN[sign]
    run = _PLAIN[sign]
    key = comparison_key(type_)
    return _keyed(run, key) if key else run


def comparison_key(type_: SqlType) -> Callable[[Any], Any] | None:
    """What values of a type compare by, when not by themselves."""
    if type_.kind == "interval":
        return lambda span: span.order
    if type_.kind == "jsonb":
        return comparable_document
    return str.lower if type_.name == "citext" else None


def compare(sign: str, left: Operand, right: Operand, place: int) -> Operand:
    """`left sign right` as boolean."""
    first, second = unify([left, right], f"the comparison {sign}")
    type_ = first.type
    if type_.kind == "json" or (sign not in {"=", "<>"} and not is_orderable(type_)):
        raise SyntaxProblem(f"{type_} has no {sign}", place, "cast both sides: (…)::text")
    return apply(BOOLEAN, comparison_of(sign, type_), [first, second], place)


def all_of(operands: Sequence[Operand]) -> Run:
    """AND of any length: false wins, then NULL."""
    runs = [operand.run for operand in operands]

    def run(row: Row) -> bool | None:
        unknown = False
        for part in runs:
            value = part(row)
            if value is None:
                unknown = True
            elif not value:
                return False
        return None if unknown else True

    return run


def any_of(operands: Sequence[Operand]) -> Run:
    """OR of any length: true wins, then NULL."""
    runs = [operand.run for operand in operands]

    def run(row: Row) -> bool | None:
        unknown = False
        for part in runs:
            value = part(row)
            if value:
                return True
            if value is None:
                unknown = True
        return None if unknown else False

    return run


def membership(operand: Operand, members: Sequence[Operand]) -> Run:
    """`x in (…)`: NULL when nothing matches and NULL is among the members."""
    type_ = operand.type
    key = comparison_key(type_) or (lambda value: value)
    equal = comparison_of("=", type_)
    first = operand.run
    if all(member.constant for member in members) and type_.kind not in {"numeric", "float", "array", "interval"}:
        known = frozenset(key(member.value) for member in members if member.value is not None)
        missing = None if any(member.value is None for member in members) else False

        def among(row: Row) -> bool | None:
            value = first(row)
            return None if value is None else True if key(value) in known else missing

        return among
    runs = [member.run for member in members]

    def search(row: Row) -> bool | None:
        value, unknown = first(row), False
        for member in runs:
            other = member(row)
            if value is None or other is None:
                unknown = True
            elif equal(value, other):
                return True
        return None if unknown else False

    return search
