"""Rows as COPY text, for the one staging table of a session or for their own. Pure: values in, bytes out.

Staged is one text column a value, whatever its type: the server casts (`pgstatements`). A row's `m` is the number,
within the batch, of the statement that takes it. Works column by column, because most columns need neither conversion
nor escape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple

from connectors.pgtypes import from_wire
from sync_hub.errors import Rejected
from sync_hub.model import ABSENT

STAGE: Final = "pg_temp.sync_hub_stage"
SMALLEST_WIDTH: Final = 16
MOST_UNINDEXED: Final = 8
"""How many statements read the staging table without an index."""

Convert = Callable[[Any], str]

_PLAIN: Final = from_wire("text")
"""What converts nearly every type: it leaves text as it is, so whole columns can skip it."""

_NULL: Final = r"\N"
_NEEDS_ESCAPE: Final = ("\\", "\n", "\r", "\t")
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


class Stage(NamedTuple):
    """The staging table of a session as it is: emptied by the server at each commit.

    An index finds the rows of one statement among those of many; where there are few statements, reading them all for
    each costs less than the index, which is a tenth of what an upserted row costs the server.
    """

    width: int = 0
    indexed: bool = False

    def fitted(self, width: int, statements: int) -> Stage:
        """The table as a batch needs it, at least as it is."""
        wide = max(width, SMALLEST_WIDTH) if width > self.width else self.width
        return Stage(wide, self.indexed or statements > MOST_UNINDEXED)

    @property
    def ddl(self) -> str:
        """Makes it, in place of another one."""
        columns = ", ".join(f"c{number} text" for number in range(self.width))
        index = f"; create index on {STAGE} (m)" if self.indexed else ""
        made = f"create temporary table sync_hub_stage (m int, {columns}) on commit delete rows"
        return f"drop table if exists {STAGE}; {made}{index}"


def copy_stage(width: int) -> str:
    """The COPY that fills the first `width` columns."""
    columns = ", ".join(f"c{number}" for number in range(width))
    return f"copy {STAGE} (m, {columns}) from stdin (format text, encoding 'UTF8')"


class Staging:
    """Collects the rows of one batch; `data` gives them all, padded to the widest."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, list[Sequence[str]]]] = []
        self.width = 0

    def add(self, rows: Sequence[tuple[Any, ...]], converts: Sequence[Convert]) -> int:
        """Stage the rows of one statement, of which there is at least one, and return the statement's number."""
        columns = [
            copy_column(values, convert) for values, convert in zip(zip(*rows, strict=True), converts, strict=True)
        ]
        self._parts.append((len(self._parts), columns))
        self.width = max(self.width, len(columns))
        return len(self._parts) - 1

    def data(self) -> bytes:
        """COPY text of all rows. Raises `Rejected` for text that PostgreSQL cannot hold."""
        return _encoded("".join(self._lines()))

    def _lines(self) -> Iterable[str]:
        for number, columns in self._parts:
            end = f"\t{_NULL}" * (self.width - len(columns)) + "\n"
            yield end.join(map("\t".join, zip(repeat(str(number)), *columns)))
            yield end


def copy_rows(rows: Sequence[tuple[Any, ...]], converts: Sequence[Convert | None]) -> bytes:
    """COPY text of rows as they are, for a table of their own; without the columns that have no converter.

    Raises `Rejected` for text that PostgreSQL cannot hold.
    """
    columns = [
        copy_column(values, convert)
        for values, convert in zip(zip(*rows, strict=True), converts, strict=True)
        if convert is not None
    ]
    return _encoded("".join([f"{line}\n" for line in map("\t".join, zip(*columns, strict=True))]))


def _encoded(text: str) -> bytes:
    if "\x00" in text:
        raise Rejected(
            "text_with_nul",
            "a value contains the character U+0000, which PostgreSQL cannot store",
            sqlstate="22021",
            hint="take it out at the source, or leave the column out of the mapping",
        )
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Rejected(
            "text_not_unicode",
            f"a value contains half of a surrogate pair (U+{ord(error.object[error.start]):04X}): no Unicode text",
            sqlstate="22021",
            hint="mend the row at the source",
        ) from error


def copy_column(values: Sequence[Any], convert: Convert) -> Sequence[str]:
    """One column of wire values as fields of COPY text; None for NULL or ABSENT."""
    kinds = set(map(type, values))
    if convert is _PLAIN and kinds == {int}:
        return list(map(str, values))
    missing = type(None) in kinds or type(ABSENT) in kinds
    if not (convert is _PLAIN and kinds <= {str, type(None)}):
        values = [None if value is None or value is ABSENT else convert(value) for value in values]
    if not missing:
        return _escaped(values)
    texts = _escaped([value or "" for value in values])
    return [_NULL if value is None else text for value, text in zip(values, texts, strict=True)]


def _escaped(texts: Sequence[str]) -> Sequence[str]:
    whole = "".join(texts)
    if any(character in whole for character in _NEEDS_ESCAPE):
        return [text.translate(_ESCAPES) for text in texts]
    return texts
