"""Options as pages state them, and as the models have them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tests.docs.pages import codes, table_rows

NONE = ("none", "–")


def documented_options(text: str) -> dict[str, str]:
    """Option → default, from the tables `option | type | default | meaning` of a section; several may share a row."""
    found = {}
    for row in table_rows(text):
        if len(row) == 4 and row[0].startswith("`"):
            for name in codes(row[0]):
                found[name] = _default(row[2])
    return found


def stated_options(model: type[BaseModel]) -> dict[str, str]:
    """The same of a model."""
    return {name: _text(field.get_default(call_default_factory=True)) for name, field in model.model_fields.items()}


def _default(cell: str) -> str:
    quoted = codes(cell)
    return quoted[0] if quoted and not cell.startswith(NONE) else ""


def _text(value: Any) -> str:
    if value is PydanticUndefined or value is None or value == "":
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
