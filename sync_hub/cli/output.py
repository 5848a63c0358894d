"""What commands print: JSON, tables, colours. Nothing here decides anything."""

from __future__ import annotations

import io
import json
import os
import select
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36", "dim": "2"}

NARROW = 120
"""A terminal with fewer columns gets tables of fewer and taller columns, where a command has them."""

WIDTH_WITHOUT_TERMINAL = 10_000
"""Wide enough that every row stays one line: what reads it there is a program or a file."""

WIDEST = 100
"""Sentences are wrapped here, or where a narrower terminal ends."""

STATE_COLOURS = {
    "ok": "green", "running": "green", "streaming": "green", "degraded": "yellow", "retrying": "yellow",
    "paused": "yellow", "backing_off": "yellow", "warning": "yellow", "snapshotting": "cyan", "reloading": "cyan",
    "catching_up": "cyan", "starting": "cyan", "info": "cyan", "failing": "red", "failed": "red", "stopped": "red",
    "lost": "red", "error": "red",
}  # fmt: skip


def coloured(stream: IO[str]) -> bool:
    """Whether this stream shows colours: a terminal, and nobody asked for none (NO_COLOR)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, *, stream: IO[str] | None = None) -> str:
    """The text in a colour, where the stream shows any."""
    stream = stream or sys.stdout
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if colour in COLOURS and coloured(stream) else text


def one_line(text: str) -> str:
    """Text without line breaks and control characters."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def say(text: str = "") -> None:
    """One line to standard output. When nobody reads it any more, that is a quiet end."""
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError as error:
        nobody_reads()
        raise SystemExit(0) from error


def nobody_reads() -> None:
    """Let what is still buffered go nowhere, so that the end of the process does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def unread() -> bool:
    """Whether whoever read standard output through a pipe has gone: for what waits and has nothing to say."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def say_now(text: str) -> None:
    """One line, written out at once: for what goes on and on."""
    say(text)
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        nobody_reads()
        raise SystemExit(0) from error


def note(text: str) -> None:
    """One line to standard error: for people, not part of the answer."""
    sys.stderr.write(text + "\n")


def print_json(value: Any) -> None:
    """One JSON document, indented."""
    say(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_json_line(value: Any) -> None:
    """One JSON document in one line, written out at once."""
    say_now(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str))


def say_finding(severity: str, place: str, code: str, told: Mapping[str, Any]) -> None:
    """What is wrong and where; then `message` and `hint` of what is told, wrapped, and its `command` in one line."""
    width = min(WIDEST, shutil.get_terminal_size().columns) if sys.stdout.isatty() else WIDEST
    say(f"{paint(severity, STATE_COLOURS[severity])} {one_line(place)}: {code}")
    for text in (told["message"], told["hint"]):
        for line in textwrap.wrap(one_line(text), width - 4, break_long_words=False, break_on_hyphens=False):
            say(f"    {line}")
    if told["command"]:
        say(f"    {paint(one_line(told['command']), 'cyan')}")


def narrow() -> bool:
    """Whether this is a terminal with few columns."""
    return sys.stdout.isatty() and shutil.get_terminal_size().columns < NARROW


def print_table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[int] = ()) -> None:
    """A table; the columns whose numbers are in `right` are aligned there and not wrapped. States get their colours.

    A cell that is a tuple has several lines.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0) if narrow() else (0, 1))
    for index, heading in enumerate(headings):
        table.add_column(
            heading, justify="right" if index in right else "left", overflow="fold", no_wrap=index in right
        )
    for row in rows:
        table.add_row(*(Text(text, style=_style(text)) for text in map(_cell, row)))
    wide = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL
    shown = io.StringIO()
    Console(file=shown, width=wide, highlight=False, force_terminal=coloured(sys.stdout)).print(table)
    say("\n".join(line.rstrip() for line in shown.getvalue().strip("\n").splitlines()))


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return "\n".join(map(_cell, value))
    return "–" if value is None else one_line(str(value))


def _style(text: str) -> str:
    return STATE_COLOURS.get(text.partition("\n")[0], "")
