"""Many messages of the log at once: the rows of each relation among them are read together (`TupleReader.read_all`).

What a message says is what `Decoder.decode` makes of it; four rows or more that follow each other come as one `Rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Final

from connectors.sources.pgmessages import Delete, Insert, LogMessage, Rows, Update
from connectors.sources.pgtuple import TOO_LONG, TupleReader
from sync_hub.model import Operation

Decode = Callable[[bytes], LogMessage]
"""Decodes one message; raises what bad bytes cause."""
Span = tuple["Run | None", int, int]
"""Messages that follow each other, from a place up to another one; with a run if they are rows of its relation."""

READ_TOGETHER: Final = (b"IN", b"UN", b"DK")
"""Kinds of messages that are read together: those with one tuple, but for removed rows that are whole."""
HEAD_BYTES: Final = 6
"""How many bytes of a message tell its kind, its relation, and the kind of its first tuple."""
FEWEST: Final = 4
"""Fewer rows are read, and handed out, faster one by one."""
_RELATION: Final = b"R"
_OPERATIONS: Final[dict[int, Operation]] = {ord("I"): "create", ord("U"): "update", ord("D"): "delete"}


class Run:
    """How messages about rows of one relation are read together."""

    def __init__(self, relation: int, row: TupleReader, key: TupleReader) -> None:
        self._relation = relation
        self._row = row
        self._key = key

    def rows(self, messages: Sequence[bytes]) -> Rows | None:
        """What they say; None: they are to be read one by one, which tells what is wrong with which."""
        operations = [_OPERATIONS[data[0]] for data in messages]
        if "delete" in operations:
            return self._mixed(messages, operations)
        found = self._row.read_all(messages, HEAD_BYTES)
        return None if found is None else _checked(Rows(self._relation, operations, *found))

    def _mixed(self, messages: Sequence[bytes], operations: list[Operation]) -> Rows | None:
        places = [place for place, operation in enumerate(operations) if operation != "delete"]
        written = [messages[place] for place in places]
        removed = [data for data, operation in zip(messages, operations, strict=True) if operation == "delete"]
        keys = self._key.read_all(removed, HEAD_BYTES)
        found = self._row.read_all(written, HEAD_BYTES) if written else ([], {})
        if keys is None or found is None:
            return None
        old, new = iter(keys[0]), iter(found[0])
        rows = [next(old if operation == "delete" else new) for operation in operations]
        unchanged = {places[place]: names for place, names in found[1].items()}
        return _checked(Rows(self._relation, operations, rows, unchanged))


def _checked(rows: Rows) -> Rows | None:
    """None where a new row lacks columns, which is wrong."""
    return None if any(rows.operations[place] == "create" for place in rows.unchanged) else rows


def decode_all(
    messages: Sequence[bytes], run_of: Callable[[bytes], Run | None], decode: Decode
) -> Iterator[LogMessage]:
    """The messages in order, decoded while they are asked for: what `decode` raises comes in its place.

    `run_of` tells of the head of a message whether it is one of a run. What it tells may change with each Relation
    message, so nothing behind one is looked at before it was decoded. A message that is too long is decoded by itself.
    """
    ends = [place for place, data in enumerate(messages, 1) if data[:1] == _RELATION]
    for start, end in pairwise([0, *ends, len(messages)]):
        yield from _up_to_relation(messages[start:end], run_of, decode)


def _up_to_relation(
    messages: Sequence[bytes], run_of: Callable[[bytes], Run | None], decode: Decode
) -> Iterator[LogMessage]:
    """Messages of which only the last can be a Relation message."""
    spans = _spans([run_of(data[:HEAD_BYTES]) if len(data) < TOO_LONG else None for data in messages])
    of_run: dict[Run, list[bytes]] = {}
    for run, begin, end in spans:
        if run is not None:
            of_run.setdefault(run, []).extend(messages[begin:end])
    read = {run: run.rows(found) for run, found in of_run.items() if len(found) >= FEWEST}
    places = dict.fromkeys(read, 0)
    for run, begin, end in spans:
        rows = None if run is None else read.get(run)
        if run is not None and rows is not None:
            place = places[run]
            places[run] += end - begin
            yield from _part(rows, place, places[run])
        else:
            others = run is not None and len(of_run[run]) > end - begin
            yield from _apart(messages[begin:end], run if others else None, decode)


def _spans(runs: Sequence[Run | None]) -> list[Span]:
    """Messages that follow each other with the same run."""
    spans: list[Span] = []
    for run, group in groupby(runs):
        begin = spans[-1][2] if spans else 0
        spans.append((run, begin, begin + len(list(group))))
    return spans


def _part(rows: Rows, begin: int, end: int) -> Iterator[LogMessage]:
    """Some of the rows that were read together."""
    if end - begin < FEWEST:
        for place in range(begin, end):
            yield _single(rows, place)
    elif end - begin == len(rows.rows):
        yield rows
    else:
        unchanged = {place - begin: names for place, names in rows.unchanged.items() if begin <= place < end}
        yield Rows(rows.relation, rows.operations[begin:end], rows.rows[begin:end], unchanged)


def _single(rows: Rows, place: int) -> LogMessage:
    operation, row = rows.operations[place], rows.rows[place]
    if operation == "create":
        return Insert(rows.relation, row)
    if operation == "update":
        return Update(rows.relation, None, False, row, rows.unchanged.get(place, ()))
    return Delete(rows.relation, row, False)


def _apart(messages: Sequence[bytes], run: Run | None, decode: Decode) -> Iterator[LogMessage]:
    """A span by itself: what cannot be read together with others may be read together without them."""
    rows = None if run is None or len(messages) < FEWEST else run.rows(messages)
    yield from [rows] if rows is not None else map(decode, messages)
