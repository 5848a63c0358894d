"""What the broker needs of a Kafka client library: one small adapter for each library has these shapes.

All calls block for at most the configured timeout, then raise `Unavailable`; the errors of the library never get out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from sync_hub.errors import Fatal, PublishingBroken, Unavailable
from sync_hub.model import Outgoing, Record, TopicPartition

BATCH_BYTES = 1024 * 1024
LINGER_MILLISECONDS = 5
"""While records are handed over, so that each partition's become one batch; `send` ends it when they are."""
HASTEN_SECONDS = 0.001
"""How long `send` flushes. On a busy machine it can end before who sends has woken: then the records linger."""
SESSION_MILLISECONDS = 6000
HEARTBEAT_MILLISECONDS = 500
"""A member learns at its next heartbeat that another one has come: that one waits so long for its share."""
ASSIGNMENT = "roundrobin"
"""Kafka's default deals out each topic by itself: the first member gets all topics of one partition."""
METADATA_MILLISECONDS = 10_000
FETCH_BYTES = 256 * 1024
FETCH_TOTAL_BYTES = 4 * FETCH_BYTES
"""An answer of several partitions unpacks to many times its size: with the default of 50 MB a reader takes 195 MB of
memory, with 2 MB 130 MB, with 1 MB 105 MB, at the same speed. Larger records come nevertheless, each by itself."""

CONNECTION_HINT = "check that the brokers run, bootstrap_servers, security_protocol and credentials"


class TopicFacts(Struct, frozen=True):
    """A topic as the cluster describes it; `id` as 32 lower-case hex digits, `settings` the effective ones."""

    name: str
    id: str
    partitions: int
    settings: dict[str, str]


class ProducerLimits(Struct, frozen=True):
    """`batch_bytes`: what goes into one batch; `record_bytes`: the largest record, with what surrounds it."""

    batch_bytes: int
    record_bytes: int


class Producer(Protocol):
    """An idempotent producer. After `PublishingBroken` only `abandon` may be called."""

    @property
    def room(self) -> bool:
        """Whether little enough is unacknowledged to take more."""
        ...

    @property
    def ends(self) -> dict[TopicPartition, int]:
        """For each partition, the offset after its last durable record."""
        ...

    def send(self, records: Sequence[Outgoing], partitions: Sequence[int]) -> None:
        """Queue records for these partitions, in order, and hasten them: none need linger for others that may come.

        Waits for about `HASTEN_SECONDS` until the last is durable. Raises `PublishingBroken` when one is refused.
        """
        ...

    def collect(self, timeout_seconds: float) -> None:
        """Look at the delivery reports that have come, waiting for one if none has. Raises `PublishingBroken`."""
        ...

    def drain(self, timeout_seconds: float | None) -> bool:
        """Wait until everything is durable; False when the time was too short. Raises `PublishingBroken`."""
        ...

    def abandon(self) -> None:
        """Drop what is not yet durable and close, without waiting for the cluster."""
        ...


class Consumer(Protocol):
    """A reader. Starts nowhere by itself: after each new assignment `start` says where."""

    def poll(self, timeout_seconds: float, max_records: int) -> tuple[list[Record], list[TopicPartition] | None]:
        """Records, and the new assignment when it has changed during this call (the records are then void)."""
        ...

    def start(self, places: Mapping[TopicPartition, int]) -> None:
        """Read these partitions, all that are assigned, from these offsets."""
        ...

    def close(self) -> None:
        """Close within a few seconds, whether the cluster answers or not."""
        ...


class Client(Protocol):
    """The door to one cluster. Connects at the first use."""

    def brokers(self) -> int:
        """How many brokers the cluster has now."""
        ...

    def topics(self, names: Sequence[str] | None, *, settings: bool) -> dict[str, TopicFacts]:
        """These topics as far as they exist, or all but internal ones; `settings` are left empty unless asked for."""
        ...

    def create_topics(self, names: Sequence[str], partitions: int, copies: int, settings: Mapping[str, str]) -> None:
        """Create topics and wait until they can be written; one that exists already is left as it is."""
        ...

    def offsets(self, topics: Mapping[str, int], which: Literal["start", "end"]) -> dict[TopicPartition, int]:
        """First offset, or offset after the last, of all partitions of these topics, of which each has so many."""
        ...

    def producer(self, limits: ProducerLimits) -> Producer:
        """A new producer."""
        ...

    def group_consumer(self, topics: Sequence[str], group: str, instance: str) -> Consumer:
        """Join a group. `instance` names this member: started again, it need not wait for its old session to end.

        It gives its old place up and joins anew. To take the place over would give it the old share as well, unseen by
        the group: one for other topics, or an empty one when the member was killed before it knew its topics.
        """
        ...

    def lone_consumer(self) -> Consumer:
        """A reader outside any group; `start` assigns."""
        ...

    def close(self) -> None:
        """Let go of connections. Safe to call twice."""
        ...


def all_partitions(topics: Mapping[str, int]) -> list[TopicPartition]:
    """The partitions of topics of which each has so many."""
    return [TopicPartition(topic, partition) for topic, count in topics.items() for partition in range(count)]


def unreachable(what: str, error: object) -> Unavailable:
    """The cluster did not answer."""
    return Unavailable("broker_unreachable", f"Kafka: {what}: {error}", hint=CONNECTION_HINT)


def not_ready(what: str, error: object) -> Unavailable:
    """The cluster answered, but cannot do it now: a leader moves, a coordinator loads."""
    return Unavailable("broker_not_ready", f"Kafka: {what}: {error}", hint="it is tried again")


def refused(what: str, error: object) -> Fatal:
    """The cluster will never do what was asked."""
    return Fatal("broker_refused", f"Kafka: {what}: {error}", hint="check the settings of the broker and its cluster")


def login_failed(error: object) -> Unavailable:
    """The cluster refused the credentials. Kept trying: they may be about to be changed."""
    return Unavailable(
        "broker_login_failed", f"Kafka refused the login: {error}", hint="check the sasl_ and ssl_ settings"
    )


def not_authorized(what: str, error: object) -> Fatal:
    """The cluster knows who asks and does not allow it."""
    return Fatal("broker_not_authorized", f"Kafka: {what}: {error}", hint="grant the rights on its topics and groups")


def offset_gone(place: object, error: object) -> Fatal:
    """The wanted offset was deleted, truncated, or never written."""
    return Fatal(
        "offset_gone",
        f"Kafka no longer has (or never had) the offset to continue at: {place}: {error}",
        hint="reload the pipelines that read this topic",
    )


class MemberReplaced(Unavailable):
    """The member's place in its group was taken under its own name, so its consumer is of no more use.

    By another process, or by this one: when a broker stops before its answer to a join has arrived, the member that
    joins again fences itself. So it is tried again; the target lets only one of two readers write.
    """


def member_replaced(error: object) -> MemberReplaced:
    """The cluster refuses a member whose name has joined again since."""
    return MemberReplaced(
        "member_replaced",
        f"this worker's place in its consumer group was taken: {error}",
        hint="if it goes on: another process runs the same worker on this machine",
    )


def topic_missing(topic: str) -> Fatal:
    """A topic that was there, or must be, is not."""
    return Fatal("topic_missing", f"there is no topic {topic}", hint="topics are created when a source is captured")


def delivery_failed(place: str, error: object) -> PublishingBroken:
    """A delivery report says that a record did not arrive."""
    return PublishingBroken(
        "delivery_failed",
        f"Kafka did not take a record for {place}: {error}",
        hint="what was not durable is sent again under a new epoch",
    )
