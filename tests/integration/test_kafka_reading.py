"""Reading from a real Kafka: groups that change, members that come back, topics that are exchanged."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import kafka
import pytest

from connectors.brokers import kafka as kafka_broker
from connectors.brokers.kafka import KafkaBroker
from connectors.brokers.kafka_options import KafkaOptions
from connectors.brokers.kafka_python_assignor import RoundRobin
from connectors.sinks.sqlite import SqliteSink
from sync_hub.errors import Fatal, SyncHubError, Unavailable
from sync_hub.model import Offset, Record, TopicPartition
from sync_hub.ports import Subscription
from sync_hub.runtime.beginning import Found, find
from sync_hub.testing.broker import connections, from_start, keyed, read


@pytest.fixture(params=["kafka-python", "confluent"])
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connect(kafka_address: str, client: str) -> Iterator[Callable[[], KafkaBroker]]:
    options: dict[str, Any] = {"client": client, "partitions": 6, "replication_factor": 1}
    settings = KafkaOptions(bootstrap_servers=[kafka_address], **options)
    yield from connections(lambda: KafkaBroker("broker", settings, "test"))


@pytest.fixture
def broker(connect: Callable[[], KafkaBroker]) -> KafkaBroker:
    return connect()


@pytest.fixture
def topic(broker: KafkaBroker) -> str:
    name = f"test.public.r{uuid.uuid4().hex[:10]}"
    broker.create_topics([name])
    return name


@pytest.fixture
def subscribe(connect: Callable[[], KafkaBroker]) -> Iterator[Callable[..., Subscription]]:
    opened: list[Subscription] = []

    def start(topic: str, group: str, **options: Any) -> Subscription:
        opened.append(connect().subscribe([topic], group, **({"on_assign": from_start} | options)))
        return opened[-1]

    yield start
    for subscription in opened:
        subscription.close()


class Target:
    """Holds rows and offsets like a target database: a write with a stale offset has no effect."""

    def __init__(self) -> None:
        self.offsets: dict[TopicPartition, int] = {}
        self.applied: list[int] = []
        self.holes: list[Record] = []
        self._lock = threading.Lock()

    def on_assign(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        with self._lock:
            return {partition: self.offsets.get(partition, 0) for partition in partitions}

    def write(self, records: list[Record]) -> None:
        with self._lock:
            for record in records:
                place = TopicPartition(record.topic, record.partition)
                expected = self.offsets.get(place, 0)
                if record.offset == expected:
                    self.offsets[place] = expected + 1
                    self.applied.append(int(record.value or b""))
                elif record.offset > expected:
                    self.holes.append(record)


class Member(threading.Thread):
    """A worker: reads and writes to the target until it is told to stop."""

    def __init__(self, subscription: Subscription, target: Target) -> None:
        super().__init__(daemon=True)
        self.subscription = subscription
        self._target = target
        self._stopping = threading.Event()
        self.error: SyncHubError | None = None
        self.start()

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._target.write(self.subscription.poll(0.05, 40))
            self.subscription.close()
        except SyncHubError as error:
            self.error = error

    def stop(self) -> None:
        self._stopping.set()
        self.join(30)


def until(true: Callable[[], bool], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_members_that_come_and_go_apply_everything_once(
    broker: KafkaBroker, topic: str, subscribe: Callable[..., Subscription]
) -> None:
    target, group = Target(), uuid.uuid4().hex
    members: list[Member] = []

    def join() -> None:
        members.append(Member(subscribe(topic, group, member=len(members), on_assign=target.on_assign), target))

    def publish(start: int) -> None:
        broker.publish(keyed(topic, range(start, start + 600), keys=97))
        assert broker.flush(30)

    publish(0)
    join()
    until(lambda: len(target.applied) > 100)
    join()
    publish(600)
    until(lambda: len(members[1].subscription.assignment()) == 3 and len(target.applied) == 1200)
    join()
    until(lambda: all(len(member.subscription.assignment()) == 2 for member in members))
    members[1].stop()
    publish(1200)
    until(lambda: len(target.applied) == 1800)
    for member in members:
        member.stop()
    assert [member.error for member in members] == [None] * 3
    assert target.holes == []
    assert sorted(target.applied) == list(range(1800))


def test_member_that_starts_again_takes_its_place_at_once(
    broker: KafkaBroker, topic: str, subscribe: Callable[..., Subscription]
) -> None:
    group = uuid.uuid4().hex
    broker.publish(keyed(topic, range(10)))
    assert broker.flush(30)
    killed = subscribe(topic, group)
    read(killed, 10)
    started = time.monotonic()
    successor = subscribe(topic, group)
    read(successor, 10)
    assert time.monotonic() - started < 5, "it waited for the session of the killed one to end"
    with pytest.raises(Unavailable, match="member_replaced"):
        read(killed, 1)
    assert killed.assignment() == []
    read(killed, 10)
    with pytest.raises(Unavailable, match="member_replaced"):
        read(successor, 1)


class KnowsNoTopics(RoundRobin):
    """What kafka-python does before it has heard of its topics; when it has, it joins again."""

    @classmethod
    def assign(cls, cluster: Any, members: Any) -> Any:
        cluster.partitions_for_topic = lambda topic: None
        return super().assign(cluster, members)


def test_member_killed_before_it_knew_its_topics_leaves_no_empty_share(
    broker: KafkaBroker, topic: str, subscribe: Callable[..., Subscription], kafka_address: str
) -> None:
    group = uuid.uuid4().hex
    broker.publish(keyed(topic, range(10)))
    assert broker.flush(30)
    killed = kafka.KafkaConsumer(
        topic,
        bootstrap_servers=kafka_address,
        group_id=f"test.{group}",
        group_instance_id=f"test.{group}.{socket.gethostname()}.0",
        session_timeout_ms=30_000,
        partition_assignment_strategy=[KnowsNoTopics],
    )
    with closing(killed), closing(kafka.KafkaAdminClient(bootstrap_servers=kafka_address)) as admin:

        def is_stable() -> bool:
            killed.poll(100)
            return bool(admin.describe_groups([f"test.{group}"])[f"test.{group}"]["group_state"] == "Stable")

        until(is_stable)
        started = time.monotonic()
        read(subscribe(topic, group), 10)
        assert time.monotonic() - started < 5


def test_member_that_starts_again_with_other_topics_reads_them(
    broker: KafkaBroker, topic: str, subscribe: Callable[..., Subscription]
) -> None:
    group, other = uuid.uuid4().hex, f"{topic}o"
    broker.create_topics([other])
    broker.publish(keyed(other, range(10)))
    assert broker.flush(30)
    killed = subscribe(topic, group)
    until(lambda: not killed.poll(0.1, 10) and bool(killed.assignment()))
    started = time.monotonic()
    read(subscribe(other, group), 10)
    assert time.monotonic() - started < 5


def test_one_of_two_members_that_starts_again_with_one_more_topic_shares_both(
    broker: KafkaBroker, topic: str, connect: Callable[[], KafkaBroker], subscribe: Callable[..., Subscription]
) -> None:
    target, group, other = Target(), uuid.uuid4().hex, f"{topic}o"
    broker.create_topics([other])
    members = [Member(subscribe(topic, group, member=number, on_assign=target.on_assign), target) for number in (0, 1)]
    until(lambda: [len(member.subscription.assignment()) for member in members] == [3, 3])
    for number in (1, 0):
        members[number].stop()
        subscription = connect().subscribe([topic, other], group, member=number, on_assign=target.on_assign)
        members[number] = Member(subscription, target)
        until(lambda: len({place for one in members for place in one.subscription.assignment()}) == 12, 10)
    for member in members:
        member.stop()
        assert member.error is None


def test_assignment_always_arrives(topic: str, subscribe: Callable[..., Subscription]) -> None:
    for _ in range(25):
        subscription = subscribe(topic, uuid.uuid4().hex)
        end = time.monotonic() + 10
        while not subscription.assignment():
            assert time.monotonic() < end
            subscription.poll(0.05, 1)
        subscription.close()


def test_topic_created_again_stops_the_reader(
    broker: KafkaBroker,
    topic: str,
    subscribe: Callable[..., Subscription],
    kafka_address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_broker, "_VERIFY_SECONDS", 0.0)
    broker.publish(keyed(topic, range(10)))
    assert broker.flush(30)
    subscription = subscribe(topic, uuid.uuid4().hex)
    read(subscription, 10)
    with closing(kafka.KafkaAdminClient(bootstrap_servers=kafka_address)) as admin:
        admin.delete_topics([topic])
        end = time.monotonic() + 20
        while topic in admin.list_topics():
            assert time.monotonic() < end
        admin.create_topics({topic: {"num_partitions": 6, "replication_factor": 1}}, wait_for_metadata=True)
    with pytest.raises(Fatal, match=r"topic_recreated|offset_gone"):
        read(subscription, 1)


def test_changed_partition_count_stops_the_reader(
    broker: KafkaBroker,
    topic: str,
    subscribe: Callable[..., Subscription],
    kafka_address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_broker, "_VERIFY_SECONDS", 0.0)
    subscription = subscribe(topic, uuid.uuid4().hex)
    assert subscription.poll(0.2, 10) == []
    with closing(kafka.KafkaAdminClient(bootstrap_servers=kafka_address)) as admin:
        admin.create_partitions({topic: 8})
    with pytest.raises(Fatal, match="partitions_changed"):
        read(subscription, 1)


def test_group_carries_the_name_of_the_hub(
    topic: str, subscribe: Callable[..., Subscription], kafka_address: str
) -> None:
    group = uuid.uuid4().hex
    subscription = subscribe(topic, group)
    end = time.monotonic() + 10
    while not subscription.assignment():
        assert time.monotonic() < end
        subscription.poll(0.1, 1)
    with closing(kafka.KafkaAdminClient(bootstrap_servers=kafka_address)) as admin:
        assert f"test.{group}" in {listed["group_id"] for listed in admin.list_groups()}
        assert not admin.list_group_offsets({f"test.{group}": None}).get(f"test.{group}"), "nothing is committed"


def test_what_is_wrong_with_one_topic_is_found_for_its_pipeline_alone(
    broker: KafkaBroker, topic: str, kafka_address: str, tmp_path: Path
) -> None:
    new, compacted = f"{topic}_new", f"{topic}_compacted"
    with closing(kafka.KafkaAdminClient(bootstrap_servers=kafka_address)) as admin:
        admin.create_topics({compacted: {"num_partitions": 6, "configs": {"cleanup.policy": "compact"}}})
    broker.publish(keyed(topic, range(50)))
    assert broker.flush(30)
    sink = SqliteSink("wh", SqliteSink.Options(path=tmp_path / "wh.db"), "test")
    with closing(sink):
        sink.open()
        rows = [Offset("b", topic, partition, "id", partition, "", "hash") for partition in range(6)]
        sink.start_offsets(rows)
        found = find({"a": new, "b": topic, "c": compacted, "d": topic}, sink, broker)
    with closing(kafka.KafkaAdminClient(bootstrap_servers=kafka_address)) as admin:
        admin.delete_topics([compacted])
    assert [name for name, one in found.items() if isinstance(one, Fatal) and one.code == "topic_compacted"] == ["c"]
    a, b, d = (one for one in map(found.get, "abd") if isinstance(one, Found))
    assert (a.info.partitions, a.rows, d.info, d.rows) == (6, [], b.info, [])
    assert sorted(b.rows, key=lambda row: row.partition) == rows
    assert sum(end for place, end in a.ends.items() if place.topic == new) == 0
    assert sum(end for place, end in b.ends.items() if place.topic == topic) == 50
    assert not any(b.starts.values())
