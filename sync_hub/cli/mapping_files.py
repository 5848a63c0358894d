"""Where mappings lie, without needing what the rest of the configuration needs: no variable, no server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sync_hub.errors import ConfigError

if TYPE_CHECKING:
    from sync_hub.mapping.loader import Bundle
    from sync_hub.model import Table


class MappingFiles:
    """The mappings of a project, or those in the files given, and the saved catalogs beside them."""

    def __init__(self, context: typer.Context, config: Path | None, files: Sequence[Path] = ()) -> None:
        from sync_hub.settings import config_file, project_root

        chosen = config or context.find_root().params.get("config")
        file = config_file(chosen)
        if chosen is not None and not file.exists():
            raise ConfigError("config_missing", f"there is no configuration at {file}", hint="check the path")
        self.root = project_root(file)
        self._paths = [path.resolve() for path in files] or [self.root / path for path in _configured(file)]
        self._catalogs: dict[str, dict[str, Table]] = {}

    def bundles(self) -> list[Bundle]:
        """All mappings, in order. Raises `ConfigError`."""
        from sync_hub.mapping.loader import load_bundles

        return load_bundles(self._paths, self.root)

    def table(self, source: str, name: str) -> Table | None:
        """A source's table as `check --save` wrote it; None when nothing was saved."""
        from sync_hub.mapping.catalog import load_catalog

        if source not in self._catalogs:
            file = self.root / "config" / "catalog" / f"{source}.yaml"
            self._catalogs[source] = load_catalog(file) if file.exists() else {}
        return self._catalogs[source].get(name)


def _configured(file: Path) -> list[str]:
    """The key `mappings` of a configuration, or its default."""
    from sync_hub.yaml import load_file

    value: Any = load_file(file)[0].value if file.exists() and load_file(file) else {}
    paths = value.get("mappings", ["mappings"]) if isinstance(value, dict) else ["mappings"]
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise ConfigError(
            "bad_value", f"{file}: `mappings` is a list of files and folders", hint="mappings: [mappings/]"
        )
    return paths
