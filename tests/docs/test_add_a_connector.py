"""docs/how-to/add-a-connector.md: its sink passes the contract, and the hub finds it through its entry point."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.docs.pages import DOCS, ROOT, blocks
from tests.docs.shell import Shell

PAGE = DOCS / "how-to" / "add-a-connector.md"
LOAD = """
from pathlib import Path
from sync_hub import settings
loaded = settings.load(Path("hub.yaml"), {})
sink = loaded.sink("archive")
print(type(sink).__name__, sink.path.relative_to(Path.cwd()), sink.check())
"""


def test_the_sink_of_the_page_passes_the_whole_contract(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"python -m pytest -q": f"python -m pytest -q -p no:cacheprovider --rootdir={tmp_path}"})
    try:
        shell.run(f"export PYTHONPATH={ROOT}")
        shell.follow([block for block in blocks(PAGE) if block.note != "targets"])
    finally:
        shell.close()


def test_the_hub_finds_it_by_the_name_that_the_page_registers(tmp_path: Path) -> None:
    parts = {block.file or block.note: block.text for block in blocks(PAGE)}
    (tmp_path / "json_file_sink.py").write_text(parts["json_file_sink.py"])
    project = tomllib.loads(parts["pyproject.toml"])["project"]
    installed = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "\n".join(f"{name} = {where}" for name, where in points.items())
        for group, points in project["entry-points"].items()
    ]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    (tmp_path / ".sync-hub").mkdir()
    (tmp_path / "hub.yaml").write_text(
        "hub: {name: acme}\nbroker: {type: embedded}\nsources: {erp: {type: postgres, dsn: x, tables: [a]}}\n"
        + parts["targets"]
    )
    (tmp_path / "load.py").write_text(LOAD)
    shell = Shell(tmp_path, {})
    try:
        printed = shell.run(f"PYTHONPATH={tmp_path}:{ROOT} python load.py")
    finally:
        shell.close()
    assert printed.strip() == "JsonFileSink .sync-hub/archive.json []"
