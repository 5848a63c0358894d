"""One real Apache Kafka (KRaft) for all test processes: started once, stopped when the last one lets go."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from connectors.local_postgres import free_port

KAFKA_VERSION = "4.3.1"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sync-hub" / f"kafka-{KAFKA_VERSION}"
FETCHED = CACHE / "complete"
"""Is there when all its jars are."""
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>test</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
"""
PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}
controller.listener.names=CONTROLLER
log.dirs={folder}/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.segment.delete.delay.ms=1000
log.index.size.max.bytes=1048576
"""
"""Small index files: on ext4 the first write into one of 10 MB, Kafka's default, took up to 8 ms."""


def unavailable(reason: str) -> None:
    """Skip on a developer's machine, fail where CI is set: no test is skipped there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def jars() -> Path:
    """The folder of Kafka's jars, fetched by Maven into a cache outside the repository."""
    libs = CACHE / "libs"
    if not FETCHED.exists():
        if not shutil.which("mvn"):
            unavailable("Apache Kafka needs Maven (mvn) to fetch it, or SYNC_HUB_TEST_KAFKA=host:port")
        CACHE.mkdir(parents=True, exist_ok=True)
        (CACHE / "pom.xml").write_text(POM)
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={libs}"]
        subprocess.run(command, cwd=CACHE, check=True, timeout=600)
        FETCHED.touch()
    return libs


class Kafka:
    """A server in a folder; `start` and `stop` may be repeated, the data stays. Clients reach it at `advertised`."""

    def __init__(self, folder: Path, advertised: int = 0) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._libs = jars()
        if not shutil.which("java"):
            unavailable("Apache Kafka needs Java 17 or newer, or SYNC_HUB_TEST_KAFKA=host:port")
        folder.mkdir(parents=True, exist_ok=True)
        self._properties = folder / "server.properties"
        self._properties.write_text(
            PROPERTIES.format(port=self.port, advertised=advertised or self.port, controller=free_port(), folder=folder)
        )
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        settings = ("-c", str(self._properties))
        formatting = self._java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", *settings)
        if formatting.wait(60):
            raise RuntimeError(f"the storage was not formatted ({formatting.returncode}): see {folder}/kafka.log")

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it takes connections."""
        self.process = self._java("kafka.Kafka", str(self._properties))
        wait_for_port(self.port, self.process)

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Stop by a signal and wait."""
        if self.process:
            self.process.send_signal(signal_number)
            self.process.wait(60)
            self.process = None

    def _java(self, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "kafka.log").open("ab") as log:
            return subprocess.Popen(
                [
                    "java",
                    "-Xmx1g",
                    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                    "-cp",
                    f"{self._libs}/*",
                    main,
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def wait_for_port(port: int, process: subprocess.Popen[bytes], timeout_seconds: float = 60) -> None:
    """Block until something listens on the loopback port."""
    end = time.monotonic() + timeout_seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


class SharedKafka:
    """One server for several test processes, counted in a file under a lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = folder / "shared-kafka.json"

    def acquire(self) -> str:
        """Start the server if this process is the first; return its address."""
        with self._locked():
            state = json.loads(self._state.read_text()) if self._state.exists() else {"users": 0}
            if not state["users"]:
                server = self._started()
                assert server.process
                state |= {"address": server.address, "pid": server.process.pid, "folder": str(server.folder)}
            state["users"] += 1
            self._state.write_text(json.dumps(state))
            return str(state["address"])

    def _started(self) -> Kafka:
        """A server that runs; another test may have taken a port that was free a moment ago."""
        for _ in range(3):
            server = Kafka(self._folder / f"kafka-{uuid.uuid4().hex[:8]}")
            try:
                server.start()
            except RuntimeError:
                continue
            return server
        raise RuntimeError(f"no Kafka starts: see {server.folder / 'kafka.log'}")

    def release(self) -> None:
        """Stop the server if this process is the last."""
        with self._locked():
            state = json.loads(self._state.read_text())
            state["users"] -= 1
            self._state.write_text(json.dumps(state))
            if not state["users"]:
                os.kill(state["pid"], signal.SIGKILL)
                shutil.rmtree(state["folder"], ignore_errors=True)

    def _locked(self) -> _Lock:
        return _Lock(self._folder / "shared-kafka.lock")


class _Lock:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w")

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()
