"""docs/how-to/use-kafka.md and the broker reference: configurations load, commands run, options are all there."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from pydantic import BaseModel

from connectors.brokers.embedded import EmbeddedBroker
from connectors.brokers.kafka import KafkaBroker, _client_for
from connectors.brokers.kafka_options import KafkaOptions
from connectors.local_postgres import BINARIES
from sync_hub import settings
from tests.docs.options import documented_options, stated_options
from tests.docs.pages import DOCS, Block, blocks, codes, section, table_rows
from tests.docs.shell import Shell, wait_until

PAGE = DOCS / "how-to" / "use-kafka.md"
REFERENCE = DOCS / "reference" / "brokers.md"
TABLE = "create table customers (id bigint primary key, name text); insert into customers values (1, 'Ada')"
MAPPING = """
mapping: customer_to_crm
from: {source: erp, table: public.customers}
to: {target: crm, table: customer_view, create: true}
key: [id]
copy: all
"""
REST = """
hub: {name: acme}
sources: {erp: {type: postgres, dsn: x, tables: [a]}}
targets: {crm: {type: postgres, dsn: x}}
"""


@pytest.mark.parametrize(
    "block", [block for block in blocks(PAGE) if block.note == "broker"], ids=lambda block: f"line {block.line}"
)
def test_each_broker_section_loads(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "hub.yaml"
    file.write_text(block.text + REST)
    loaded = settings.load(file, {"KAFKA_KEY_PASSWORD": "x", "KAFKA_PASSWORD": "x"})
    assert isinstance(loaded.broker.options, KafkaOptions)


def test_the_commands_work_on_a_real_kafka(
    kafka_address: str, source_dsn: str, target_dsn: str, tmp_path: Path
) -> None:
    source = f"erp{tmp_path.name[-20:].replace('_', '')}".lower()
    with psycopg.connect(source_dsn, autocommit=True) as connection:
        connection.execute(TABLE)
        connection.execute("insert into customers values (2, 'Bob')")
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "customers.yaml").write_text(MAPPING.replace("erp", source))
    shell = Shell(tmp_path, {"erp": source})
    variables = {"KAFKA": kafka_address, "CRM_DSN": target_dsn, "STATE_URL": f"sqlite:///{tmp_path}/state.db"}
    shell.run("\n".join(f"export {name}={value}" for name, value in variables.items()))
    shell.run(f"export PATH={BINARIES}:$PATH ERP_DSN={source_dsn}")
    steps = [block for block in blocks(PAGE) if block.note != "broker"]
    last = next(number for number, block in enumerate(steps) if block.text.startswith("sync-hub topics"))
    try:
        shell.follow(steps[:last])
        shell.run("sed -i '$a http: {port: 0}' config/hub.yaml\nsync-hub run 2> hub.log &\nHUB=$!")
        loaded = "psql -At $CRM_DSN -c 'select count(*) from customer_view'"
        wait_until(lambda: shell.run(loaded, may_fail=True).strip() == "2", "the view is loaded")
        shell.follow(steps[last:])
    finally:
        shell.run("kill $HUB; wait $HUB", may_fail=True)
        shell.close()


@pytest.mark.parametrize(
    ("name", "model"), [("embedded", EmbeddedBroker.Options), ("kafka", KafkaBroker.Options)], ids=["embedded", "kafka"]
)
def test_every_option_is_documented_with_its_default(name: str, model: type[BaseModel]) -> None:
    assert documented_options(section(REFERENCE, f"`{name}`")) == stated_options(model)


@pytest.mark.parametrize("copies", [1, 3])
def test_new_topics_have_the_settings_that_the_page_names(copies: int) -> None:
    rows = [row for row in table_rows(section(REFERENCE, "`kafka`")) if len(row) == 2]
    stated = {codes(name)[0]: codes(value)[0] for name, value in rows}
    given = KafkaOptions(bootstrap_servers=["x"], replication_factor=copies).new_topic_settings
    assert given == (stated if copies >= 3 else {name: stated[name] for name in given})
    assert len(given) == (3 if copies >= 3 else 2)


def test_a_real_topic_has_these_settings(kafka_address: str, tmp_path: Path) -> None:
    options = KafkaOptions(bootstrap_servers=[kafka_address], replication_factor=1, partitions=1)
    name = f"docs.public.{tmp_path.name}"
    with closing(KafkaBroker("broker", options, "test")) as broker, closing(_client_for(options)) as client:
        broker.create_topics([name])
        found = client.topics([name], settings=True)[name].settings
    assert (found["cleanup.policy"], found["unclean.leader.election.enable"]) == ("delete", "false")
