"""The tuples of pgoutput's messages as rows: `read_tuple` says how they are read; what is compiled is faster.

Protocol: "Logical Replication Message Formats", TupleData, in PostgreSQL's manual.

The fast way lets msgspec's MessagePack decoder walk over the values, because the two formats nearly are one. A tuple is
a count of 16 bits, and so is an array (`dc`). A text is `t`, a size of 32 bits and its bytes; a string is `db`, the
same size and the same bytes. NULL and unchanged are `n` and `u`, which MessagePack reads as the numbers 110 and 117. So
only `t` has to become `db`, and no look at the values is needed to find it: PostgreSQL's text holds no zero byte, so in
a message of less than 65,536 bytes `t` and two zero bytes are the head of a text, and nothing else is.

Many tuples are one array of arrays. None can reach into the next one unnoticed: what is between them, `dc` and a byte
below 128, is no text in UTF-8, an array is no value, and a number other than those of NULL and unchanged is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from struct import Struct as Format
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

Converter = Callable[[str], Any] | None
TupleColumn = tuple[str | None, Converter]
"""A column's name, None where it is to be skipped, and what makes a wire value of its text."""
TupleColumns = Sequence[TupleColumn]
Tuple = tuple[dict[str, Any], tuple[str, ...]]
"""The values by name, and the names of unchanged columns that were left out."""
Unchanged = dict[int, tuple[str, ...]]
"""The columns that some rows, by their places among others, lack because they did not change."""
Maker = Callable[[Sequence[Sequence[Any]]], tuple[list[dict[str, Any]], list[int]]]
"""Makes rows of the values of all columns: texts, and the numbers of NULL and unchanged.

Unchanged columns are UNSET in the rows; with the rows come the places of those that have some, once for each column.
"""

TOO_LONG: Final = 65_536
_TEXT, _NULL, _UNCHANGED, _NEW = b"tnuN"
_PAD: Final = bytes(5)
_ARRAY, _TEXT_HEAD, _STRING_HEAD = b"\xdc", b"t\0\0", b"\xdb\0\0"
_LONG_ARRAY: Final = 0xDD
_count: Final = Format("!H").unpack_from
_head: Final = Format("!BI").unpack_from
_size: Final = Format("!H").pack
_array_head: Final = Format("!BI").pack
_values: Final = msgspec.msgpack.Decoder(list[str | int]).decode
_rows: Final = msgspec.msgpack.Decoder(list[list[str | int]]).decode
_rows_of_texts: Final = msgspec.msgpack.Decoder(list[list[str]]).decode


_NOT_PLAIN: Final = (msgspec.DecodeError, ValueError, LookupError, TypeError)
"""What bytes that are no tuple cause, and converters: `read_tuple` says what it is."""


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


class TupleReader:
    """Reads tuples with these columns, the fast way: the hottest step of capture.

    What makes rows is compiled when it is first needed: a log tells of many tables before it has rows of any.
    """

    def __init__(self, columns: TupleColumns) -> None:
        self.columns = columns
        self._all_wanted = all(name is not None for name, _ in columns)

    @cached_property
    def make(self) -> Maker:
        """Makes rows of any values."""
        return _maker(self.columns, nulls=True)

    @cached_property
    def _make_of_texts(self) -> Maker:
        return _maker(self.columns, nulls=False)

    def read(self, data: bytes, position: int) -> Tuple:
        """See `read_last`."""
        found = self.read_all([data], position)
        if found is None:
            return read_last(data, position, self.columns)
        [row], unchanged = found
        return row, unchanged.get(0, ())

    def read_all(self, messages: Sequence[bytes], position: int) -> tuple[list[dict[str, Any]], Unchanged] | None:
        """The rows of many messages; None: they are to be read one by one, which tells what is wrong with which."""
        if max(map(len, messages)) >= TOO_LONG:
            return None
        tuples = _ARRAY.join([data[position:] for data in messages]).replace(_TEXT_HEAD, _STRING_HEAD)
        data = _array_head(_LONG_ARRAY, len(messages)) + _ARRAY + tuples
        if self._all_wanted and len(messages) > 1:
            try:
                return self._make_of_texts(_rows_of_texts(data))[0], {}
            except _NOT_PLAIN:
                pass
        try:
            rows, lacking = self.make(_rows(data))
        except _NOT_PLAIN:
            return None
        unchanged: Unchanged = {}
        for place in dict.fromkeys(lacking):
            row = rows[place]
            unchanged[place] = tuple(name for name, value in row.items() if value is UNSET)
            rows[place] = {name: value for name, value in row.items() if value is not UNSET}
        return rows, unchanged


class PairReader:
    """Reads an old tuple and the new one behind it, the fast way: what lies between them is read as three numbers."""

    def __init__(self, old: TupleReader, new: TupleReader) -> None:
        count = len(new.columns)
        self._old, self._new, self._count = old, new, count
        self._counted, self._between = _size(count), [_NEW, *_size(count)]
        self._head = _ARRAY + _size(2 * count + 3)

    def read(self, data: bytes, position: int) -> tuple[Tuple, Tuple]:
        """See `read_pair`."""
        count = self._count
        if len(data) < TOO_LONG and data[position : position + 2] == self._counted:
            try:
                found = _values(self._head + data[position + 2 :].replace(_TEXT_HEAD, _STRING_HEAD))
                if found[count : count + 3] == self._between:
                    [old], old_lacks = self._old.make([found[:count]])
                    [new], new_lacks = self._new.make([found[count + 3 :]])
                    if not (old_lacks or new_lacks):
                        return (old, ()), (new, ())
            except _NOT_PLAIN:
                pass
        return read_pair(data, position, self._old.columns, self._new.columns)


def _maker(columns: TupleColumns, *, nulls: bool) -> Maker:
    """Rows of the values of all columns, written out as straight code. Raises `_NOT_PLAIN`.

    A text like that of the row before is not converted again, rows written together often have the same times: their
    rows share the value. `nulls` False: all values are texts.
    """
    names: dict[str, Any] = {"unchanged": _unchanged}
    values, items, skipped, kept = [f"v{place}" for place in range(len(columns))], [], [], []
    for value, (name, convert) in zip(values, columns, strict=True):
        names[f"convert_{value}"] = convert
        converted = value if convert is None else f"convert_{value}({value})"
        if convert is not None and convert is not int:
            kept.append(f"    text_{value} = kept_{value} = None")
            converted = (
                f"kept_{value} if {value} == text_{value} else"
                f" (kept_{value} := convert_{value}(text_{value} := {value}))"
            )
        if name is None:
            skipped.append(f"        if {value}.__class__ is not str and {value} != {_NULL}: unchanged([], 0, {value})")
        elif nulls:
            missing = f"None if {value} == {_NULL} else unchanged(lacking, len(made), {value})"
            found = f"({converted}) if {value}.__class__ is str else {missing}"
            items.append(f"{name!r}: {found}")
        else:
            items.append(f"{name!r}: {converted}")
    lines = [
        "def make(rows):",
        "    made, lacking = [], []",
        *kept,
        f"    for [{', '.join(values)}] in rows:",
        *(skipped if nulls else []),
        f"        made.append({{{', '.join(items)}}})",
        "    return made, lacking",
    ]
    exec("\n".join(lines), names)  # noqa: S102 - of the given values only names of columns are in it, as literals
    made: Maker = names["make"]
    return made


def _unchanged(lacking: list[int], place: int, value: int) -> UnsetType:
    if value != _UNCHANGED:
        raise ValueError(f"{value} is neither a text nor NULL nor unchanged")
    lacking.append(place)
    return UNSET
