"""What every sink must do with parked records: part of the contract suite in `sink.py`."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from sync_hub.errors import OffsetsMoved, Rejected
from sync_hub.model import Parked, SinkBatch
from sync_hub.testing.sink_case import TOPIC, Writer, moved, upserts

PARKED = Parked(
    pipeline="customers",
    topic=TOPIC,
    partition=0,
    seq=0,
    offset=17,
    key='{"id":1}',
    version="v0001",
    state="parked",
    code="check_violated",
    message="no 'such' \\ value\n…",
    sqlstate="23514",
    hint="mend it",
    attempts=1,
    first_at=1000.5,
    last_at=1001.25,
    next_at=1005.0,
    correlation_id="c-1",
    record_key=b'{"id":1}',
    record_value=b"\x00\xff{}",
    record_headers='[["h","AA=="]]',
    record_bytes=4,
)
UNREAD = replace(PARKED, record_key=None, record_value=None, record_headers="")


class SinkParkedContract:
    """Records that were parked are stored with the offsets, found again, and closed."""

    def test_a_parked_record_is_stored_with_the_offset_and_read_with_or_without_its_record(
        self, customers: Writer
    ) -> None:
        customers.write(upserts((2, "Bob")), parked=[PARKED], parked_seq=1)
        assert customers.sink.find_parked(["customers"]) == [UNREAD]
        assert customers.sink.find_parked(["customers"], records=True) == [PARKED]
        assert customers.sink.find_parked(["others"]) == []
        assert customers.sink.find_parked([]) == []
        assert customers.rows("customers", "id") == [(2,)]

    def test_a_change_keeps_the_record_and_closing_hides_it(self, customers: Writer) -> None:
        second = replace(PARKED, seq=1, offset=18, first_at=2000.0, next_at=None, state="waiting")
        customers.write(parked=[second, PARKED], parked_seq=2)
        assert [row.seq for row in customers.sink.find_parked(["customers"])] == [0, 1], "oldest first"
        closed = replace(UNREAD, state="discarded", closed_at=3000.0, next_at=None, reason="it is wrong", attempts=5)
        customers.write(parked=[closed], parked_seq=3)
        assert [row.seq for row in customers.sink.find_parked(["customers"])] == [1]
        whole = replace(closed, record_key=PARKED.record_key, record_value=PARKED.record_value)
        whole = replace(whole, record_headers=PARKED.record_headers)
        assert customers.sink.find_parked(["customers"], closed=True, records=True) == [whole, second]
        assert customers.sink.find_parked(["customers"], closed=True, seqs=[0]) == [closed]
        assert customers.sink.find_parked(["customers"], seqs=[0, 1, 7]) == [
            replace(second, record_key=None, record_value=None, record_headers="")
        ]

    def test_parking_and_rows_are_one_transaction(self, customers: Writer) -> None:
        stale = replace(customers.offset, parked_seq=9)
        with pytest.raises(OffsetsMoved):
            customers.sink.write(SinkBatch([(stale, moved(stale))], [], [PARKED]))
        with pytest.raises(Rejected):
            customers.write(upserts(("no number", "x")), parked=[PARKED])
        assert customers.sink.find_parked(["customers"], closed=True) == []
        assert customers.sink.load_offsets(["customers"]) == [customers.offset]
        with pytest.raises(ValueError, match="offsets"):
            customers.sink.write(SinkBatch([], [], [PARKED]))
