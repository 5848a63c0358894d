"""Settings of Kafka: complete or refused, and the same for both client libraries."""

from __future__ import annotations

from typing import Any

import confluent_kafka
import kafka
import pytest
from pydantic import ValidationError

from connectors.brokers import confluent, kafka_python
from connectors.brokers.kafka import KafkaBroker
from connectors.brokers.kafka_check import findings_of
from connectors.brokers.kafka_client import ProducerLimits, TopicFacts
from connectors.brokers.kafka_options import KafkaOptions
from sync_hub.errors import ConfigError

SERVERS = ["a:9092", "b:9092"]
LIMITS = ProducerLimits(1_000_000, 2_000_000)


def options(**settings: Any) -> KafkaOptions:
    return KafkaOptions.model_validate({"bootstrap_servers": SERVERS} | settings)


TLS = {
    "security_protocol": "SSL",
    "ssl_cafile": "/ca.pem",
    "ssl_certfile": "/cert.pem",
    "ssl_keyfile": "/key.pem",
    "ssl_password": "canary",
    "ssl_check_hostname": False,
}
LOGIN = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_username": "hub",
    "sasl_password": "canary",
}


def test_tls_settings_reach_kafka_python() -> None:
    settings = kafka_python.connection_settings(options(**TLS))
    assert settings["bootstrap_servers"] == SERVERS
    assert settings["security_protocol"] == "SSL"
    assert settings["ssl_cafile"] == "/ca.pem"
    assert settings["ssl_certfile"] == "/cert.pem"
    assert settings["ssl_keyfile"] == "/key.pem"
    assert settings["ssl_password"] == "canary"
    assert settings["ssl_check_hostname"] is False


def test_tls_settings_reach_confluent() -> None:
    settings = confluent.connection_settings(options(**TLS))
    assert settings["bootstrap.servers"] == "a:9092,b:9092"
    assert settings["security.protocol"] == "SSL"
    assert settings["ssl.ca.location"] == "/ca.pem"
    assert settings["ssl.certificate.location"] == "/cert.pem"
    assert settings["ssl.key.location"] == "/key.pem"
    assert settings["ssl.key.password"] == "canary"
    assert settings["ssl.endpoint.identification.algorithm"] == "none"


def test_certificates_are_verified_unless_told_otherwise() -> None:
    chosen = options(security_protocol="SSL")
    assert kafka_python.connection_settings(chosen)["ssl_check_hostname"] is True
    assert confluent.connection_settings(chosen)["ssl.endpoint.identification.algorithm"] == "https"


def test_login_reaches_both_clients() -> None:
    python = kafka_python.connection_settings(options(**LOGIN))
    assert (python["sasl_mechanism"], python["sasl_plain_username"], python["sasl_plain_password"]) == (
        "SCRAM-SHA-512",
        "hub",
        "canary",
    )
    librdkafka = confluent.connection_settings(options(**LOGIN))
    assert (librdkafka["sasl.mechanism"], librdkafka["sasl.username"], librdkafka["sasl.password"]) == (
        "SCRAM-SHA-512",
        "hub",
        "canary",
    )


def test_kerberos_service_reaches_both_clients() -> None:
    chosen = options(security_protocol="SASL_PLAINTEXT", sasl_mechanism="GSSAPI", sasl_kerberos_service_name="streams")
    assert kafka_python.connection_settings(chosen)["sasl_kerberos_service_name"] == "streams"
    assert confluent.connection_settings(chosen)["sasl.kerberos.service.name"] == "streams"


def test_producers_never_give_up_and_wait_for_all_replicas() -> None:
    python = kafka_python.delivery_settings(options(), LIMITS)
    assert (python["enable_idempotence"], python["acks"], python["delivery_timeout_ms"]) == (True, "all", 2**31 - 1)
    assert (python["batch_size"], python["compression_type"]) == (1_000_000, "lz4")
    assert python["max_request_size"] > 2_000_000
    librdkafka = confluent.delivery_settings(options(), LIMITS)
    assert (librdkafka["enable.idempotence"], librdkafka["acks"], librdkafka["message.timeout.ms"]) == (True, "all", 0)
    assert (librdkafka["batch.size"], librdkafka["compression.type"]) == (1_000_000, "lz4")
    assert librdkafka["message.max.bytes"] > 2_000_000


def test_the_libraries_know_every_setting_we_give() -> None:
    for settings in (TLS | {"ssl_cafile": None, "ssl_certfile": None, "ssl_keyfile": None}, LOGIN):
        chosen = options(**settings)
        python = kafka_python.connection_settings(chosen)
        for consumer in (kafka.KafkaConsumer, kafka.KafkaProducer, kafka.KafkaAdminClient):
            assert python.keys() <= consumer.DEFAULT_CONFIG.keys()
        assert kafka_python.delivery_settings(chosen, LIMITS).keys() <= kafka.KafkaProducer.DEFAULT_CONFIG.keys()
        confluent_kafka.Producer(
            {**confluent.connection_settings(chosen), **confluent.delivery_settings(chosen, LIMITS)}
        )


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"security_protocol": "SASL_SSL"}, "sasl_mechanism is needed"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "u"}, "sasl_password"),
        ({"sasl_mechanism": "PLAIN", "sasl_username": "u", "sasl_password": "p"}, "security_protocol"),
        ({"topic_settings": {"cleanup.policy": "compact"}}, "fenced publishing"),
        ({"topic_settings": {"unclean.leader.election.enable": "true"}}, "loses acknowledged"),
        ({"bootstrap_servers": []}, "at least 1"),
        ({"bootstrap_server": "a"}, "Extra inputs"),
        ({"client": "librdkafka"}, "kafka-python"),
        ({"replication_factor": 0}, "greater than"),
    ],
)
def test_incomplete_or_unsafe_settings_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        options(**settings)


def test_passwords_are_not_shown() -> None:
    assert "canary" not in repr(options(**LOGIN)) + repr(options(**TLS)) + str(options(**LOGIN).model_dump())


def test_new_topics_survive_the_loss_of_a_broker() -> None:
    assert options(replication_factor=3).new_topic_settings == {
        "cleanup.policy": "delete",
        "unclean.leader.election.enable": "false",
        "min.insync.replicas": "2",
    }
    assert (
        options(replication_factor=3, topic_settings={"min.insync.replicas": "1"}).new_topic_settings[
            "min.insync.replicas"
        ]
        == "1"
    )
    assert "min.insync.replicas" not in options(replication_factor=1).new_topic_settings


def test_missing_client_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="client_not_installed"):
        KafkaBroker("broker", options(client="confluent"), "test").topics()


def facts(name: str, **settings: str) -> TopicFacts:
    return TopicFacts(name, "0" * 32, 3, {key.replace("_", "."): value for key, value in settings.items()})


@pytest.mark.parametrize(
    ("chosen", "brokers", "topic", "code", "severity"),
    [
        ({"replication_factor": 3}, 2, None, "replication_impossible", "error"),
        ({"replication_factor": 1}, 1, None, "not_replicated", "warning"),
        ({}, 3, None, "not_encrypted", "info"),
        ({}, 3, facts("a.b.c", cleanup_policy="compact"), "topic_compacted", "warning"),
        ({}, 3, facts("a.b.c", unclean_leader_election_enable="true"), "unclean_election", "warning"),
        ({}, 3, facts("a.b.c", min_insync_replicas="1"), "min_insync_low", "warning"),
        ({"replication_factor": 2}, 3, facts("a.b.c", min_insync_replicas="3"), "min_insync_high", "warning"),
    ],
)
def test_check_tells_what_could_lose_records(
    chosen: dict[str, Any], brokers: int, topic: TopicFacts | None, code: str, severity: str
) -> None:
    topics = {topic.name: topic} if topic else {}
    found = {finding.code: finding for finding in findings_of("broker", options(**chosen), brokers, topics)}
    assert found[code].severity == severity
    assert found[code].hint
    if topic:
        assert topic.name in found[code].message


def test_check_is_silent_about_a_safe_cluster_and_other_peoples_topics() -> None:
    safe = options(**LOGIN)
    topics = {
        "a.b.c": facts("a.b.c", cleanup_policy="delete", min_insync_replicas="2"),
        "other": facts("other", cleanup_policy="compact"),
    }
    assert findings_of("broker", safe, 3, topics) == []
