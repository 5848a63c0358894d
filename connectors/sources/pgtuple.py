"""The tuples of pgoutput's messages as rows: `read_tuple` says how they are read; `compile_reader` is faster.

Protocol: "Logical Replication Message Formats", TupleData, in PostgreSQL's manual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct as Format
from typing import Any, Final

Converter = Callable[[str], Any] | None
TupleColumns = Sequence[tuple[str | None, Converter]]
"""For each column its name, None where it is to be skipped, and what makes a wire value of its text."""
Tuple = tuple[dict[str, Any], tuple[str, ...], int]
"""The values by name, the names of unchanged columns that were left out, and the position after the tuple."""
Reader = Callable[[bytes, int], Tuple]

_TEXT, _NULL, _UNCHANGED = b"tnu"
_count: Final = Format("!H").unpack_from
_head: Final = Format("!BI").unpack_from


def read_tuple(data: bytes, position: int, columns: TupleColumns) -> Tuple:
    """The tuple at `position`. Needs five bytes after its end, which may be anything; raises what bad bytes cause."""
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


def compile_reader(columns: TupleColumns) -> Reader:
    """`read_tuple` for these columns, written out as straight code: the hottest step of capture.

    One decode of the whole message makes every text a cheap slice, where it is all ASCII; anything that is not, and
    rows with unchanged columns, are left to `read_tuple`.
    """

    def plain(data: bytes, position: int) -> Tuple:
        return read_tuple(data, position, columns)

    names: dict[str, Any] = {"head": _head, "count": _count, "plain": plain}
    lines = [
        "def read(data, position):",
        f"    if count(data, position)[0] != {len(columns)}: return plain(data, position)",
        "    if not data[position:].isascii(): return plain(data, position)",
        "    text, start, position = data.decode('latin-1'), position, position + 2",
    ]
    items = []
    for place, (name, convert) in enumerate(columns):
        value = "text[position:(position := position + size)]"
        if convert is not None:
            names[f"convert{place}"] = convert
            value = f"convert{place}({value})"
        lines += [
            "    kind, size = head(data, position)",
            f"    if kind == {_TEXT}:",
            "        position += 5",
            "        position += size" if name is None else f"        v{place} = {value}",
            f"    elif kind == {_NULL}:",
            "        position += 1",
            f"        v{place} = None",
            "    else: return plain(data, start)",
        ]
        if name is not None:
            items.append(f"{name!r}: v{place}")
    lines.append(f"    return {{{', '.join(items)}}}, (), position")
    exec("\n".join(lines), names)  # noqa: S102 - of the given values only names of columns are in it, as literals
    reader: Reader = names["read"]
    return reader
