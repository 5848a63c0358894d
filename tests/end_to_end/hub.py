"""A hub as its users run it: configuration and mappings in files, `sync-hub run` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sync_hub import settings as configuration
from sync_hub.runtime.agreement import Comparison, compare_view
from sync_hub.state import State
from sync_hub.web.reader import HealthReader


def wait_until(condition: Callable[[], Any], what: str, timeout_seconds: float = 60) -> Any:
    """Poll a condition until it gives something true, and return that."""
    end = time.monotonic() + timeout_seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_seconds} s: {what}")


class Hub:
    """One hub in a folder of its own."""

    def __init__(self, folder: Path, config: str, mappings: str, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.config = folder / "hub.yaml"
        self.config.write_text(config)
        self.mappings = folder / "mappings"
        self.mappings.mkdir(exist_ok=True)
        (self.mappings / "all.yaml").write_text(mappings)
        self.environment = dict(os.environ) | {"SYNC_HUB_LOG_FORMAT": "text"} | dict(environment or {})
        self.settings = configuration.load(self.config, self.environment)
        self.state = State(self.settings.hub.state)
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def start(self, *arguments: str) -> None:
        """`sync-hub run`; returns when its web application answers."""
        with (self.folder / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sync_hub.cli.main", "-c", str(self.config), "run", "--json", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"the hub did not start: {self.log()[-2000:]}"
        self.address = json.loads(line)["address"]

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        self.process = None
        return code

    def close(self) -> None:
        """Let go, whatever state it is in."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.state.close()

    def log(self) -> str:
        """Everything that the hub's processes logged."""
        return (self.folder / "hub.log").read_text(errors="replace")

    def cli(self, *arguments: str, timeout_seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run another command of the command line against this hub."""
        return subprocess.run(
            [sys.executable, "-m", "sync_hub.cli.main", "-c", str(self.config), *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.folder,
            timeout=timeout_seconds,
            stdin=subprocess.DEVNULL,
        )

    def health(self) -> dict[str, Any]:
        """The health document, from the state."""
        return HealthReader(self.settings, self.state).document()

    def pids(self) -> dict[str, int]:
        """Process ids of the workers that beat last."""
        return {worker.name: worker.pid for worker in self.state.workers()}

    def settle(self, timeout_seconds: float = 90) -> None:
        """Wait until all that was committed before this call is proven to be applied."""
        since = time.time()

        def settled() -> bool:
            health = self.health()
            for name, one in health["pipelines"].items():
                assert one["state"] != "failed", f"{name}: {one['error']}\n{self.log()[-3000:]}"
            fresh = all(
                (entries := self.state.progress(source)) and entries[0].source_time > since
                for source in self.settings.sources
            )
            proven = all(one["lag_seconds"] == 0 for one in health["pipelines"].values())
            return bool(fresh and health["pipelines"] and proven and self._passed(since))

        try:
            wait_until(settled, "every change applied", timeout_seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(self.health(), indent=1)}\n{self.log()[-3000:]}") from error

    def compare(self) -> list[Comparison]:
        """Every view against its source, through the mapping."""
        saved = dict(os.environ)
        os.environ.update(self.environment)
        try:
            return [compare_view(self.settings, self.state, pipeline) for pipeline in self.state.pipelines()]
        finally:
            os.environ.clear()
            os.environ.update(saved)

    def _passed(self, since: float) -> bool:
        from sync_hub.runtime.lag import passed
        from sync_hub.web.facts import read

        facts = read(self.settings, self.state, time.time())
        return all(
            any(
                entry.source_time > since and passed(entry, facts.topic(pipeline), facts.applied(pipeline.name))
                for entry in self.state.progress(pipeline.source)
            )
            for pipeline in self.state.pipelines()
        )
