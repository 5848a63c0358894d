"""docs/reference/sources.md: every option with its default, every finding of the preflight."""

from __future__ import annotations

import ast
from pathlib import Path

from connectors.brokers import kafka_check
from connectors.sources import pgoptions, pgpreflight
from connectors.sources.pgoptions import PostgresOptions, TableOptions
from sync_hub import settings
from tests.docs.options import documented_options, stated_options
from tests.docs.pages import DOCS, blocks, codes, section, table_rows

PAGE = DOCS / "reference" / "sources.md"
BROKERS = DOCS / "reference" / "brokers.md"
SEVERITIES = ("error", "warning", "info")


def test_every_option_is_documented_with_its_default() -> None:
    documented = documented_options(section(PAGE, "`postgres`"))
    of_tables = {name: documented.pop(name) for name in TableOptions.model_fields}
    assert documented == stated_options(PostgresOptions)
    assert of_tables == stated_options(TableOptions)


def test_the_example_loads(tmp_path: Path) -> None:
    (example,) = [block.text for block in blocks(PAGE) if block.note == "source"]
    file = tmp_path / "hub.yaml"
    indented = "".join(f"    {line}\n" for line in example.splitlines())
    file.write_text(
        "hub: {name: acme}\nbroker: {type: embedded}\ntargets: {crm: {type: postgres, dsn: x}}\n"
        f"sources:\n  erp:\n    type: postgres\n    dsn: x\n{indented}"
    )
    options = settings.load(file, {}).sources["erp"].options
    assert options.excluded("public.customers") == {"password_hash"}
    assert options.table_options().keys() == {"public.customers", "public.order_*"}


def test_every_finding_of_the_preflight_is_listed_with_its_severity() -> None:
    listed = {codes(row[0])[0]: row[1] for row in table_rows(section(PAGE, "What `check` finds"))}
    tree = ast.parse(Path(pgpreflight.__file__).read_text())
    found = {}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        first = [one.value for one in call.args[:2] if isinstance(one, ast.Constant)]
        if getattr(call.func, "id", "") == "add" and len(first) == 2:
            found[first[1]] = first[0]
        elif getattr(call.func, "id", "") == "Fatal":
            found[first[0]] = "error"
    refused = ast.parse(Path(pgoptions.__file__).read_text())
    for function in (node for node in ast.walk(refused) if getattr(node, "name", "") == "without_excluded"):
        for call in (
            node for node in ast.walk(function) if getattr(getattr(node, "func", None), "id", "") == "ConfigError"
        ):
            found[call.args[0].value] = "error"  # type: ignore[attr-defined]  # a call
    assert listed == found


def test_every_finding_about_kafka_is_listed_with_its_severity() -> None:
    listed = {codes(row[0])[0]: row[1] for row in table_rows(section(BROKERS, "What `check` finds"))}
    text = Path(kafka_check.__file__).read_text()
    assert listed.pop("log_on_network_disk") == "error"
    for code, severity in listed.items():
        assert f'"{code}"' in text, code
        assert severity in SEVERITIES
    words = {
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert listed.keys() == {word for word in words if word.count("_") >= 1 and word.isidentifier()}
