"""What a pipeline's mapping says about itself, and whether its file has changed since it was applied."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from sync_hub.settings import Settings
from sync_hub.state import Pipeline
from sync_hub.web.problems import Problem


class MappingStatus(Struct, frozen=True):
    """`owner` and `description` as applied; `pending` when the file now says something else."""

    owner: str | None = None
    description: str = ""
    pending: bool = False


class Mappings:
    """Reads what applied pipelines say, once for each bundle."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def read(self, pipelines: Sequence[Pipeline]) -> tuple[dict[str, MappingStatus], list[Problem]]:
        """The status of each pipeline's mapping, and problems with the files."""
        return {pipeline.name: MappingStatus() for pipeline in pipelines}, []
