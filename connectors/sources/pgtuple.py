"""The tuples of pgoutput's messages as rows: `read_tuple` says how they are read; `compile_reader` is faster.

Protocol: "Logical Replication Message Formats", TupleData, in PostgreSQL's manual.

The fast way lets msgspec's MessagePack decoder walk over the values, because the two formats nearly are one. A tuple is
a count of 16 bits, and so is an array (`dc`). A text is `t`, a size of 32 bits and its bytes; a string is `db`, the
same size and the same bytes. NULL and unchanged are `n` and `u`, which MessagePack reads as the numbers 110 and 117. So
only `t` has to become `db`, and no look at the values is needed to find it: PostgreSQL's text holds no zero byte, so in
a message of less than 65,536 bytes `t` and two zero bytes are the head of a text, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct as Format
from typing import Any, Final

import msgspec

Converter = Callable[[str], Any] | None
TupleColumns = Sequence[tuple[str | None, Converter]]
"""For each column its name, None where it is to be skipped, and what makes a wire value of its text."""
Tuple = tuple[dict[str, Any], tuple[str, ...]]
"""The values by name, and the names of unchanged columns that were left out."""
Reader = Callable[[bytes, int], Tuple]
"""Reads the tuple from a position to the end of its message."""
PairReader = Callable[[bytes, int], tuple[Tuple, Tuple]]
"""Reads the two tuples of an update: the old one from a position, and the new one behind it to the end."""

TOO_LONG: Final = 65_536
_TEXT, _NULL, _UNCHANGED, _NEW = b"tnuN"
_PAD: Final = bytes(5)
_ARRAY, _TEXT_HEAD, _STRING_HEAD = b"\xdc", b"t\0\0", b"\xdb\0\0"
_count: Final = Format("!H").unpack_from
_head: Final = Format("!BI").unpack_from
_size: Final = Format("!H").pack
_values: Final = msgspec.msgpack.Decoder(list[str | int]).decode


class _NotPlain(Exception):
    """A row with unchanged columns, or bytes that are no tuple: `read_tuple` knows which."""


def read_tuple(data: bytes, position: int, columns: TupleColumns) -> tuple[dict[str, Any], tuple[str, ...], int]:
    """The tuple at `position`, and where it ends. Raises what bad bytes cause."""
    data += _PAD
    row: dict[str, Any] = {}
    missing: tuple[str, ...] = ()
    if _count(data, position)[0] != len(columns):
        raise ValueError("a tuple with another number of columns than its relation")
    position += 2
    for name, convert in columns:
        kind, size = _head(data, position)
        if kind == _TEXT:
            start = position + 5
            position = start + size
            if name is not None:
                text = data[start:position].decode()
                row[name] = text if convert is None else convert(text)
        else:
            position += 1
            if kind not in (_NULL, _UNCHANGED):
                raise ValueError("a column of unknown kind")
            if name is not None and kind == _NULL:
                row[name] = None
            elif name is not None:
                missing += (name,)
    return row, missing, position


def read_last(data: bytes, position: int, columns: TupleColumns) -> Tuple:
    """The tuple from `position` to the end. Raises what bad bytes cause."""
    row, missing, end = read_tuple(data, position, columns)
    if end != len(data):
        raise ValueError("its length does not match its content")
    return row, missing


def read_pair(data: bytes, position: int, old_columns: TupleColumns, new_columns: TupleColumns) -> tuple[Tuple, Tuple]:
    """An old tuple, and the new one behind it to the end. Raises what bad bytes cause."""
    row, missing, end = read_tuple(data, position, old_columns)
    if data[end] != _NEW:
        raise ValueError("an update without a new tuple")
    return (row, missing), read_last(data, end + 1, new_columns)


def compile_reader(columns: TupleColumns) -> Reader:
    """`read_last` for these columns, the fast way: the hottest step of capture."""
    make = _maker(columns)

    def read(data: bytes, position: int) -> Tuple:
        if len(data) < TOO_LONG:
            try:
                return make(_values(_ARRAY + data[position:].replace(_TEXT_HEAD, _STRING_HEAD))), ()
            except (_NotPlain, msgspec.DecodeError):
                pass
        return read_last(data, position, columns)

    return read


def compile_pair_reader(old_columns: TupleColumns, new_columns: TupleColumns) -> PairReader:
    """`read_pair` for these columns, the fast way: what lies between the two tuples is read as three numbers."""
    make_old, make_new, count = _maker(old_columns), _maker(new_columns), len(new_columns)
    counted, between = _size(count), [_NEW, *_size(count)]
    head = _ARRAY + _size(2 * count + 3)

    def read(data: bytes, position: int) -> tuple[Tuple, Tuple]:
        if len(data) < TOO_LONG and data[position : position + 2] == counted:
            try:
                found = _values(head + data[position + 2 :].replace(_TEXT_HEAD, _STRING_HEAD))
                if found[count : count + 3] == between:
                    return (make_old(found[:count]), ()), (make_new(found[count + 3 :]), ())
            except (_NotPlain, msgspec.DecodeError):
                pass
        return read_pair(data, position, old_columns, new_columns)

    return read


def _maker(columns: TupleColumns) -> Callable[[Sequence[str | int]], dict[str, Any]]:
    """A row of the values of all columns, written out as straight code. Raises `_NotPlain`."""
    names: dict[str, Any] = {"null": _null}
    values, items, skipped = [f"v{place}" for place in range(len(columns))], [], []
    for value, (name, convert) in zip(values, columns, strict=True):
        names[f"convert_{value}"] = convert
        converted = value if convert is None else f"convert_{value}({value})"
        if name is None:
            skipped.append(f"    if {value}.__class__ is not str: null({value})")
        else:
            items.append(f"{name!r}: {converted} if {value}.__class__ is str else null({value})")
    lines = [
        "def make(values):",
        f"    if len(values) != {len(columns)}: null(None)",
        f"    [{', '.join(values)}] = values",
        *skipped,
        f"    return {{{', '.join(items)}}}",
    ]
    exec("\n".join(lines), names)  # noqa: S102 - of the given values only names of columns are in it, as literals
    made: Callable[[Sequence[str | int]], dict[str, Any]] = names["make"]
    return made


def _null(value: int | None) -> None:
    if value != _NULL:
        raise _NotPlain
