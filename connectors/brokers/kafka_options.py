"""What can be set for a Kafka broker in the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

_FIXED_SETTINGS = {
    "cleanup.policy": "compaction needs fenced publishing, which this version does not have: topics are deleted by age",
    "unclean.leader.election.enable": "an unclean election loses acknowledged records",
}


class KafkaOptions(BaseModel):
    """Settings under `broker:` with `type: kafka`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap_servers: list[str] = Field(min_length=1, description="`host:port` of some brokers of the cluster.")
    client: Literal["auto", "kafka-python", "confluent"] = Field(
        default="auto", description="Which client library; `auto` takes confluent-kafka when it is installed."
    )
    partitions: int = Field(default=6, ge=1, le=10_000, description="Partitions of a new topic.")
    replication_factor: int = Field(default=3, ge=1, le=100, description="Copies of a new topic.")
    topic_settings: dict[str, str] = Field(
        default_factory=dict, description="Settings of new topics in Kafka's names, `retention.ms` for example."
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How to connect."
    )
    ssl_cafile: str | None = Field(default=None, description="File with the certificates to trust; else the system's.")
    ssl_certfile: str | None = Field(default=None, description="File with this client's certificate (PEM).")
    ssl_keyfile: str | None = Field(default=None, description="File with this client's key (PEM).")
    ssl_password: SecretStr | None = Field(default=None, description="Password of the key file.")
    ssl_check_hostname: bool = Field(default=True, description="Whether the certificate must name the broker's host.")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI"] | None = Field(
        default=None, description="How to log in; needed with a SASL protocol."
    )
    sasl_username: str | None = Field(default=None, description="User of PLAIN and SCRAM.")
    sasl_password: SecretStr | None = Field(default=None, description="Password of PLAIN and SCRAM.")
    sasl_kerberos_service_name: str = Field(default="kafka", description="The brokers' Kerberos service.")
    timeout_seconds: float = Field(default=10, gt=0, le=300, description="How long to wait for any answer.")
    delivery_timeout_seconds: float | None = Field(
        default=None, gt=0, description="Give records up after this time. Leave it unset: never."
    )

    @field_validator("topic_settings")
    @classmethod
    def _no_unsafe_settings(cls, settings: dict[str, str]) -> dict[str, str]:
        for name, why in _FIXED_SETTINGS.items():
            if name in settings:
                raise ValueError(f"{name} cannot be set: {why}")
        return settings

    @model_validator(mode="after")
    def _login_is_complete(self) -> KafkaOptions:
        if self.security_protocol.startswith("SASL_"):
            if self.sasl_mechanism is None:
                raise ValueError(f"sasl_mechanism is needed with {self.security_protocol}")
            if self.sasl_mechanism != "GSSAPI" and (self.sasl_username is None or self.sasl_password is None):
                raise ValueError(f"sasl_username and sasl_password are needed with {self.sasl_mechanism}")
        elif self.sasl_mechanism is not None:
            raise ValueError(f"sasl_mechanism needs security_protocol SASL_SSL, not {self.security_protocol}")
        return self

    @property
    def new_topic_settings(self) -> dict[str, str]:
        """Settings of topics that the hub creates: nothing acknowledged is lost when one broker fails."""
        safe = {"cleanup.policy": "delete", "unclean.leader.election.enable": "false"}
        if self.replication_factor >= 3:
            safe["min.insync.replicas"] = "2"
        return safe | self.topic_settings
