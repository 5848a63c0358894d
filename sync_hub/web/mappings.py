"""What a pipeline's mapping says about itself, and whether its file has changed since it was applied."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from sync_hub.errors import ConfigError
from sync_hub.settings import Settings
from sync_hub.state import Pipeline
from sync_hub.web.problems import DEGRADED, Problem
from sync_hub.yaml import load_documents

Contents = tuple[str, Mapping[str, str]]
Signature = tuple[tuple[str, int, int], ...]


class MappingStatus(Struct, frozen=True):
    """`owner` and `description` as applied; `pending` when the file now says something else."""

    owner: str | None = None
    description: str = ""
    pending: bool = False


class Mappings:
    """Reads bundles once, and the files again only when one of them was touched."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._applied: dict[str, tuple[str, MappingStatus, Contents]] = {}
        self._signature: Signature | None = None
        self._files: dict[str, Contents] = {}
        self._broken: ConfigError | None = None

    def read(self, pipelines: Sequence[Pipeline]) -> tuple[dict[str, MappingStatus], list[Problem]]:
        """The status of each pipeline's mapping, and problems with the files."""
        self._read_files()
        statuses = {}
        for pipeline in pipelines:
            applied, contents = self._read_applied(pipeline)
            pending = self._broken is None and self._files.get(pipeline.name) != contents
            statuses[pipeline.name] = MappingStatus(applied.owner, applied.description, pending)
        return statuses, [] if self._broken is None else [_unreadable(self._broken)]

    def _read_applied(self, pipeline: Pipeline) -> tuple[MappingStatus, Contents]:
        known = self._applied.get(pipeline.name)
        if known is None or known[0] != pipeline.bundle:
            bundle = json.loads(pipeline.bundle)
            known = (pipeline.bundle, _about(bundle["document"]), (bundle["document"].strip(), bundle["lookups"]))
            self._applied[pipeline.name] = known
        return known[1], known[2]

    def _read_files(self) -> None:
        signature = _signature(self._settings.mappings)
        if signature == self._signature:
            return
        from sync_hub.mapping.loader import load_bundles

        self._signature = signature
        try:
            bundles = load_bundles(self._settings.mappings, self._settings.root)
        except ConfigError as error:
            self._broken = error
        else:
            self._broken, self._files = None, {one.name: (one.document.strip(), one.lookups) for one in bundles}


def _about(document: str) -> MappingStatus:
    value: Any = load_documents(document, "mapping")[0].value
    owner, description = value.get("owner"), value.get("description")
    return MappingStatus(None if owner is None else str(owner), str(description or ""))


def _signature(paths: Sequence[Path]) -> Signature:
    """Names, sizes and times of everything that a mapping may be made of; it changes when one of them does."""
    found = []
    for path in paths:
        for file in sorted([path] if path.is_file() else path.rglob("*")):
            if file.suffix in (".yaml", ".yml", ".csv") and file.is_file():
                status = file.stat()
                found.append((str(file), status.st_mtime_ns, status.st_size))
    return tuple(found)


def _unreadable(error: ConfigError) -> Problem:
    return Problem("mapping_unreadable", DEGRADED, "hub", error.message, error.hint, "sync-hub check")
