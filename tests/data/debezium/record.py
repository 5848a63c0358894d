"""Records what the real Debezium writes, for the tests of the envelope.

    python -m tests.data.debezium.record

starts PostgreSQL, Apache Kafka and Kafka Connect with Debezium (fetched by Maven), changes some tables and writes the
records of their topics, byte for byte, to `plain.jsonl` (JSON alone) and `schema.jsonl` (JSON with its schema block).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from connectors.brokers.kafka import KafkaBroker
from connectors.brokers.kafka_options import KafkaOptions
from connectors.local_postgres import LOGICAL, LocalPostgres, free_port
from sync_hub.model import Record
from tests.servers.kafka import CACHE, KAFKA_VERSION, Kafka

DEBEZIUM_VERSION = "3.5.0.Final"
HERE = Path(__file__).parent
JARS = CACHE.parent / f"connect-{KAFKA_VERSION}"

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>test</groupId><artifactId>{name}</artifactId><version>1</version><dependencies>{dependencies}</dependencies>
</project>"""
DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
WORKER = """bootstrap.servers={kafka}
group.id=connect
listeners=http://127.0.0.1:{port}
plugin.path={plugins}
plugin.discovery=only_scan
key.converter=org.apache.kafka.connect.json.JsonConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
config.storage.topic=connect-configs
offset.storage.topic=connect-offsets
status.storage.topic=connect-status
config.storage.replication.factor=1
offset.storage.replication.factor=1
status.storage.replication.factor=1
offset.flush.interval.ms=1000
topic.creation.enable=true
"""

TABLES = """
create type mood as enum ('sad', 'ok', 'happy');
create table customers (
    id bigint primary key, small smallint, number integer, flag boolean, amount numeric(12,2), any_numeric numeric,
    single real, double double precision, name text, short varchar(20), fixed char(5), born date, at_time time,
    at_time_tz timetz, created timestamp, updated timestamptz, waiting interval, uid uuid, data jsonb, raw json,
    bytes bytea, feeling mood, tags text[], numbers integer[], address inet, notes text
);
alter table customers alter column notes set storage external;
create table full_rows (id integer, part text, notes text, primary key (id, part));
alter table full_rows alter column notes set storage external;
alter table full_rows replica identity full;
create table toasted (
    id integer primary key, n integer, body bytea, doc jsonb, words text[], numbers integer[], uids uuid[]
);
alter table toasted alter column body set storage external, alter column doc set storage external,
    alter column words set storage external, alter column numbers set storage external,
    alter column uids set storage external;
create table orders (id integer primary key, total numeric(10,2), placed timestamptz);
create table signals (id text primary key, type text, data text);
"""
BEFORE = """
insert into customers values (1, -32768, 2147483647, true, 10.50, 0.1000, 1.5, -0.0, 'Ada Lovelace', 'ada', 'ab',
    '2024-02-29', '23:59:59.999999', '12:00:00+02', '2024-02-29 13:14:15.123456', '2024-02-29 13:14:15.123456+00',
    'P1Y2M3DT4H5M6S', '6f0b9f9e-6b1f-4f0e-8d33-1f2f3a4b5c6d', '{"a": [1, 2.50]}', '{"b":1,"b":2}', '\\x00ff', 'happy',
    array['x', null, 'z'], '{1,2}', '10.0.0.1/8', null);
insert into customers (id) values (2);
insert into orders values (1, 99.90, '2024-03-01 00:00:00+00');
"""
NOTES = "repeat('ab', 1100)"
CHANGES = [
    f"insert into customers (id, name, amount, notes) values (3, 'Grace', 20, {NOTES})",
    "update customers set amount = 'NaN' where id = 2",
    "update customers set amount = 21.00 where id = 3",
    "update customers set id = 30, name = 'Grace Hopper' where id = 3",
    "delete from customers where id = 1",
    "update customers set born = 'infinity', updated = '-infinity', double = 'NaN', single = 'Infinity' where id = 2",
    f"insert into full_rows values (1, 'a', {NOTES})",
    "update full_rows set part = 'b' where id = 1",
    "update full_rows set id = 2, notes = 'short' where id = 1",
    "delete from full_rows",
    "insert into full_rows values (7, 'x', null), (8, 'y', '')",
    "truncate full_rows",
    """insert into toasted select 1, 1, decode(repeat('00', 2100), 'hex'), jsonb_build_object('a', repeat('x', 2100)),
        array_fill('word'::text, array[300]), array_fill(7, array[600]),
        array_fill(uuid '00000000-0000-0000-0000-0000000000aa', array[140])""",
    "update toasted set n = 2",
    "insert into orders values (2, 0, '2024-03-02 00:00:00+00')",
    "update orders set total = 1.10 where id = 1",
    "update orders set id = 3 where id = 2",
    "delete from orders where id = 1",
    "insert into signals values ('one', 'execute-snapshot', '{\"data-collections\": [\"public.customers\"]}')",
]
EXPECTED = {"plain": 20, "schema": 7}


def fetch(folder: Path, name: str, dependencies: list[tuple[str, str, str]], into: Path) -> None:
    """Fetch jars and what they need by Maven, unless they are there."""
    if into.exists():
        return
    pom = folder / f"{name}.xml"
    folder.mkdir(parents=True, exist_ok=True)
    pom.write_text(POM.format(name=name, dependencies="".join(DEPENDENCY.format(*each) for each in dependencies)))
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={into}"]
    subprocess.run(command, check=True, timeout=600)


def jars() -> tuple[Path, Path]:
    """Kafka Connect's jars, and the folder of plugins with Debezium in it."""
    libs, plugins = JARS / "libs", JARS / "plugins"
    kafka = "org.apache.kafka"
    connect = [(kafka, "connect-runtime", KAFKA_VERSION), (kafka, "connect-json", KAFKA_VERSION)]
    fetch(JARS, "connect", [*connect, ("org.slf4j", "slf4j-simple", "1.7.36")], libs)
    fetch(JARS, "plugin", [("io.debezium", "debezium-connector-postgres", DEBEZIUM_VERSION)], plugins / "debezium")
    for pattern in ("jackson*", "connect-*", "kafka-clients*", "slf4j*"):
        for clash in (plugins / "debezium").glob(pattern):
            clash.unlink()
    return libs, plugins


def until(true: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.2)
    return found


class Connect:
    """One Kafka Connect worker."""

    def __init__(self, folder: Path, kafka: str) -> None:
        libs, plugins = jars()
        self.port = free_port()
        properties = folder / "worker.properties"
        properties.write_text(WORKER.format(kafka=kafka, port=self.port, plugins=plugins))
        main = "org.apache.kafka.connect.cli.ConnectDistributed"
        with (folder / "connect.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["java", "-Xmx1g", "-cp", f"{libs}/*", main, str(properties)], stdout=log, stderr=log
            )
        until(lambda: self.call("/connectors") is not None, f"Kafka Connect did not start, see {folder}/connect.log")

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """One REST call; None while there is no answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            return None

    def capture(self, name: str, server: LocalPostgres, tables: str, *, schemas: bool) -> None:
        """Start a connector and wait until it streams."""
        converter = {"": "org.apache.kafka.connect.json.JsonConverter", ".schemas.enable": str(schemas).lower()}
        config = {f"{side}.converter{key}": value for side in ("key", "value") for key, value in converter.items()} | {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "database.hostname": "127.0.0.1",
            "database.port": str(server.port),
            "database.user": "postgres",
            "database.password": "postgres",
            "database.dbname": "postgres",
            "topic.prefix": name,
            "slot.name": name,
            "plugin.name": "pgoutput",
            "publication.name": name,
            "publication.autocreate.mode": "filtered",
            "table.include.list": tables,
            "signal.data.collection": "public.signals",
            "snapshot.mode": "initial",
            "decimal.handling.mode": "string",
            "time.precision.mode": "isostring",
            "interval.handling.mode": "string",
            "skipped.operations": "none",
            "provide.transaction.metadata": "true",
            "topic.creation.default.replication.factor": "1",
            "topic.creation.default.partitions": "1",
        }
        until(lambda: self.call("/connectors", {"name": name, "config": config}), f"connector {name} was refused")

    def stop(self) -> None:
        """Stop the worker."""
        self.process.terminate()
        self.process.wait(60)


def line(record: Record) -> str:
    """A record as one line of JSON."""

    def text(value: bytes | None) -> str | None:
        return None if value is None else b64encode(value).decode()

    return json.dumps(
        {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "key": text(record.key),
            "value": text(record.value),
            "headers": [[name, text(value)] for name, value in record.headers or []],
            "timestamp_ms": record.timestamp_ms,
        }
    )


def read_topics(broker: KafkaBroker, prefix: str, count: int) -> list[Record]:
    """The records of the tables' topics, each topic in order."""
    names = [f"{prefix}.public.{table}" for table in ("customers", "full_rows", "toasted", "orders")]
    until(lambda: sum(broker.end_offsets(broker.topics().keys() & set(names)).values()) >= count, prefix)
    subscription = broker.subscribe(
        [name for name in names if name in broker.topics()], prefix, on_assign=lambda places: dict.fromkeys(places, 0)
    )
    records: list[Record] = []
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < 5:
        found = subscription.poll(0.5, 100)
        if found:
            records += found
            quiet_since = time.monotonic()
    subscription.close()
    return sorted(records, key=lambda record: (names.index(record.topic), record.partition, record.offset))


def streaming(connection: psycopg.Connection[Any], slots: int) -> bool:
    """Whether all connectors have done their snapshot and follow the log."""
    return connection.execute("select count(*) from pg_replication_slots where active").fetchone() == (slots,)


def main() -> None:
    """Record both files."""
    folder = Path(tempfile.mkdtemp(prefix="debezium-"))
    folder.chmod(0o755)
    (folder / "postgres").mkdir()
    server, kafka = LocalPostgres(folder / "postgres", settings=LOGICAL), Kafka(folder / "kafka")
    server.start()
    kafka.start()
    connect = Connect(folder, kafka.address)
    options = KafkaOptions(bootstrap_servers=[kafka.address], client="kafka-python", replication_factor=1)
    broker = KafkaBroker("broker", options, "record")
    try:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(TABLES)
            connection.execute(BEFORE)
            connect.capture(
                "plain", server, "public.customers,public.full_rows,public.toasted,public.signals", schemas=False
            )
            connect.capture("schema", server, "public.orders,public.signals", schemas=True)
            until(lambda: streaming(connection, 2), f"no streaming, see {folder}/connect.log")
            for statement in CHANGES:
                connection.execute(statement)
        for name, count in EXPECTED.items():
            records = read_topics(broker, name, count)
            (HERE / f"{name}.jsonl").write_text("".join(line(record) + "\n" for record in records))
            print(f"{name}: {len(records)} records")
    finally:
        broker.close()
        connect.stop()
        kafka.stop()
        server.stop()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
