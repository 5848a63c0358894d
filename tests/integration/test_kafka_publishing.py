"""Publishing to a real Kafka never leaves a silent hole, whatever fails."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import confluent_kafka
import kafka
import pytest

from connectors.brokers import kafka as kafka_broker
from connectors.brokers.kafka import KafkaBroker
from connectors.brokers.kafka_options import KafkaOptions
from sync_hub.errors import Fatal, PublishingBroken, Unavailable
from sync_hub.model import Outgoing, Record, TopicPartition
from sync_hub.testing.broker import assert_dense, from_start, keyed, read
from tests.servers.kafka import Kafka
from tests.servers.proxy import Proxy

CLIENTS = ["kafka-python", "confluent"]
LIST_OFFSETS, METADATA = b"\0\2", b"\0\3"
"""What follows the length of a request of Kafka's APIs 2 and 3."""
Make = Callable[..., KafkaBroker]
T = TypeVar("T")


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(client: str) -> Iterator[Make]:
    made: list[KafkaBroker] = []

    def broker(address: str, **settings: Any) -> KafkaBroker:
        chosen = {"client": client, "partitions": 2, "replication_factor": 1} | settings
        made.append(KafkaBroker("broker", KafkaOptions(bootstrap_servers=[address], **chosen), "test"))
        return made[-1]

    yield broker
    for each in made:
        each.close()


@pytest.fixture
def topic() -> str:
    return f"test.public.p{uuid.uuid4().hex[:10]}"


class Outage:
    """One client's brokers while their server is stopped and started again, each with a topic of its own."""

    def __init__(self, client: str, address: str) -> None:
        common = {"bootstrap_servers": [address], "client": client, "partitions": 2, "replication_factor": 1}
        self.patient, self.greedy, self.hasty, self.reading = (
            KafkaBroker("broker", KafkaOptions(**common, timeout_seconds=2, delivery_timeout_seconds=limit), "test")
            for limit in (None, None, 2, None)
        )
        self.topics = {broker: f"test.public.o{uuid.uuid4().hex[:10]}" for broker in self.brokers}
        self.flushed: bool | None = None
        self.durable = self.taken = 0
        self.refusal = self.broken = ""
        self.reader_errors: set[str] = set()
        topic = self.topics[self.patient]
        self.seen: list[Record] = []
        self.subscription = self.reading.subscribe(
            [topic], uuid.uuid4().hex, on_assign=lambda places: {p: len(self.seen) * (p.partition == 0) for p in places}
        )

    @property
    def brokers(self) -> list[KafkaBroker]:
        return [self.patient, self.greedy, self.hasty]

    def send(self, broker: KafkaBroker, *sent: bytes) -> None:
        broker.publish([Outgoing(self.topics[broker], None, value, None, 0) for value in sent])

    def before(self) -> None:
        for broker in self.brokers:
            broker.create_topics([self.topics[broker]])
            self.send(broker, b"0")
            assert broker.flush(30)
        self.seen += read(self.subscription, 1)

    def during(self) -> None:
        self.send(self.patient, *(b"%d" % i for i in range(1, 500)))
        self.send(self.hasty, b"lost")
        self.flushed = self.patient.flush(0.3)
        self.durable = self.patient.published()[TopicPartition(self.topics[self.patient], 0)]
        try:
            for _ in range(40):
                self.send(self.greedy, *[bytes(100_000)] * 10)
                self.taken += 10
        except Unavailable as error:
            self.refusal = error.code
        self.reading._verify_at = 0
        try:
            self.subscription.poll(10, 1)
        except Unavailable as error:
            self.reader_errors.add(error.code)
        try:
            self.hasty.flush(30)
        except PublishingBroken as error:
            self.broken = error.code

    def after(self) -> None:
        self.send(self.patient, b"500")
        self.send(self.hasty, b"after")
        for broker in self.brokers:
            assert broker.flush(60)
        end = time.monotonic() + 60
        while len(self.seen) < 501:
            assert time.monotonic() < end
            try:
                self.seen += self.subscription.poll(0.2, 500)
            except Unavailable as error:
                self.reader_errors.add(error.code)
        self.subscription.close()
        self.reading.close()


@pytest.fixture(scope="module")
def outages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outage]]:
    """A server that was stopped for some seconds while both clients used it."""
    server = Kafka(tmp_path_factory.mktemp("kafka"))
    server.start()
    found = {client: Outage(client, server.address) for client in CLIENTS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kafka_broker, "_ROOM_SECONDS", 0.2)
        for outage in found.values():
            outage.before()
        server.stop()
        for outage in found.values():
            outage.during()
        server.start()
        for outage in found.values():
            outage.after()
    yield found
    for outage in found.values():
        for broker in outage.brokers:
            broker.close()
    server.stop()


@pytest.fixture
def outage(outages: dict[str, Outage], client: str) -> Outage:
    return outages[client]


@contextmanager
def killed(server: Kafka) -> Iterator[None]:
    """The server is killed afterwards: clients that reach it no more would hold up its end."""
    try:
        yield
    finally:
        server.stop(signal.SIGKILL)


def lower_the_limit(address: str, topic: str) -> None:
    """The administrator makes the topic's limit smaller behind our back; the broker learns of it a little later."""
    with closing(kafka.KafkaAdminClient(bootstrap_servers=address)) as admin:
        kind = kafka.admin.ConfigResourceType.TOPIC
        admin.alter_configs([kafka.admin.ConfigResource(kind, topic, {"max.message.bytes": "2000"})])
    with closing(kafka.KafkaProducer(bootstrap_servers=address)) as producer:
        eventually_refused(lambda: producer.send(topic, os.urandom(3000), partition=0).get(10))


def eventually_refused(send: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    with pytest.raises(kafka.errors.MessageSizeTooLargeError):
        while time.monotonic() < end:
            send()


def until_broken(broker: KafkaBroker, records: list[Outgoing]) -> PublishingBroken:
    with pytest.raises(PublishingBroken) as caught:
        broker.publish(records)
        broker.flush(30)
    return caught.value


def eventually(ask: Callable[[], T]) -> T:
    """What the hub does with `Unavailable`: ask again."""
    end = time.monotonic() + 30
    while True:
        try:
            return ask()
        except Unavailable:
            assert time.monotonic() < end


def values(broker: KafkaBroker, topic: str) -> list[bytes | None]:
    count = sum(eventually(lambda: broker.end_offsets([topic])).values())
    subscription = broker.subscribe([topic], uuid.uuid4().hex, on_assign=from_start)
    try:
        records = read(subscription, count)
        assert_dense(records)
        return [record.value for record in sorted(records, key=lambda r: (r.partition, r.offset))]
    finally:
        subscription.close()


def test_record_that_kafka_refuses_breaks_publishing_loudly(make: Make, kafka_address: str, topic: str) -> None:
    broker = make(kafka_address)
    broker.create_topics([topic])
    broker.publish([Outgoing(topic, None, b"first", None, 0)])
    assert broker.flush(30)
    lower_the_limit(kafka_address, topic)
    large = os.urandom(8000)
    error = until_broken(
        broker,
        [Outgoing(topic, None, value, None, 0) for value in (b"second", large, b"third")],
    )
    assert error.code == "delivery_failed"
    assert broker.published()[TopicPartition(topic, 0)] >= 1
    broker.publish([Outgoing(topic, None, b"again", None, 0)])
    assert broker.flush(30)
    found = values(make(kafka_address), topic)
    assert large not in found
    assert found[0] == b"first"
    assert found[-1] == b"again"
    assert broker.published()[TopicPartition(topic, 0)] == len(found)


def test_batches_fit_the_smallest_limit_of_all_topics(make: Make, kafka_address: str, topic: str) -> None:
    broker = make(kafka_address, topic_settings={"max.message.bytes": "20000"})
    limit = broker.create_topics([topic])[topic].max_record_bytes
    assert 15_000 < limit < 20_000
    noise = [Outgoing(topic, None, os.urandom(3200), None, 0) for _ in range(100)]
    broker.publish(noise)
    assert broker.flush(30)
    assert values(broker, topic) == [record.value for record in noise]


def test_later_topic_with_a_smaller_limit_is_served_too(make: Make, kafka_address: str, topic: str) -> None:
    broker = make(kafka_address)
    broker.create_topics([topic])
    broker.publish([Outgoing(topic, None, b"%d" % i, None, 0) for i in range(10)])
    small = topic + "_small"
    make(kafka_address, topic_settings={"max.message.bytes": "20000"}).create_topics([small])
    noise = [Outgoing(small, None, os.urandom(3200), None, 0) for _ in range(50)]
    broker.publish(noise)
    broker.publish([Outgoing(topic, None, b"10", None, 0)])
    assert broker.flush(30)
    assert values(broker, topic) == [b"%d" % i for i in range(11)]
    assert values(broker, small) == [record.value for record in noise]
    assert broker.published() == {TopicPartition(topic, 0): 11, TopicPartition(small, 0): 50}


def test_delivery_that_times_out_breaks_publishing(outage: Outage) -> None:
    assert outage.broken == "delivery_failed"
    assert values(outage.hasty, outage.topics[outage.hasty]) == [b"0", b"after"]


def test_broker_that_is_down_for_a_while_loses_nothing(outage: Outage) -> None:
    assert outage.flushed is False
    assert outage.durable == 1
    assert values(outage.patient, outage.topics[outage.patient]) == [b"%d" % i for i in range(501)]


def test_reader_tells_that_the_broker_is_down_and_then_goes_on(outage: Outage) -> None:
    assert "broker_unreachable" in outage.reader_errors
    assert_dense(outage.seen)
    assert [record.value for record in outage.seen] == [b"%d" % i for i in range(501)]


def test_memory_is_bounded_while_the_broker_is_down(outage: Outage) -> None:
    assert outage.refusal == "broker_slow"
    assert 70 <= outage.taken <= 340
    assert outage.greedy.published() == {TopicPartition(outage.topics[outage.greedy], 0): outage.taken + 1}


def test_cluster_that_does_not_answer_is_unavailable_soon(make: Make, client: str) -> None:
    broker = make("127.0.0.1:1", timeout_seconds=0.4)
    calls: list[Callable[[], Any]] = [
        lambda: broker.create_topics(["a.b.c"]),
        broker.topics,
        lambda: broker.publish([Outgoing("a.b.c", b"k", b"v")]),
        lambda: broker.end_offsets(["a.b.c"]),
        lambda: broker.subscribe(["a.b.c"], "g", on_assign=from_start).poll(1, 1),
    ]
    for call in calls:
        started = time.monotonic()
        with pytest.raises(Unavailable, match="broker_unreachable"):
            call()
        assert time.monotonic() - started < 6
    assert [(finding.code, finding.severity) for finding in broker.check()] == [("broker_unreachable", "error")]
    broker.close()


@pytest.mark.parametrize("client", ["confluent"], indirect=True)
def test_offsets_whose_answer_is_lost_are_no_offsets(make: Make, tmp_path: Path, topic: str) -> None:
    asking = threading.Event()
    proxy = Proxy(cut_after=lambda request: asking.is_set() and request[4:6] == LIST_OFFSETS)
    server = Kafka(tmp_path, advertised=proxy.port)
    proxy.target = server.port
    server.start()
    with closing(proxy), killed(server):
        broker = make(server.address, timeout_seconds=3)
        broker.create_topics([topic])
        broker.publish([Outgoing(topic, None, b"1", None, 0)])
        assert broker.flush(30)
        assert broker.end_offsets([topic]) == {(topic, 0): 1, (topic, 1): 0}
        asking.set()
        with pytest.raises(Unavailable):
            broker.end_offsets([topic])
        assert proxy.was_cut.is_set()


def test_topics_that_a_producer_does_not_know_are_asked_for_together(make: Make, tmp_path: Path, topic: str) -> None:
    asked: list[bytes] = []
    proxy = Proxy(cut_after=lambda request: bool(asked.append(request[4:6])))
    server = Kafka(tmp_path, advertised=proxy.port)
    proxy.target = server.port
    server.start()
    topics = [f"{topic}.{number}" for number in range(30)]
    with closing(proxy), killed(server):
        broker = make(server.address)
        broker.create_topics(topics)
        broker.publish([])
        asked.clear()
        broker.publish([Outgoing(one, None, b"1", None, 0) for one in topics])
        assert broker.flush(30)
        assert 1 <= asked.count(METADATA) < 10


def test_changed_partition_count_stops_the_publisher(
    make: Make, kafka_address: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_broker, "_VERIFY_SECONDS", 0.0)
    broker = make(kafka_address)
    broker.create_topics([topic])
    broker.publish(keyed(topic, range(10)))
    assert broker.flush(30)
    with closing(kafka.KafkaAdminClient(bootstrap_servers=kafka_address)) as admin:
        admin.create_partitions({topic: 5})
    with pytest.raises(Fatal, match="partitions_changed"):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            broker.publish(keyed(topic, range(10)))
    assert broker.end_offsets([topic]).keys() == {(topic, 0), (topic, 1)}


def test_records_keep_their_partition_although_the_count_has_changed(
    make: Make, kafka_address: str, topic: str
) -> None:
    broker = make(kafka_address)
    broker.create_topics([topic])
    broker.publish(keyed(topic, range(50)))
    assert broker.flush(30)
    with closing(kafka.KafkaAdminClient(bootstrap_servers=kafka_address)) as admin:
        admin.create_partitions({topic: 7})
    broker.publish(keyed(topic, range(50)))
    assert broker.flush(30)
    late = make(kafka_address)
    ends = late.end_offsets([topic])
    assert sum(ends.values()) == 100
    assert [count for place, count in ends.items() if place.partition >= 2] == [0] * 5


def test_topic_created_again_stops_the_publisher(
    make: Make, kafka_address: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_broker, "_VERIFY_SECONDS", 0.0)
    broker = make(kafka_address)
    broker.create_topics([topic])
    broker.publish(keyed(topic, range(10)))
    assert broker.flush(30)
    with closing(kafka.KafkaAdminClient(bootstrap_servers=kafka_address)) as admin:
        admin.delete_topics([topic])
    with pytest.raises(Fatal, match="topic_missing"):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            broker.publish([])
            broker.publish(keyed(topic, [1]))
    make(kafka_address).create_topics([topic])
    with pytest.raises(Fatal, match="topic_recreated"):
        broker.publish(keyed(topic, [1]))


def test_new_topics_are_safe_and_compacted_ones_are_refused(make: Make, kafka_address: str, topic: str) -> None:
    broker = make(kafka_address, topic_settings={"retention.ms": "3600000"})
    broker.create_topics([topic])
    compacted = topic + "_compacted"
    with closing(kafka.KafkaAdminClient(bootstrap_servers=kafka_address)) as admin:
        resource = kafka.admin.ConfigResource(kafka.admin.ConfigResourceType.TOPIC, topic)
        settings = admin.describe_configs([resource], config_filter="all")["topic"][topic]
        admin.create_topics({compacted: {"num_partitions": 2, "configs": {"cleanup.policy": "compact,delete"}}})
    assert settings["cleanup.policy"]["value"] == "delete"
    assert settings["retention.ms"]["value"] == "3600000"
    assert settings["unclean.leader.election.enable"]["value"] == "false"
    with pytest.raises(Fatal, match="topic_compacted"):
        broker.create_topics([compacted])
    warnings = {finding.code: finding for finding in broker.check()}
    with closing(kafka.KafkaAdminClient(bootstrap_servers=kafka_address)) as admin:
        admin.delete_topics([compacted])
    assert compacted in warnings["topic_compacted"].message
    assert warnings["not_replicated"].severity == "warning"


def test_replication_that_the_cluster_cannot_give_is_refused(make: Make, kafka_address: str, topic: str) -> None:
    broker = make(kafka_address, replication_factor=3)
    assert "replication_impossible" in {f.code for f in broker.check() if f.severity == "error"}
    with pytest.raises(Fatal, match="broker_refused"):
        broker.create_topics([topic])


def test_keys_land_where_the_clients_own_partitioners_put_them(kafka_address: str, topic: str, make: Make) -> None:
    broker = make(kafka_address, partitions=7)
    broker.create_topics([topic])
    keys = [b'{"id":%d}' % number for number in range(60)] + [b"", b"a", "ключ".encode(), bytes(range(256))]
    broker.publish([Outgoing(topic, key, b"hub") for key in keys])
    assert broker.flush(30)
    with closing(kafka.KafkaProducer(bootstrap_servers=kafka_address)) as python:
        futures = [python.send(topic, b"python", key) for key in keys]
        expected = [future.get(30).partition for future in futures]
    placed: list[int] = []
    librdkafka = confluent_kafka.Producer({"bootstrap.servers": kafka_address, "partitioner": "murmur2"})
    for key in keys:
        librdkafka.produce(topic, b"confluent", key, on_delivery=lambda _, message: placed.append(message.partition()))
        librdkafka.flush(30)
    assert placed == expected
    subscription = broker.subscribe([topic], uuid.uuid4().hex, on_assign=from_start)
    ours = {record.key: record.partition for record in read(subscription, 3 * len(keys)) if record.value == b"hub"}
    subscription.close()
    assert [ours[key] for key in keys] == expected
