"""What a preflight check says about a Kafka cluster: from facts to findings, without any connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from connectors.brokers.kafka_client import TopicFacts
from connectors.brokers.kafka_options import KafkaOptions
from sync_hub.model import Finding


def findings_of(path: str, options: KafkaOptions, brokers: int, topics: Mapping[str, TopicFacts]) -> list[Finding]:
    """Everything that would keep topics from being created, or could lose a record."""
    findings = []
    if options.replication_factor > brokers:
        findings.append(
            Finding(
                "replication_impossible",
                "error",
                path,
                f"replication_factor is {options.replication_factor}, and the cluster has {brokers} broker(s)",
                "lower replication_factor, or add brokers",
            )
        )
    if options.replication_factor == 1:
        findings.append(
            Finding(
                "not_replicated",
                "warning",
                path,
                "replication_factor is 1: a broker's disk that fails takes its topics along",
                "use 3 in production",
            )
        )
    if not options.security_protocol.endswith("SSL"):
        findings.append(
            Finding("not_encrypted", "info", path, "records travel unencrypted", "set security_protocol to SASL_SSL")
        )
    ours = [topic for name, topic in sorted(topics.items()) if name.count(".") >= 2]
    return findings + _topic_findings(path, options, ours)


def _topic_findings(path: str, options: KafkaOptions, topics: list[TopicFacts]) -> list[Finding]:
    findings = []
    rules: list[tuple[str, Callable[[TopicFacts], bool], str, str]] = [
        (
            "topic_compacted",
            lambda topic: "compact" in topic.settings.get("cleanup.policy", ""),
            "are compacted: a reader that falls behind by more than delete.retention.ms does not see every delete",
            "set cleanup.policy=delete on those that the hub writes",
        ),
        (
            "unclean_election",
            lambda topic: topic.settings.get("unclean.leader.election.enable") == "true",
            "allow unclean leader elections, which lose acknowledged records",
            "set unclean.leader.election.enable=false",
        ),
        (
            "min_insync_low",
            lambda topic: options.replication_factor >= 3 and int(topic.settings.get("min.insync.replicas", "2")) < 2,
            "acknowledge with one replica in sync: one failing broker loses records",
            "set min.insync.replicas=2",
        ),
        (
            "min_insync_high",
            lambda topic: int(topic.settings.get("min.insync.replicas", "1")) > options.replication_factor,
            "need more replicas in sync than replication_factor gives: nothing can be written",
            "lower min.insync.replicas, or raise replication_factor",
        ),
    ]
    for code, applies, what, hint in rules:
        names = [topic.name for topic in topics if applies(topic)]
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            findings.append(Finding(code, "warning", path, f"topics {what}: {shown}", hint))
    return findings
