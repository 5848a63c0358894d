"""What the figures were taken on: hardware, systems and versions."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.connect import DEBEZIUM_VERSION
from benchmarks.databases import SERVER
from connectors.local_postgres import BINARIES
from tests.servers.kafka import KAFKA_VERSION

PACKAGES = ("sync-hub", "psycopg", "msgspec", "confluent-kafka", "kafka-python", "crc32c", "lz4")


def describe() -> dict[str, Any]:
    """The machine and what is installed on it."""
    return {
        "taken_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "hardware": {
            "processor": _line("/proc/cpuinfo", "model name"),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": platform.platform(),
        },
        "versions": {
            "commit": _said("git", "rev-parse", "--short", "HEAD"),
            "Python": platform.python_version(),
            "PostgreSQL": _said(str(BINARIES / "postgres"), "--version"),
            "Kafka and Kafka Connect": KAFKA_VERSION,
            "Debezium": DEBEZIUM_VERSION,
            "Java": _said("java", "-version").partition("\n")[0],
        }
        | {name: version(name) for name in PACKAGES},
        "postgresql_settings": SERVER,
    }


def _line(path: str, name: str) -> str:
    found = [line for line in Path(path).read_text().splitlines() if line.startswith(name)]
    return found[0].partition(":")[2].strip() if found else "unknown"


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError:
        return "none"
    return "none" if done.returncode else (done.stdout or done.stderr).strip()
