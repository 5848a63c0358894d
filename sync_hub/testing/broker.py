"""What every broker must do, as tests: subclass `BrokerContract` in your own tests and give it your broker.

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        def connect(self, tmp_path):
            yield from connections(lambda: MyBroker("broker", MyOptions(path=tmp_path / "log"), "test"))

        @pytest.fixture
        def forget(self):
            return lambda partition, offset: ...     # delete what is below the offset

        @pytest.fixture
        def delete_topic(self):
            return lambda name: ...

Topics must get at least two partitions.
"""

from __future__ import annotations

import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import pytest

from sync_hub.errors import Fatal, SyncHubError
from sync_hub.model import Outgoing, Record, TopicPartition
from sync_hub.ports import Broker, Subscription

B = TypeVar("B", bound=Broker)
Connect = Callable[[], Broker]
DEADLINE_SECONDS = 30.0


def connections(make: Callable[[], B]) -> Iterator[Callable[[], B]]:
    """A factory for a fixture to yield: each call gives a new broker object, and all are closed at the end."""
    made: list[B] = []

    def connect() -> B:
        made.append(make())
        return made[-1]

    yield connect
    for broker in made:
        broker.close()


def keyed(topic: str, numbers: Sequence[int], keys: int = 50) -> list[Outgoing]:
    """Records whose values count up, spread over some keys."""
    return [Outgoing(topic, b'{"id":%d}' % (number % keys), b"%d" % number) for number in numbers]


def read(subscription: Subscription, count: int, *, at_once: int = 500) -> list[Record]:
    """Poll until `count` records have come; fail when they do not."""
    records: list[Record] = []
    end = time.monotonic() + DEADLINE_SECONDS
    while len(records) < count:
        assert time.monotonic() < end, f"{len(records)} of {count} records came"
        records += subscription.poll(0.2, at_once)
    return records


def by_partition(records: Sequence[Record]) -> dict[int, list[Record]]:
    """The records of each partition, in the order they came."""
    found: dict[int, list[Record]] = {}
    for record in records:
        found.setdefault(record.partition, []).append(record)
    return found


def assert_dense(records: Sequence[Record], *, start: int = 0) -> None:
    """Every partition's offsets count up from `start` without a hole."""
    for partition, found in by_partition(records).items():
        offsets = [record.offset for record in found]
        assert offsets == list(range(start, start + len(offsets))), f"partition {partition}"


def from_start(partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
    """An `on_assign` that begins everywhere at offset 0."""
    return dict.fromkeys(partitions, 0)


class BrokerContract(ABC):
    """The tests. Each makes a topic of its own."""

    @pytest.fixture
    @abstractmethod
    def connect(self) -> Iterator[Connect]:
        """A factory of broker objects on one and the same store (see `connections`)."""

    @pytest.fixture
    @abstractmethod
    def forget(self) -> Callable[[TopicPartition, int], None]:
        """Makes the broker delete the records of a partition below an offset."""

    @pytest.fixture
    @abstractmethod
    def delete_topic(self) -> Callable[[str], None]:
        """Deletes a topic."""

    @pytest.fixture
    def broker(self, connect: Connect) -> Broker:
        """A broker object."""
        return connect()

    @pytest.fixture
    def topic(self, broker: Broker) -> str:
        """A topic of this test."""
        name = f"test.public.t{uuid.uuid4().hex[:10]}"
        broker.create_topics([name])
        return name

    @pytest.fixture
    def subscribe(self, connect: Connect) -> Iterator[Callable[..., Subscription]]:
        """Subscribe with a broker object of its own; closed at the end."""
        opened: list[Subscription] = []

        def start(topics: Sequence[str], **options: object) -> Subscription:
            settings = {"group": uuid.uuid4().hex, "on_assign": from_start} | options
            opened.append(connect().subscribe(topics, **settings))  # type: ignore[arg-type]
            return opened[-1]

        yield start
        for subscription in opened:
            subscription.close()

    def test_created_topics_keep_their_identity(self, broker: Broker, connect: Connect, topic: str) -> None:
        first = broker.create_topics([topic])[topic]
        assert first.name == topic
        assert first.partitions >= 2
        assert len(bytes.fromhex(first.id)) == 16
        assert first.id == first.id.lower()
        assert first.max_record_bytes >= 100_000
        assert connect().create_topics([topic, topic]) == {topic: first}
        assert connect().topics()[topic] == first

    def test_topic_created_again_has_another_id(
        self, broker: Broker, connect: Connect, topic: str, delete_topic: Callable[[str], None]
    ) -> None:
        before = broker.topics()[topic].id
        delete_topic(topic)
        end = time.monotonic() + DEADLINE_SECONDS
        while topic in connect().topics():
            assert time.monotonic() < end
        assert connect().create_topics([topic])[topic].id != before

    def test_order_per_partition_and_dense_offsets(
        self, broker: Broker, topic: str, subscribe: Callable[..., Subscription]
    ) -> None:
        sent = keyed(topic, range(3000))
        for start in range(0, 3000, 700):
            broker.publish(sent[start : start + 700])
        assert broker.flush(DEADLINE_SECONDS)
        records = read(subscribe([topic]), 3000)
        assert_dense(records)
        assert len(by_partition(records)) > 1
        for found in by_partition(records).values():
            numbers = [int(record.value or b"") for record in found]
            assert numbers == sorted(numbers)
        partitions_of_key: dict[bytes | None, set[int]] = {}
        for record in records:
            partitions_of_key.setdefault(record.key, set()).add(record.partition)
        assert all(len(partitions) == 1 for partitions in partitions_of_key.values())

    def test_flushed_records_are_there_for_everyone(self, broker: Broker, connect: Connect, topic: str) -> None:
        broker.publish(keyed(topic, range(100)))
        assert broker.flush(DEADLINE_SECONDS)
        ends = {place: end for place, end in connect().end_offsets([topic]).items() if end}
        assert broker.published() == ends
        assert sum(ends.values()) == 100

    def test_explicit_partitions(self, broker: Broker, topic: str, subscribe: Callable[..., Subscription]) -> None:
        count = broker.topics()[topic].partitions
        broker.publish([Outgoing(topic, None, b"barrier", None, partition) for partition in range(count)])
        assert broker.flush(DEADLINE_SECONDS)
        records = read(subscribe([topic]), count)
        assert sorted(record.partition for record in records) == list(range(count))

    def test_partition_that_does_not_exist_is_refused(self, broker: Broker, topic: str) -> None:
        count = broker.topics()[topic].partitions
        with pytest.raises(Fatal, match="partition_unknown"):
            broker.publish([Outgoing(topic, b"k", b"v", None, count)])

    def test_topic_that_does_not_exist_is_refused(self, broker: Broker) -> None:
        with pytest.raises(Fatal, match="topic_missing"):
            broker.publish([Outgoing("test.public.never_made", b"k", b"v")])

    def test_headers_nulls_and_any_bytes_come_back(
        self, broker: Broker, topic: str, subscribe: Callable[..., Subscription]
    ) -> None:
        everything = bytes(range(256))
        sent = [
            Outgoing(topic, b"k", b"v", None, 0),
            Outgoing(topic, b"k", None, None, 0),
            Outgoing(topic, None, b"", [("name", b"value"), ("name", b""), ("ünï", everything)], 0),
            Outgoing(topic, everything, everything, [], 0),
        ]
        before = time.time() * 1000
        broker.publish(sent)
        assert broker.flush(DEADLINE_SECONDS)
        records = read(subscribe([topic]), 4)
        assert [(r.key, r.value, r.headers) for r in records] == [
            (b"k", b"v", None),
            (b"k", None, None),
            (None, b"", sent[2].headers),
            (everything, everything, None),
        ]
        assert all(before - 1000 <= record.timestamp_ms <= time.time() * 1000 + 1000 for record in records)

    def test_several_writers_share_a_topic(
        self, connect: Connect, topic: str, subscribe: Callable[..., Subscription]
    ) -> None:
        def write(broker: Broker, writer: int) -> None:
            for start in range(0, 400, 40):
                broker.publish(
                    [Outgoing(topic, b"%d" % (i % 7), b"%d:%d" % (writer, i)) for i in range(start, start + 40)]
                )
            assert broker.flush(DEADLINE_SECONDS)
            broker.close()

        def run(writer: int) -> None:
            try:
                write(connect(), writer)
            except SyncHubError as error:
                failed.append(error)

        failed: list[SyncHubError] = []
        threads = [threading.Thread(target=run, args=(writer,)) for writer in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        assert not failed
        records = read(subscribe([topic]), 1200)
        assert_dense(records)
        for found in by_partition(records).values():
            for writer in range(3):
                numbers = [int(v.split(b":")[1]) for r in found if (v := r.value or b"").startswith(b"%d:" % writer)]
                assert numbers == sorted(numbers)

    def test_reading_begins_at_the_offsets_given(
        self, broker: Broker, topic: str, subscribe: Callable[..., Subscription]
    ) -> None:
        broker.publish([Outgoing(topic, None, b"%d" % i, None, i % 2) for i in range(100)])
        assert broker.flush(DEADLINE_SECONDS)
        asked: list[TopicPartition] = []

        def on_assign(partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
            asked.extend(partitions)
            return {partition: {0: 30, 1: 45}.get(partition.partition, 0) for partition in partitions}

        subscription = subscribe([topic], on_assign=on_assign)
        assert subscription.assignment() == []
        records = read(subscription, 25)
        assert sorted(subscription.assignment()) == sorted(asked)
        assert len(asked) == broker.topics()[topic].partitions
        assert_dense([record for record in records if record.partition == 0], start=30)
        assert_dense([record for record in records if record.partition == 1], start=45)
        assert subscription.poll(0.3, 10) == []

    def test_new_records_arrive_soon(self, broker: Broker, topic: str, subscribe: Callable[..., Subscription]) -> None:
        subscription = subscribe([topic])
        broker.publish(keyed(topic, [0]))
        assert broker.flush(DEADLINE_SECONDS)
        read(subscription, 1)
        for number in range(1, 6):
            broker.publish(keyed(topic, [number]))
            assert broker.flush(DEADLINE_SECONDS)
            started = time.monotonic()
            assert [record.value for record in read(subscription, 1)] == [b"%d" % number]
            assert time.monotonic() - started < 2

    def test_few_at_a_time_keeps_order(
        self, broker: Broker, topic: str, subscribe: Callable[..., Subscription]
    ) -> None:
        broker.publish(keyed(topic, range(500)))
        assert broker.flush(DEADLINE_SECONDS)
        subscription = subscribe([topic])
        records: list[Record] = []
        end = time.monotonic() + DEADLINE_SECONDS
        while len(records) < 500:
            assert time.monotonic() < end
            found = subscription.poll(0.2, 7)
            assert len(found) <= 7
            records += found
        assert_dense(records)

    def test_seek_goes_back_and_forth(self, broker: Broker, topic: str, subscribe: Callable[..., Subscription]) -> None:
        broker.publish([Outgoing(topic, None, b"%d" % i, None, 0) for i in range(60)])
        assert broker.flush(DEADLINE_SECONDS)
        subscription = subscribe([topic])
        place = TopicPartition(topic, 0)
        assert_dense(read(subscription, 10, at_once=10))
        subscription.seek(place, 5)
        assert_dense(read(subscription, 10, at_once=10), start=5)
        subscription.seek(place, 50)
        assert_dense(read(subscription, 10, at_once=10), start=50)

    def test_two_members_share_a_group(
        self, broker: Broker, topic: str, subscribe: Callable[..., Subscription]
    ) -> None:
        group = uuid.uuid4().hex
        members = [subscribe([topic], group=group, member=index, members=2) for index in range(2)]
        everything = broker.topics()[topic].partitions
        end = time.monotonic() + DEADLINE_SECONDS
        while True:
            assert time.monotonic() < end, "the members never settled"
            for member in members:
                member.poll(0.1, 10)
            shares = [set(member.assignment()) for member in members]
            if all(shares) and not shares[0] & shares[1] and len(shares[0] | shares[1]) == everything:
                break
        broker.publish(keyed(topic, range(500)))
        assert broker.flush(DEADLINE_SECONDS)
        records: list[Record] = []
        while len(records) < 500:
            assert time.monotonic() < end
            for member, share in zip(members, shares, strict=True):
                found = member.poll(0.1, 500)
                assert {TopicPartition(topic, record.partition) for record in found} <= share
                records += found
        assert_dense(records)
        assert [found for member in members for found in member.poll(0.2, 10)] == []

    def test_members_share_topics_of_odd_partitions_evenly(
        self, broker: Broker, topic: str, subscribe: Callable[..., Subscription]
    ) -> None:
        group, topics = uuid.uuid4().hex, [topic, topic + "_2", topic + "_3", topic + "_4"]
        infos = broker.create_topics(topics)
        everything = sum(info.partitions for info in infos.values())
        members = [subscribe(topics, group=group, member=index, members=2) for index in range(2)]
        end = time.monotonic() + DEADLINE_SECONDS
        while [len(member.assignment()) for member in members] != [everything // 2] * 2:
            assert time.monotonic() < end, [member.assignment() for member in members]
            for member in members:
                member.poll(0.1, 10)

    def test_several_topics_in_one_subscription(
        self, broker: Broker, topic: str, subscribe: Callable[..., Subscription]
    ) -> None:
        second = topic + "_2"
        broker.create_topics([second])
        broker.publish(keyed(topic, range(50)) + keyed(second, range(50)))
        assert broker.flush(DEADLINE_SECONDS)
        records = read(subscribe([topic, second]), 100)
        for name in (topic, second):
            assert_dense([record for record in records if record.topic == name])

    def test_fetch_gives_one_record(
        self, broker: Broker, topic: str, forget: Callable[[TopicPartition, int], None]
    ) -> None:
        broker.publish([Outgoing(topic, b"k", b"%d" % i, [("h", b"%d" % i)], 0) for i in range(20)])
        assert broker.flush(DEADLINE_SECONDS)
        place = TopicPartition(topic, 0)
        for offset in (19, 0, 7):
            record = broker.fetch({place: offset})[place]
            assert (record.topic, record.partition, record.offset) == (topic, 0, offset)
            assert (record.key, record.value, record.headers) == (b"k", b"%d" % offset, [("h", b"%d" % offset)])
        assert broker.fetch({place: 20}) == {}
        assert broker.fetch({TopicPartition(topic, 1): 0}) == {}
        assert broker.fetch({}) == {}
        forget(place, 20)
        assert broker.fetch({place: 7}) == {}

    def test_fetch_gives_one_record_of_each_partition(self, broker: Broker, topic: str) -> None:
        partitions = range(broker.topics()[topic].partitions)
        many = [Outgoing(topic, b"k", b"%d/%d" % (p, i) + bytes(1000), None, p) for p in partitions for i in range(300)]
        broker.publish(many)
        assert broker.flush(DEADLINE_SECONDS)
        places = {TopicPartition(topic, partition): 290 * (partition % 2) + partition for partition in partitions}
        found = broker.fetch({**places, TopicPartition(topic, 0): 300})
        assert {place: record.offset for place, record in found.items()} == {
            place: offset for place, offset in places.items() if place.partition
        }
        assert all(record.value == b"%d/%d" % (p, record.offset) + bytes(1000) for (_, p), record in found.items())

    def test_empty_topic(self, broker: Broker, topic: str, subscribe: Callable[..., Subscription]) -> None:
        count = broker.topics()[topic].partitions
        places = {TopicPartition(topic, partition) for partition in range(count)}
        assert broker.start_offsets([topic]) == broker.end_offsets([topic]) == dict.fromkeys(places, 0)
        subscription = subscribe([topic])
        started = time.monotonic()
        assert subscription.poll(0.5, 10) == []
        assert time.monotonic() - started >= 0.45

    def test_record_of_the_largest_size(
        self, broker: Broker, topic: str, subscribe: Callable[..., Subscription]
    ) -> None:
        limit = broker.topics()[topic].max_record_bytes
        value = uuid.uuid4().bytes * (limit // 16 + 1)
        key = b"key"
        sent = Outgoing(topic, key, value[: limit - len(key)], None, 0)
        broker.publish([Outgoing(topic, b"a", b"small", None, 0), sent, Outgoing(topic, b"b", b"small", None, 0)])
        assert broker.flush(DEADLINE_SECONDS)
        records = read(subscribe([topic]), 3)
        assert_dense(records)
        assert records[1].value == sent.value

    def test_closing_unflushed_leaves_no_hole(
        self, connect: Connect, topic: str, subscribe: Callable[..., Subscription]
    ) -> None:
        writer = connect()
        writer.publish([Outgoing(topic, None, b"%d" % i, None, i % 2) for i in range(5000)])
        writer.close()
        writer.close()
        again = connect()
        again.publish([Outgoing(topic, None, b"last", None, partition) for partition in range(2)])
        assert again.flush(DEADLINE_SECONDS)
        ends = again.end_offsets([topic])
        records = read(subscribe([topic]), sum(ends.values()))
        assert_dense(records)
        for partition, found in by_partition(records).items():
            numbers = [int(record.value or b"") for record in found if record.value != b"last"]
            assert numbers == list(range(partition, partition + 2 * len(numbers), 2))

    def test_reading_what_was_deleted_stops(
        self,
        broker: Broker,
        topic: str,
        subscribe: Callable[..., Subscription],
        forget: Callable[[TopicPartition, int], None],
    ) -> None:
        place = TopicPartition(topic, 0)
        broker.publish([Outgoing(topic, None, b"%d" % i, None, 0) for i in range(10)])
        assert broker.flush(DEADLINE_SECONDS)
        broker.publish([Outgoing(topic, None, b"%d" % i, None, 0) for i in range(10, 20)])
        assert broker.flush(DEADLINE_SECONDS)
        forget(place, 10)
        assert broker.start_offsets([topic])[place] == 10
        assert broker.end_offsets([topic])[place] == 20
        allowed = subscribe([topic], on_assign=lambda partitions: {p: 10 * (p == place) for p in partitions})
        assert_dense(read(allowed, 10), start=10)
        with pytest.raises(Fatal, match="offset_gone"):
            read(subscribe([topic]), 1)

    def test_reading_beyond_the_end_stops(
        self, broker: Broker, topic: str, subscribe: Callable[..., Subscription]
    ) -> None:
        broker.publish([Outgoing(topic, None, b"v", None, 0)])
        assert broker.flush(DEADLINE_SECONDS)
        subscription = subscribe([topic], on_assign=lambda partitions: {p: 7 * (p.partition == 0) for p in partitions})
        with pytest.raises(Fatal, match="offset_gone"):
            read(subscription, 1)

    def test_check_finds_no_error(self, broker: Broker, topic: str) -> None:
        assert [finding for finding in broker.check() if finding.severity == "error"] == []
