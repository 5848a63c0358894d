"""The hub as a subject: its workers as `sync-hub run` starts them, on one of its brokers."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.databases import Databases
from benchmarks.processes import Usage, usage
from benchmarks.subjects import PARTS
from benchmarks.topics import BrokerTopics, KafkaTopics, Topics, difference
from benchmarks.waiting import Failed, wait_until
from benchmarks.workloads import Events, Table
from sync_hub import settings as configuration
from sync_hub.runtime.pipelines import register
from sync_hub.runtime.worker import names as worker_names
from sync_hub.state import State

CONFIG = """
hub: {{name: {name}, state: 'sqlite:///{folder}/state.db'}}
broker: {broker}
sources:
  {name}: {{type: postgres, dsn: '{source}', tables: [{tables}], snapshot: {snapshot}}}
targets:
{targets}
mappings: ['{folder}/mappings']
verify: {{every: 1s}}
"""
MAPPING = """---
mapping: {target}_{table}
from: {{source: {source}, table: public.{table}}}
to: {{target: {target}, table: {table}}}
key: [{key}]
{columns}
"""
STOP_SECONDS = 15
WORKERS = 2
"""Of a target that is the only one: as many as there are cores here. Of several targets each has one."""


class HubSubject:
    """A hub on Kafka with one of two clients, or on the embedded broker."""

    legs = frozenset({"capture", "deliver", "end-to-end", "snapshot", "latency", "verify", "scheduled"})

    def __init__(self, name: str, folder: Path, kafka_address: str = "") -> None:
        self.name = name
        self._folder = folder
        self._kafka = kafka_address
        self._warm = not kafka_address

    def session(self, databases: Databases) -> HubSession:
        """A new hub, with a state and topics of its own."""
        partitions = databases.workload.partitions
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        if not self._kafka:
            return HubSession(databases, f"{{type: embedded, path: {folder}/log.db, partitions: {partitions}}}", folder)
        broker = (
            f"{{type: kafka, bootstrap_servers: ['{self._kafka}'], client: {self.name}, partitions: {partitions}, "
            "replication_factor: 1}"
        )
        return HubSession(databases, broker, folder, KafkaTopics(self._kafka))

    def warm_up(self) -> bool:
        """The first time: its processes are new in each session, but Kafka's virtual machine is not."""
        cold, self._warm = not self._warm, True
        return cold

    def close(self) -> None:
        """Nothing outlives a session."""


class HubSession:
    """One hub: its configuration and its workers."""

    readers = 1
    unproven = ""

    def __init__(self, databases: Databases, broker: str, folder: Path, kafka: KafkaTopics | None = None) -> None:
        self.databases, self.folder = databases, folder
        self._broker_text = broker
        self._kafka = kafka
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._ended: dict[str, Usage] = {}
        self._targets = [f"t{number}" for number in range(1, len(databases.targets) + 1)]
        self._each = WORKERS if len(self._targets) == 1 else 1
        (folder / "mappings").mkdir()
        self._configure("never")

    def _configure(self, snapshot: str) -> None:
        made = self.databases
        (self.folder / "mappings" / "all.yaml").write_text(
            "".join(
                MAPPING.format(
                    target=target, table=table.name, source=made.name, key=table.key, columns=_columns(table)
                )
                for target in self._targets
                for table in made.tables
            )
        )
        file = self.folder / "hub.yaml"
        file.write_text(
            CONFIG.format(
                name=made.name,
                folder=self.folder,
                broker=self._broker_text,
                source=made.source_dsn,
                tables=", ".join(f"public.{table.name}" for table in made.tables),
                snapshot=snapshot,
                targets="".join(
                    f"  {target}: {{type: postgres, dsn: '{dsn}', workers: {self._each}}}\n"
                    for target, dsn in zip(self._targets, made.target_dsns, strict=True)
                ),
            )
        )
        self.settings = configuration.load(file)
        self.state = State(self.settings.hub.state)
        register(self.settings, self.state)
        self._broker = self.settings.new_broker()
        self._topics: Topics = self._kafka or BrokerTopics(self._broker)

    def prepare(self, leg: str) -> Events:
        """Slot, topics and offsets."""
        self.start(*PARTS)
        self.wait_loaded()
        self.stop(*PARTS)
        self._ended.clear()
        return {}

    def wait_loaded(self) -> None:
        """Wait until all pipelines stream."""
        wait_until(
            lambda: all(pipeline.phase == "loaded" for pipeline in self.state.pipelines()), "streaming", self.check, 120
        )

    def start(self, *parts: str) -> None:
        """Start workers."""
        for name in self._names(parts):
            command = [sys.executable, "-m", "sync_hub.runtime.worker", name, "-c", str(self.settings.file)]
            with (self.folder / "hub.log").open("ab") as log:
                self._workers[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def wait_delivering(self) -> None:
        """Wait until the workers that deliver have dealt out all partitions, as they tell of themselves."""
        wait_until(self._delivering, "workers that deliver", self.check, every_seconds=0.005)

    def _delivering(self) -> bool:
        pids = {name: self._workers[name].pid for name in self._names(["deliver"])}
        beats = [one for one in self.state.workers() if pids.get(one.name) == one.pid and one.state == "running"]
        shares = [
            [(name, partition) for name, figures in one.detail["pipelines"].items() for partition in figures["offsets"]]
            for one in beats
        ]
        dealt = Counter(itertools.chain(*shares))
        wanted = len(self.state.pipelines()) * self.databases.workload.partitions
        return len(shares) == len(pids) and all(shares) and len(dealt) == dealt.total() == wanted

    def stop(self, *parts: str) -> None:
        """Have them drain and exit; what they used is kept."""
        stopping = {name: self._workers.pop(name) for name in self._names(parts) if name in self._workers}
        for name, worker in stopping.items():
            self._ended[name] = self._ended.get(name, Usage()) + usage([worker.pid])
            assert worker.stdin
            worker.stdin.close()
        for worker in stopping.values():
            try:
                worker.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def captured(self, events: Events) -> bool:
        """By the topics' ends."""
        return all(self._topics.count(self._topic(name)) >= count for name, count in events.items())

    def applied(self) -> int:
        """Events that the offsets in the first target have passed."""
        sql = b"select coalesce(sum(next_offset), 0) from sync_hub_offsets where topic not like '%#copied'"
        row = self.databases.targets[0].execute(sql).fetchone()
        return int(row[0]) if row else 0

    def difference(self, events: Events) -> str:
        """By reading the topics again."""
        return difference(self._topics, self.databases.name, self.databases, events)

    def load(self) -> float:
        """From when the copying was asked for: the workers' start does not count."""
        self.state.close()
        self._broker.close()
        self._configure("initial")
        self.start(*PARTS)
        return wait_until(
            lambda: self.state.snapshots.all(self.databases.name), "the snapshot", self.check, every_seconds=0.005
        )

    def usage(self, parts: Sequence[str]) -> Usage:
        """Of the workers, those that have ended as well."""
        names = self._names(parts)
        running = usage(self._workers[name].pid for name in names if name in self._workers)
        return sum((self._ended[name] for name in names if name in self._ended), running)

    def check(self) -> None:
        """No worker may exit, and none may need a person."""
        for name, worker in self._workers.items():
            if worker.poll() is not None:
                raise Failed(f"{name} exited with {worker.returncode}: {self._last_line()}")
        for beat in self.state.workers():
            if beat.name in self._workers and beat.state == "failed":
                raise Failed(f"{beat.name} failed: {self._last_line()}")

    def close(self) -> None:
        """Stop workers, delete topics and files."""
        self.stop(*PARTS, "verify")
        self.state.close()
        self._broker.close()
        if self._kafka:
            self._kafka.delete(f"{self.databases.name}.")
            self._kafka.close()
        shutil.rmtree(self.folder)

    def _names(self, parts: Sequence[str]) -> list[str]:
        names = worker_names(self.settings)
        return [name for part in parts for name in names if name.partition(":")[0] == part]

    def _topic(self, table: str) -> str:
        return f"{self.databases.name}.public.{table}"

    def _last_line(self) -> str:
        lines = (self.folder / "hub.log").read_text(errors="replace").strip().splitlines()
        return lines[-1][-400:] if lines else "it said nothing"


def _columns(table: Table) -> str:
    computed = dict(table.computed)
    if not computed:
        return "copy: all"
    copied = ", ".join(name for name, _ in table.columns if name not in computed)
    return "\n".join([f"copy: [{copied}]", "fields:", *(f'  {name}: "{sql}"' for name, sql in table.computed)])
