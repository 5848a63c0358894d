"""`sync-hub demo`: the main job on servers of its own, watched live, and in the end proven."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from sync_hub.errors import ConfigError, SyncHubError, Unavailable
from sync_hub.runtime.signals import on_signals

FOLDER = Path(".sync-hub/demo")
SECONDS_WITHOUT_TERMINAL = 20
START_SECONDS = 60
SETTLE_SECONDS = 120
STOP_SECONDS = 15
TURN_SECONDS = 0.5

CONFIG = """\
hub: {{name: demo, state: "sqlite:///{folder}/state.db"}}
broker: {{type: embedded, path: {folder}/log.db, partitions: 4}}
sources:
  erp:
    type: postgres
    dsn: "${{ERP_DSN}}"
    heartbeat_seconds: 1
    tables: [public.customers, public.products, public.employees]
targets:
  crm: {{type: postgres, dsn: "${{CRM_DSN}}"}}
  warehouse: {{type: sqlite, path: {folder}/warehouse.db}}
mappings: [{mappings}]
http: {{host: 127.0.0.1, port: {port}}}
"""


def demo(
    seconds: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many seconds (20 where there is no terminal).")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The console's port; 0 takes a free one.")] = 0,
    mappings: Annotated[Path, typer.Option(help="The folder of mappings to run.")] = Path("mappings"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Run the hub on two PostgreSQL servers and a SQLite file of its own, then prove that every view agrees."""
    from sync_hub import registry

    if not mappings.is_dir():
        raise ConfigError(
            "mappings_missing", f"there is no folder {mappings}", hint="run it in a clone, or give --mappings"
        )
    folder = FOLDER.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    started = time.monotonic()
    servers = registry.load("demo", "postgres")(folder)
    try:
        _say("starting two PostgreSQL servers …", as_json)
        os.environ.update(servers.start())
        config = folder / "hub.yaml"
        config.write_text(CONFIG.format(folder=folder, mappings=mappings.resolve(), port=port))
        with _hub(config, folder) as address:
            servers.work()
            watch = Watch(config, address, started)
            watch.until(seconds or (None if sys.stdout.isatty() else SECONDS_WITHOUT_TERMINAL), quiet=as_json)
            _say("the workload rests; waiting until nothing is on its way …", as_json)
            changes = servers.rest()
            watch.settle(time.time())
            outcome = watch.compare(changes)
    finally:
        servers.stop()
    _report(outcome, as_json)
    if not all(view["agrees"] for view in outcome["views"]):
        raise typer.Exit(1)


class Watch:
    """What the demo sees of the running hub, through the same state that every command reads."""

    def __init__(self, config: Path, address: str, started: float) -> None:
        from sync_hub import settings
        from sync_hub.state import State
        from sync_hub.web.reader import HealthReader

        self._settings = settings.load(config)
        self._state = State(self._settings.hub.state)
        self._reader = HealthReader(self._settings, self._state)
        self._address = address
        self._started = started
        self._interrupted = threading.Event()
        self.first_applied_seconds: float | None = None

    def until(self, seconds: float | None, *, quiet: bool) -> None:
        """Show the pipelines until the time is over or Ctrl-C."""
        from rich.console import Console
        from rich.live import Live

        previous = signal.getsignal(signal.SIGINT)
        on_signals([signal.SIGINT], self._interrupted.set)
        end = time.monotonic() + seconds if seconds else float("inf")
        console = Console(stderr=True, quiet=quiet)
        try:
            with Live(console=console, auto_refresh=False, transient=False) as live:
                while time.monotonic() < end and not self._interrupted.wait(TURN_SECONDS):
                    document = self._look()
                    if console.is_terminal:
                        live.update(_table(document, self._address), refresh=True)
                if not console.is_terminal:
                    console.print(_table(self._look(), self._address))
        finally:
            signal.signal(signal.SIGINT, previous)

    def settle(self, since: float) -> None:
        """Wait until every pipeline has proven that it applied all that was committed before `since`."""
        end = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < end:
            document = self._look()
            failed = [one for one in document["pipelines"].values() if one["state"] in {"failed", "stopped"}]
            if failed:
                error = failed[0]["error"] or {}
                raise SyncHubError("demo_failed", str(error.get("message", "a pipeline failed")))
            fresh = all(
                entry and entry[0].source_time > since for entry in map(self._state.progress, self._settings.sources)
            )
            if fresh and all(one["lag_seconds"] == 0 for one in document["pipelines"].values()) and self._passed(since):
                return
            time.sleep(TURN_SECONDS)
        raise Unavailable("demo_not_settled", f"the pipelines did not catch up within {SETTLE_SECONDS} s")

    def compare(self, changes: dict[str, int]) -> dict[str, Any]:
        """Compare every view with its source through the mapping."""
        from sync_hub.runtime.agreement import compare_view

        document = self._look()
        views = []
        for pipeline in self._state.pipelines():
            found = compare_view(self._settings, self._state, pipeline)
            view = {name: getattr(found, name) for name in ("matched", "different", "missing", "extra", "agrees")}
            view |= {"pipeline": pipeline.name, "examples": list(found.examples)}
            view["applied"] = document["pipelines"][pipeline.name]["applied_total"]
            views.append(view)
        return {"changes": changes, "first_applied_seconds": self.first_applied_seconds, "views": views}

    def _passed(self, since: float) -> bool:
        """Whether every pipeline stands beyond a progress record that is newer than `since`."""
        from sync_hub.runtime.lag import passed
        from sync_hub.web.facts import read

        facts = read(self._settings, self._state, time.time())
        return all(
            any(
                entry.source_time > since and passed(entry, facts.topic(pipeline), facts.applied(pipeline.name))
                for entry in self._state.progress(pipeline.source)
            )
            for pipeline in self._state.pipelines()
        )

    def _look(self) -> dict[str, Any]:
        document = self._reader.document()
        applied = sum(one["applied_total"] for one in document["pipelines"].values())
        if applied and self.first_applied_seconds is None:
            self.first_applied_seconds = round(time.monotonic() - self._started, 1)
        return document


@contextmanager
def _hub(config: Path, folder: Path) -> Iterator[str]:
    """`sync-hub run` in a process of its own, its log in the folder; yields the console's address."""
    log = folder / "hub.log"
    command = [sys.executable, "-m", "sync_hub.cli.main", "-c", str(config), "run", "--json"]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    try:
        yield _address(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """The first line that `run --json` prints."""
    assert process.stdout is not None  # noqa: S101 - it was asked for
    line = process.stdout.readline()
    if not line:
        process.wait()
        lines = log.read_text(errors="replace").strip().splitlines()
        raise Unavailable("demo_hub_failed", lines[-1] if lines else "the hub did not start", hint=f"see {log}")
    answer = json.loads(line)
    if "error" in answer:
        error = answer["error"]
        raise Unavailable(error["code"], error["message"], hint=error["hint"], command=error["command"])
    return str(answer["address"])


def _table(document: dict[str, Any], address: str) -> Any:
    from rich.console import Group
    from rich.table import Table

    table = Table()
    table.add_column("pipeline", no_wrap=True)
    table.add_column("state")
    for name in ("applied", "rate/s", "lag s"):
        table.add_column(name, justify="right")
    for name, one in sorted(document["pipelines"].items()):
        lag = "?" if one["lag_seconds"] is None else f"{one['lag_seconds']:.1f}"
        colour = {"running": "green", "failed": "red"}.get(one["state"], "yellow")
        state = f"[{colour}]{one['state']}[/]"
        table.add_row(name, state, f"{one['applied_total']:,}", f"{one['applied_per_second']:,.0f}", lag)
    return Group(f"sync-hub demo: console at {address}, Ctrl-C stops and compares", table)


def _report(outcome: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(outcome))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))  # 80 columns are enough
    table.add_column("pipeline", overflow="fold")
    for name in ("applied", "matched", "different", "missing", "extra"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("result", no_wrap=True)
    for view in outcome["views"]:
        figures = [f"{view[name]:,}" for name in ("applied", "matched", "different", "missing", "extra")]
        table.add_row(view["pipeline"], *figures, "[green]agrees[/]" if view["agrees"] else "[red]differs[/]")
    console = Console()
    console.print("every view against its source, through the mapping:", table)
    for view in outcome["views"]:
        for example in view["examples"]:
            console.print(f"  {example}", style="red", markup=False)
    committed = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(outcome["changes"].items()))
    console.print(f"committed at the source by the workload: {committed}", markup=False)


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        typer.echo(text, err=True)
