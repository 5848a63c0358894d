"""What compiled parts of an expression are, and how they are put together: one Python closure each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from sync_hub.errors import Rejected
from sync_hub.mapping.casts import cast, implicit
from sync_hub.mapping.faults import SyntaxProblem
from sync_hub.mapping.scope import Row, Run
from sync_hub.mapping.types import TEXT, UNKNOWN, SqlType, common_type


class Operand(Struct, frozen=True):
    """A compiled part. `run` takes a source row and may give None (NULL); `place` is where it stands in the text.

    `constant` parts have their `value` at hand; `column` names the column that a part is, when it is nothing else.
    """

    type: SqlType
    run: Run
    place: int = 0
    constant: bool = False
    value: Any = None
    column: str = ""


def constant(type_: SqlType, value: Any, place: int = 0) -> Operand:
    """A part that is the same for every row."""
    return Operand(type_, lambda _: value, place, True, value)


def null(place: int = 0) -> Operand:
    """NULL, of a type still to be found."""
    return constant(UNKNOWN, None, place)


def strict(run: Callable[..., Any], arguments: Sequence[Operand]) -> Run:
    """`run` on the arguments; NULL when one of them is NULL. All are computed first, so that their errors show."""
    if any(argument.constant and argument.value is None for argument in arguments):
        runs = [argument.run for argument in arguments if not argument.constant]
        return lambda row: _all_null(runs, row)
    if len(arguments) == 1:
        return _strict_one(run, arguments[0].run)
    if len(arguments) == 2:
        return _strict_two(run, *arguments)
    runs = [argument.run for argument in arguments]

    def many(row: Row) -> Any:
        values = [part(row) for part in runs]
        return None if None in values else run(*values)

    return many


def _all_null(runs: Sequence[Run], row: Row) -> None:
    for run in runs:
        run(row)


def _strict_one(run: Callable[[Any], Any], first: Run) -> Run:
    def one(row: Row) -> Any:
        value = first(row)
        return None if value is None else run(value)

    return one


def _strict_two(run: Callable[[Any, Any], Any], left: Operand, right: Operand) -> Run:
    first, second, fixed = left.run, right.run, right.value

    def two(row: Row) -> Any:
        value, other = first(row), second(row)
        return None if value is None or other is None else run(value, other)

    def with_constant(row: Row) -> Any:
        value = first(row)
        return None if value is None else run(value, fixed)

    return with_constant if right.constant else two


def apply(type_: SqlType, run: Callable[..., Any], arguments: Sequence[Operand], place: int) -> Operand:
    """A strict function of these arguments; of constants it is computed now, unless that fails."""
    whole = strict(run, arguments)
    if all(argument.constant for argument in arguments):
        try:
            return constant(type_, whole({}), place)
        except (Rejected, ArithmeticError):
            pass  # it may stand in a branch that is never taken: rejected where it is computed
    return Operand(type_, whole, place)


def convert(operand: Operand, wanted: SqlType) -> Operand:
    """The operand as the type that its place asks for. Raises `SyntaxProblem` when it does not become one by itself."""
    if operand.type == wanted:
        return operand
    if operand.type.kind == "unknown":
        return _literal_as(operand, wanted)
    run = implicit(operand.type, wanted)
    if run is None:
        raise SyntaxProblem(f"{operand.type} where {wanted} is expected", operand.place, f"cast it: (…)::{wanted.name}")
    if operand.type.base == wanted.base or operand.type.kind == wanted.kind == "text":
        return Operand(wanted, operand.run, operand.place, operand.constant, operand.value, operand.column)
    return apply(wanted, run, [operand], operand.place)


def _literal_as(operand: Operand, wanted: SqlType) -> Operand:
    if operand.value is None:
        return constant(wanted, None, operand.place)
    read = cast(TEXT, wanted)
    if read is None:
        raise SyntaxProblem(f"a text where {wanted} is expected", operand.place)
    try:
        return constant(wanted, read(operand.value), operand.place)
    except Rejected as error:
        raise SyntaxProblem(
            f"{operand.value[:40]!r} is not a valid {wanted.name}: {error.message}", operand.place
        ) from error


def unify(operands: Sequence[Operand], what: str) -> list[Operand]:
    """All operands as one type."""
    wanted = common_type([operand.type for operand in operands])
    if wanted is None:
        types = ", ".join(dict.fromkeys(str(operand.type) for operand in operands))
        raise SyntaxProblem(f"{what} has parts of different types: {types}", operands[0].place, "cast one: (…)::type")
    return [convert(operand, wanted) for operand in operands]
