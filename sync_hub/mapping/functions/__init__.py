"""The functions that expressions may call, by theme; importing this package registers them all."""

from sync_hub.mapping.functions import dates, forms, hashing, json, numbers, text
from sync_hub.mapping.functions.registry import ENTRIES, FORMS, OVERLOADS, THEMES, Entry, choose, names

__all__ = [
    "ENTRIES",
    "FORMS",
    "OVERLOADS",
    "THEMES",
    "Entry",
    "choose",
    "dates",
    "forms",
    "hashing",
    "json",
    "names",
    "numbers",
    "text",
]
