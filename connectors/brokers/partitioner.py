"""Which partition a key belongs to: Kafka's murmur2, exactly as Java's producer computes it.

It is computed here rather than in the client, with the partition count that the topic had when the hub first saw it:
a client follows a changed count at once and silently, and order per key would be lost.
"""

from __future__ import annotations

from functools import cache
from struct import Struct

_MASK = 0xFFFFFFFF
_M = 0x5BD1E995


@cache
def _words(count: int) -> Struct:
    return Struct(f"<{count}I")


def murmur2(data: bytes) -> int:
    """The 32-bit hash, unsigned."""
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length >> 2
    for word in _words(whole).unpack_from(data):
        k = word * _M & _MASK
        h = h * _M & _MASK ^ (k ^ k >> 24) * _M & _MASK
    tail = length & 3
    if tail:
        h = (h ^ int.from_bytes(data[-tail:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def partition_of(key: bytes | None, partitions: int) -> int:
    """The partition of a key; records without a key all go to the first, so that they keep their order."""
    return 0 if key is None else (murmur2(key) & 0x7FFFFFFF) % partitions
