"""Looks up connectors by name through entry points: the same door for ours and for other people's."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.metadata import EntryPoint, entry_points, packages_distributions
from typing import Any

from sync_hub.errors import ConfigError, Fatal

KINDS = ("sources", "brokers", "sinks", "demo")


@cache
def _found(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"sync_hub.{kind}")}


def names(kind: str) -> list[str]:
    """Names of the installed connectors of one kind: `sources`, `brokers`, `sinks` or `demo`."""
    return sorted(_found(kind))


def load(kind: str, name: str) -> Any:
    """The class registered under `name`. Raises `ConfigError` with a suggestion when there is none."""
    point = _found(kind).get(name)
    if point is None:
        close = difflib.get_close_matches(name, names(kind), n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are: {', '.join(names(kind)) or 'none'}"
        raise ConfigError(
            "unknown_connector", f"there is no {kind[:-1] if kind.endswith('s') else kind} of type {name!r}", hint=hint
        )
    try:
        return point.load()
    except ModuleNotFoundError as error:
        raise ConfigError(
            "connector_not_installed",
            f"the {kind[:-1]} type {name!r} needs the Python package {error.name!r}",
            hint=f"pip install 'sync-hub[{name}]'",
        ) from error


def refuse_foreign_connectors() -> None:
    """Raise `Fatal` when another distribution has put files into the package `connectors`: pip overwrites silently."""
    owners = sorted(set(packages_distributions().get("connectors", ())))
    if len(owners) > 1:
        raise Fatal(
            "connectors_overwritten",
            f"the package `connectors` belongs to more than one distribution: {', '.join(owners)}",
            hint="install sync-hub in an environment of its own",
        )
