"""Dealing partitions out to the members of a group, which kafka-python leaves to its leader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from kafka.coordinator.assignors.abstract import ConsumerProtocolAssignment
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor


class RoundRobin(RoundRobinPartitionAssignor):  # type: ignore[misc]
    """Kafka's `roundrobin`. The library's own (3.0.12) fails when members read different topics: one begins anew.

    Members are dealt to in the order of their names, so that a member that comes back gets what it had.
    """

    @classmethod
    def assign(cls, cluster: Any, members: Sequence[Any]) -> dict[str, ConsumerProtocolAssignment]:
        """The partitions of each member, by its id; a topic that the leader has not heard of yet comes later."""
        ordered = sorted(members, key=lambda member: str(member.group_instance_id or member.member_id))
        wanted = {member.member_id: set(member.metadata.topics) for member in ordered}
        ring = cycle(wanted)
        shares: dict[str, dict[str, list[int]]] = {name: defaultdict(list) for name in wanted}
        for topic in sorted(set().union(*wanted.values())):
            for partition in sorted(cluster.partitions_for_topic(topic) or ()):
                member = next(name for name in ring if topic in wanted[name])
                shares[member][topic].append(partition)
        return {
            name: ConsumerProtocolAssignment(cls.version, sorted(share.items()), b"") for name, share in shares.items()
        }
