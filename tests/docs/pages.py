"""Markdown pages as tests see them: their fenced blocks, what stands before each, and their links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+)(?P<language>[\w-]*)\s*$")
_COMMENT = re.compile(r"^\s*<!-- (?P<text>.*) -->\s*$")
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block. `note` is the text of an HTML comment in the line before it."""

    page: Path
    line: int
    language: str
    note: str
    text: str

    @property
    def place(self) -> str:
        """`docs/tutorial/first-pipeline.md:12`."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str:
        """The file that the block is the content of; empty when it is none."""
        return self.note.removeprefix("file: ") if self.note.startswith("file: ") else ""

    @property
    def executed(self) -> bool:
        """Whether a test runs it: everything that is not excused with a reason."""
        return not self.note.startswith("not executed: ")


def pages() -> list[Path]:
    """All pages of the project."""
    return [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return list(_blocks(page, page.read_text().splitlines()))


def _blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        number += 1
        if opening is None:
            continue
        start, indent = number, opening["indent"]
        while lines[number].strip() != opening["fence"]:
            number += 1
        comment = _COMMENT.match(lines[start - 2]) if start > 1 else None
        text = "\n".join(line.removeprefix(indent) for line in lines[start:number])
        yield Block(page, start, opening["language"], comment["text"] if comment else "", text + "\n")
        number += 1


def links(page: Path) -> list[str]:
    """Targets of the links of a page, outside of fenced blocks."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [match["target"] for match in _LINK.finditer(text)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(page: Path, heading: str) -> str:
    """The text of one section of a page, up to the next heading of the same or a higher level."""
    match = re.search(rf"^(?P<level>#+) {re.escape(heading)}$", page.read_text(), flags=re.MULTILINE)
    assert match, f"{page.name} has no section {heading!r}"
    rest = match.string[match.end() :]
    following = re.search(rf"^#{{1,{len(match['level'])}}} ", rest, flags=re.MULTILINE)
    return rest[: following.start()] if following else rest


def table_rows(text: str) -> list[list[str]]:
    """Cells of all Markdown tables in a text, without headings; a vertical bar inside code may be escaped."""
    rows, heading = [], True
    for line in text.splitlines():
        if not line.startswith("|"):
            heading = True
        elif re.fullmatch(r"[|\s:-]+", line):
            heading = False
        elif not heading:
            rows.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def codes(text: str) -> list[str]:
    """The words in backticks, outside of fenced blocks."""
    return re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
