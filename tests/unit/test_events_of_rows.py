"""Rows that are read together become the same events as one by one."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from connectors.sources.pgevents import EventAssembler, TableEvents
from connectors.sources.pgmessages import Begin, Delete, Insert, Rows, Truncate, Update
from connectors.sources.pgrows import KeyMaker
from sync_hub.errors import Fatal
from sync_hub.model import Operation

TYPES = {"id": "bigint", "at": "numeric", "name": "text"}
KEYS = {1: ("id",), 2: ("at", "id"), 3: ("name",)}
OPERATIONS = st.sampled_from(["create", "update", "update", "delete"])
NUMBERS = st.integers(0, 3)
ROWS = st.builds(lambda number, text: {"id": number, "at": f"{number}.{number}0", "name": text}, NUMBERS, st.text())
LACKING = st.sampled_from([(), (), (), ("name",), ("at",)])
RUNS = st.tuples(st.sampled_from(sorted(KEYS)), st.lists(st.tuples(OPERATIONS, ROWS, LACKING), min_size=1, max_size=6))
STEPS = st.lists(st.one_of(RUNS, st.sampled_from(["commit", "context", "origin", "truncate"])), max_size=12)


class Watcher:
    """Notes which keys were touched."""

    def __init__(self, *, tracking: bool) -> None:
        self.tracking = tracking
        self.touched: list[Any] = []

    def touch(self, xid: int, table: str, key: Hashable) -> None:
        self.touched.append((xid, table, key))

    def truncated(self, xid: int, table: str) -> None:
        self.touched.append((xid, table))


def made(steps: list[Any], begin: int, *, together: bool, tracking: bool) -> Any:
    """All that an assembler says after these steps; it has counted `begin` messages of each relation before."""
    watcher = Watcher(tracking=tracking)
    assembler = EventAssembler("erp", "erp_db", 7, watcher)
    for oid, key in KEYS.items():
        assembler.tables[oid] = TableEvents("public", f"t{oid}", KeyMaker(key, TYPES))
    transactions = 1
    assembler.begin(Begin(10, 1_700_000_000_000_000, 5))
    for oid, table in assembler.tables.items():
        assembler.insert(Insert(oid, {"id": 1, "at": "1", "name": ""}))
        table.ordinal = begin
    for step in steps:
        if step == "commit":
            assembler.commit()
            transactions += 1
            assembler.begin(Begin(10 * transactions, 1_700_000_000_000_000, 5 + transactions))
        elif step == "context":
            assembler.context({"actor": "someone", "correlation_id": 12})
        elif step == "origin":
            assembler.origin("elsewhere")
        elif step == "truncate":
            assembler.truncate(Truncate((1, 2)))
        else:
            write(assembler, *step, together=together)
    met = {table.full_name for table in assembler.tables_met}
    ordinals = [table.ordinal for table in assembler.tables.values()]
    return *assembler.take(), met, ordinals, watcher.touched


def write(
    assembler: EventAssembler,
    oid: int,
    changes: list[tuple[Operation, dict[str, Any], tuple[str, ...]]],
    *,
    together: bool,
) -> None:
    rows, unchanged = [], {}
    for place, (operation, whole, names) in enumerate(changes):
        lacking = names if operation == "update" else ()
        kept = KEYS[oid] if operation == "delete" else [name for name in whole if name not in lacking]
        rows.append({name: whole[name] for name in kept})
        if lacking:
            unchanged[place] = lacking
    if together:
        assembler.rows(Rows(oid, [operation for operation, *_ in changes], rows, unchanged))
        return
    for place, ((operation, *_), row) in enumerate(zip(changes, rows, strict=True)):
        if operation == "create":
            assembler.insert(Insert(oid, row))
        elif operation == "update":
            assembler.update(Update(oid, None, False, row, unchanged.get(place, ())))
        else:
            assembler.delete(Delete(oid, row, False))


@given(STEPS, st.sampled_from([1, 4090, 4095, 8190, 2**36]), st.booleans())
def test_rows_together_become_the_events_that_they_become_one_by_one(
    steps: list[Any], begin: int, tracking: bool
) -> None:
    found = outcome(steps, begin, together=True, tracking=tracking)
    assert found == outcome(steps, begin, together=False, tracking=tracking)


def outcome(steps: list[Any], begin: int, *, together: bool, tracking: bool) -> Any:
    """What was made, or how a key that the log left out was refused."""
    try:
        return made(steps, begin, together=together, tracking=tracking)
    except Fatal as error:
        return error.code


def test_a_transaction_that_goes_on_after_it_was_cut_meets_its_tables_again() -> None:
    assembler = EventAssembler("erp", "erp_db", 7, Watcher(tracking=False))
    table = assembler.tables[1] = TableEvents("public", "t1", KeyMaker(KEYS[1], TYPES))
    assembler.begin(Begin(10, 1_700_000_000_000_000, 5))
    for number in (1, 2):
        assembler.insert(Insert(1, {"id": number, "at": "1", "name": ""}))
        assert assembler.tables_met == {table}
        assembler.take()
