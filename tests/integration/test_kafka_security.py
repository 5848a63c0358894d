"""Logging in to a real Kafka over TLS, with both client libraries."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import kafka
import pytest
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from connectors.brokers.kafka import KafkaBroker
from connectors.brokers.kafka_options import KafkaOptions
from connectors.local_postgres import free_port
from sync_hub.errors import Unavailable
from sync_hub.testing.broker import from_start, keyed, read
from tests.servers.kafka import Kafka, unavailable

PASSWORD = "canary-password"
SECURE = """
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SASL_SSL://127.0.0.1:{secure}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{secure}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
ssl.keystore.type=PEM
ssl.keystore.location={folder}/keystore.pem
listener.name.sasl_ssl.plain.sasl.jaas.config=\\
 org.apache.kafka.common.security.plain.PlainLoginModule required user_hub="{password}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"""

Login = Callable[..., KafkaBroker]


def make_certificate(folder: Path, name: str) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    if not shutil.which("openssl"):
        unavailable("openssl is needed to make a certificate")
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    command += ["-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secure")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    server = Kafka(folder / "kafka")
    certificate = make_certificate(folder, "server")
    (server.folder / "keystore.pem").write_text(certificate.with_suffix(".key").read_text() + certificate.read_text())
    properties = server.folder / "server.properties"
    plain = properties.read_text()
    controller = plain.split("CONTROLLER://127.0.0.1:")[1].split()[0]
    secure = free_port()
    properties.write_text(
        plain
        + SECURE.format(port=server.port, controller=controller, secure=secure, folder=server.folder, password=PASSWORD)
    )
    server.start()
    with closing(kafka.KafkaAdminClient(bootstrap_servers=server.address)) as admin:
        admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion("scrammer", ScramMechanism.SCRAM_SHA_256, PASSWORD, iterations=4096)]
        )
    yield f"127.0.0.1:{secure}"
    server.stop()


@pytest.fixture(params=["kafka-python", "confluent"])
def broker_client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def login(broker_client: str, address: str, folder: Path) -> Iterator[Login]:
    made: list[KafkaBroker] = []

    def log_in(**settings: Any) -> KafkaBroker:
        chosen = {
            "bootstrap_servers": [address],
            "client": broker_client,
            "partitions": 2,
            "replication_factor": 1,
            "timeout_seconds": 10,
            "security_protocol": "SASL_SSL",
            "ssl_cafile": str(folder / "server.pem"),
            "sasl_mechanism": "PLAIN",
            "sasl_username": "hub",
            "sasl_password": PASSWORD,
        } | settings
        made.append(KafkaBroker("broker", KafkaOptions.model_validate(chosen), "test"))
        return made[-1]

    yield log_in
    for broker in made:
        broker.close()


@pytest.mark.parametrize(
    "settings",
    [{}, {"sasl_mechanism": "SCRAM-SHA-256", "sasl_username": "scrammer"}],
    ids=["plain", "scram"],
)
def test_everything_works_behind_tls_and_a_login(login: Login, settings: dict[str, str], unique: Any) -> None:
    broker = login(**settings)
    topic = unique("a.b.c")
    broker.create_topics([topic])
    broker.publish(keyed(topic, range(20)))
    assert broker.flush(30)
    subscription = broker.subscribe([topic], topic, on_assign=from_start)
    assert len(read(subscription, 20)) == 20
    subscription.close()
    assert {finding.severity for finding in broker.check()} == {"warning"}


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"sasl_password": "wrong"}, "broker_login_failed"),
        ({"ssl_cafile": "other"}, "broker_unreachable"),
    ],
    ids=["wrong password", "untrusted certificate"],
)
def test_refused_logins_are_told_soon(
    login: Login, broker_client: str, folder: Path, settings: dict[str, str], code: str
) -> None:
    if settings.get("ssl_cafile"):
        settings = {"ssl_cafile": str(make_certificate(folder, "other"))}
    broker = login(**settings, timeout_seconds=3)
    with pytest.raises(Unavailable) as caught:
        broker.topics()
    # Kafka answers a refused login and hangs up; kafka-python sometimes sees only that it has hung up.
    assert caught.value.code == code or (broker_client == "kafka-python" and "credentials" in caught.value.hint)
    assert PASSWORD not in str(caught.value)
    assert "\n" not in str(caught.value)
    if "ssl_cafile" in settings:
        assert "certificate" in str(caught.value)
