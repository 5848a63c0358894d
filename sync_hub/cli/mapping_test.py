"""`sync-hub mapping test`: run the tests that stand in the mapping files. Needs no server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from sync_hub.cli.mapping_files import MappingFiles
from sync_hub.cli.options import Config, Json
from sync_hub.cli.output import paint, print_json, say
from sync_hub.errors import ConfigError


def test(
    context: typer.Context,
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILES]", help="Files or folders; else all.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Run the tests in mapping files and show differences. Exit 1 when one fails, 2 when a mapping is wrong."""
    results, broken = _run(MappingFiles(context, config, files or ()))
    if json:
        print_json({"results": results, "errors": broken})
    else:
        _show(results, broken)
    if broken:
        raise typer.Exit(2)
    if not all(result["ok"] for result in results):
        raise typer.Exit(1)


def _run(found: MappingFiles) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    from sync_hub.mapping.spec import parse_spec
    from sync_hub.mapping.testing import run_tests

    results: list[dict[str, Any]] = []
    broken: list[dict[str, Any]] = []
    for bundle in found.bundles():
        try:
            spec = parse_spec(bundle)
            for result in run_tests(bundle, found.table(spec.source, spec.table), os.environ):
                results.append({name: getattr(result, name) for name in result.__struct_fields__})
        except ConfigError as error:
            broken.append({"code": error.code, "mapping": bundle.name, "message": error.message, "hint": error.hint})
    return results, broken


def _show(results: list[dict[str, Any]], broken: list[dict[str, Any]]) -> None:
    for result in results:
        mark = paint("ok  ", "green") if result["ok"] else paint("FAIL", "red")
        say(f"{mark}  {result['mapping']}: {result['name']}" + ("" if result["ok"] else f"  ({result['where']})"))
        for line in result["differences"]:
            say(f"        {line}")
    for error in broken:
        say(f"{paint('BAD ', 'red')}  {error['mapping']}: {error['code']}: {error['message']}")
        if error["hint"]:
            say(f"        {error['hint']}")
    failed = sum(not result["ok"] for result in results)
    parts = [f"{len(results)} test{'' if len(results) == 1 else 's'}", f"{failed} failed"] + (
        [f"{len(broken)} mappings are wrong"] if broken else []
    )
    say(paint(", ".join(parts), "red" if failed or broken else "green"))
