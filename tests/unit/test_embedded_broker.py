"""The embedded log: what only it can get wrong."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from connectors.brokers.embedded import EmbeddedBroker, EmbeddedOptions, network_file_system
from sync_hub.errors import Fatal, PublishingBroken, Unavailable
from sync_hub.model import Outgoing, TopicPartition
from sync_hub.testing.broker import assert_dense, connections, from_start, keyed, read

TOPIC = "erp.public.customers"
FIRST = TopicPartition(TOPIC, 0)

Connect = Callable[[], EmbeddedBroker]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def connect(path: Path) -> Iterator[Connect]:
    yield from connections(lambda: EmbeddedBroker("broker", EmbeddedOptions(path=path, partitions=3), "test"))


@pytest.fixture
def broker(connect: Connect) -> EmbeddedBroker:
    made = connect()
    made.create_topics([TOPIC])
    return made


def batch(count: int, text: str = "v", partition: int = 0) -> list[Outgoing]:
    return [Outgoing(TOPIC, None, f"{text}{index}".encode(), None, partition) for index in range(count)]


def run_sql(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()


WRITER = """
import sys
from pathlib import Path
from connectors.brokers.embedded import EmbeddedBroker, EmbeddedOptions
from sync_hub.model import Outgoing
broker = EmbeddedBroker("broker", EmbeddedOptions(path=Path(sys.argv[1])), "test")
name, number = sys.argv[2], 0
while number < int(sys.argv[3]):
    broker.publish([Outgoing("erp.public.customers", None, f"{name}:{number}".encode(), None, p) for p in (0, 1, 0, 1)])
    number += 1
    print(number, flush=True)
"""


def writer(path: Path, name: str, batches: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(batches)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_processes_write_at_the_same_time_and_one_is_killed(broker: EmbeddedBroker, path: Path) -> None:
    writers = [writer(path, "a", 150), writer(path, "b", 150), writer(path, "k", 1_000_000)]
    killed = writers[2]
    assert killed.stdout
    acknowledged = 0
    while acknowledged < 30:
        acknowledged = int(killed.stdout.readline())
    killed.kill()
    acknowledged = max([acknowledged, *(int(line) for line in killed.stdout.read().split())])
    assert [process.wait(60) for process in writers[:2]] == [0, 0]
    subscription = broker.subscribe([TOPIC], "g", on_assign=from_start)
    records = read(subscription, sum(broker.end_offsets([TOPIC]).values()))
    subscription.close()
    assert_dense(records)
    for name, expected in (("a", 150), ("b", 150), ("k", None)):
        for partition in (0, 1):
            mine = [r.value.decode() for r in records if r.partition == partition and r.value]
            numbers = [int(text.split(":")[1]) for text in mine if text.startswith(name)]
            count = len(numbers) // 2
            assert numbers == [number for number in range(count) for _ in range(2)], "each batch is there whole, once"
            assert count == expected if expected else count in (acknowledged, acknowledged + 1)
    for process in writers:
        process.wait()
        assert process.stdout
        process.stdout.close()


def test_topics_created_at_the_same_time_are_one(connect: Connect) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: (b := connect(), found.append(b.create_topics([TOPIC])[TOPIC].id), b.close()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_disk_that_fills_up_loses_nothing(broker: EmbeddedBroker, path: Path) -> None:
    broker.publish(batch(10, "before"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("log.db-wal").stat().st_size + 50_000, hard))
    try:
        with pytest.raises(Unavailable, match=r"disk_full|disk_error"):
            broker.publish([Outgoing(TOPIC, None, bytes(1_000_000), None, 0)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert broker.published() == {FIRST: 10}
    broker.publish(batch(10, "after"))
    assert broker.published() == {FIRST: 20}
    subscription = broker.subscribe([TOPIC], "g", on_assign=from_start)
    records = read(subscription, 20)
    subscription.close()
    assert_dense(records)
    assert [record.value for record in records] == [r.value for r in batch(10, "before") + batch(10, "after")]


def test_file_that_is_replaced_stops_everyone(broker: EmbeddedBroker, path: Path) -> None:
    broker.publish(batch(1))
    subscription = broker.subscribe([TOPIC], "g", on_assign=from_start)
    read(subscription, 1)
    path.rename(path.with_name("moved.db"))
    with pytest.raises(Fatal, match="log_replaced"):
        broker.publish(batch(1))
    with pytest.raises(Fatal, match="log_replaced"):
        subscription.poll(0.1, 1)
    path.with_name("moved.db").rename(path)
    broker.publish(batch(1))
    read(subscription, 1)
    subscription.close()


def test_other_programs_database_is_left_alone(path: Path, connect: Connect) -> None:
    run_sql(path, "create table precious (a)")
    with pytest.raises(Fatal, match="log_format_unknown"):
        connect().topics()


def test_log_of_a_later_version_is_refused(path: Path, connect: Connect) -> None:
    connect().topics()
    run_sql(path, "pragma user_version = 2")
    with pytest.raises(Fatal, match="log_format_unknown"):
        connect().topics()


def test_missing_batch_is_noticed(broker: EmbeddedBroker, path: Path) -> None:
    for number in range(3):
        broker.publish(batch(5, str(number)))
    run_sql(path, "delete from batches where id & 0xffff = 5")
    subscription = broker.subscribe([TOPIC], "g", on_assign=from_start)
    with pytest.raises(Fatal, match="log_damaged"):
        read(subscription, 15)
    subscription.close()


def test_too_large_record_is_refused_with_its_whole_call(connect: Connect, path: Path) -> None:
    small = EmbeddedBroker("broker", EmbeddedOptions(path=path, max_record_bytes=2000), "test")
    small.create_topics([TOPIC])
    with pytest.raises(PublishingBroken, match="record_too_large"):
        small.publish([*batch(3), Outgoing(TOPIC, b"k", bytes(2000), None, 0)])
    assert sum(small.end_offsets([TOPIC]).values()) == 0
    small.publish([Outgoing(TOPIC, b"k", bytes(1999), None, 0)])
    small.close()


def test_topic_created_again_stops_publisher_and_reader(broker: EmbeddedBroker, path: Path, connect: Connect) -> None:
    broker.publish(batch(5))
    subscription = broker.subscribe([TOPIC], "g", on_assign=from_start)
    read(subscription, 5)
    with sqlite3.connect(path) as connection:
        connection.execute("pragma foreign_keys = on")
        connection.execute("delete from topics")
    connection.close()
    connect().create_topics([TOPIC])
    with pytest.raises(Fatal, match="topic_recreated"):
        broker.publish(batch(1))
    with pytest.raises(Fatal, match="topic_recreated"):
        subscription.poll(0.1, 1)
    assert broker.create_topics([TOPIC])[TOPIC].id == connect().topics()[TOPIC].id
    broker.publish(batch(1))
    assert broker.end_offsets([TOPIC])[FIRST] == 1
    subscription.close()


def test_topic_that_comes_later_is_read_too(broker: EmbeddedBroker) -> None:
    asked: list[TopicPartition] = []

    def on_assign(partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        asked.extend(partitions)
        return from_start(partitions)

    late = "erp.public.late"
    subscription = broker.subscribe([TOPIC, late], "g", on_assign=on_assign)
    assert subscription.poll(0.01, 10) == []
    assert {partition.topic for partition in asked} == {TOPIC}
    broker.create_topics([late])
    broker.publish([Outgoing(late, b"k", b"v")])
    assert [record.topic for record in read(subscription, 1)] == [late]
    assert len(asked) == len(set(asked)) == 6
    subscription.close()


class TestRetention:
    def test_keeps_what_a_pipeline_has_not_read(self, broker: EmbeddedBroker) -> None:
        for number in range(4):
            broker.publish(batch(5, str(number)))
        broker.retain({FIRST: 12}, keep_seconds=-1)
        assert broker.start_offsets([TOPIC])[FIRST] == 10
        assert broker.end_offsets([TOPIC])[FIRST] == 20
        assert [record.offset for record in broker.fetch({FIRST: 10}).values()] == [10]
        assert broker.fetch({FIRST: 9}) == {}

    def test_keeps_what_is_young(self, broker: EmbeddedBroker) -> None:
        broker.publish(batch(5))
        broker.retain({FIRST: 5}, keep_seconds=60)
        assert broker.start_offsets([TOPIC])[FIRST] == 0
        broker.retain({FIRST: 5}, keep_seconds=-1)
        assert broker.start_offsets([TOPIC])[FIRST] == 5

    def test_keeps_partitions_that_nobody_named(self, broker: EmbeddedBroker) -> None:
        broker.publish(batch(5) + batch(5, partition=1))
        broker.retain({FIRST: 5, TopicPartition("no.such.topic", 0): 5}, keep_seconds=-1)
        assert broker.start_offsets([TOPIC]) == {FIRST: 5, (TOPIC, 1): 0, (TOPIC, 2): 0}

    def test_offsets_go_on_after_everything_was_deleted(self, broker: EmbeddedBroker, connect: Connect) -> None:
        broker.publish(batch(5))
        broker.retain({FIRST: 1000}, keep_seconds=-1)
        broker.close()
        again = connect()
        again.publish(batch(1, "new"))
        assert again.start_offsets([TOPIC])[FIRST] == 5
        assert [record.value for record in again.fetch({FIRST: 5}).values()] == [b"new0"]

    def test_many_batches_go_in_several_steps(self, broker: EmbeddedBroker) -> None:
        broker.publish(batch(1))
        run = [batch(1, str(number))[0] for number in range(1200)]
        for record in run:
            broker.publish([record])
        broker.retain({FIRST: 1100}, keep_seconds=-1)
        assert broker.start_offsets([TOPIC])[FIRST] == 1100

    def test_space_is_used_again(self, broker: EmbeddedBroker, path: Path) -> None:
        def fill() -> None:
            for _ in range(20):
                broker.publish([Outgoing(TOPIC, None, bytes(200_000), None, 0)])

        fill()
        broker.retain({FIRST: 1 << 40}, keep_seconds=-1)
        size = path.stat().st_size
        fill()
        assert path.stat().st_size < size * 1.5


def test_no_read_transaction_outlives_a_poll(broker: EmbeddedBroker, path: Path) -> None:
    for number in range(10):
        broker.publish(batch(10, str(number)))
    subscription = broker.subscribe([TOPIC], "g", on_assign=from_start)
    assert len(subscription.poll(1, 15)) == 15
    assert broker.fetch({FIRST: 3})
    with sqlite3.connect(path, timeout=0) as other:
        blocked, frames, copied = other.execute("pragma wal_checkpoint(truncate)").fetchone()
    other.close()
    assert (blocked, frames, copied) == (0, 0, 0)
    subscription.close()


def test_waiting_reader_costs_little_and_wakes_soon(broker: EmbeddedBroker, connect: Connect) -> None:
    subscription = connect().subscribe([TOPIC], "g", on_assign=from_start)
    subscription.poll(0.1, 1)
    started = time.process_time()
    assert subscription.poll(1, 1) == []
    assert time.process_time() - started < 0.15
    late: list[float] = []
    for number in range(20):
        timer = threading.Timer(0.01, broker_publishes, (connect, number, late))
        timer.start()
        read(subscription, 1)
        late[-1] = time.monotonic() - late[-1]
        timer.join()
    assert sorted(late)[10] < 0.05
    subscription.close()


def broker_publishes(connect: Connect, number: int, moments: list[float]) -> None:
    own = connect()
    moments.append(time.monotonic())
    own.publish(batch(1, str(number)))
    own.close()


def test_one_poll_takes_a_bounded_amount_of_memory(broker: EmbeddedBroker) -> None:
    for _ in range(20):
        broker.publish([Outgoing(TOPIC, None, bytes(1_000_000), None, 0)])
    subscription = broker.subscribe([TOPIC], "g", on_assign=from_start)
    taken = [len(subscription.poll(1, 1000)) for _ in range(3)]
    assert sum(taken) == 20
    assert max(taken) <= 9
    subscription.close()


def test_no_partition_starves(broker: EmbeddedBroker) -> None:
    for partition in range(3):
        broker.publish(batch(3000, partition=partition))
    subscription = broker.subscribe([TOPIC], "g", on_assign=from_start)
    first = {record.partition for _ in range(3) for record in subscription.poll(1, 500)}
    assert first == {0, 1, 2}
    assert_dense(read(broker.subscribe([TOPIC], "g", on_assign=from_start), 9000))
    subscription.close()


def test_keys_choose_their_partition_for_ever(broker: EmbeddedBroker) -> None:
    broker.publish(keyed(TOPIC, range(8), keys=8))
    assert broker.end_offsets([TOPIC]) == {FIRST: 2, (TOPIC, 1): 4, (TOPIC, 2): 2}


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("/data/hub/log.db", "nfs4"),
        ("/data/local/log.db", ""),
        ("/srv/log.db", ""),
        ("/with space/log.db", "cifs"),
    ],
)
def test_network_file_systems_are_recognised(file: str, kind: str) -> None:
    mounts = (
        "/dev/vda / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0\n/dev/vdb /data/local xfs rw 0 0\n"
        "//server/x /with\\040space cifs rw 0 0\n"
    )
    assert network_file_system(Path(file), mounts) == kind


def test_check_makes_the_file_and_finds_nothing(broker: EmbeddedBroker, tmp_path: Path) -> None:
    assert broker.check() == []
    (tmp_path / "plain").write_text("")
    wrong = EmbeddedBroker("broker", EmbeddedOptions(path=tmp_path / "plain" / "log.db"), "test")
    assert [finding.code for finding in wrong.check()] == ["database_not_accessible"]
    os.truncate(tmp_path / "plain", 0)


def test_members_share_topics_of_one_partition_in_whatever_order_they_were_made(tmp_path: Path) -> None:
    broker = EmbeddedBroker("broker", EmbeddedOptions(path=tmp_path / "log.db", partitions=1), "test")
    topics = [f"erp.public.t{number:03}" for number in range(200)]
    broker.create_topics(topics)
    for mine in (topics, topics[::2]):
        shares = []
        for member in range(2):
            subscription = broker.subscribe(mine, "g", member=member, members=2, on_assign=from_start)
            subscription.poll(0, 1)
            shares.append(set(subscription.assignment()))
            subscription.close()
        assert shares[0] | shares[1] == {(topic, 0) for topic in mine}
        assert not shares[0] & shares[1]
        assert all(len(share) > len(mine) / 3 for share in shares)
    broker.close()
