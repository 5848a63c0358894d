"""YAML without traps: values, and for each of them the place it came from.

Only `true`, `false`, `null` and whole numbers are special (YAML 1.2 core, without its octal and hexadecimal forms):
`NO`, `0123`, `12:30:45`, `+64211234` and dates are text, and numbers with a point stay text, so that 1.10 stays 1.10.
Keys are always text. Equal keys in one mapping, tags, and documents that unfold beyond `MAX_VALUES` are errors.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from msgspec import Struct
from yaml.nodes import MappingNode, ScalarNode, SequenceNode

from sync_hub.errors import ConfigError

MAX_CHARACTERS = 1_000_000
MAX_VALUES = 50_000
MAX_DEPTH = 60

_PREFIX = "tag:yaml.org,2002:"
_KEY_AND_TEXT = re.compile(r"^(\s*(?:- )?[\w.$-]+:)\s+(\S.*?)\s*$")


class Place(NamedTuple):
    """Where a value or key is written. `line` and `column` count from 1; `style` is the quote, `|`, `>` or empty."""

    line: int
    column: int
    style: str = ""


class Node(Struct, frozen=True):
    """One document: `value` in plain Python values, `text` as written, starting in `line` of `file`.

    A path is the keys and list indexes from the top: `node.where("tests", 0, "given")`.
    """

    value: Any
    file: str
    text: str
    line: int
    places: dict[tuple[str | int, ...], Place]
    key_places: dict[tuple[str | int, ...], Place]

    def where(self, *path: str | int) -> str:
        """`file:line:column` of the value at `path`, or of what is nearest above it."""
        return self._show(self.places[self._known(path)])

    def where_key(self, *path: str | int) -> str:
        """`file:line:column` of the key that ends `path`: for keys that should not be there."""
        place = self.key_places.get(path)
        return self._show(place) if place else self.where(*path)

    def where_in(self, offset: int, *path: str | int) -> str:
        """`file:line:column` of the character at `offset` in the text at `path`; its beginning if that is folded."""
        place, text = self.places[self._known(path)], self._at(path)
        lines = self.text.split("\n")
        if place.style == "|":
            head, row = text[:offset], place.line + 1 + text.count("\n", 0, offset)
            below = lines[place.line - self.line + 1 :]
            indent = next((len(line) - len(line.lstrip()) for line in below if line.strip()), 0)
            return self._show(Place(row, indent + offset - head.rfind("\n")))
        written = lines[place.line - self.line][place.column - 1 + bool(place.style) :]
        if written.startswith(text):
            return self._show(Place(place.line, place.column + bool(place.style) + offset))
        return self._show(place)

    def quoted(self, *path: str | int) -> bool:
        """Whether the scalar at `path` is written in quotes."""
        place = self.places.get(path)
        return bool(place and place.style in {"'", '"'})

    def _at(self, path: tuple[str | int, ...]) -> str:
        value = self.value
        for part in self._known(path):
            value = value[part]
        return value if isinstance(value, str) else ""

    def _known(self, path: tuple[str | int, ...]) -> tuple[str | int, ...]:
        while path not in self.places:
            path = path[:-1]
        return path

    def _show(self, place: Place) -> str:
        return f"{self.file}:{place.line}:{place.column}"


def load_file(path: Path, *, name: str = "") -> list[Node]:
    """The documents of a file (UTF-8); errors call it `name`, or by its path."""
    name = name or str(path)
    try:
        return load_documents(path.read_bytes().decode("utf-8-sig"), name)
    except OSError as error:
        raise ConfigError("file_unreadable", f"{name}: {error.strerror or error}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            "not_utf8", f"byte {error.start} is not UTF-8", where=name, hint="save it as UTF-8"
        ) from error


def load_documents(text: str, file: str, *, line: int = 1) -> list[Node]:
    """The documents in `text`, empty ones left out; `line` is where it starts in `file`. Raises `ConfigError`."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            "yaml_too_large", f"{len(text)} characters; at most {MAX_CHARACTERS} are read", where=file, hint="split it"
        )
    text = text.replace("\r\n", "\n")
    try:
        return _read(_Loader(text), text, file, line)
    except (yaml.YAMLError, RecursionError) as error:
        raise _unreadable(error, text, file, line) from error


def _read(loader: Any, text: str, file: str, line: int) -> list[Node]:
    nodes = []
    while loader.check_node():
        root = loader.get_node()
        start, end = loader.extent
        node = _Builder(file, line - 1).build(root, text[start:end], line + text.count("\n", 0, start))
        if node is not None:
            nodes.append(node)
    return nodes


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the resolvers of YAML 1.2 core, nesting bounded, and each document's extent."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.extent = (0, 0)
        self._depth = 0

    def compose_document(self) -> Any:
        events: Any = super()
        start = events.get_event().start_mark
        root = self.compose_node(None, None)
        self.extent = (start.index - start.column, events.get_event().end_mark.index)
        self.anchors = {}
        return root

    def compose_node(self, parent: Any, index: Any) -> Any:
        events: Any = super()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = events.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=mark)
        node = events.compose_node(parent, index)
        self._depth -= 1
        return node


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("int", r"-?(?:0|[1-9][0-9]{0,99})", "-0123456789"),
):
    _Loader.add_implicit_resolver(f"{_PREFIX}{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Loader.add_implicit_resolver(f"{_PREFIX}null", re.compile(r"^$"), [""])


class _Builder:
    """Makes plain values of PyYAML's nodes, counting every visit so that aliases cannot unfold without end."""

    def __init__(self, file: str, lines_before: int) -> None:
        self._file = file
        self._lines_before = lines_before
        self._visits = 0
        self._open: set[int] = set()
        self._places: dict[tuple[str | int, ...], Place] = {}
        self._key_places: dict[tuple[str | int, ...], Place] = {}

    def build(self, root: Any, text: str, line: int) -> Node | None:
        value = self._value(root, ())
        if value is None:
            return None
        return Node(value, self._file, text, line, self._places, self._key_places)

    def _value(self, node: Any, path: tuple[str | int, ...]) -> Any:
        self._visits += 1
        place = self._places[path] = self._place(node)
        if self._visits > MAX_VALUES or id(node) in self._open:
            raise self._error("yaml_too_large", f"its aliases unfold to more than {MAX_VALUES} values", place)
        self._open.add(id(node))
        if isinstance(node, MappingNode):
            value: Any = self._mapping(node, path)
        elif isinstance(node, SequenceNode):
            value = [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        else:
            value = self._scalar(node, place)
        self._open.remove(id(node))
        return value

    def _mapping(self, node: MappingNode, path: tuple[str | int, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, ScalarNode):
                raise self._error("yaml_key", "a key must be text", place)
            key = str(key_node.value)
            if key in result:
                first = self._key_places[(*path, key)].line
                raise self._error("yaml_duplicate_key", f"the key {key!r} is already in line {first}", place)
            self._key_places[(*path, key)] = place
            result[key] = self._value(value_node, (*path, key))
        return result

    def _scalar(self, node: ScalarNode, place: Place) -> Any:
        text = str(node.value)
        tag = node.tag.removeprefix(_PREFIX)
        if tag == "str" or (tag == "null" and place.style):
            return text
        if tag == "int":
            return int(text)
        if tag == "bool":
            return text[0] in "tT"
        if tag == "null":
            return None
        raise self._error("yaml_tag", f"the tag {node.tag!r} is not supported", place)

    def _place(self, node: Any) -> Place:
        mark = node.start_mark
        return Place(mark.line + 1 + self._lines_before, mark.column + 1, getattr(node, "style", None) or "")

    def _error(self, code: str, message: str, place: Place) -> ConfigError:
        return ConfigError(code, message, where=f"{self._file}:{place.line}:{place.column}", hint=_HINTS[code])


_HINTS = {
    "yaml_too_large": "write the values out, or split the file",
    "yaml_key": "put it in quotes",
    "yaml_duplicate_key": "remove or rename one of them",
    "yaml_tag": "remove the tag; put the value in quotes if it is text",
}


def _unreadable(error: BaseException, text: str, file: str, first_line: int) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        reason = getattr(error, "reason", None) or "nested too deeply"
        return ConfigError("yaml_syntax", str(reason), where=file, hint="remove control characters and deep nesting")
    problem = getattr(error, "problem", None) or "not YAML"
    where = f"{file}:{mark.line + first_line}:{mark.column + 1}"
    lines = text.split("\n")
    if mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
        hint = "YAML indents with spaces: put spaces where the tabs are"
        return ConfigError("yaml_syntax", "a tab stands where only spaces may", where=where, hint=hint)
    return ConfigError(
        "yaml_syntax",
        str(problem),
        where=where,
        hint=_quoting_hint(text, mark.line) or "look at indentation, quotes and brackets",
    )


def _quoting_hint(text: str, line: int) -> str:
    """The line written with quotes, when it looks like a key with a text that YAML takes for something else."""
    lines = text.split("\n")
    for number in (line, line - 1):
        if 0 <= number < len(lines) and (match := _KEY_AND_TEXT.match(lines[number])):
            key, value = match.groups()
            if value[0] in "[{|>" or (value[0] in "'\"" and value[-1] == value[0] and value.count(value[0]) == 2):
                continue
            return f"quote the text: {key.strip()} {json.dumps(value, ensure_ascii=False)}"
    return ""
