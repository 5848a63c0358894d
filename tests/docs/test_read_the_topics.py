"""The consumer of docs/how-to/read-the-topics.md reads a real topic with duplicates, deletes and rows in part."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from connectors.brokers.kafka import KafkaBroker
from connectors.brokers.kafka_options import KafkaOptions
from sync_hub.envelope import Encoder
from sync_hub.model import ChangeEvent, Operation, Outgoing, version_prefix, version_suffix
from tests.docs.pages import DOCS, blocks
from tests.docs.shell import Shell
from tests.events import change_event

PAGE = DOCS / "how-to" / "read-the-topics.md"


def change(lsn: int, operation: Operation, key: int, row: dict[str, Any] | None) -> ChangeEvent:
    return change_event(
        source="erp",
        schema="public",
        table="customers",
        operation=operation,
        key={"id": key},
        before=None,
        after=row,
        version=version_prefix(1, lsn) + version_suffix(1),
        committed_at=lsn,
    )


def test_the_consumer_ends_with_the_state_that_the_page_shows(kafka_address: str, tmp_path: Path) -> None:
    topic = f"docs{tmp_path.name[-10:]}.public.customers"
    events = [
        change(1, "read", 1, {"id": 1, "name": "Ada"}),
        change(2, "create", 2, {"id": 2, "name": "Bob"}),
        change(3, "update", 1, {"id": 1, "name": "Ada King"}),
        change(4, "delete", 2, None),
        change(5, "create", 3, {"id": 3, "name": "Edgar"}),
        change(6, "update", 3, {"id": 3}),
    ]
    records = [replace(record, topic=topic) for record in Encoder().encode(events)]
    tombstone = Outgoing(topic, records[1].key, None)
    options = KafkaOptions(bootstrap_servers=[kafka_address], replication_factor=1, partitions=2)
    with closing(KafkaBroker("broker", options, "docs")) as broker:
        broker.create_topics([topic])
        broker.publish([*records, *records[:4], tombstone])
        assert broker.flush(30)
    replaced = {"erp.public.customers": topic, "newsletter": topic, "=5000": "=4000"}
    shell = Shell(tmp_path, replaced)
    try:
        shell.run(f"export KAFKA={kafka_address}")
        shell.follow(blocks(PAGE))
    finally:
        shell.close()
