"""The tutorial, done from its first line to its last as a reader does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from connectors.local_postgres import free_port
from tests.docs.pages import DOCS, blocks
from tests.docs.shell import Shell

PAGE = DOCS / "tutorial" / "first-pipeline.md"


def test_the_tutorial_works_as_written(server_folder: Path, unique: Callable[[str], str]) -> None:
    folder = server_folder / unique("tutorial")
    folder.mkdir()
    steps = blocks(PAGE)
    start = next(number for number, block in enumerate(steps) if block.text.startswith("sync-hub run"))
    shell = Shell(folder, {number: str(free_port()) for number in ("54321", "54322")})
    try:
        shell.follow(steps[:start])
        port = str(free_port())
        shell.run(f"sed -i 's/port: 8080/port: {port}/' config/hub.yaml")
        shell.replace["8080"] = port
        shell.follow(steps[start:])
    except BaseException:
        shell.run("cat hub.log || true; python servers.py stop", may_fail=True)
        raise
    finally:
        shell.close()
