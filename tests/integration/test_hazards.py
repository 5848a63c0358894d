"""Hazards of one connector that no other test brings about: what each does is in docs/reference/hazards.md."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.brokers.embedded import EmbeddedBroker, EmbeddedOptions
from connectors.local_postgres import LocalPostgres
from connectors.postgresql import connect
from connectors.sinks.postgres import PostgresSink
from sync_hub.errors import Fatal, Unavailable
from sync_hub.model import Outgoing, TopicPartition
from sync_hub.testing.broker import assert_dense, from_start, read
from sync_hub.testing.sink_case import CUSTOMERS, Writer, upserts
from tests.integration.conftest import Capture, Database
from tests.servers.proxy import Proxy

SLOT = "sync_hub_test_erp"
TOPIC = "erp.public.customers"


def test_publication_that_is_younger_than_the_slot_stops_capture(
    any_dsn: str, any_db: Database, capture: Capture
) -> None:
    """Version 18 leaves out what came before with a warning; older ones fail."""
    any_db.execute("create table t (id int primary key, name text)")
    any_db.execute(f"alter database {any_db.info.dbname} set client_min_messages = error")
    any_db.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (SLOT,))
    any_db.execute("insert into t values (1)")
    log = capture(any_dsn, "t")
    any_db.execute("insert into t values (2)")
    with pytest.raises(Fatal) as raised:
        log.settle()
    assert (raised.value.code, raised.value.command) == ("publication_changed", "sync-hub recover erp")
    assert log.events == []
    assert [one.position for one in log.batches if one.position] == []


def batch(start: int, count: int = 5) -> list[Outgoing]:
    return [Outgoing(TOPIC, None, b"%d" % number, None, 0) for number in range(start, start + count)]


def opened(path: Path) -> EmbeddedBroker:
    return EmbeddedBroker("broker", EmbeddedOptions(path=path, partitions=1), "test")


def test_a_write_that_power_loss_tore_leaves_what_was_acknowledged_and_whole_batches(tmp_path: Path) -> None:
    """The log file ends anywhere within the last batch, or in rubbish: nothing of it is there, or all."""
    path = tmp_path / "log.db"
    broker = opened(path)
    broker.create_topics([TOPIC])
    broker.publish(batch(0))
    broker.publish(batch(5))
    wal = path.with_name("log.db-wal")
    durable = wal.stat().st_size
    broker.publish(batch(10))
    content, main = wal.read_bytes(), path.read_bytes()
    broker.close()
    step = max(1, (len(content) - durable) // 6)
    counts = []
    for number, cut in enumerate([*range(durable, len(content), step), len(content)]):
        torn = tmp_path / f"{number}.db"
        torn.write_bytes(main)
        torn.with_name(f"{number}.db-wal").write_bytes(content[:cut] + os.urandom(len(content) - cut))
        counts.append(_read_and_go_on(torn))
    assert counts == [10] * (len(counts) - 1) + [15]


def _read_and_go_on(path: Path) -> int:
    """How many records are there; the next one takes the offset behind them."""
    broker = opened(path)
    count = broker.end_offsets([TOPIC])[TopicPartition(TOPIC, 0)]
    broker.publish(batch(count, 1))
    assert broker.published() == {TopicPartition(TOPIC, 0): count + 1}
    subscription = broker.subscribe([TOPIC], "g", on_assign=from_start)
    records = read(subscription, count + 1)
    subscription.close()
    broker.close()
    assert_dense(records)
    assert [record.value for record in records] == [b"%d" % number for number in range(count + 1)]
    return count


def test_every_connection_to_a_server_notices_that_its_peer_is_gone(source_dsn: str) -> None:
    """Half-open: nobody answers, and nobody ends the connection either."""
    for replication in (False, True):
        connection = connect(source_dsn, application_name="test", replication=replication)
        with socket.socket(fileno=os.dup(connection.fileno())) as seen:
            assert seen.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            idle = seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            probes = seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
            apart = seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
            assert idle + probes * apart <= 60
            assert seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 60_000
        connection.close()


@contextmanager
def unplugged(port: int) -> Iterator[None]:
    """Every packet to and from a port is lost, as on a line that somebody pulled out. Needs root and iptables."""
    rules = [["-p", "tcp", end, str(port), "-j", "DROP"] for end in ("--dport", "--sport")]

    def change(what: str, rule: list[str]) -> int:
        return subprocess.run(["iptables", "-w", what, "INPUT", *rule], check=False, capture_output=True).returncode

    if not shutil.which("iptables") or any(change("-I", rule) for rule in rules):
        pytest.skip("packets can be dropped by root with iptables alone")
    try:
        yield
    finally:
        for rule in rules:
            change("-D", rule)


def test_a_line_that_is_pulled_out_is_unavailable_after_its_time(target_server: LocalPostgres, target_dsn: str) -> None:
    proxy = Proxy(target_server.port)
    soon = "tcp_user_timeout=600&connect_timeout=2&sslmode=disable&gssencmode=disable"
    address = target_dsn.replace(f":{target_server.port}/", f":{proxy.port}/")
    writer = Writer(PostgresSink("crm", PostgresSink.Options(dsn=f"{address}?{soon}"), "test"))
    writer.sink.create(CUSTOMERS)
    writer.write(upserts((1, "Ada")))
    with unplugged(proxy.port):
        began = time.monotonic()
        with pytest.raises(Unavailable) as raised:
            writer.write(upserts((2, "Bob")))
        assert raised.value.code == "connection_failed"
        assert time.monotonic() - began < 15
    writer.write(upserts((2, "Bob")))
    assert writer.rows("customers", "id") == [(1,), (2,)]
    writer.sink.close()
    proxy.close()
