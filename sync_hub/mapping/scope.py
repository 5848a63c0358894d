"""What an expression may name, and what compiling one gives. Knows no parser: plain columns need none."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct, field

from sync_hub.mapping.lookups import Lookup
from sync_hub.mapping.types import TEXT, TIMESTAMPTZ, SqlType
from sync_hub.mapping.values import from_wire

Row = dict[str, Any]
Run = Callable[[Row], Any]

FACTS: Final[dict[str, SqlType]] = {
    "_source": TEXT,
    "_schema": TEXT,
    "_table": TEXT,
    "_operation": TEXT,
    "_committed_at": TIMESTAMPTZ,
    "_actor": TEXT,
    "_correlation_id": TEXT,
    "_event_id": TEXT,
}
"""Facts of the event that expressions may read like columns."""
EVENT_FACTS: Final = frozenset({"_operation", "_committed_at", "_actor", "_correlation_id", "_event_id"})
"""Facts that a row read from the source does not have: verification leaves out what is made of them."""


class Scope(Struct, frozen=True):
    """What an expression may name. `refused` are columns that exist but cannot be used, with the reason.

    `refused_hint` says what to use instead.
    """

    columns: Mapping[str, SqlType]
    lookups: Mapping[str, Lookup] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, SqlType] = field(default_factory=lambda: FACTS)
    refused: Mapping[str, str] = field(default_factory=dict)
    refused_hint: str = ""


class Expression(Struct, frozen=True):
    """A compiled expression: `run` takes a row of wire values (and facts) and gives a computed, not a wire value.

    `reads` are the columns it names, `facts` the facts, `secrets` the secrets. `column` is set when it is one column
    and nothing else, `constant` when it is the same for every row. `lossy` says that different rows may give the same.
    """

    type: SqlType
    run: Run
    reads: frozenset[str] = frozenset()
    facts: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    column: str = ""
    constant: bool = False
    functions: frozenset[str] = frozenset()


def reader(name: str, type_: SqlType) -> Run:
    """A function that takes a column out of a row as a value to compute with; `KeyError` when the row lacks it."""
    convert = from_wire(type_)
    if convert is None:
        return operator.itemgetter(name)

    def read(row: Row) -> Any:
        value = row[name]
        return None if value is None else convert(value)

    return read
