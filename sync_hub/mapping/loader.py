"""From files and folders to bundles: everything needed to compile one mapping, now or later from the hub's state."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from sync_hub.errors import ConfigError
from sync_hub.yaml import Node, load_file

_LOOKUP = re.compile(r"lookup\s*\(\s*'([\w-]+)'", re.IGNORECASE)
_SUFFIXES = frozenset({".yaml", ".yml"})


class Bundle(Struct, frozen=True):
    """One mapping as written: its YAML `document`, which begins in `line` of `file`, and the CSV of its lookups."""

    name: str
    file: str
    line: int
    document: str
    lookups: dict[str, str] = {}


def load_bundles(paths: Sequence[Path], root: Path) -> list[Bundle]:
    """The mappings in files, and in folders without their subfolders, in order; `file` is relative to `root`.

    Raises `ConfigError` for what cannot be read, and for two mappings of one name.
    """
    bundles: list[Bundle] = []
    for file in _files(paths, root):
        shown = str(file.relative_to(root)) if file.is_relative_to(root) else str(file)
        for node in load_file(file, name=shown):
            bundle = _bundle(node, file)
            for other in bundles:
                if other.name == bundle.name:
                    raise ConfigError(
                        "duplicate_mapping",
                        f"the mapping {bundle.name} is already in {other.file}:{other.line}",
                        where=node.where("mapping"),
                        hint="give one of them another name",
                    )
            bundles.append(bundle)
    return bundles


def _files(paths: Sequence[Path], root: Path) -> list[Path]:
    files: dict[Path, None] = {}
    for path in paths:
        full = (root / path).resolve() if not path.is_absolute() else path
        if full.is_dir():
            files |= dict.fromkeys(sorted(file for file in full.iterdir() if file.suffix in _SUFFIXES))
        elif full.exists():
            files[full] = None
        else:
            raise ConfigError("mappings_missing", f"there is no file or folder {path}", hint="check `mappings`")
    return list(files)


def _bundle(node: Node, file: Path) -> Bundle:
    name = node.value.get("mapping") if isinstance(node.value, dict) else None
    if not isinstance(name, str) or not name:
        raise ConfigError(
            "mapping_without_name",
            "a mapping begins with its name",
            where=node.where(),
            hint="mapping: customer_to_crm",
        )
    return Bundle(name, node.file, node.line, node.text, _lookups(node.text, file.parent / "lookups"))


def _lookups(text: str, folder: Path) -> dict[str, str]:
    found = {}
    for name in sorted(set(_LOOKUP.findall(text))):
        path = folder / f"{name}.csv"
        if path.exists():
            try:
                found[name] = path.read_bytes().decode("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError("bad_lookup", f"{path} cannot be read: {error}", hint="save it as UTF-8") from error
    return found
