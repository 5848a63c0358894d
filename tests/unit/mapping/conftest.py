"""A small source table, and mappings made of a few lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sync_hub.mapping.apply import CompiledMapping, compile_mapping
from sync_hub.mapping.loader import Bundle
from sync_hub.model import ChangeEvent, Column, Table, version_prefix, version_suffix
from tests.events import change_event

HEAD = "mapping: m\nfrom: {source: erp, table: public.items}\nto: {target: crm, table: item_view}\n"

ITEMS = Table(
    "public",
    "items",
    (
        Column("id", "bigint", nullable=False),
        Column("name", "text"),
        Column("price", "numeric(12,2)"),
        Column("stock", "integer"),
        Column("active", "boolean"),
        Column("code", "character(4)"),
        Column("made_on", "date"),
        Column("updated_at", "timestamp with time zone"),
        Column("data", "jsonb"),
        Column("firstName", "text"),
        Column("computed", "integer", carried=False),
    ),
    key=("id",),
    unique=(("id",),),
)


def bundle(body: str, *, lookups: dict[str, str] | None = None, head: str = HEAD) -> Bundle:
    """A mapping of the lines in `body`, under a head that names source and target."""
    return Bundle("m", "mappings/m.yaml", 1, head + body, lookups or {})


def compiled(
    body: str, *, table: Table = ITEMS, secrets: Mapping[str, str] | None = None, lookups: dict[str, str] | None = None
) -> CompiledMapping:
    """The mapping of these lines, compiled."""
    return compile_mapping(bundle(body, lookups=lookups), table, secrets=secrets or {})


def change(operation: str, after: dict[str, Any] | None = None, **more: Any) -> ChangeEvent:
    """An event of the items table; its key is the id of the row unless given."""
    key = more.pop("key", {"id": after["id"]} if after and "id" in after else None)
    version = more.pop("version", version_prefix(1, 7) + version_suffix(1))
    settings: dict[str, Any] = {"committed_at": 1_700_000_000_500_000, "before": None} | more
    return change_event(
        source="erp",
        schema="public",
        table="items",
        operation=operation,  # type: ignore[arg-type]
        key=key,
        after=after,
        version=version,
        **settings,
    )


@pytest.fixture
def value() -> Callable[..., Any]:
    """Map one row by one expression and give the wire value: `value("price * 2", price="1.50")`."""

    def run(expression: str, *, type: str = "", **row: Any) -> Any:
        quoted = "'" + expression.replace("'", "''") + "'"
        field = f"{{expr: {quoted}, type: '{type}'}}" if type else f"{{expr: {quoted}}}"
        mapping = compiled(f"key: [id]\nfields:\n  id: id\n  x: {field}\n")
        mapped = mapping.apply([change("update", {"id": 1, **row})])
        if mapped.rejected:
            raise mapped.rejected[0][1]
        return mapped.changes[0].values[1]

    return run
