"""What holds for every page: links lead somewhere, commands exist, examples are read by what they are written for."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from sync_hub.cli import main as cli
from sync_hub.yaml import load_documents
from tests.docs.pages import DOCS, ROOT, Block, anchors, blocks, links, pages

EXECUTED = (DOCS / "tutorial", DOCS / "how-to")
every_page = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))


@every_page
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@every_page
def test_blocks_of_data_are_well_formed(page: Path) -> None:
    for block in blocks(page):
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            load_documents(block.text, block.place)


@every_page
def test_every_command_exists_with_its_options(page: Path) -> None:
    for block in blocks(page):
        for words in _commands(block):
            parse_command(words, block.place)


def _commands(block: Block) -> list[list[str]]:
    """The calls of `sync-hub` in a block of a shell, up to what the shell makes of their output."""
    found = []
    if block.language in ("sh", "bash", ""):
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.strip().startswith("sync-hub "):
                words = shlex.split(line.partition(" # ")[0], comments=True)
                end = next(
                    (place for place, word in enumerate(words) if word in ("|", "||", "&", ">", "2>", "2>>")), None
                )
                found.append(words[1:end])
    return found


def parse_command(words: list[str], place: str) -> None:
    """Fail unless the command line knows the command and its options."""
    command: Any = typer.main.get_command(cli.app)
    context = command.make_context("sync-hub", list(words), resilient_parsing=False) if words != ["--version"] else None
    while context is not None and hasattr(context.command, "commands"):
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        name, inner, arguments = context.command.resolve_command(context, rest)
        assert inner is not None, f"{place}: {name}"
        context = inner.make_context(name, list(arguments), parent=context)


def test_the_index_leads_to_every_page() -> None:
    reached = {(DOCS / link.partition("#")[0]).resolve() for link in links(DOCS / "index.md")}
    assert [page for page in DOCS.rglob("*.md") if page.parent.name != "adr" and page not in reached] == [
        DOCS / "index.md"
    ]


def test_what_is_not_executed_says_why() -> None:
    excused = [block for page in pages() for block in blocks(page) if not block.executed]
    assert len(excused) < 10
    for block in excused:
        assert len(block.note.removeprefix("not executed: ")) > 10, block.place


@pytest.mark.parametrize("page", [page for page in pages() if page.parent in EXECUTED], ids=lambda page: page.stem)
def test_each_page_of_steps_is_executed_by_a_test(page: Path) -> None:
    tests = [path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    assert any(f'"{page.name}"' in text for text in tests)
