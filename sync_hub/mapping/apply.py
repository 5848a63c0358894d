"""A compiled mapping: events of one source table to changes of one target table."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import Struct

from sync_hub.errors import Rejected
from sync_hub.mapping.fields import Field, compile_fields
from sync_hub.mapping.loader import Bundle
from sync_hub.mapping.parts import (
    Scopes,
    key_fields,
    mapping_hash,
    respelled_keys,
    row_condition,
    target_fields,
    unmarked_fields,
)
from sync_hub.mapping.scope import Row
from sync_hub.mapping.spec import MappingSpec, parse_spec
from sync_hub.mapping.values import from_debezium
from sync_hub.model import ABSENT, ChangeEvent, Column, RowChange, Table

Values = tuple[Any, ...]

_WRONG_VALUES = (ArithmeticError, ValueError, TypeError, AttributeError, RecursionError)
"""What a value that is not of its column's type makes Python raise while it is converted."""


class Mapped(Struct, frozen=True):
    """What a batch became: changes in order, for each the index of its event, and the rejected by index of theirs."""

    changes: list[RowChange]
    sources: list[int]
    rejected: list[tuple[int, Rejected]]


def compile_mapping(bundle: Bundle, source_table: Table, *, secrets: Mapping[str, str]) -> CompiledMapping:
    """Compile for a source table as its catalog has it. Raises `ConfigError` for whatever is wrong.

    `secrets` are name → value, normally the environment. Expressions are compiled once, here.
    """
    return CompiledMapping(bundle, parse_spec(bundle), source_table, secrets)


class CompiledMapping:
    """`columns` are all that is written, in order, `key` the target's key among them.

    `unmarked_columns` are those that only `on_delete: set` gives a value; every other change sets them to NULL.

    Values are wire values (`design.md` §6). Pure: the same event always gives the same change, for one target table.
    Until `fit` has told of that, keys are taken as rows spell them.
    """

    def __init__(self, bundle: Bundle, spec: MappingSpec, table: Table, secrets: Mapping[str, str]) -> None:
        self.spec = spec
        self.source_table = table
        scopes = Scopes(bundle, table, secrets)
        fields = target_fields(spec, table, scopes.row)
        self.mark_fields = compile_fields(spec, spec.on_delete_set, scopes.key, scopes.catalog)
        unmarked = unmarked_fields(fields, self.mark_fields)
        self.unmarked_columns = frozenset(field.name for field in unmarked)
        self.fields = [*fields, *unmarked]
        self.columns = tuple(field.name for field in self.fields)
        self.key = spec.key
        self.key_fields = key_fields(spec, self.fields, scopes)
        self.mark_columns = tuple(field.name for field in self.mark_fields)
        self.condition = row_condition(spec, scopes)
        self.hash = mapping_hash(spec, bundle, self.fields, self._secrets_used(), secrets)
        expressions = [field.expression for field in self.fields] + ([self.condition] if self.condition else [])
        self.reads = frozenset(name for expression in expressions for name in expression.reads)
        self._respelled: list[tuple[int, int]] = []
        self._values = _together(self.fields)
        self._key_values = _together(self.key_fields)
        self._has_event_fields = any(field.from_event for field in self.fields)
        self._static = {"_source": spec.source, "_schema": table.schema, "_table": table.name}
        self._needs_facts = any(field.expression.facts for field in self.fields) or bool(
            self.condition and self.condition.facts
        )
        self._from_debezium = {
            column.name: convert for column in table.columns if (convert := from_debezium(column.type)) is not None
        }

    def _secrets_used(self) -> set[str]:
        expressions = [field.expression for field in (*self.fields, *self.mark_fields)]
        expressions += [self.condition] if self.condition else []
        return {name for expression in expressions for name in expression.secrets}

    def target_columns(self) -> tuple[Column, ...]:
        """The columns that `create: true` makes: types as inferred or declared, in PostgreSQL's spelling."""
        return tuple(
            Column(field.name, field.type_name, field.nullable and field.name not in self.key, field.type_name)
            for field in self.fields
        )

    def event_columns(self) -> frozenset[str]:
        """Columns made of facts that only an event has: verification leaves them out."""
        return frozenset(field.name for field in self.fields if field.from_event)

    def fit(self, target: Table) -> None:
        """Learn the target's types: key columns that do not compare as the source's key are written as events spell it.

        Else a delete, which has only the event's key, would look for another key than the row was written under.
        """
        places = respelled_keys(self.key_fields, self.source_table, target)
        self._respelled = [(self.columns.index(self.key[place]), place) for place in places]

    @property
    def respells(self) -> bool:
        """Whether key columns are written as events spell them: then rows have to be mapped with their events' keys."""
        return bool(self._respelled)

    def copied(self, columns: Sequence[str], target: Table) -> dict[str, str]:
        """Source columns by these target columns where nothing but copying is between them; else nothing.

        Every value is then the same text at both ends: the columns' types are the same, all rows are taken, and the key
        is the source's own, in its order.
        """
        fields = [field for field in self.fields if field.name in columns]
        types = {column.name: column.declared or column.type for column in self.source_table.columns}
        taken = {column.name: column.declared or column.type for column in target.columns}
        alike = all(types.get(field.column) == taken[field.name] for field in fields)
        same_key = tuple(field.column for field in self.key_fields) == self.source_table.key
        same_key = same_key and not respelled_keys(self.key_fields, self.source_table, target)
        return {field.name: field.column for field in fields} if alike and same_key and not self.condition else {}

    def on_truncate(self) -> Literal["delete", "mark", "keep"]:
        """What a TRUNCATE of the source table does to this mapping's rows."""
        return "mark" if self.spec.on_delete == "set" else self.spec.on_delete

    def truncate_values(self, event: ChangeEvent) -> Values:
        """What a truncation sets `mark_columns` to; ABSENT where a value is made of the row's key."""
        return self._partial(self.mark_fields, self._with_facts({}, event))

    def apply(self, events: Sequence[ChangeEvent]) -> Mapped:
        """Map events in order. A truncation is a barrier and not for here."""
        changes: list[RowChange] = []
        sources: list[int] = []
        rejected: list[tuple[int, Rejected]] = []
        quick, key_of, values_of, respelled = not self._needs_facts, self._key_values, self._values, self._respelled
        included = self.condition.run if self.condition is not None else None
        for index, event in enumerate(events):
            row = event.after
            if quick and row is not None and event.version and event.operation != "delete":
                try:
                    if included is None or included(row) is True:
                        key, values = key_of(event.key), values_of(row)  # type: ignore[arg-type]  # without a key it is a TypeError
                        values = self._spelled(values, key) if respelled else values
                        changes.append(RowChange("upsert", key, values, operation=event.operation))
                        sources.append(index)
                        continue
                except (Rejected, KeyError, *_WRONG_VALUES):
                    pass  # below it is done again, with care
            try:
                change = self._change(event)
            except Rejected as error:
                rejected.append((index, error))
                continue
            if change is not None:
                changes.append(change)
                sources.append(index)
        return Mapped(changes, sources, rejected)

    def map_row(self, row: Row, key: Row | None = None) -> Values | None:
        """A whole source row as target values, for comparing; None when `where` says no. Event columns are ABSENT.

        `key` is the key that the row's events have: without it a mapping that `respells` gives the row's own spelling.
        Raises `Rejected` as `apply` would park it.
        """
        values = self._mapped_row(row)
        if values is None or key is None or not self._respelled:
            return values
        return self._spelled(values, self.map_key(key))

    def _mapped_row(self, row: Row) -> Values | None:
        given = {**self._static, **row} if self._needs_facts else row
        try:
            if self.condition is not None and self.condition.run(given) is not True:
                return None
            if not self._has_event_fields:
                return self._values(given)
            return tuple(ABSENT if field.from_event else field.run(given) for field in self.fields)
        except KeyError as error:
            message = f"mapping {self.spec.name}: the row has no column {error}"
            raise Rejected("row_incomplete", message, hint="the source table has changed: check the mapping") from error
        except (Rejected, *_WRONG_VALUES) as error:
            raise self._explained(error, self.fields, given) from error

    def map_key(self, key: Row) -> Values:
        """The target's key of a source key. Raises `Rejected` when the key lacks a column or cannot be computed."""
        given = {**self._static, **key} if self._needs_facts else key
        try:
            return self._key_values(given)
        except KeyError as error:
            raise self._incomplete_key(error) from error
        except (Rejected, *_WRONG_VALUES) as error:
            raise self._explained(error, self.key_fields, given) from error

    def _spelled(self, values: Values, key: Values) -> Values:
        """The values with those key columns that are to be spelled as events spell them taken from the event's key."""
        out = list(values)
        for place, part in self._respelled:
            out[place] = key[part]
        return tuple(out)

    def _incomplete_key(self, error: KeyError) -> Rejected:
        return Rejected(
            "key_incomplete",
            f"mapping {self.spec.name}: the event's key has no column {error}",
            hint="the topic is keyed by other columns than the source's key",
        )

    def _change(self, event: ChangeEvent) -> RowChange | None:
        if event.operation == "delete":
            return self._removal(event)
        row = event.after
        if row is None:
            raise self._no_row(event)
        if not event.version:
            row = self._normalised(row)
        if self._needs_facts:
            row = self._with_facts(row, event)
        try:
            if self.condition is not None and self.condition.run(row) is not True:
                return self._removal(event)
            key = self._event_key(event)
            return RowChange("upsert", key, self._spelled(self._values(row), key), operation=event.operation)
        except KeyError:
            return self._incomplete(event, row)
        except (Rejected, *_WRONG_VALUES) as error:
            raise self._explained(error, self.fields, row) from error

    def _event_key(self, event: ChangeEvent) -> Values:
        key = event.key if event.key is not None else event.after if event.after is not None else event.before
        if key is None:
            raise Rejected("key_incomplete", f"mapping {self.spec.name}: the event has no key")
        if not event.version:
            key = self._normalised(key)
        return self.map_key(key)

    def _no_row(self, event: ChangeEvent) -> Rejected:
        if event.oversize_bytes:
            return Rejected(
                "row_too_large",
                f"mapping {self.spec.name}: the row has {event.oversize_bytes} bytes, too many for the topic",
                hint="raise the topic's limit and update the row at the source: the newer event replaces this one",
            )
        return Rejected("row_missing", f"mapping {self.spec.name}: the event carries no row")

    def _incomplete(self, event: ChangeEvent, row: Row) -> RowChange | None:
        """An event without some column: what needs it is ABSENT; a `where` that needs it decides nothing.

        Only columns that the log left out may be missing. Another one was renamed or dropped at the source.
        """
        missing = {name for name in self.reads if name not in row} - set(event.unchanged)
        if missing:
            raise Rejected(
                "row_incomplete",
                f"mapping {self.spec.name}: the event's row has no column {', '.join(sorted(missing))}",
                hint="was it renamed or dropped at the source? change the mapping and load it again",
            )
        condition = self.condition
        if condition is not None:
            try:
                included = condition.run(row)
            except KeyError:
                if condition.reads <= row.keys():
                    raise
                if not event.version:
                    raise self._half_a_row(event) from None
                return None
            if included is not True:
                return self._removal(event)
        if event.operation in {"create", "read"} and not event.version:
            raise self._half_a_row(event)
        key = self._event_key(event)
        return RowChange("update", key, self._spelled(self._partial(self.fields, row), key))

    def _half_a_row(self, event: ChangeEvent) -> Rejected:
        """Of ours, the row that lacks columns was gone when they were read, and its delete follows; not of others."""
        lacking = ", ".join(sorted(self.reads.intersection(event.unchanged)))
        return Rejected(
            "row_incomplete",
            f"mapping {self.spec.name}: the row came without {lacking}, which its source's log left out",
            hint="change the column at the source; under REPLICA IDENTITY FULL its log leaves nothing out",
        )

    def _partial(self, fields: Sequence[Field], row: Row) -> Values:
        return tuple(self._value_or_absent(field, row) for field in fields)

    def _value_or_absent(self, field: Field, row: Row) -> Any:
        try:
            return field.run(row)
        except KeyError:
            if field.expression.reads <= row.keys():
                raise  # not for want of a column: a defect, never silent
            return ABSENT
        except (Rejected, *_WRONG_VALUES) as error:
            raise self._explained(error, [field], row) from error

    def _removal(self, event: ChangeEvent) -> RowChange | None:
        """A row that is gone from the source, or has left `where`, by `on_delete`. It reads nothing but the key."""
        policy = self.spec.on_delete
        if policy == "keep":
            return None
        key = self._event_key(event)
        new_key = None
        if event.new_key is not None:
            new_key = self.map_key(event.new_key if event.version else self._normalised(event.new_key))
        if policy == "delete":
            return RowChange("delete", key, new_key=new_key)
        row = self._with_facts(event.key or event.before or event.after or {}, event)
        try:
            values = tuple(field.run(row) for field in self.mark_fields)
        except KeyError as error:
            raise self._incomplete_key(error) from error
        except (Rejected, *_WRONG_VALUES) as error:
            raise self._explained(error, self.mark_fields, row) from error
        return RowChange("mark", key, values, new_key)

    def _normalised(self, row: Row) -> Row:
        """A row that Debezium wrote, with our spelling of values."""
        out = dict(row)
        for name, convert in self._from_debezium.items():
            if out.get(name) is not None:
                out[name] = convert(out[name])
        return out

    def _with_facts(self, row: Row, event: ChangeEvent) -> Row:
        source = event.source
        moment = datetime.fromtimestamp(source.committed_at // 1_000_000, UTC).replace(
            microsecond=source.committed_at % 1_000_000, tzinfo=None
        )
        return {
            "_source": source.name,
            "_schema": source.schema,
            "_table": source.table,
            "_operation": event.operation,
            "_committed_at": f"{moment.isoformat().rstrip('0') if moment.microsecond else moment.isoformat()}Z",
            "_actor": event.actor or None,
            "_correlation_id": event.correlation_id or None,
            "_event_id": event.id or None,
            **row,
        }

    def _explained(self, error: Exception, fields: Sequence[Field], row: Row) -> Rejected:
        """The same rejection with mapping and field in its message: found by computing field by field again."""
        name = "where"
        for field in fields:
            try:
                field.run(row)
            except (Rejected, KeyError, *_WRONG_VALUES):
                name = field.name
                break
        where = f"mapping {self.spec.name}, {name}: "
        if isinstance(error, Rejected):
            message = error.message if error.message.startswith("mapping ") else where + error.message
            return Rejected(error.code, message, sqlstate=error.sqlstate, hint=error.hint, command=error.command)
        if isinstance(error, ArithmeticError):
            return Rejected("value_out_of_range", f"{where}the number is out of range", sqlstate="22003")
        return Rejected("invalid_text", f"{where}a value is not of its column's type", sqlstate="22P02")


def _together(fields: Sequence[Field]) -> Callable[[Row], Values]:
    """All fields of a row at once."""
    if fields and all(field.column for field in fields):
        values = operator.itemgetter(*(field.column for field in fields))
        return values if len(fields) > 1 else lambda row: (values(row),)
    runs = [field.run for field in fields]
    return lambda row: tuple([run(row) for run in runs])
