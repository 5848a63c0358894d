"""docs/how-to/monitor.md: its commands with a real receiver, its scrape job as the rules name it."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.docs.pages import DOCS, ROOT, blocks
from tests.docs.shell import Shell
from tests.servers.receiver import receiving

PAGE = DOCS / "how-to" / "monitor.md"


def test_receivers_are_tried_and_alerts_listed_as_written(tmp_path: Path) -> None:
    with receiving() as receiver:
        shell = Shell(tmp_path, {"127.0.0.1:9999": f"127.0.0.1:{receiver.port}"})
        shell.run(f"export ERP_DSN=postgresql://erp CRM_DSN=postgresql://crm ALERT_URL={receiver.address()}\n")
        try:
            steps = [block for block in blocks(PAGE) if block.file == "config/hub.yaml" or not block.file]
            assert len(steps) == 5
            shell.follow(steps)
        finally:
            shell.close()
        assert receiver.titles == ["[acme] test"]


def test_the_scrape_job_is_the_one_of_the_rules() -> None:
    (text,) = [block.text for block in blocks(PAGE) if block.file == "prometheus.yml"]
    scraping = yaml.safe_load(text)
    rules = (ROOT / "deploy" / "monitoring" / scraping["rule_files"][0]).read_text()
    assert f'job="{scraping["scrape_configs"][0]["job_name"]}"' in rules
