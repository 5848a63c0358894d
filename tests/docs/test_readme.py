"""README.md: its mapping passes its own test, its commands are there, its make targets exist."""

from __future__ import annotations

import re

from sync_hub.mapping.loader import Bundle
from sync_hub.mapping.testing import run_tests
from tests.docs.pages import ROOT, blocks
from tests.docs.test_pages import parse_command

README = ROOT / "README.md"


def indented_lines() -> list[str]:
    return [line.strip().partition("   #")[0].strip() for line in re.findall(r"^    .*$", README.read_text(), re.M)]


def test_the_mapping_passes_its_test() -> None:
    (mapping,) = [block for block in blocks(README) if block.language == "yaml"]
    results = run_tests(Bundle("customer_to_crm", "README.md", mapping.line, mapping.text), None, {})
    assert [(result.ok, result.differences) for result in results] == [(True, ())]


def test_its_commands_exist() -> None:
    commands = [line for line in indented_lines() if line.startswith("sync-hub ")]
    assert len(commands) == 3
    for command in commands:
        parse_command(command.split()[1:], "README.md")


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {line.split()[1] for line in indented_lines() if line.startswith("make ")} == {"demo", "test"}
    assert {"demo", "test", "format"} <= targets


def test_it_installs_an_extra_that_exists() -> None:
    (extra,) = re.findall(r"pip install '\.\[(\w+)\]'", README.read_text())
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
