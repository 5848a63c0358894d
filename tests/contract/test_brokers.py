"""Every broker passes the contract: the embedded one, and Kafka through both client libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import kafka
import pytest

from connectors.brokers.embedded import EmbeddedBroker, EmbeddedOptions
from connectors.brokers.kafka import KafkaBroker
from connectors.brokers.kafka_options import KafkaOptions
from connectors.sqlite import WriteLock, close, connect, write_transaction
from sync_hub.model import TopicPartition
from sync_hub.testing.broker import BrokerContract, Connect, connections


class TestEmbedded(BrokerContract):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "log.db"

    @pytest.fixture
    def connect(self, path: Path) -> Iterator[Connect]:
        options = EmbeddedOptions(path=path)
        yield from connections(lambda: EmbeddedBroker("broker", options, "test"))

    @pytest.fixture
    def forget(self, connect: Connect) -> Callable[[TopicPartition, int], None]:
        return lambda place, offset: connect().retain({place: offset}, keep_seconds=-1)

    @pytest.fixture
    def delete_topic(self, path: Path) -> Callable[[str], None]:
        def delete(name: str) -> None:
            lock = WriteLock(path)
            connection = connect(path, lock)
            with write_transaction(connection, lock):
                connection.execute("delete from topics where name = ?", (name,))
            close(connection, lock)

        return delete


class KafkaContract(BrokerContract):
    client: Literal["kafka-python", "confluent"]

    @pytest.fixture
    def connect(self, kafka_address: str) -> Iterator[Connect]:
        options = KafkaOptions(
            bootstrap_servers=[kafka_address], client=self.client, partitions=3, replication_factor=1
        )
        yield from connections(lambda: KafkaBroker("broker", options, "test"))

    @pytest.fixture
    def forget(self, kafka_address: str) -> Callable[[TopicPartition, int], None]:
        def delete(place: TopicPartition, offset: int) -> None:
            with closing(kafka.KafkaAdminClient(bootstrap_servers=kafka_address)) as admin:
                admin.delete_records({kafka.TopicPartition(*place): offset})

        return delete

    @pytest.fixture
    def delete_topic(self, kafka_address: str) -> Callable[[str], None]:
        def delete(name: str) -> None:
            with closing(kafka.KafkaAdminClient(bootstrap_servers=kafka_address)) as admin:
                admin.delete_topics([name])

        return delete


class TestKafkaPython(KafkaContract):
    client = "kafka-python"


class TestConfluent(KafkaContract):
    client = "confluent"
