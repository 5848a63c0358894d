"""JSON documents as text: a value is taken out without rewriting it, so that its spelling and numbers stay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec

from sync_hub.mapping.faults import rejected
from sync_hub.mapping.numerics import parse_decimal, show_decimal

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_string = msgspec.json.Decoder(str).decode


def member(document: str, key: str) -> str | None:
    """`json -> 'key'`: the member's own text; None when it is missing or the document is no object."""
    text = document.lstrip()
    if not text.startswith("{"):
        return None
    try:
        value = _object(text).get(key)
    except (msgspec.DecodeError, RecursionError) as error:
        raise rejected("22P02", "the text is not JSON") from error
    return None if value is None else bytes(value).decode()


def element(document: str, index: int) -> str | None:
    """`json -> 0`: the element's own text; negative counts from the end."""
    text = document.lstrip()
    if not text.startswith("["):
        return None
    try:
        values = _array(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise rejected("22P02", "the text is not JSON") from error
    return bytes(values[index]).decode() if -len(values) <= index < len(values) else None


def element_or_self(document: str, index: int) -> str | None:
    """`jsonb -> 0`: as of json; but to jsonb a single value is also its own first and last element."""
    if document.lstrip()[:1] not in {"[", "{"}:
        return document if index in {0, -1} else None
    return element(document, index)


def descend(document: str, path: Sequence[str | None]) -> str | None:
    """`json #> '{a,0}'`: step by step; in an array a step is an index."""
    found: str | None = document
    for step in path:
        if found is None or step is None:
            return None
        if found.lstrip().startswith("["):
            try:
                found = element(found, int(step))
            except ValueError:
                return None
        else:
            found = member(found, step)
    return found


def as_text(document: str | None) -> str | None:
    """What `->>` gives: a string without its quotes, anything else as written, JSON null as NULL."""
    if document is None:
        return None
    text = document.strip()
    if text.startswith('"'):
        return without_zero(_string(text))
    return None if text == "null" else text


def without_zero(text: str) -> str:
    """The text; with U+0000 in it, which no PostgreSQL text may hold, `Rejected`."""
    if "\0" in text:
        raise rejected("22P05")
    return text


def load(document: str) -> Any:
    """The document as Python values, numbers as Decimal; the last of two equal keys wins."""
    try:
        value = json.loads(document, parse_float=parse_decimal, parse_int=parse_decimal, parse_constant=_no_constant)
        document.encode()
    except (ValueError, RecursionError) as error:
        raise rejected("22P02", "the text is not JSON") from error
    return value


def _no_constant(_: str) -> Any:
    raise ValueError("NaN is not JSON")


def checked(document: str) -> str:
    """The same text, once it is known to be JSON."""
    load(document)
    return document


def normal(document: str) -> str:
    """As jsonb prints it: keys by length, then by bytes; one space after colon and comma; numbers unrounded."""
    return dump(load(document))


def dump(value: Any) -> str:
    """Python values as jsonb prints them."""
    if isinstance(value, dict):
        ordered = sorted(value.items(), key=lambda item: (len(item[0].encode()), item[0].encode()))
        return "{" + ", ".join(f"{dump(key)}: {dump(item)}" for key, item in ordered) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dump, value)) + "]"
    if isinstance(value, Decimal):
        return show_decimal(value)
    if isinstance(value, str):
        try:
            without_zero(value).encode()
        except UnicodeEncodeError as error:
            raise rejected("22P02", "the text is not JSON") from error
    return json.dumps(value, ensure_ascii=False)


def comparable(document: str) -> Any:
    """A value by which two documents compare: order of keys, spacing and trailing zeros do not count."""
    return _frozen(load(document))


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return ("object", frozenset((key, _frozen(item)) for key, item in value.items()))
    if isinstance(value, list):
        return ("array", tuple(map(_frozen, value)))
    return (type(value).__name__, value)


def array_length(document: str) -> int:
    """How many elements; of anything but an array `Rejected`."""
    if not document.lstrip().startswith("["):
        raise rejected("22023", "the JSON value is not an array")
    return len(_array(document))
