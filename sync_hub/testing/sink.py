"""What every sink must do, as tests: inherit `SinkContract` and give it the fixture `make_sink`.

class TestMySink(SinkContract):
    @pytest.fixture
    def make_sink(self, tmp_path): return lambda: MySink("target", MySink.Options(...), "hub")
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from sync_hub.errors import Fatal, OffsetsMoved, Rejected, SyncHubError
from sync_hub.model import Column, Offset, RangeSum, RowChange, SinkBatch, TableWrite
from sync_hub.ports import Sink
from sync_hub.testing.sink_case import CUSTOMERS, Writer, first_offset, moved, upserts
from sync_hub.testing.sink_parked import SinkParkedContract
from sync_hub.testing.sink_rows import SinkRowsContract
from sync_hub.testing.sink_values import SinkValuesContract


class SinkContract(SinkRowsContract, SinkValuesContract, SinkParkedContract):
    """Offsets and transactions here; rows and values in the classes it inherits."""

    @pytest.fixture
    @abstractmethod
    def make_sink(self) -> Callable[[], Sink]:
        """Make sinks, not yet opened, that all write to one and the same empty target."""

    @pytest.fixture
    def writer(self, make_sink: Callable[[], Sink]) -> Iterator[Writer]:
        """A sink with one partition."""
        writer = Writer(make_sink())
        yield writer
        writer.sink.close()

    @pytest.fixture
    def customers(self, writer: Writer) -> Writer:
        """The same, with the table `customers`."""
        writer.sink.create(CUSTOMERS)
        return writer

    def test_rows_and_offsets_are_written_in_one_transaction(self, customers: Writer) -> None:
        customers.write(upserts((1, "Ada"), (2, "Bob")))
        assert customers.rows("customers", "id", "name") == [(1, "Ada"), (2, "Bob")]
        assert customers.sink.load_offsets(["customers"]) == [customers.offset]

    def test_a_worker_with_stale_offsets_has_no_effect(self, customers: Writer, make_sink: Callable[[], Sink]) -> None:
        zombie = Writer(make_sink())
        customers.write(upserts((1, "new")))
        with pytest.raises(OffsetsMoved):
            zombie.write(upserts((1, "old"), (2, "ghost")))
        assert customers.rows("customers", "id", "name") == [(1, "new")]
        assert customers.sink.load_offsets(["customers"]) == [customers.offset]
        zombie.sink.close()

    def test_a_batch_written_twice_takes_effect_once(self, customers: Writer) -> None:
        batch = SinkBatch([(customers.offset, moved(customers.offset))], [upserts((1, "Ada"))])
        customers.sink.write(batch)
        with pytest.raises(OffsetsMoved):
            customers.sink.write(batch)
        assert customers.sink.load_offsets(["customers"]) == [moved(customers.offset)]

    @pytest.mark.parametrize(
        "difference",
        [
            {"mapping_hash": "other"},
            {"topic_id": "f" * 32},
            {"next_offset": 7},
            {"parked_seq": 1},
            {"barrier": "v0009"},
            {"partition": 9},
        ],
        ids=lambda difference: next(iter(difference)),
    )
    def test_offsets_that_differ_in_one_field_stop_the_write(
        self, customers: Writer, difference: dict[str, Any]
    ) -> None:
        wrong = msgspec.structs.replace(customers.offset, **difference)
        with pytest.raises(OffsetsMoved):
            customers.sink.write(SinkBatch([(wrong, moved(wrong))], [upserts((1, "Ada"))]))
        assert customers.rows("customers", "id") == []
        assert customers.sink.load_offsets(["customers"]) == [customers.offset]

    def test_one_moved_partition_of_several_stops_the_whole_batch(self, customers: Writer) -> None:
        other = first_offset(partition=1)
        customers.sink.start_offsets([other])
        stale = moved(other)
        pairs = [(customers.offset, moved(customers.offset)), (stale, moved(stale))]
        with pytest.raises(OffsetsMoved):
            customers.sink.write(SinkBatch(pairs, [upserts((1, "Ada"))]))
        assert customers.rows("customers", "id") == []
        assert customers.sink.load_offsets(["customers"]) == [customers.offset, other]

    def test_moved_offsets_outweigh_a_refused_row(self, customers: Writer) -> None:
        customers.write()
        stale = first_offset()
        with pytest.raises(OffsetsMoved):
            customers.sink.write(SinkBatch([(stale, moved(stale))], [upserts((None, "no key"))]))

    def test_every_field_of_an_offset_is_stored(self, writer: Writer) -> None:
        writer.write(topic_id="a" * 32, mapping_hash="next", parked_seq=3, barrier="v0001", next_offset=1 << 60)
        assert writer.sink.load_offsets(["customers"]) == [writer.offset]
        writer.write(barrier="")
        assert writer.sink.load_offsets(["customers"]) == [writer.offset]

    def test_offsets_of_several_partitions_move_together_without_rows(self, writer: Writer) -> None:
        offsets = [first_offset(partition=partition) for partition in (11, 2, 7)]
        writer.sink.start_offsets(offsets)
        after = [moved(offset, barrier="v0001") for offset in offsets]
        writer.sink.write(SinkBatch(list(zip(offsets, after, strict=True)), []))
        stored = writer.sink.load_offsets(["customers"])
        assert stored == [writer.offset, *sorted(after, key=lambda offset: offset.partition)]

    def test_start_offsets_leaves_rows_that_are_there(self, writer: Writer) -> None:
        writer.write()
        new = first_offset(partition=3)
        writer.sink.start_offsets([first_offset(), new])
        assert writer.sink.load_offsets(["customers"]) == [writer.offset, new]

    def test_offsets_are_loaded_for_the_named_pipelines_only(self, writer: Writer) -> None:
        products = first_offset("products")
        writer.sink.start_offsets([products, first_offset("staff")])
        assert writer.sink.load_offsets(["products", "unknown"]) == [products]
        assert writer.sink.load_offsets([]) == []

    def test_an_empty_batch_changes_nothing(self, customers: Writer) -> None:
        customers.sink.write(SinkBatch([], []))
        customers.sink.start_offsets([])
        customers.write(upserts())
        assert customers.rows("customers", "id") == []
        assert customers.sink.load_offsets(["customers"]) == [customers.offset]

    def test_rows_without_offsets_are_refused(self, customers: Writer) -> None:
        with pytest.raises(ValueError, match="offsets"):
            customers.sink.write(SinkBatch([], [upserts((1, "Ada"))]))
        assert customers.rows("customers", "id") == []

    def test_a_rejected_row_leaves_nothing_behind(self, customers: Writer) -> None:
        customers.write(upserts((1, "Ada")))
        with pytest.raises(Rejected) as caught:
            customers.write(upserts((1, "changed"), (2, "Bob")), upserts(("not a number", "x")))
        assert "\n" not in str(caught.value)
        assert caught.value.sqlstate
        assert customers.rows("customers", "id", "name") == [(1, "Ada")]
        assert customers.sink.load_offsets(["customers"]) == [customers.offset]
        customers.write(upserts((2, "Bob")))
        assert customers.rows("customers", "id") == [(1,), (2,)]

    def test_opening_again_keeps_offsets(self, writer: Writer, make_sink: Callable[[], Sink]) -> None:
        writer.write()
        second = make_sink()
        second.open()
        assert second.load_offsets(["customers"]) == [writer.offset]
        second.close()

    def test_a_closed_sink_can_be_closed_again_and_opened(self, writer: Writer) -> None:
        writer.sink.close()
        writer.sink.close()
        writer.sink.open()
        assert writer.sink.load_offsets(["customers"]) == [writer.offset]

    def test_workers_on_different_partitions_write_side_by_side(
        self, customers: Writer, make_sink: Callable[[], Sink]
    ) -> None:
        def work(partition: int) -> None:
            try:
                writer = Writer(make_sink(), first_offset(partition=partition))
                for turn in range(20):
                    writer.write(upserts(*((partition * 1000 + row, f"turn {turn}") for row in range(10))))
                ended.append(writer.offset)
                writer.sink.close()
            except SyncHubError as error:
                ended.append(error)

        ended: list[Offset | SyncHubError] = []
        threads = [threading.Thread(target=work, args=(partition,)) for partition in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(customers.sink.load_offsets(["customers"]), key=repr) == sorted(
            [customers.offset, *ended], key=repr
        )
        assert {name for _, name in customers.rows("customers", "id", "name")} == {"turn 19"}
        assert len(customers.rows("customers", "id")) == 20

    def test_of_two_workers_on_one_partition_each_batch_is_applied_once(
        self, customers: Writer, make_sink: Callable[[], Sink]
    ) -> None:
        """Both count a row up from what they loaded: lost or doubled batches would show in the count."""

        def work() -> None:
            sink = make_sink()
            sink.open()
            done = 0
            while done < 15:
                offset = sink.load_offsets(["customers"])[0]
                try:
                    sink.write(
                        SinkBatch([(offset, moved(offset))], [upserts((offset.next_offset, str(offset.next_offset)))])
                    )
                    done += 1
                except OffsetsMoved:
                    continue
            sink.close()

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert customers.sink.load_offsets(["customers"])[0].next_offset == 30
        assert len(customers.rows("customers", "id")) == 30

    def test_describe_knows_what_create_made(self, writer: Writer) -> None:
        assert writer.sink.describe("customers") is None
        ddl = writer.sink.create(CUSTOMERS)
        assert "customers" in ddl
        found = writer.sink.describe("customers")
        assert found is not None
        assert (found.name, found.key) == ("customers", ("id",))
        assert found.unique == (("id",),)
        assert [(column.name, column.nullable) for column in found.columns] == [("id", False), ("name", True)]

    def test_creating_a_table_that_is_there_leaves_it(self, customers: Writer) -> None:
        customers.write(upserts((1, "Ada")))
        customers.sink.create(CUSTOMERS)
        assert customers.rows("customers", "id") == [(1,)]

    def test_added_columns_are_there_once_and_take_null(self, customers: Writer) -> None:
        customers.write(upserts((1, "Ada")))
        added = [Column("name", "text"), Column("born", "date"), Column("rank", "integer", nullable=False)]
        ddl = customers.sink.add_columns("customers", added)
        assert "born" in ddl
        assert "name" not in ddl, "it was there"
        assert customers.rows("customers", "id", "name", "born", "rank") == [(1, "Ada", None, None)]
        assert customers.sink.add_columns("customers", added) == ""
        customers.write(upserts((2, "Bob")))
        change = RowChange("upsert", (3,), (3, "2001-02-03", 7))
        customers.write(TableWrite("customers", "customers", ("id",), ("id", "born", "rank"), [change]))
        assert (3, "2001-02-03", 7) in customers.rows("customers", "id", "born", "rank")

    def test_columns_are_not_added_to_a_table_that_is_missing(self, customers: Writer) -> None:
        with pytest.raises(Fatal) as caught:
            customers.sink.add_columns("missing", [Column("born", "date")])
        assert caught.value.code == "target_table_missing"

    @pytest.mark.parametrize(
        ("columns", "table", "code"),
        [
            (("id", "name"), "missing", "target_table_missing"),
            (("id", "gone"), "customers", "target_column_missing"),
            (("name", "id"), "customers", "target_key_not_unique"),
        ],
    )
    def test_a_table_that_does_not_fit_stops_the_worker(
        self, customers: Writer, columns: tuple[str, str], table: str, code: str
    ) -> None:
        write = TableWrite("customers", table, columns[:1], columns, [RowChange("upsert", (1,), (1, "a"))])
        with pytest.raises(Fatal) as caught:
            customers.write(write)
        assert caught.value.code == code
        assert caught.value.hint
        assert customers.sink.load_offsets(["customers"]) == [customers.offset]

    def test_a_reachable_target_has_no_findings(self, customers: Writer) -> None:
        assert customers.sink.check(["customers"]) == []

    def test_rows_are_read_by_key(self, customers: Writer) -> None:
        customers.write(upserts(*((number, f"name {number}") for number in range(50))))
        read = customers.sink.find_rows("customers", ["name", "id"], ["id"], [(3,), (1000,), (49,), (3,)])
        assert read == [("name 3", 3), None, ("name 49", 49), ("name 3", 3)]
        assert customers.sink.find_rows("customers", ["id"], ["id"], []) == []

    def test_rows_are_read_by_ranges_of_keys(self, customers: Writer) -> None:
        customers.write(upserts(*((number, f"name {number}") for number in range(50))))

        def read(first: str, last: str | None, limit: int = 100) -> list[Any] | None:
            between = ((first,), None if last is None else (last,))
            return customers.sink.rows_between("customers", ["name", "id"], ["id"], between, limit)

        rows = read("9", "12")
        if rows is None:  # this sink has no order that others have, too
            return
        assert sorted(rows) == [("name 10", 10), ("name 11", 11), ("name 12", 12)]
        assert sorted(read("47", None) or []) == [("name 48", 48), ("name 49", 49)]
        assert len(read("9", "40", limit=5) or []) == 5

    def test_checksums_of_ranges_are_equal_for_equal_rows_only(self, customers: Writer) -> None:
        customers.write(upserts(*((number, f"name {number}") for number in range(50))))
        key, columns = ["id"], ["id", "name"]

        def summed(first: int | None, last: int | None) -> RangeSum | None:
            between = (None if first is None else (str(first),), None if last is None else (str(last),))
            return customers.sink.checksum("customers", key, columns, between)

        whole = summed(None, None)
        if whole is None:  # this sink makes none
            return
        assert whole.rows == 50
        parts = [summed(None, 9), summed(9, 30), summed(30, None)]
        assert [part.rows for part in parts if part] == [10, 21, 19]
        customers.write(upserts((20, "another")))
        assert [summed(None, 9), summed(30, None)] == [parts[0], parts[2]]
        changed = summed(9, 30)
        assert changed is not None
        assert changed != parts[1]
        customers.write(upserts((20, "name 20")))
        assert summed(9, 30) == parts[1]

    def test_values_as_stored_equal_what_is_read_back(self, customers: Writer) -> None:
        customers.write(upserts((1, "Ada"), (2, "")), upserts((3, "  x")))
        rows = customers.rows("customers", "id", "name")
        assert customers.sink.as_stored("customers", ["id", "name"], [*rows, (4, None)]) == [*rows, (4, None)]

    def test_reading_many_rows_streams_one_snapshot_while_others_write(self, customers: Writer) -> None:
        customers.write(upserts(*((number, "before") for number in range(5000))))
        reading = customers.sink.read_rows("customers", ["id", "name"])
        read = [next(reading)]
        customers.write(upserts(*((number, "after") for number in range(5000))))
        read += reading
        assert sorted(read) == [(number, "before") for number in range(5000)]
