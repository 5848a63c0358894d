"""What is parked, what waits behind it, and what takes its place: a later whole event stands for all before it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sync_hub.errors import Fatal, Rejected
from sync_hub.mapping.apply import Mapped
from sync_hub.model import ChangeEvent, Offset, Parked, Record, RowChange, version_prefix, version_suffix
from sync_hub.runtime import parking
from sync_hub.runtime.batch import Item, Work, halves, rebased, select, superseded
from sync_hub.runtime.parked_limits import Share, refuse_too_many
from sync_hub.runtime.parked_log import ParkedLog
from sync_hub.settings import Limits, ParkedLimit, ParkedShare, Retry
from tests.events import change_event, decoded_as

NOW = 1000.0
RETRY = Retry(first=5, factor=2, max=60, attempts=4)


class Odd:
    """A mapping that rejects odd values, and passes absent ones on."""

    def apply(self, events: list[ChangeEvent]) -> Mapped:
        """As `CompiledMapping.apply`."""
        found = Mapped([], [], [])
        for index, event in enumerate(events):
            key = (event.key or {})["id"]
            value = (event.after or {}).get("v")
            if value is not None and value % 2:
                found.rejected.append((index, Rejected("odd", "no")))
                continue
            kind: Any = "delete" if event.after is None else "update" if event.unchanged else "upsert"
            found.changes.append(RowChange(kind, (key,), (value,)))
            found.sources.append(index)
        return found


ODD: Any = Odd()


def event(number: int, key: int, value: int | None, **changes: Any) -> ChangeEvent:
    """The state of a row; without a value its delete."""
    values: dict[str, Any] = {
        "source": "erp",
        "schema": "public",
        "table": "t",
        "operation": "delete" if value is None else "update",
        "key": {"id": key},
        "before": None,
        "after": None if value is None else {"id": key, "v": value},
        "version": version_prefix(1, 7) + version_suffix(number),
        "committed_at": 1,
    }
    return change_event(**values | changes)


def partial(number: int, key: int) -> ChangeEvent:
    """A change whose event lacks the value."""
    return event(number, key, 0, after={"id": key}, unchanged=("v",))


def work_of(*events: ChangeEvent | Rejected, seq: int = 0, start: int = 0) -> Work:
    """One poll of partition 0."""
    records = [
        decoded_as(Record("t", 0, start + at, b'{"id":9}', b"{}", [("h", b"\xff")], 0), one)
        for at, one in enumerate(events)
    ]
    return select("p", {0: Offset("p", "t", 0, "id", start, "", "hash", seq)}, {0: records})


def plan(held: parking.Held, work: Work, now: float = NOW) -> parking.Planned:
    """What becomes of a poll."""
    return parking.planned(ODD, held, work, RETRY, now)


def refused_by_target(work: Work, error: Rejected) -> list[Parked]:
    """What becomes of a work whose items the target refuses, each."""
    work = replace(work, refused={item.place: error for item in work.items})
    return parking.planned(ODD, parking.Held(), work, RETRY, NOW).parked


def test_what_the_mapping_rejects_is_parked_and_everything_else_is_applied() -> None:
    found = plan(parking.Held(), work_of(event(1, 1, 2), event(2, 2, 3), event(3, 3, 4)))
    assert [change.key for change in found.changes] == [(1,), (3,)]
    (row,) = found.parked
    assert (row.state, row.code, row.key, row.offset, row.seq, row.attempts) == ("parked", "odd", '{"id":2}', 1, 0, 1)
    assert "public.t {'id': 2}" in row.message
    assert parking.record(row) == Record("t", 0, 1, b'{"id":9}', b"{}", [("h", b"\xff")], 1_000_000)


def test_a_rejected_event_with_a_newer_one_behind_it_in_the_poll_is_passed_over() -> None:
    found = plan(parking.Held(), work_of(event(1, 1, 3), event(2, 2, 2), event(3, 1, 4)))
    assert [change.values for change in found.changes] == [(2,), (4,)]
    assert found.parked == []


def test_a_later_whole_event_takes_the_place_of_what_is_held() -> None:
    first = plan(parking.Held(), work_of(event(1, 1, 3)))
    held = parking.Held(first.parked)
    second = plan(held, work_of(event(2, 1, 4), event(3, 2, 6), seq=1, start=1), NOW + 5)
    assert [change.key for change in second.changes] == [(1,), (2,)]
    (row,) = second.parked
    assert (row.state, row.closed_at, row.code) == ("superseded", NOW + 5, "odd")
    held.store(second.parked)
    assert not held


def test_a_delete_takes_the_place_of_what_is_held() -> None:
    held = parking.Held(plan(parking.Held(), work_of(event(1, 1, 3))).parked)
    found = plan(held, work_of(event(2, 1, None), seq=1, start=1))
    assert [change.kind for change in found.changes] == ["delete"]
    assert [row.state for row in found.parked] == ["superseded"]


def test_an_event_that_lacks_columns_waits_behind_and_both_are_taken_in_order() -> None:
    held = parking.Held(plan(parking.Held(), work_of(event(1, 1, 3))).parked)
    found = plan(held, work_of(partial(2, 1), partial(3, 2), seq=1, start=1))
    assert [change.key for change in found.changes] == [(2,)]
    (behind,) = found.parked
    assert (behind.code, behind.state, behind.seq) == (parking.BEHIND, "parked", 1)
    assert behind.attempts == 0, "it was not tried"
    held.store(found.parked)
    assert [row.seq for row in held.of('{"id":1}')] == [0, 1]
    assert [rows[0].seq for rows in held.due(NOW + 100)] == [0], "the older decides when"


def test_a_rejected_whole_event_closes_what_was_held_before_it() -> None:
    held = parking.Held(plan(parking.Held(), work_of(event(1, 1, 3))).parked)
    held.store(plan(held, work_of(partial(2, 1), seq=1, start=1)).parked)
    found = plan(held, work_of(event(3, 1, 5), seq=2, start=2))
    assert sorted((row.seq, row.state) for row in found.parked) == [(0, "superseded"), (1, "superseded"), (2, "parked")]
    held.store(found.parked)
    assert held.count("parked") == 1


def test_an_unreadable_record_is_not_over_because_of_what_came_before_it() -> None:
    bad = Rejected("not_an_envelope", "no")
    found = plan(parking.Held(), work_of(event(1, 9, 2), bad))
    assert [(row.offset, row.state) for row in found.parked] == [(1, "parked")]
    assert [change.values for change in found.changes] == [(2,)]
    found = plan(parking.Held(), work_of(event(1, 9, 3), bad))
    assert sorted((row.offset, row.state) for row in found.parked) == [(0, "parked"), (1, "parked")]
    assert [row.offset for row in parking.Held(found.parked).of('{"id":9}')] == [0, 1]
    found = plan(parking.Held(), work_of(partial(1, 9), bad))
    assert [row.offset for row in found.parked] == [1]
    assert [change.key for change in found.changes] == [(9,)]
    found = plan(parking.Held(), work_of(bad, event(1, 9, 2)))
    assert [(row.offset, row.state) for row in found.parked] == [(0, "superseded")]


def test_what_is_held_can_be_counted_while_it_changes() -> None:
    """The beat's thread looks at any moment; one that fails would tell nothing any more."""
    held = parking.Held(plan(parking.Held(), work_of(*(event(key, key, 3) for key in range(1, 500)))).parked)
    some = held.all()[:100]
    interval, ended = sys.getswitchinterval(), threading.Event()
    errors: list[RuntimeError] = []

    def count() -> None:
        while not ended.is_set():
            try:
                held.all()
            except RuntimeError as error:
                errors.append(error)

    sys.setswitchinterval(1e-5)
    beat = threading.Thread(target=count)
    beat.start()
    try:
        for _ in range(100):
            held.store([parking.closed(row, "applied", NOW) for row in some])
            held.store(some)
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        beat.join()
    assert errors == []


def test_unreadable_records_are_parked_once() -> None:
    unreadable = work_of(Rejected("not_an_envelope", "no"), event(1, 1, 2))
    found = plan(parking.Held(), unreadable)
    assert [(row.code, row.key, row.version) for row in found.parked] == [("not_an_envelope", '{"id":9}', "")]
    assert plan(parking.Held(found.parked), unreadable).parked == []


@pytest.mark.parametrize(("code", "state"), [("unique_violated", "waiting"), ("check_violated", "parked")])
def test_a_refused_row_that_another_may_solve_waits_for_it(code: str, state: str) -> None:
    (row,) = refused_by_target(work_of(event(1, 1, 2)), Rejected(code, "no", sqlstate="23"))
    assert (row.state, row.sqlstate) == (state, "23")
    assert row.attempts == (0 if state == "waiting" else 1)
    assert row.next_at is not None
    assert row.next_at - NOW == parking.WAIT_SECONDS if state == "waiting" else 3.7 < row.next_at - NOW < 6.3
    again = parking.tried(row, Rejected(code, "no"), RETRY, NOW + 9)
    assert (again.attempts, again.last_at) == (0 if state == "waiting" else 2, NOW + 9)
    assert parking.given_up(again, RETRY, NOW).state == "parked"


def test_attempts_come_later_and_later_until_they_wait_for_a_person() -> None:
    row = plan(parking.Held(), work_of(event(1, 1, 3))).parked[0]
    waits = []
    while row.next_at is not None:
        waits.append(row.next_at - NOW)
        row = parking.tried(row, Rejected("odd", "still"), RETRY, NOW)
    assert row.attempts == RETRY.attempts
    assert row.message == "still"
    for wait, ideal in zip(waits, (5, 10, 20), strict=True):
        assert 0.74 * ideal < wait < 1.26 * ideal


def test_a_record_that_may_be_tried_once_waits_for_a_person_from_the_start() -> None:
    work = work_of(event(1, 1, 3))
    (row,) = parking.planned(ODD, parking.Held(), work, Retry(attempts=1), NOW).parked
    assert (row.attempts, row.next_at) == (1, None)


@pytest.mark.parametrize("code", sorted(parking.WAITING_FOR_ROWS))
def test_what_another_row_may_solve_is_tried_for_ever(code: str) -> None:
    error = Rejected(code, "no")
    (row,) = refused_by_target(work_of(event(1, 1, 2)), error)
    row = parking.given_up(row, RETRY, NOW)
    for _ in range(3 * RETRY.attempts):
        row = parking.tried(row, error, RETRY, NOW)
        assert row.state == "parked"
        assert row.next_at is not None
    assert 0.74 * RETRY.max < row.next_at - NOW <= RETRY.max
    once = Retry(attempts=1)
    assert parking.given_up(row, once, NOW).next_at is not None
    assert parking.tried(row, Rejected("odd", "no"), RETRY, NOW).next_at is None


def test_no_wait_is_longer_than_the_longest() -> None:
    short = Retry(first=10, factor=2, max=10)
    waits = [parking.next_attempt(1, short, 0.0) for _ in range(100)]
    assert max(wait for wait in waits if wait is not None) == 10


def test_a_record_may_be_tried_for_ever() -> None:
    patient = Retry(attempts=1_000_000)
    for attempts in (1000, 1025, 5000, 999_999):
        after = parking.next_attempt(attempts, patient, NOW)
        assert after is not None
        assert 0.74 * patient.max < after - NOW <= patient.max


def test_offset_rows_are_raised_by_what_is_parked_and_by_what_is_closed() -> None:
    work = work_of(event(1, 1, 3), event(2, 2, 5), event(3, 3, 2), seq=7)
    found = plan(parking.Held(), work)
    pairs = {0: (work.before[0], work.ends[0])}
    assert parking.with_seqs(dict(pairs), found.parked)[0][1].parked_seq == 9
    closed = [parking.closed(row, "discarded", NOW, "wrong") for row in found.parked[:1]]
    at = replace(work.ends[0], parked_seq=9)
    assert parking.with_seqs({0: (at, at)}, closed)[0][1].parked_seq == 10
    assert parking.with_seqs(dict(pairs), [])[0][1].parked_seq == 7


def test_what_is_parked_is_told_in_the_log_but_never_floods_it(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    log = ParkedLog(lambda: now[0])
    log.add([parked_row(at) for at in range(3)])
    log.add([parked_row(3), parked_row(4, code="even"), parked_row(5)])
    told = ["p:0-0 is parked, odd: no; and 2 more with this code", "p:0-4 is parked, even: no"]
    assert caplog.messages == told
    facts = vars(caplog.records[0])
    assert (facts["action"], facts["pipeline"], facts["id"], facts["code"]) == ("park", "p", "p:0-0", "odd")
    log.tell()
    assert caplog.messages == told
    now[0] = 10.0
    log.tell()
    log.tell()
    assert caplog.messages == [*told, "p:0-3 is parked, odd: no; and 1 more with this code"]


LIMITS = Limits(parked=ParkedLimit(stop=1000), parked_share=ParkedShare(stop=0.1))


def refused(
    held: parking.Held, changed: list[Parked], limits: Limits = LIMITS, share: Share | None = None, events: int = 1
) -> Fatal | None:
    """What a pipeline stops with when it applies so many events and changes these parked records."""
    items = [Item(Record("t", 0, at, None, None, None, 0), event(1, 1, 2)) for at in range(events)]
    try:
        refuse_too_many("p", held, share or Share(), items, changed, limits)
    except Fatal as error:
        assert error.code == "too_many_parked"
        return error
    return None


def parked_row(offset: int, partition: int = 0, code: str = "odd") -> Parked:
    """A record that is parked, of its own key."""
    return Parked("p", "t", partition, offset, offset, f"{partition}/{offset}", "", "parked", code, "no", attempts=1)


def test_a_pipeline_stops_before_it_parks_more_than_it_may_hold() -> None:
    held, two = parking.Held(), Limits(parked=ParkedLimit(stop=2))
    assert refused(held, [parked_row(0), parked_row(1)], two) is None
    stopped = refused(held, [parked_row(0), parked_row(1), parked_row(2, code="last")], two)
    assert stopped is not None
    assert "the last is last: no" in stopped.message
    assert stopped.command == "sync-hub resume p", "nothing is parked that could be listed"
    held.store([parked_row(0), parked_row(1)])
    third = refused(held, [parked_row(2)], two)
    assert third is not None
    assert third.command == "sync-hub parked list p"
    closed = parking.closed(parked_row(1), "superseded", NOW)
    assert refused(held, [closed, parked_row(2)], two) is None, "one takes the place of another"
    again = parking.tried(parked_row(0), Rejected("odd", "no"), RETRY, NOW)
    assert refused(held, [again], Limits(parked=ParkedLimit(warn=1, stop=1))) is None, "it is parked already"


def test_a_pipeline_stops_when_too_much_of_what_it_reads_is_parked_from_the_first_on() -> None:
    held, hundred = parking.Held(), [parked_row(at) for at in range(100)]
    assert refused(held, hundred) is None
    assert refused(held, [*hundred, parked_row(100)]) is not None, "more than 10 % of the first 1,000"
    assert refused(held, [parked_row(at) for at in range(150)], events=3000) is None, "5 % of what comes with them"
    share = Share()
    share.add([parked_row(0)] * 800, hundred)
    assert refused(held, [parked_row(100)], share=share) is not None
    share.add([parked_row(0)] * 700, [])
    assert refused(held, [parked_row(100)], share=share) is None, "101 of 1,501"
    share.add([parked_row(0)] * 600, [parked_row(0)] * 200)
    assert refused(held, [parked_row(100)], share=share) is not None, "301 of 2,101, though half is forgotten"
    share.add([parked_row(0)] * 2000, [])
    assert refused(held, [parked_row(100)], share=share) is None


def test_what_a_person_has_looked_at_is_judged_by_its_number_alone() -> None:
    held, share = parking.Held(), Share({0: 500, 1: 10})
    known = [parked_row(at) for at in range(500)]
    assert refused(held, known, share=share) is None
    share.add(known, known)
    assert refused(held, known, Limits(parked=ParkedLimit(stop=499)), share) is not None
    later = [parked_row(at, partition=1) for at in range(10, 111)]
    assert refused(held, later[:100], share=share) is None
    assert refused(held, later, share=share) is not None, "what comes later is judged as ever"


def test_a_share_is_written_as_a_percentage_or_a_number() -> None:
    assert ParkedShare(stop="10%").stop == ParkedShare(stop=0.1).stop == 0.1  # type: ignore[arg-type]
    for wrong in ("0%", "101%", "much"):
        with pytest.raises(ValueError, match="stop"):
            ParkedShare(stop=wrong)  # type: ignore[arg-type]


class Target:
    """A table in memory that refuses values from 100 on, and what one pipeline has parked beside it."""

    def __init__(self) -> None:
        self.rows: dict[int, list[Any]] = {}
        self.versions: dict[int, str] = {}
        self.stored: dict[tuple[int, int], Parked] = {}
        self.offset = Offset("p", "t", 0, "id", 0, "", "hash")

    @property
    def held(self) -> parking.Held:
        """What a worker that begins anew reads."""
        return parking.Held(row for row in self.stored.values() if row.is_open)

    def write(self, work: Work, planned: parking.Planned) -> None:
        """One transaction."""
        for change in planned.changes:
            if change.kind != "delete" and change.values[0] is not None and change.values[0] >= 100:
                raise Rejected("too_large", "no")
        pairs = {0: (self.offset, work.ends.get(0, self.offset))}
        self.offset = parking.with_seqs(pairs, planned.parked)[0][1]
        self.stored |= {(row.partition, row.seq): row for row in planned.parked}
        for change in planned.changes:
            key = change.key[0]
            if change.kind == "delete":
                self.rows.pop(key, None)
            elif change.kind == "upsert" or (key in self.rows and change.values[0] is not None):
                self.rows[key] = [change.values[0]]


def deliver(target: Target, work: Work, outdated: set[tuple[int, int]]) -> None:
    """As a session does: whole, else by halves, until what is refused is alone."""
    work = rebased(work, {0: target.offset})
    try:
        target.write(work, parking.planned(ODD, target.held, work, RETRY, NOW, outdated))
    except Rejected as error:
        if len(work.items) > 1:
            for half in halves(work):
                deliver(target, half, outdated)
        else:
            work = replace(work, refused={work.items[0].place: error})
            target.write(work, parking.planned(ODD, target.held, work, RETRY, NOW, outdated))


def deliver_named(target: Target, work: Work, outdated: set[tuple[int, int]]) -> None:
    """As a session does where the target says what it refuses: that is left out, and the rest written again."""
    work = rebased(work, {0: target.offset})
    while True:
        try:
            return target.write(work, parking.planned(ODD, target.held, work, RETRY, NOW, outdated))
        except Rejected as error:
            large = [item.place for item in work.items if (item.event.after or {}).get("v", 0) >= 100]
            newest = [place for place in large if place not in work.refused][-1:]
            assert newest, "each refusal is about something that is not left out yet"
            work = replace(work, refused=work.refused | dict.fromkeys(newest, error))


EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.one_of(st.none(), st.just("partial"), st.sampled_from([2, 3, 4, 102, 104]))),
    max_size=25,
)


@settings(max_examples=300)
@given(EVENTS, st.lists(st.integers(1, 6), min_size=1, max_size=8), st.sampled_from([deliver, deliver_named]))
def test_each_key_ends_as_its_last_event_says_or_is_held(
    changes: list[tuple[int, Any]], cuts: list[int], delivered: Callable[..., None]
) -> None:
    """Whatever is polled together: what a key shows is a state that it had, the newest unless something is held."""
    target, wanted, complete = Target(), {}, {}
    events = []
    for number, (key, value) in enumerate(changes, 1):
        events.append(partial(number, key) if value == "partial" else event(number, key, value))
        if value != "partial":
            wanted[key], complete[key] = value, value is None or (value < 100 and value % 2 == 0)
    place = 0
    while place < len(events):
        size = cuts[place % len(cuts)]
        work = work_of(*events[place : place + size], start=place, seq=target.offset.parked_seq)
        work = replace(work, before={0: target.offset}, ends={0: replace(work.ends[0], parked_seq=0)})
        delivered(target, work, superseded(work.items))
        place += size
    assert target.offset.next_offset == len(events)
    held = {row.key for row in target.held.all()}
    for key, value in wanted.items():
        assert (f'{{"id":{key}}}' in held) == (not complete[key]), "what cannot be applied is held, nothing else"
        if complete[key]:
            assert target.rows.get(key) == (None if value is None else [value])
    assert len({row.seq for row in target.stored.values()}) == len(target.stored)
