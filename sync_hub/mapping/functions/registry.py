"""The one table of functions: signature, sentence, examples and implementation together.

The reference page and `mapping functions` are made of it, and a test executes every example.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from msgspec import Struct

from sync_hub.mapping.types import SqlType, conversion_cost, parse_type

F = TypeVar("F", bound=Callable[..., Any])

THEMES: Final = ("Operators", "Conditions", "Text", "Numbers", "Dates and times", "JSON", "Types", "Hashes and masking")


class Overload(Struct, frozen=True):
    """One signature: at least `required` arguments. `run` is given no NULL.

    With `prepared`, those arguments are literals: `run` is called once with them and returns the function of the rest.
    """

    parameters: tuple[SqlType, ...]
    required: int
    result: SqlType
    run: Callable[..., Any]
    prepared: tuple[int, ...] = ()


class Entry(Struct, frozen=True):
    """What the reference says of a function, an operator or a form. `examples`: expression → result as text.

    A result of None is NULL; `error 22012` is a rejection with that SQLSTATE. `note` says where PostgreSQL differs.
    """

    theme: str
    name: str
    signatures: tuple[str, ...]
    sentence: str
    examples: Mapping[str, str | None]
    note: str = ""


ENTRIES: Final[list[Entry]] = []
OVERLOADS: Final[dict[str, list[Overload]]] = {}
FORMS: Final[set[str]] = set()
"""Functions that the compiler builds itself, because they see NULL, several types, or whole expressions."""

_SIGNATURE = re.compile(r"^(\w+)\((.*)\) → (.+)$")


def define(
    theme: str,
    signatures: Sequence[str],
    sentence: str,
    examples: Mapping[str, str | None],
    *,
    note: str = "",
    prepared: tuple[int, ...] = (),
) -> Callable[[F], F]:
    """Register a function under signatures such as `lpad(text, integer [, text]) → text`."""

    def register(run: F) -> F:
        name = _SIGNATURE.match(signatures[0])[1]  # type: ignore[index]  # a signature that does not match fails every test
        ENTRIES.append(Entry(theme, name, tuple(signatures), sentence, examples, note))
        for signature in signatures:
            overload(signature, run, prepared)
        return run

    return register


def overload(signature: str, run: Callable[..., Any], prepared: tuple[int, ...] = ()) -> None:
    """Register one more implementation of a name that has its entry."""
    match = _SIGNATURE.match(signature)
    if match is None:
        raise ValueError(f"not a signature: {signature}")
    name, written, result = match.groups()
    required, _, optional = written.partition("[")
    parameters = [part.strip(" ,[]") for part in (required + "," + optional).split(",")]
    types = tuple(parse_type(part) for part in parameters if part)
    needed = sum(1 for part in required.split(",") if part.strip())
    OVERLOADS.setdefault(name, []).append(Overload(types, needed, parse_type(result), run, prepared))


def describe(
    theme: str, name: str, signatures: Sequence[str], sentence: str, examples: Mapping[str, str | None], note: str = ""
) -> None:
    """Register the documentation of an operator, or of a form that the compiler builds."""
    ENTRIES.append(Entry(theme, name, tuple(signatures), sentence, examples, note))


def form(theme: str, signature: str, sentence: str, examples: Mapping[str, str | None], note: str = "") -> None:
    """Register a function that the compiler builds."""
    name = signature.partition("(")[0]
    FORMS.add(name)
    describe(theme, name, [signature], sentence, examples, note)


def names() -> list[str]:
    """Every function name."""
    return sorted({*OVERLOADS, *FORMS})


def choose(name: str, arguments: Sequence[SqlType]) -> Overload | None:
    """The overload nearest to the arguments' types, by PostgreSQL's preferences; None when none takes them."""
    best: tuple[int, Overload] | None = None
    for candidate in OVERLOADS[name]:
        if not candidate.required <= len(arguments) <= len(candidate.parameters):
            continue
        costs = [conversion_cost(given, wanted) for given, wanted in zip(arguments, candidate.parameters, strict=False)]
        total = sum(cost for cost in costs if cost is not None)
        if None not in costs and (best is None or total < best[0]):
            best = total, candidate
    return best[1] if best else None
