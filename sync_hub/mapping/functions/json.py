"""Functions on JSON documents; the operators `->`, `->>`, `#>` and `#>>` share them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from sync_hub.errors import ConfigError
from sync_hub.mapping import documents
from sync_hub.mapping.functions.registry import define, overload

THEME: Final = "JSON"
_STEP = re.compile(r"""\.(\w+|"(?:[^"\\]|\\.)*")|\[(-?\d+|'[^']*'|"[^"]*")\]""")


@define(
    THEME,
    ["json_extract(jsonb, text) → jsonb", "json_extract(json, text) → json"],
    'The part of a document at a path: `$`, members as `.name` or `."a name"`, elements as `[0]`.',
    {
        """json_extract('{"a": {"b": [1, 2]}}'::jsonb, '$.a.b[1]')""": "2",
        """json_extract('{"a": 1}'::jsonb, '$.x')""": None,
    },
    note="The hub's own function (named as in MySQL and SQLite); the path must be a literal. No wildcards.",
    prepared=(1,),
)
def json_extract(path: str) -> Callable[[str], str | None]:
    """Go down a path."""
    steps = _steps(path)
    return lambda document: documents.descend(document, steps)


def _steps(path: str) -> list[str]:
    steps, position = [], 1
    while path.startswith("$") and position < len(path):
        match = _STEP.match(path, position)
        if not match:
            break
        step = match[1] or match[2]
        steps.append(step[1:-1] if step[0] in "'\"" else step)
        position = match.end()
    if not path.startswith("$") or position < len(path):
        raise ConfigError("bad_json_path", f"{path!r} is not a path", hint="write it as $.member[0]")
    return steps


@define(
    THEME,
    ["json_typeof(json) → text", "jsonb_typeof(jsonb) → text"],
    "object, array, string, number, boolean or null.",
    {"jsonb_typeof('[1]'::jsonb)": "array", "json_typeof('null'::json)": "null"},
)
def json_typeof(document: str) -> str:
    """What kind of value a document is."""
    first = document.lstrip()[:1]
    known = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}
    return known.get(first, "number")


overload("json_typeof(jsonb) → text", json_typeof)


@define(
    THEME,
    ["json_array_length(json) → integer", "jsonb_array_length(jsonb) → integer"],
    "How many elements an array has.",
    {"jsonb_array_length('[1, 2, 3]'::jsonb)": "3"},
)
def json_array_length(document: str) -> int:
    """Count elements."""
    return documents.array_length(document)
