"""What can be set for a PostgreSQL source."""

from __future__ import annotations

import fnmatch
from typing import Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from sync_hub.errors import ConfigError
from sync_hub.model import Table

_NAME = r"^[a-z0-9_]{0,63}$"


class TableOptions(BaseModel):
    """Options of one table. `exclude`: columns that leave the database in no form."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exclude: tuple[str, ...] = ()
    mask: dict[str, str] = Field(default_factory=dict)


class PostgresOptions(BaseModel):
    """A PostgreSQL source: `dsn`, `tables` (names, patterns, or a mapping of names to options per table)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dsn: SecretStr
    tables: tuple[str, ...] | dict[str, TableOptions | None]
    heartbeat_seconds: float = Field(default=2.0, gt=0, le=3600)
    slot: str = Field(default="", pattern=_NAME)
    publication: str = Field(default="", max_length=63)
    snapshot: Literal["initial", "topic", "never"] = "initial"
    snapshot_rows: int = Field(default=0, ge=0, le=100_000)
    cloudevents: bool = False
    failover: bool = True

    @field_validator("tables")
    @classmethod
    def _some(
        cls, tables: tuple[str, ...] | dict[str, TableOptions | None]
    ) -> tuple[str, ...] | dict[str, TableOptions | None]:
        if not tables:
            raise ValueError("name at least one table")
        return tables

    def table_options(self) -> dict[str, TableOptions]:
        """Options by name or pattern, in the order given."""
        if isinstance(self.tables, dict):
            return {name: options or TableOptions() for name, options in self.tables.items()}
        return {name: TableOptions() for name in self.tables}

    def excluded(self, table: str) -> frozenset[str]:
        """Excluded columns of a table, by its full name or its name in the configuration."""
        options = self.table_options()
        patterns = (entry for name, entry in options.items() if fnmatch.fnmatchcase(table, name))
        found = options.get(table) or options.get(table.removeprefix("public.")) or next(patterns, None)
        return frozenset(found.exclude) if found is not None else frozenset()

    def without_excluded(self, source: str, table: Table) -> Table:
        """The table as the hub may see it. Raises `ConfigError` for a column that cannot be left out."""
        excluded = self.excluded(table.full_name)
        if not excluded:
            return table
        where, field = f"sources.{source}.tables", f"{table.full_name}.exclude"
        unknown = excluded - {column.name for column in table.columns}
        if unknown:
            raise ConfigError(
                "unknown_column",
                f"there is no column {sorted(unknown)[0]}",
                where=where,
                field=field,
                hint="correct it",
            )
        if excluded & set(table.key):
            raise ConfigError(
                "key_excluded",
                f"{sorted(excluded & set(table.key))[0]} belongs to the key, without which events have no order",
                where=where,
                field=field,
                hint="keep key columns",
            )
        columns = tuple(column for column in table.columns if column.name not in excluded)
        unique = tuple(names for names in table.unique if not excluded & set(names))
        return msgspec.structs.replace(table, columns=columns, unique=unique)

    def refuse_reserved(self, source: str) -> None:
        """Raise `ConfigError` for options that have a name but do not work yet."""
        for table, options in self.table_options().items():
            if options.mask:
                raise ConfigError(
                    "mask_reserved",
                    "`mask` is reserved: values cannot be masked before publishing yet",
                    where=f"sources.{source}.tables",
                    field=f"{table}.mask",
                    hint="leave the columns out with `exclude`, or mask them in the mapping",
                )
