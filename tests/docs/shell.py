"""One shell in which a page's commands run in order, as a reader types them; what they print is compared."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.docs.pages import Block

DEADLINE_SECONDS = 40.0
_END = "--- end of block"


class Shell:
    """A bash in a folder. `replace` exchanges what a page fixes and a test must not: ports, for example."""

    def __init__(self, folder: Path, replace: Mapping[str, str]) -> None:
        self.folder = folder
        self.replace = dict(replace)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SYNC_HUB")}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdin
        self._process.stdin.write(f"trap 'printf \"\\\\n{_END} %s\\\\n\" $?' EXIT\n".encode())

    def follow(self, blocks: Sequence[Block]) -> None:
        """Do what a page says: write its files, run its commands, compare what it shows."""
        for number, block in enumerate(blocks):
            if not block.executed:
                continue
            if block.file:
                self._write(block)
            elif block.language == "sh":
                after = blocks[number + 1] if number + 1 < len(blocks) else None
                self._run(block, after if after is not None and after.language == "text" else None)
            else:
                assert block.language == "text", f"{block.place}: nothing executes a block of {block.language!r}"

    def run(self, command: str, *, may_fail: bool = False) -> str:
        """What commands print. A command that fails ends the test with all that was printed, unless it may."""
        assert self._process.stdin
        commands = self._replaced(command)
        script = f"( set -e\n{commands}\n)" if may_fail else f"set -e\n{commands}\nset +e"
        self._process.stdin.write(f"{script}\nprintf '\\n{_END} 0\\n'\n".encode())
        self._process.stdin.flush()
        printed, _, code = self._read().rpartition(f"\n{_END} ")
        assert code == "0", f"exit code {code}:\n{command}\n{printed}"
        return printed

    def close(self) -> None:
        """End the shell with everything that it started."""
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.kill()
        self._process.communicate()

    def _run(self, block: Block, shown: Block | None) -> None:
        if shown is None or block.note != "until it shows":
            printed = self.run(block.text)
            assert shown is None or _as_shown(printed, self._replaced(shown.text)), (
                f"{block.place} printed\n{printed}\nand not\n{shown.text if shown else ''}"
            )
            return
        wait_until(
            lambda: _as_shown(self.run(block.text, may_fail=True), self._replaced(shown.text)),
            f"{block.place}: {shown.text}",
        )

    def _write(self, block: Block) -> None:
        path = self.folder / self.run("pwd").strip() / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._replaced(block.text))

    def _replaced(self, text: str) -> str:
        for old, new in self.replace.items():
            text = text.replace(old, new)
        return text

    def _read(self) -> str:
        """Everything up to the end of the block. Processes in the background keep the pipe open: EOF says nothing."""
        assert self._process.stdout
        found, give_up = b"", time.monotonic() + DEADLINE_SECONDS
        end = re.compile(rf"\n{_END} \d+\n".encode())
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not end.search(found):
                assert time.monotonic() < give_up, f"it did not end in time: {found.decode(errors='replace')}"
                if selector.select(0.2):
                    part = os.read(self._process.stdout.fileno(), 65536)
                    assert part, f"the shell ended: {found.decode(errors='replace')}"
                    found += part
        return found.decode().rstrip("\n")


def wait_until(condition: Callable[[], object], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Poll a condition until it is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not come true in time: {what}"
        time.sleep(0.1)


def _as_shown(printed: str, shown: str) -> bool:
    """Whether it printed what the page shows, apart from space; `…` stands for anything in a line, or for any lines."""
    patterns = []
    for line in shown.splitlines():
        words = " ".join(line.split())
        if words == "…":
            patterns.append("(?:.*\n)*?")
        elif words:
            patterns.append(re.escape(words).replace("…", ".*") + "\n")
    found = [" ".join(line.split()) for line in printed.splitlines()]
    return re.fullmatch("".join(patterns), "".join(f"{line}\n" for line in found if line)) is not None
