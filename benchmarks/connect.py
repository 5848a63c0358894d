"""Kafka Connect with Debezium's connectors: fetched by Maven into a cache outside the repository, run as one worker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.waiting import Failed, wait_until
from connectors.local_postgres import free_port
from tests.servers.kafka import KAFKA_VERSION

DEBEZIUM_VERSION = "3.5.0.Final"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sync-hub"
FOLDER = CACHE / f"connect-{KAFKA_VERSION}-debezium-{DEBEZIUM_VERSION}"
LIBS = (
    f"org.apache.kafka:connect-runtime:{KAFKA_VERSION}",
    f"org.apache.kafka:connect-json:{KAFKA_VERSION}",
    "org.slf4j:slf4j-simple:1.7.36",
)
PLUGINS = (
    f"io.debezium:debezium-connector-postgres:{DEBEZIUM_VERSION}",
    f"io.debezium:debezium-connector-jdbc:{DEBEZIUM_VERSION}",
)
CLASHING = ("jackson*", "connect-*", "kafka-clients*", "slf4j*")
"""Jars of the plugins that Connect brings itself."""
HEAP = "-Xmx2g"
WORKER = """bootstrap.servers={kafka}
group.id={name}
key.converter=org.apache.kafka.connect.json.JsonConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
config.storage.topic={name}-config
offset.storage.topic={name}-offsets
status.storage.topic={name}-status
config.storage.replication.factor=1
offset.storage.replication.factor=1
offset.storage.partitions=1
status.storage.replication.factor=1
status.storage.partitions=1
listeners=http://127.0.0.1:{port}
plugin.path={plugins}
plugin.discovery=only_scan
connector.client.config.override.policy=All
"""


def fetch() -> Path:
    """The folder with `libs` and `plugins`."""
    if not (FOLDER / "complete").exists():
        if not shutil.which("mvn"):
            raise Failed("Kafka Connect needs Maven (mvn) to fetch it")
        plugin = FOLDER / "plugins" / "debezium"
        for coordinates, target in ((LIBS, FOLDER / "libs"), (PLUGINS, plugin)):
            _maven(coordinates, target)
        for pattern in CLASHING:
            for jar in plugin.glob(pattern):
                jar.unlink()
        (FOLDER / "complete").touch()
    return FOLDER


def _maven(coordinates: tuple[str, ...], target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    dependencies = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *one.split(":")
        )
        for one in coordinates
    )
    pom = FOLDER / "pom.xml"
    pom.write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>bench</groupId>'
        f"<artifactId>peers</artifactId><version>1</version><dependencies>{dependencies}</dependencies></project>"
    )
    command = [
        "mvn",
        "-q",
        "-B",
        "dependency:copy-dependencies",
        f"-DoutputDirectory={target}",
        "-DincludeScope=runtime",
    ]
    subprocess.run(command, cwd=FOLDER, check=True, timeout=900, stdin=subprocess.DEVNULL)


class Connect:
    """One Connect worker in distributed mode, driven through its REST interface."""

    def __init__(self, folder: Path, kafka_address: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "connect.log"
        self._address = f"http://127.0.0.1:{(port := free_port())}"
        home = fetch()
        worker = folder / "worker.properties"
        worker.write_text(
            WORKER.format(kafka=kafka_address, name=f"connect-{port}", port=port, plugins=home / "plugins")
        )
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("java", HEAP, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{home / 'libs'}/*"),
                    *("org.apache.kafka.connect.cli.ConnectDistributed", str(worker)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, "Kafka Connect answers", self.check, 120, every_seconds=0.2)

    @property
    def pid(self) -> int:
        """Of the one JVM."""
        return self._process.pid

    def create(self, name: str, config: dict[str, Any]) -> None:
        """Create a connector, and wait until its tasks run."""
        self._ask("PUT", f"/connectors/{name}/config", {key: str(value) for key, value in config.items()})
        self.wait_for(name, "RUNNING")

    def stop(self, name: str) -> None:
        """Stop it: no tasks, its place is kept."""
        self._ask("PUT", f"/connectors/{name}/stop")
        wait_until(lambda: self._states(name) == ["STOPPED"], f"{name} stopped", self.check, 120)

    def resume(self, name: str) -> None:
        """Start its tasks again; not blocking."""
        self._ask("PUT", f"/connectors/{name}/resume")

    def delete(self, name: str) -> None:
        """Forget it."""
        self._ask("DELETE", f"/connectors/{name}")

    def wait_for(self, name: str, state: str) -> None:
        """Wait until connector and tasks, one at least, are in a state."""
        wait_until(
            lambda: len(states := self._states(name)) > 1 and set(states) == {state},
            f"{name} {state}",
            lambda: self.refuse_failed([name]),
            120,
        )

    def refuse_failed(self, names: list[str]) -> None:
        """Raise `Failed` when one of these has failed."""
        self.check()
        for name in names:
            for part in self._parts(name):
                if part["state"] == "FAILED":
                    lines = part.get("trace", "").strip().splitlines()
                    causes = [line for line in lines if line.startswith("Caused by")]
                    raise Failed(f"{name} failed: {(causes or lines or ['without a trace'])[-1][:400]}")

    def check(self) -> None:
        """Raise `Failed` when the JVM has gone."""
        if self._process.poll() is not None:
            raise Failed(f"Kafka Connect exited with {self._process.returncode}, see {self._log}")

    def close(self) -> None:
        """Stop the JVM; after a while without mercy."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _states(self, name: str) -> list[str]:
        return [part["state"] for part in self._parts(name)]

    def _parts(self, name: str) -> list[dict[str, Any]]:
        """The connector and its tasks; nothing while it is not known yet."""
        try:
            status = self._ask("GET", f"/connectors/{name}/status")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise
        return [status["connector"], *status["tasks"]]

    def _answers(self) -> bool:
        try:
            self._ask("GET", "/connectors")
        except OSError:
            return False
        return True

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            self._address + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")
