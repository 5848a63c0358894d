"""Keys go to the partition that Java's producer would choose."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as reference

from connectors.brokers.partitioner import murmur2, partition_of, partitions_of


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_values_of_kafkas_own_test(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed & 0xFFFFFFFF


@given(st.binary(max_size=200))
def test_equal_to_the_reference(data: bytes) -> None:
    assert murmur2(data) == reference(data)


@given(st.binary(max_size=50), st.integers(1, 1000))
def test_partition_is_within_the_count(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions
    assert partition_of(key, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions


@given(st.lists(st.none() | st.binary(max_size=40)), st.integers(1, 1000))
def test_many_keys_go_where_each_goes_alone(keys: list[bytes | None], partitions: int) -> None:
    assert partitions_of(keys, partitions) == [partition_of(key, partitions) for key in keys]


@pytest.mark.parametrize("length", range(14))
@given(data=st.data())
@settings(max_examples=15)
def test_many_keys_of_one_length_go_where_each_goes_alone(data: st.DataObject, length: int) -> None:
    edges = st.sampled_from([bytes(length), b"\xff" * length, b"\x80" * length])
    keys = data.draw(st.lists(edges | st.binary(min_size=length, max_size=length), min_size=17, max_size=60))
    assert partitions_of(keys, 997) == [partition_of(key, 997) for key in keys]


def test_records_without_a_key_stay_together() -> None:
    assert {partition_of(None, count) for count in range(1, 9)} == {0}
