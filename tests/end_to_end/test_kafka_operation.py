"""A hub on a Kafka that goes away, comes back, and has its topics changed behind the hub's back."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions

from connectors.local_postgres import LocalPostgres
from tests.end_to_end.lab import Lab, execute, moment, query
from tests.end_to_end.test_operation import AUDIT, BOTH, TWICE
from tests.end_to_end.workload import SCHEMA
from tests.servers.kafka import Kafka
from tests.servers.postgres import database

SET = AlterConfigOpType.SET
BROKER = "{{type: kafka, bootstrap_servers: ['{address}'], partitions: 3, replication_factor: 1, client: {client}}}"


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A Kafka of our own, which may be stopped."""
    server = Kafka(tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture
def labs(
    kafka: Kafka, tmp_path: Path, source_server: LocalPostgres, target_server: LocalPostgres
) -> Iterator[list[Lab]]:
    """Two hubs, one with each client."""
    with contextlib.ExitStack() as stack:
        labs = []
        for client in ("confluent", "kafka-python"):
            name = f"k_{client.replace('-', '_')}"
            source = stack.enter_context(database(source_server))
            target = stack.enter_context(database(target_server))
            execute(source, SCHEMA)
            execute(target, AUDIT)
            (tmp_path / name).mkdir()
            broker = BROKER.format(address=kafka.address, client=client)
            labs.append(Lab(tmp_path / name, name, source, target, BOTH, broker=broker))
            stack.callback(labs[-1].close)
            labs[-1].start()
        yield labs


def test_a_broker_that_is_restarted_and_topics_that_are_changed(labs: list[Lab], kafka: Kafka) -> None:
    arrived = "select count(*) > 5 from account_view"
    with labs[0].load(), labs[1].load():
        for lab in labs:
            lab.until([(True,)], arrived)
        kafka.stop(signal.SIGKILL)
        moment(0.5)
    for lab in labs:
        assert "broker_slow" in lab.problem("worker_backing_off", f"source:{lab.name}")["message"]
    kafka.start()
    for lab in labs:
        lab.agrees()
        assert query(lab.target, TWICE) == []
        assert "failed" not in {one["state"] for one in lab.health()["pipelines"].values()}
    _refused_in_the_middle(labs, AdminClient({"bootstrap.servers": kafka.address}))
    _changed_behind_the_hub(labs, AdminClient({"bootstrap.servers": kafka.address}))


def _refused_in_the_middle(labs: list[Lab], admin: AdminClient) -> None:
    """A limit is lowered while the hub runs: what was refused is sent again under a higher epoch, without a hole.

    kafka-python splits what was refused by itself, in order.
    """
    for lab in labs:
        epoch = json.loads(lab.state.position(lab.name) or "")["epoch"]
        resource = ConfigResource(ConfigResource.Type.TOPIC, f"{lab.name}.public.orders")
        resource.add_incremental_config(ConfigEntry("max.message.bytes", "3000", incremental_operation=SET))
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(30)
        execute(
            lab.source,
            "truncate orders",
            "insert into orders select n, n, n, md5(n::text) from generate_series(1, 500) n",
        )
        execute(lab.source, "insert into orders values (999, 'small', 1, null)")
        lab.until([(501,)], "select count(*) from order_view")
        if lab.name == "k_confluent":
            assert "delivery_failed" in lab.log()
            assert json.loads(lab.state.position(lab.name) or "")["epoch"] > epoch
        lab.agrees()


def _changed_behind_the_hub(labs: list[Lab], admin: AdminClient) -> None:
    """One topic gets another partition, one is deleted: their readers stop, and what would publish to them."""
    for lab in labs:
        assert lab.stop() == 0
        orders, accounts = f"{lab.name}.public.orders", f"{lab.name}.public.accounts"
        admin.create_partitions([NewPartitions(orders, 4)])[orders].result(30)
        lab.start()
        for pipeline in ("orders_to_target", "orders_to_wh"):
            error = lab.becomes(pipeline, "failed")["error"]
            assert error["code"] == "partitions_changed"
            assert "4 partitions" in error["message"]
        lab.becomes("accounts_to_target", "running")
        assert "partitions_changed" in lab.problem("worker_failed", f"source:{lab.name}")["message"]
        assert lab.stop() == 0
        admin.delete_topics([accounts])[accounts].result(30)
        lab.start()
        error = lab.becomes("accounts_to_target", "failed")["error"]
        assert error["code"] == "topic_recreated"
        assert accounts in error["message"]
        assert query(lab.target, TWICE) == []
        assert "Traceback" not in lab.log()
