"""Events as tests make them: what the events of a transaction share is given beside what each has for itself."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from sync_hub.errors import Rejected
from sync_hub.model import ChangeEvent, Record, SourceInfo
from sync_hub.runtime.batch import Decoded, Item, Tombstone, Unreadable

SHARED = {name: name for name in SourceInfo.__struct_fields__} | {"name": "source"}
"""The fields of a source block, and what they are called here."""


def change_event(**facts: Any) -> ChangeEvent:
    """An event; `source` is the source's name, and the other fields of its block stand beside it."""
    shared = {name: facts.pop(given) for name, given in SHARED.items() if given in facts}
    return ChangeEvent(source=SourceInfo(**shared), **facts)


def with_source(event: ChangeEvent, **facts: Any) -> ChangeEvent:
    """The same event of another source, table or commit."""
    return replace(event, source=replace(event.source, **facts))


def decoded_as(record: Record, content: ChangeEvent | Rejected | None) -> Decoded:
    """A record with what decoding made of it; None: it has no value."""
    if content is None:
        return Tombstone(record)
    return Unreadable(record, content) if isinstance(content, Rejected) else Item(record, content)
