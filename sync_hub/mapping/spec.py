"""One mapping document, checked: every error names file, field, line and column, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from msgspec import Struct

from sync_hub.errors import ConfigError
from sync_hub.mapping.loader import Bundle
from sync_hub.yaml import Node, load_documents

Path = tuple[str | int, ...]

_KEYS = (
    "mapping",
    "description",
    "owner",
    "from",
    "to",
    "key",
    "fields",
    "copy",
    "except",
    "where",
    "on_delete",
    "tests",
)
_TEST_KEYS = ("name", "given", "expect", "error", "op", "event")
_RESERVED = ("join", "each", "history", "require")
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")
_WORD = re.compile(r"^[A-Za-z_]\w*$")
_DECIMAL = re.compile(r"^-?\d+\.\d+$")


class FieldSpec(Struct, frozen=True):
    """One target column: an `expression`, or a constant `value`. `type` is the type it is cast to, if given."""

    name: str
    path: Path
    expression: str = ""
    value: Any = None
    type: str = ""
    is_constant: bool = False
    is_decimal: bool = False


class TestSpec(Struct, frozen=True):
    """A test in the file. `expect` None: no row. `compares` is False when an `error` is expected instead."""

    __test__ = False

    name: str
    path: Path
    given: dict[str, Any]
    expect: dict[str, Any] | None
    error: str
    delete: bool
    event: dict[str, Any]


class MappingSpec(Struct, frozen=True):
    """A mapping as written. `copy` None: all columns that are no fields, without `copy_except`.

    With `on_delete` = set, `on_delete_set` are the columns written then.
    """

    name: str
    description: str
    owner: str
    source: str
    table: str
    target: str
    target_table: str
    create: bool
    key: tuple[str, ...]
    fields: tuple[FieldSpec, ...]
    copy: tuple[str, ...] | None
    copy_except: tuple[str, ...]
    where: str | None
    on_delete: Literal["delete", "keep", "set"]
    on_delete_set: tuple[FieldSpec, ...]
    tests: tuple[TestSpec, ...]
    node: Node

    def error(
        self, code: str, message: str, *path: str | int, hint: str = "", offset: int | None = None
    ) -> ConfigError:
        """An error at a place in this mapping; `offset` is within the text there."""
        where = self.node.where(*path) if offset is None else self.node.where_in(offset, *path)
        return ConfigError(code, message, where=where, field=".".join(map(str, path)), hint=hint)


def parse_spec(bundle: Bundle) -> MappingSpec:
    """Check a mapping's document without any catalog. Raises `ConfigError`."""
    (node,) = load_documents(bundle.document, bundle.file, line=bundle.line)
    return _Reader(node).read()


class _Reader:
    """Takes values out of one document and complains about what is not as it should be."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def read(self) -> MappingSpec:
        """The whole mapping."""
        value = self._mapping(self._node.value, (), _KEYS, reserved=_RESERVED)
        for name in ("mapping", "from", "to", "key"):
            if name not in value:
                self._fail("missing_key", f"{name!r} is missing", (), hint=_EXAMPLES[name])
        name = self._name(value["mapping"], ("mapping",))
        source = self._mapping(value["from"], ("from",), ("source", "table"), reserved=("join", "list"))
        target = self._mapping(value["to"], ("to",), ("target", "table", "create"), reserved=("topic",))
        copy, excepted = self._copy(value)
        fields = self._fields(value.get("fields", {}), ("fields",))
        if not fields and copy == ():
            self._fail("no_fields", "the mapping writes no column", (), hint="name some under fields or copy")
        on_delete, on_delete_set = self._on_delete(value.get("on_delete", "delete"))
        return MappingSpec(
            name=name,
            description=self._text(value.get("description", ""), ("description",)),
            owner=self._text(value.get("owner", ""), ("owner",)),
            source=self._needed(source, "source", ("from",)),
            table=self._table(source, ("from",)),
            target=self._needed(target, "target", ("to",)),
            target_table=self._table(target, ("to",)),
            create=self._boolean(target.get("create", False), ("to", "create")),
            key=self._names(value["key"], ("key",)),
            fields=fields,
            copy=copy,
            copy_except=excepted,
            where=self._where(value.get("where")),
            on_delete=on_delete,
            on_delete_set=on_delete_set,
            tests=self._tests(value.get("tests", [])),
            node=self._node,
        )

    def _fail(self, code: str, message: str, path: Path, *, hint: str = "", key: bool = False) -> NoReturn:
        where = self._node.where_key(*path) if key else self._node.where(*path)
        raise ConfigError(code, message, where=where, field=".".join(map(str, path)), hint=hint)

    def _mapping(self, value: Any, path: Path, keys: Sequence[str], *, reserved: Sequence[str] = ()) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._fail("wrong_type", "a mapping of keys is expected", path, hint=f"keys are: {', '.join(keys)}")
        for name in value:
            if name in reserved:
                self._fail("reserved_word", f"{name!r} is reserved and not supported yet", (*path, name), key=True)
            if name not in keys:
                close = difflib.get_close_matches(name, keys, n=1)
                hint = f"did you mean {close[0]}?" if close else f"keys are: {', '.join(keys)}"
                self._fail("unknown_key", f"{name!r} is not known", (*path, name), hint=hint, key=True)
        return value

    def _needed(self, value: dict[str, Any], name: str, path: Path) -> str:
        if name not in value:
            self._fail("missing_key", f"{name!r} is missing", path, hint=_EXAMPLES[path[0]])  # type: ignore[index]  # these paths are words
        return self._text(value[name], (*path, name), needed=True)

    def _table(self, value: dict[str, Any], path: Path) -> str:
        table = value.get("table")
        pattern = path == ("from",) and isinstance(table, str) and re.search(r"[*?]", table)
        if isinstance(table, list) or pattern:
            self._fail(
                "reserved_word", "a 'list' or pattern of tables is reserved and not supported yet", (*path, "table")
            )
        return self._needed(value, "table", path)

    def _text(self, value: Any, path: Path, *, needed: bool = False) -> str:
        if not isinstance(value, str) or (needed and not value.strip()):
            self._fail("wrong_type", "a text is expected", path)
        return value

    def _boolean(self, value: Any, path: Path) -> bool:
        if not isinstance(value, bool):
            self._fail("wrong_type", "true or false is expected", path)
        return value

    def _name(self, value: Any, path: Path) -> str:
        text = self._text(value, path)
        if not _NAME.match(text):
            self._fail("bad_name", f"{text[:70]!r} is no name", path, hint="small letters, digits and _, at most 63")
        return text

    def _names(self, value: Any, path: Path) -> tuple[str, ...]:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not items or not all(isinstance(item, str) and item for item in items):
            self._fail("wrong_type", "a list of columns is expected", path, hint=f"{path[-1]}: [customer_id]")
        for index, item in enumerate(items):
            if item in items[:index]:
                self._fail("duplicate_column", f"{item!r} is there twice", (*path, index))
        return tuple(items)

    def _copy(self, value: dict[str, Any]) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
        copy = value.get("copy", [])
        everything = copy == "all"
        if "except" in value and not everything:
            self._fail("wrong_type", "`except` goes with `copy: all`", ("except",), key=True)
        if everything:
            return None, self._names(value["except"], ("except",)) if "except" in value else ()
        return (self._names(copy, ("copy",)) if copy != [] else ()), ()

    def _where(self, value: Any) -> str | None:
        if isinstance(value, bool):
            return "true" if value else "false"
        if value is not None and not isinstance(value, str):
            self._fail("wrong_type", "a condition is expected", ("where",), hint="where: active")
        if value is not None and self._node.quoted("where") and _WORD.match(value):
            self._ambiguous(value, ("where",))
        return value

    def _ambiguous(self, text: str, path: Path) -> NoReturn:
        hint = f"write {path[-1]}: {text} for the column, or {path[-1]}: {{value: {text}}} for the text"
        self._fail("ambiguous_text", f"a quoted single word: is {text!r} a column or a text?", path, hint=hint)

    def _fields(self, value: Any, path: Path) -> tuple[FieldSpec, ...]:
        if not isinstance(value, dict):
            self._fail(
                "wrong_type", "columns with their expressions are expected", path, hint="email: lower(trim(email))"
            )
        for name, item in value.items():
            if item is None and name.count(")") > name.count("("):
                hint = "inside { } a comma ends the expression: put it in quotes, or each field in a line of its own"
                self._fail("unknown_key", f"{name!r} is no column", (*path, name), hint=hint, key=True)
        return tuple(self._field(name, item, (*path, name)) for name, item in value.items())

    def _field(self, name: str, value: Any, path: Path) -> FieldSpec:
        if isinstance(value, dict):
            return self._long_field(name, value, path)
        if isinstance(value, str):
            return self._expression(name, value, path)
        return self._constant(name, value, path)

    def _long_field(self, name: str, value: dict[str, Any], path: Path) -> FieldSpec:
        for key, item in value.items():
            if item is None and key not in ("expr", "value", "type"):
                hint = 'inside { } a comma ends the expression: put it in quotes, {expr: "round(price, 2)"}'
                self._fail("unknown_key", f"{key!r} is not known", (*path, key), hint=hint, key=True)
        self._mapping(value, path, ("expr", "value", "type"))
        type_ = self._text(value.get("type", ""), (*path, "type"))
        if ("expr" in value) == ("value" in value):
            self._fail("wrong_type", "either `expr` or `value` is expected", path, hint="{value: erp} is a constant")
        inner = (*path, "expr" if "expr" in value else "value")
        if "value" in value or not isinstance(value["expr"], str):
            return self._constant(name, value[str(inner[-1])], inner, type_)
        return self._expression(name, value["expr"], inner, type_)

    def _expression(self, name: str, text: str, path: Path, type_: str = "") -> FieldSpec:
        if not text.strip():
            self._fail(
                "empty_expression", "the expression is empty", path, hint="null is NULL, {value: ''} the empty text"
            )
        if path[-1] != "expr" and self._node.quoted(*path) and _WORD.match(text):
            self._ambiguous(text, path)
        return FieldSpec(name, path, expression=text, type=type_)

    def _constant(self, name: str, value: Any, path: Path, type_: str = "") -> FieldSpec:
        if isinstance(value, list | dict):
            self._fail("wrong_type", "a text, a number, true, false or null is expected", path)
        decimal = isinstance(value, str) and not self._node.quoted(*path) and bool(_DECIMAL.match(value))
        return FieldSpec(name, path, value=value, type=type_, is_constant=True, is_decimal=decimal)

    def _on_delete(self, value: Any) -> tuple[Literal["delete", "keep", "set"], tuple[FieldSpec, ...]]:
        if value in ("delete", "keep"):
            return value, ()
        if not isinstance(value, dict):
            hint = "on_delete: {set: {deleted_at: _committed_at}}"
            self._fail("wrong_type", "delete, keep or set is expected", ("on_delete",), hint=hint)
        self._mapping(value, ("on_delete",), ("set",))
        fields = self._fields(value.get("set"), ("on_delete", "set"))
        if not fields:
            self._fail("wrong_type", "`set` names no column", ("on_delete", "set"))
        return "set", fields

    def _tests(self, value: Any) -> tuple[TestSpec, ...]:
        if not isinstance(value, list):
            self._fail("wrong_type", "a list of tests is expected", ("tests",))
        return tuple(self._test(item, ("tests", index)) for index, item in enumerate(value))

    def _test(self, value: Any, path: Path) -> TestSpec:
        self._mapping(value, path, _TEST_KEYS)
        for name in ("given", "expect", "event"):
            if not isinstance(value.get(name, {}), dict | None):
                self._fail("wrong_type", "columns with their values are expected", (*path, name))
        given = value.get("given")
        if not isinstance(given, dict):
            self._fail("missing_key", "'given' is missing", path, hint="given: {id: 1, first_name: Ada}")
        if ("expect" in value) == ("error" in value):
            self._fail("missing_key", "either 'expect' or 'error' is expected", path, hint="expect: null means no row")
        if value.get("op", "delete") != "delete":
            self._fail("wrong_type", "the only `op` is delete", (*path, "op"))
        error = value.get("error", "")
        return TestSpec(
            name=self._text(value.get("name", f"test {path[-1]}"), (*path, "name")),
            path=path,
            given=given,
            expect=value.get("expect"),
            error=str(error),
            delete="op" in value,
            event=value.get("event") or {},
        )


_EXAMPLES = {
    "mapping": "mapping: customer_to_crm",
    "from": "from: {source: erp, table: public.customers}",
    "to": "to: {target: crm, table: customer_view}",
    "key": "key: [customer_id]",
}
