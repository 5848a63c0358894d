"""Finds every error code that the code can raise or report, by reading its syntax trees."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from connectors import postgresql
from sync_hub.mapping import faults
from tests.docs.pages import ROOT

KINDS = {
    "SyncHubError": "command",
    "ConfigError": "config",
    "Unavailable": "retry",
    "PublishingBroken": "retry",
    "MemberReplaced": "retry",
    "OffsetsMoved": "reload",
    "Rejected": "reject",
    "Fatal": "stop",
    "Finding": "check",
    "JSONResponse": "http",
}
"""What the hub does about an error, by its class; the words of docs/reference/errors.md."""

Found = dict[str, set[str]]
_CODE = re.compile(r"[a-z0-9]+(_[a-z0-9]+)+|csrf|internal|http")


def _meanings() -> Found:
    found: Found = {"unexpected_server_error": {"stop"}, "row_refused": {"reject"}}
    for kind, code, _ in postgresql._MEANINGS.values():
        found.setdefault(code, set()).add(KINDS[kind.__name__])
    return found


TABLES: dict[tuple[str, str], Callable[[], Found]] = {
    # codes that stand in a table, or are put together: (file, expression) → what they can be
    ("connectors/postgresql.py", "code"): _meanings,
    ("sync_hub/mapping/faults.py", "code"): lambda: {code: {"reject"} for code, _ in faults.CODES.values()},
    ("sync_hub/runtime/pipelines.py", "f'unknown_{kind}'"): lambda: {
        "unknown_source": {"config"},
        "unknown_target": {"config"},
    },
    ("sync_hub/cli/check.py", "f'unknown_{kind}'"): lambda: {
        "unknown_source": {"config"},
        "unknown_target": {"config"},
    },
    # an error of the hub that the demo started, told again as it was answered
    ("sync_hub/cli/demo.py", "error['code']"): dict,
    # why capture gave up a snapshot
    ("sync_hub/cli/snapshot.py", "code"): lambda: {"bad_where": {"config"}, "bad_key": {"config"}},
    ("sync_hub/web/api_parked.py", "'unknown_parked'"): lambda: {"unknown_parked": {"http"}},
    ("sync_hub/web/api.py", "f'unknown_{kind}'"): lambda: {"unknown_source": {"http"}, "unknown_pipeline": {"http"}},
}


class Wrapper(NamedTuple):
    """A function that passes its parameter `code` on to an error: where the parameter stands, and what it makes."""

    position: int
    kind: str
    imported: bool = False
    """Whether other modules may call it: it is public, and no function within a function."""


def raised() -> tuple[Found, set[tuple[str, str]]]:
    """Codes with their kinds; and the places whose code is not to be seen in the syntax."""
    found: Found = {}
    unclear: set[tuple[str, str]] = set()
    trees = {path: ast.parse(path.read_text()) for path in _files()}
    shared = {name: one for tree in trees.values() for name, one in _wrappers(tree).items() if one.imported}
    for path, tree in trees.items():
        file = str(path.relative_to(ROOT))
        wrappers = _wrappers(tree)
        for function, call in _calls(tree):
            name = _name(call)
            wrapper = Wrapper(0, KINDS[name]) if name in KINDS else wrappers.get(name) or shared.get(name)
            if wrapper is None:
                continue
            for code in (code for value in _values_of_code(call, wrapper) for code in _codes(value, function, tree)):
                if code is not None and (_CODE.fullmatch(code) or name not in shared):
                    found.setdefault(code, set()).add(wrapper.kind)
                elif code is None and name != "JSONResponse":
                    unclear.add((file, ast.unparse(call.args[wrapper.position])))
        for value in _details(tree):
            unclear.add((file, ast.unparse(value)))
    return found, unclear


def _values_of_code(call: ast.Call, wrapper: Wrapper) -> list[ast.expr]:
    return call.args[wrapper.position : wrapper.position + 1]


def _details(tree: ast.Module) -> Iterator[ast.expr]:
    """Codes put together in the details of an HTTP error."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node) == "HTTPException":
            for detail in node.args[1:]:
                if isinstance(detail, ast.Dict) and getattr(detail.keys[0], "value", "") == "code":
                    yield detail.values[0]


def _files() -> Iterator[Path]:
    for folder in ("sync_hub", "connectors"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.is_relative_to(ROOT / "sync_hub" / "testing") and path.name != "problems.py":
                yield path


def _name(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _calls(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.Call]]:
    """Every call with the innermost function around it."""

    def walk(node: ast.AST, function: ast.AST) -> Iterator[tuple[ast.AST, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            inner = child if isinstance(child, ast.FunctionDef) else function
            if isinstance(child, ast.Call):
                yield function, child
            yield from walk(child, inner)

    return walk(tree, tree)


def _parameters(function: ast.AST) -> list[str]:
    if not isinstance(function, ast.FunctionDef):
        return []
    return [one.arg for one in (*function.args.posonlyargs, *function.args.args)]


def _wrappers(tree: ast.Module) -> dict[str, Wrapper]:
    found = {}
    outer = {id(one) for part in (tree, *tree.body) if isinstance(part, ast.Module | ast.ClassDef) for one in part.body}
    for function in ast.walk(tree):
        names = _parameters(function)
        if "code" in names and isinstance(function, ast.FunctionDef):
            called = [_name(call) for call in ast.walk(function) if isinstance(call, ast.Call)]
            kinds = [KINDS[name] for name in called if name in KINDS]
            if kinds:
                imported = id(function) in outer and not function.name.startswith("_")
                found[function.name] = Wrapper(names.index("code") - ("self" in names), kinds[0], imported)
    return found


def _codes(node: ast.expr, function: ast.AST, tree: ast.Module) -> Iterator[str | None]:
    """What an expression can be; None where that is not to be seen."""
    match node:
        case ast.Constant(value=str(code)):
            yield code
        case ast.IfExp():
            yield from _codes(node.body, function, tree)
            yield from _codes(node.orelse, function, tree)
        case ast.Attribute(attr="code"):
            return  # passed on from another error
        case ast.Name(id=name) if name in _parameters(function):
            return  # a wrapper: its callers say what it is
        case ast.Name(id=name):
            yield from _assigned(name, function, tree)
        case _:
            yield None


def _assigned(name: str, function: ast.AST, tree: ast.Module) -> Iterator[str | None]:
    values = [value for scope in (function, tree) for value in _values(name, scope)]
    if not values:
        yield None
    for value in values:
        yield from _codes(value, function, tree)


def _values(name: str, scope: ast.AST) -> Iterator[ast.expr]:
    """What is assigned to a name, also by a loop over a list of tuples that stands in the same function."""
    body = ast.walk(scope) if isinstance(scope, ast.FunctionDef) else iter(getattr(scope, "body", []))
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                yield value
            case ast.ImportFrom(module=str(module), names=names) if any(one.name == name for one in names):
                path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
                yield from _values(name, ast.parse(path.read_text()))
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value) if target == name:
                yield value
            case ast.For(target=ast.Tuple(elts=names), iter=ast.Name(id=table)):
                places = [place for place, one in enumerate(names) if isinstance(one, ast.Name) and one.id == name]
                for rows in _values(table, scope) if places else ():
                    for row in getattr(rows, "elts", ()):
                        yield row.elts[places[0]]
