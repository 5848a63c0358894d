"""Which partition a key belongs to: Kafka's murmur2, exactly as Java's producer computes it.

It is computed here rather than in the client, with the partition count that the topic had when the hub first saw it:
a client follows a changed count at once and silently, and order per key would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from struct import Struct, unpack

_MASK = 0xFFFFFFFF
_M = 0x5BD1E995
_SEED = 0x9747B28C
_FEW = 16
"""So many keys of one length are hashed faster one by one."""


@cache
def _words(count: int) -> Struct:
    return Struct(f"<{count}I")


def murmur2(data: bytes) -> int:
    """The 32-bit hash, unsigned."""
    length = len(data)
    h = _SEED ^ length
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


def partitions_of(keys: Sequence[bytes | None], partitions: int) -> list[int]:
    """`partition_of` each of these keys, in order; of many at once for a third of the cost."""
    found = [0] * len(keys)
    if partitions == 1:
        return found
    by_length: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        if key is not None:
            by_length.setdefault(len(key), []).append(place)
    for length, places in by_length.items():
        alike = [keys[place] or b"" for place in places]
        hashes = _murmur2_of_equal_length(alike, length) if len(alike) > _FEW else map(murmur2, alike)
        for place, h in zip(places, hashes, strict=True):
            found[place] = (h & 0x7FFFFFFF) % partitions
    return found


def _murmur2_of_equal_length(keys: Sequence[bytes], length: int) -> Sequence[int]:
    """The sums of `murmur2` for all keys side by side in one large number.

    Each key has 64 bits of it: room for the product of two words, so that none reaches into its neighbour.
    """
    count, padding = len(keys), bytes(-length % 4)
    words = memoryview(padding.join(keys) + padding).cast("I")
    each = len(words) // count
    ones = int.from_bytes(b"\1\0\0\0\0\0\0\0" * count, "little")
    mask = ones * _MASK
    h = ones * (_SEED ^ length)
    for number in range(each):
        spread = bytearray(8 * count)
        memoryview(spread).cast("I")[::2] = words[number::each]
        k = int.from_bytes(spread, "little")
        if number < length >> 2:
            k = k * _M & mask
            h = h * _M & mask ^ (k ^ k >> 24 & mask) * _M & mask
        else:
            h = (h ^ k) * _M & mask
    h = (h ^ h >> 13 & mask) * _M & mask
    h ^= h >> 15 & mask
    return unpack(f"<{count}Q", h.to_bytes(8 * count, "little"))
