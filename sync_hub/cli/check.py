"""`sync-hub check`: everything that would stop the hub or harm a source, looked for before anything starts."""

from __future__ import annotations

import difflib
import os
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sync_hub.cli.options import Config, Json, load_settings
from sync_hub.cli.output import paint, print_json, say, say_finding
from sync_hub.errors import ConfigError, SyncHubError, Unavailable
from sync_hub.model import Finding, Table, TopicInfo

if TYPE_CHECKING:
    from sync_hub.cli.check_stored import Stored
    from sync_hub.mapping.loader import Bundle
    from sync_hub.settings import Settings

_EXIT_ORDER = (2, 3, 1)
"""Which exit code wins when there are several: configuration, then what is unavailable, then other findings."""


def check(
    context: typer.Context,
    save: Annotated[
        bool,
        typer.Option("--save", help="Write config/catalog/SOURCE.yaml: columns, types and keys for mapping tests."),
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Check configuration, sources, targets, broker and mappings against each other. Changes nothing."""
    settings = load_settings(context, config)
    checked = Check(settings)
    checked.run()
    saved = checked.save() if save else []
    if json:
        findings = [{name: getattr(one, name) for name in one.__struct_fields__} for one in checked.findings]
        print_json({"ok": not checked.exit_code, "findings": findings, "saved": [str(path) for path in saved]})
    else:
        _show(checked, saved)
    raise typer.Exit(checked.exit_code)


class Check:
    """Looks at every part, whatever is wrong with the others, and gathers what it finds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.findings: list[Finding] = []
        self.parts: list[str] = []
        self.tables: dict[str, dict[str, Table]] = {}
        self._codes: set[int] = set()
        self._stored: Stored | None = None
        self._topics: dict[str, TopicInfo] | None = None
        self._sinks: dict[str, Any] = {}

    @property
    def exit_code(self) -> int:
        """0 when nothing stops the hub."""
        return next((code for code in _EXIT_ORDER if code in self._codes), 0)

    def run(self) -> None:
        """Check everything."""
        from sync_hub import registry

        settings = self._settings
        self._part("installation", registry.refuse_foreign_connectors)
        self._part("hub.state", self._state)
        self._part("http", self._http)
        if settings.alerts.to:
            self._part("alerts", self._alerts)
        self._part("broker", self._broker)
        for name in settings.sources:
            self._part(f"sources.{name}", partial(self._source, name))
        bundles = self._bundles()
        written: dict[str, list[str]] = {name: [] for name in settings.targets}
        try:
            self._mappings(bundles, written)
            for name, sink in self._sinks.items():
                self._part(f"targets.{name}", partial(self._target, sink, sorted(set(written[name]))))
        finally:
            for sink in self._sinks.values():
                sink.close()

    def save(self) -> list[Path]:
        """Write the catalogs of the sources that answered; returns the files."""
        from sync_hub.mapping.catalog import save_catalog

        files = []
        for name, tables in self.tables.items():
            files.append(self._settings.root / "config" / "catalog" / f"{name}.yaml")
            save_catalog(files[-1], name, list(tables.values()))
        return files

    def _part(self, path: str, look: Callable[[], Iterable[Finding] | None]) -> None:
        if path not in self.parts:
            self.parts.append(path)
        try:
            for finding in look() or ():
                self._add(finding, 1)
        except SyncHubError as error:
            code = 2 if isinstance(error, ConfigError) else 3 if isinstance(error, Unavailable) else 1
            self._add(_found(error, path), code)

    def _add(self, finding: Finding, exit_code: int) -> None:
        if finding not in self.findings:
            self.findings.append(finding)
        if finding.severity == "error":
            self._codes.add(exit_code)

    def _state(self) -> None:
        from sync_hub.cli.check_stored import Stored

        self._stored = Stored(self._settings)

    def _http(self) -> Iterable[Finding]:
        """The console's port is free, or taken by this very hub."""
        from sync_hub.runtime.supervise import listen
        from sync_hub.web.facts import running_here

        try:
            listen(self._settings.http.host, self._settings.http.port).close()
        except Unavailable as error:
            mine = running_here(self._stored.workers if self._stored else (), time.time(), socket.gethostname())
            if error.code != "port_in_use" or not mine:
                raise
            message = f"this hub runs now: {', '.join(f'{one.name} is process {one.pid}' for one in mine)}"
            yield Finding("port_in_use", "info", "http", message, "stop it before you start another")

    def _alerts(self) -> None:
        """Receivers are of a known kind; nobody is called."""
        from sync_hub.alerts.receivers import load

        load(self._settings.alerts.to)

    def _broker(self) -> Iterable[Finding]:
        broker = self._settings.new_broker()
        try:
            yield from broker.check()
            self._topics = broker.topics()  # raises where it does not answer: that is another exit code than a finding
        finally:
            broker.close()

    def _target(self, sink: Any, tables: list[str]) -> Iterable[Finding]:
        yield from sink.check(tables)
        for table in tables:
            sink.describe(table)

    def _source(self, name: str) -> Iterable[Finding]:
        source = self._settings.source(name)
        try:
            found_so_far = list(source.check())
            yield from found_so_far
            if self._stored and all(one.code != "slot_lost" for one in found_so_far):
                yield from self._stored.lost_slot(name, source.status())
            found = {table: source.describe(table) for table in source.tables()}
            self.tables[name] = {table.full_name: table for table in found.values() if table is not None}
        finally:
            source.close()

    def _sink(self, name: str) -> None:
        self._sinks[name] = self._settings.sink(name)

    def _load(self, path: Path, bundles: list[Bundle]) -> None:
        from sync_hub.mapping.loader import load_bundles

        bundles += load_bundles([path], self._settings.root)

    def _bundles(self) -> list[Bundle]:
        bundles: list[Bundle] = []
        for path in self._settings.mappings:
            self._part("mappings", partial(self._load, path, bundles))
        seen: dict[str, Bundle] = {}
        for bundle in bundles:
            first = seen.setdefault(bundle.name, bundle)
            if first is not bundle:
                message = f"the mapping {bundle.name} is already in {first.file}:{first.line}"
                place = f"{bundle.file}:{bundle.line}"
                self._add(Finding("duplicate_mapping", "error", place, message, "give one of them another name"), 2)
        return bundles

    def _mappings(self, bundles: Iterable[Bundle], written: dict[str, list[str]]) -> None:
        for name in self._settings.targets:
            self._part(f"targets.{name}", partial(self._sink, name))
        for bundle in bundles:
            self._part(f"{bundle.file}:{bundle.line}", partial(self._mapping, bundle, written))

    def _mapping(self, bundle: Bundle, written: dict[str, list[str]]) -> Iterable[Finding]:
        from sync_hub.mapping.apply import compile_mapping
        from sync_hub.mapping.check import check_mapping
        from sync_hub.mapping.spec import parse_spec

        spec, settings = parse_spec(bundle), self._settings
        for kind, name, known in (("source", spec.source, settings.sources), ("target", spec.target, settings.targets)):
            if name not in known:
                hint = f"configured are: {', '.join(sorted(known))}"
                raise spec.error(f"unknown_{kind}", f"the {kind} {name!r} is not configured", *_place(kind), hint=hint)
        if spec.source not in self.tables:
            return
        table = self.tables[spec.source].get(spec.table)
        if table is None:
            captured = sorted(self.tables[spec.source])
            meant = [name for name in captured if name.rpartition(".")[2] == spec.table]
            meant = meant or difflib.get_close_matches(spec.table, captured, n=1)
            raise spec.error(
                "table_not_captured",
                f"the source {spec.source} captures no table {spec.table}",
                "from",
                "table",
                hint=f"did you mean {meant[0]}?" if meant else f"captured are: {', '.join(captured) or 'none'}",
            )
        compiled = compile_mapping(bundle, table, secrets=os.environ)
        written[spec.target].append(spec.target_table)
        if spec.target not in self._sinks:
            return
        try:
            target_table = self._sinks[spec.target].describe(spec.target_table)
        except (ConfigError, Unavailable) as error:
            self._add(_found(error, f"targets.{spec.target}"), error.exit_code)
            return
        if target_table is None and spec.create and self._stored:
            self._stored.target_gone(spec.name, spec.target, spec.target_table)
        yield from check_mapping(compiled, table, target_table)
        if self._stored and self._topics is not None:
            yield from self._pending(bundle)
            self._stored.prove_offsets(spec.name, self._sinks[spec.target], self._topics, table)

    def _pending(self, bundle: Bundle) -> Iterable[Finding]:
        """A mapping that was applied and whose file has changed since: the hub runs on with the old one."""
        from sync_hub.runtime.pipelines import differs

        known = self._stored.pipelines.get(bundle.name) if self._stored else None
        if known is not None and differs(bundle, known):
            message = f"the mapping {bundle.name} has changed since it was applied: the hub runs on with the old one"
            hint, command = "look at what would change, then apply it", f"sync-hub plan {bundle.name}"
            yield Finding("mapping_pending", "warning", f"{bundle.file}:{bundle.line}", message, hint, command)


def _place(kind: str) -> tuple[str, str]:
    return ("from", "source") if kind == "source" else ("to", "target")


def _found(error: SyncHubError, path: str) -> Finding:
    """An error as a finding, at its own place when it has one."""
    message = error.message
    if isinstance(error, ConfigError):
        place = ", ".join(part for part in (error.where, error.field) if part)
        path, message = error.where or path, message.removeprefix(f"{place}: ")
        message = f"{error.field}: {message}" if error.field else message
    return Finding(error.code, "error", path, message, error.hint, error.command)


def _show(checked: Check, saved: list[Path]) -> None:
    for finding in sorted(checked.findings, key=lambda one: ("error", "warning", "info").index(one.severity)):
        told = {name: getattr(finding, name) for name in ("message", "hint", "command")}
        say_finding(finding.severity, finding.path, finding.code, told)
    for path in saved:
        say(f"written: {path}")
    errors = sum(finding.severity == "error" for finding in checked.findings)
    said = f"{len(checked.parts)} parts checked: " + (
        f"{errors} error{'s' * (errors > 1)}" if errors else "nothing stops the hub"
    )
    say(paint(said, "red" if errors else "green"))
