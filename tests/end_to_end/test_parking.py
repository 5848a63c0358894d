"""A record that is rejected holds its own key alone: it is parked, tried again, superseded, or left to a person."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from connectors.local_postgres import LocalPostgres
from sync_hub.model import Record
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import execute, frozen
from tests.end_to_end.test_snapshots import Loads
from tests.end_to_end.workload import SCHEMA
from tests.servers.postgres import database

MAPPINGS = """
mapping: accounts
from: {source: {source}, table: public.accounts}
to: {target: crm, table: account_view}
key: [id]
fields: {id: id, name: name, balance: balance, big: big}
---
mapping: accounts_lite
from: {source: {source}, table: public.accounts}
to: {target: wh, table: account_lite}
key: [id]
fields: {id: id, name: name, ratio: 100 / balance}
---
mapping: orders
from: {source: {source}, table: public.orders}
to: {target: crm, table: order_view}
key: [shop, number]
fields: {shop: shop, number: number, total: total}
---
mapping: notes
from: {source: {source}, table: public.orders}
to: {target: crm, table: note_view}
key: [shop, number]
fields: {shop: shop, number: number, note: note}
---
mapping: small
from: {source: {source}, table: public.accounts}
to: {target: crm, table: small_view}
key: [id]
fields: {id: id, active: active}
"""
TARGET = (
    "create table account_view"
    " (id bigint primary key, name text unique, balance numeric check (balance >= 0), big text)",
    "create table order_view"
    " (shop int references account_view, number text, total numeric, primary key (shop, number))",
    "create table note_view (shop int, number text, note text check (note <> 'bad'), primary key (shop, number))",
    "create table small_view (id int primary key, active boolean)",
)
REFUSE = """
create function refuse() returns trigger language plpgsql as $$ begin
    if new.shop = 7 then raise exception 'not this one' using errcode = 'ZZ001'; end if; return new; end $$;
create trigger refuse before insert or update on note_view for each row execute function refuse()
"""


class Parks(Loads):
    """A lab whose targets refuse some rows."""

    def parked(self, pipeline: str, *, closed: bool = False) -> list[Any]:
        """What is held for a pipeline."""
        target = next(one.target for one in self.state.pipelines() if one.name == pipeline)
        sink = self.settings.sink(target)
        try:
            return list(sink.find_parked([pipeline], closed=closed))
        finally:
            sink.close()

    def holds(self, pipeline: str, *keys: dict[str, Any]) -> list[Any]:
        """Wait until exactly these keys are held."""
        wanted = sorted(json.dumps(key, separators=(",", ":")) for key in keys)
        try:
            wait_until(lambda: sorted(row.key for row in self.parked(pipeline)) == wanted, f"{keys} are parked", 30)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.parked(pipeline, closed=True)}\n{self.log()[-3000:]}") from error
        return self.parked(pipeline)

    def copies(self) -> list[Record]:
        """What was copied to the topic of parked records."""
        broker, topic = self.settings.new_broker(), f"{self.name}.parked"
        try:
            starts, ends = broker.start_offsets([topic]), broker.end_offsets([topic])
            places = [(place, at) for place, end in ends.items() for at in range(starts[place], end)]
            found = [broker.fetch({place: at}) for place, at in places]
            return [record for records in found for record in records.values()]
        finally:
            broker.close()

    def state_of_last(self, pipeline: str, key: dict[str, Any]) -> str:
        """What became of the last record of a key."""
        wanted = json.dumps(key, separators=(",", ":"))
        return str([row.state for row in self.parked(pipeline, closed=True) if row.key == wanted][-1])


NAMES = ("accounts", "accounts_lite", "orders", "notes", "small")
BOTH = pytest.mark.parametrize("hub", ["embedded", "kafka"], indirect=True)


@pytest.fixture(scope="module")
def hub(
    request: pytest.FixtureRequest,
    source_server: LocalPostgres,
    target_server: LocalPostgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Parks]:
    """A hub that runs, with tables that are emptied for each test."""
    broker = ""
    if getattr(request, "param", "") == "kafka":
        address = request.getfixturevalue("kafka_address")
        broker = f"{{type: kafka, bootstrap_servers: ['{address}'], partitions: 3, replication_factor: 1}}"
    folder = tmp_path_factory.mktemp("parking")
    with database(source_server) as source, database(target_server) as target:
        execute(source, SCHEMA)
        execute(target, *TARGET)
        with sqlite3.connect(folder / "wh.db") as lite:
            lite.execute(
                "create table account_lite (id integer primary key, name text, ratio text check (name <> 'no'))"
            )
        lab = Parks(folder, f"p{uuid.uuid4().hex[:8]}", source, target, MAPPINGS, broker=broker)
        lab.config.write_text(lab.config.read_text() + "retry: {first: 0.5s, factor: 1, attempts: 1000}\n")
        lab.config.write_text(lab.config.read_text() + "topics: {parked: true}\n")
        lab.start()
        lab.settle()
        yield lab
        lab.close()


@pytest.fixture
def lab(hub: Parks) -> Parks:
    """The hub, with nothing in its views and nothing parked."""
    execute(hub.source, "truncate accounts, orders")
    hub.until([(0, 0, 0)], "select (select count(*) from account_view), (select count(*) from order_view),"
              " (select count(*) from note_view)")  # fmt: skip
    wait_until(lambda: not any(hub.parked(name) for name in NAMES), "all clear")
    return hub


@BOTH
def test_one_bad_row_among_many_is_parked_and_everything_else_flows(lab: Parks) -> None:
    execute(
        lab.source,
        "insert into accounts select n, 'n' || n, case when n = 700 then -1 else n end, null, true"
        " from generate_series(1, 2000) n",
    )
    (row,) = lab.holds("accounts", {"id": 700})
    assert (row.state, row.code, row.sqlstate) == ("parked", "check_violated", "23514")
    wait_until(lambda: lab.parked("accounts")[0].attempts > 2, "it is tried again")
    assert lab.parked("accounts")[0].message == row.message, "whichever attempt it was"
    assert row.message.count("public.accounts {'id': 700}: ") == 1
    assert f"{row.id} is parked, check_violated: public.accounts {{'id': 700}}" in lab.log()
    lab.until([(1999, 0)], "select count(*), count(*) filter (where id = 700) from account_view")
    execute(lab.source, "insert into accounts values (2001, 'after', 1, null, true)")
    lab.until([(1,)], "select count(*) from account_view where id = 2001")
    wait_until(lambda: lab.health()["pipelines"]["accounts"]["parked"] == 1, "health tells")
    copy = next(record for record in lab.copies() if record.key == b'{"id":700}')
    headers = dict(copy.headers or [])
    assert (headers["sync_hub_code"], headers["sync_hub_id"]) == (b"check_violated", row.id.encode())
    assert b'"balance":"-1.0000"' in (copy.value or b"")
    assert lab.state_of("accounts") == "running"


@BOTH
def test_mending_the_row_at_the_source_mends_the_view(lab: Parks) -> None:
    execute(lab.source, "insert into accounts values (1, 'a', -1, null, true), (2, 'b', -2, null, true)")
    lab.holds("accounts", {"id": 1}, {"id": 2})
    execute(lab.source, "update accounts set balance = 5 where id = 1", "delete from accounts where id = 2")
    lab.holds("accounts")
    lab.until([(1, 5)], "select id, balance::int from account_view")
    assert [lab.state_of_last("accounts", {"id": key}) for key in (1, 2)] == ["superseded", "superseded"]


def test_a_key_change_takes_what_is_parked_with_it(lab: Parks) -> None:
    execute(lab.source, "insert into accounts select n, 'n' || n, -n, null, true from generate_series(1, 3) n")
    lab.holds("accounts", {"id": 1}, {"id": 2}, {"id": 3})
    execute(
        lab.source, "update accounts set id = 22 where id = 2", "update accounts set id = 33, balance = 3 where id = 3"
    )
    lab.holds("accounts", {"id": 1}, {"id": 22})
    lab.until([(33,)], "select id from account_view")
    execute(lab.source, "update accounts set balance = 5 where id < 30")
    lab.until([(1,), (22,), (33,)], "select id from account_view order by 1")


def test_many_rejected_rows_are_no_stall_and_people_act_on_them_beside_the_worker(lab: Parks) -> None:
    said = len(lab.log())
    execute(
        lab.source,
        "insert into accounts select n, 'n' || n, case when n % 15 = 0 then -n else n end, null, true"
        " from generate_series(1, 1500) n",
    )
    wait_until(lambda: len(lab.parked("accounts")) == 100, "all are parked", 60)
    lab.until([(1400,)], "select count(*) from account_view")
    assert "worker_stalled" not in lab.log()[said:]
    actions = (
        ("retry", "--all"),
        ("retry", "--pipeline", "accounts"),
        ("discard", "--pipeline", "accounts", "--reason", "beside a retry"),
        ("retry", "--code", "check_violated"),
    )
    with ThreadPoolExecutor(5) as pool:
        changing = pool.submit(execute, lab.source, *("update accounts set name = name || 'x' where id % 15 > 0",) * 5)
        done = list(pool.map(lambda action: lab.cli("parked", *action), actions))
        changing.result()
    for action, one in zip(actions, done, strict=True):
        assert one.returncode == 0 or one.stderr.startswith("target_busy: "), (action, one.stderr)
    execute(lab.source, "update accounts set balance = abs(balance)")
    lab.until([(1500, 1500)], "select count(*), count(*) filter (where balance > 0) from account_view")
    lab.holds("accounts")


def test_a_change_without_all_columns_waits_behind_and_comes_after(lab: Parks) -> None:
    execute(lab.source, "insert into accounts values (1, 'a', -1, repeat('x', 9000), true)")
    lab.holds("accounts", {"id": 1})
    execute(lab.target, "alter table account_view drop constraint account_view_balance_check")
    lab.until([(1, -1, 9000)], "select id, balance::int, length(big) from account_view")
    lab.holds("accounts")
    assert lab.state_of_last("accounts", {"id": 1}) == "applied"
    execute(
        lab.target, "alter table account_view add constraint account_view_balance_check check (balance >= 0) not valid"
    )


def test_a_mapping_that_fails_for_a_row_parks_it_in_a_file_too(lab: Parks) -> None:
    execute(
        lab.source,
        "insert into accounts values (1, 'a', 0, null, true), (2, 'no', 4, null, true), (3, 'c', 5, null, true)",
    )
    rows = lab.holds("accounts_lite", {"id": 1}, {"id": 2})
    assert sorted(row.code for row in rows) == ["check_violated", "division_by_zero"]
    execute(lab.source, "update accounts set balance = 2, name = 'yes ' || id where id < 3")
    lab.holds("accounts_lite")
    with sqlite3.connect(lab.folder / "wh.db", timeout=20) as lite:
        assert [key for (key,) in lite.execute("select id from account_lite order by 1")] == [1, 2, 3]


def test_a_child_waits_for_its_parent_and_counts_as_rejected_only_when_none_comes(lab: Parks) -> None:
    execute(lab.source, "insert into orders values (7, 'one', 1, null), (8, 'two', 2, null)")
    wait_until(lambda: len(lab.parked("orders")) == 2, "both wait")
    execute(lab.source, "insert into accounts values (7, 'seven', 1, null, true)")
    lab.holds("orders", {"shop": 8, "number": "two"})
    lab.until([(7,)], "select shop from order_view")
    wait_until(lambda: [row.state for row in lab.parked("orders")] == ["parked"], "no parent came")
    execute(lab.source, "insert into accounts values (8, 'eight', 1, null, true)")
    lab.holds("orders")


def test_unique_values_that_move_on_are_solved(lab: Parks) -> None:
    execute(lab.source, "insert into accounts select n, 'n' || n, 1, null, true from generate_series(1, 20) n")
    lab.until([(20,)], "select count(*) from account_view")
    execute(lab.source, "update accounts set name = 'n' || (id + 1)")
    lab.until([(20,)], "select count(*) from account_view where name = 'n' || (id + 1)")
    lab.holds("accounts")


def test_a_truncate_closes_what_was_parked_before_it(lab: Parks) -> None:
    execute(lab.source, "insert into orders values (1, 'x', 1, 'bad'), (2, 'y', 1, 'good')")
    lab.holds("notes", {"shop": 1, "number": "x"})
    execute(lab.source, "truncate orders", "insert into orders values (3, 'z', 1, 'good')")
    lab.holds("notes")
    assert lab.state_of_last("notes", {"shop": 1, "number": "x"}) == "superseded"
    lab.until([(3,)], "select shop from note_view")


@BOTH
def test_what_is_parked_survives_a_kill_and_is_parked_once(lab: Parks) -> None:
    execute(
        lab.source,
        "insert into orders select n, 'x', 1, case when n % 10 = 0 then 'bad' end from generate_series(1, 300) n",
    )
    lab.kill("deliver:crm")
    wanted = [{"shop": n, "number": "x"} for n in range(10, 301, 10)]
    lab.holds("notes", *wanted)
    lab.kill("deliver:crm")
    execute(lab.source, "update orders set note = 'good' where shop <= 100")
    lab.holds("notes", *wanted[10:])
    lab.until([(280,)], "select count(*) from note_view")


def test_verification_reports_what_is_parked_apart(lab: Parks) -> None:
    execute(lab.source, "insert into orders values (1, 'x', 1, 'good'), (2, 'y', 1, 'good')")
    lab.until([(2,)], "select count(*) from note_view")
    execute(lab.source, "update orders set note = 'bad' where shop = 1")
    lab.holds("notes", {"shop": 1, "number": "x"})
    for options in ((), ("--repair",)):
        done = lab.cli("verify", "notes", "--json", *options)
        (report,) = json.loads(done.stdout)
        assert (report["matched"], report["parked"], report["different"]) == (1, 1, 0), (done.stderr, lab.log()[-2000:])
    execute(lab.source, "update orders set note = 'mended' where shop = 1")
    lab.holds("notes")
    assert lab.cli("verify", "notes").returncode == 0


def test_a_key_that_the_target_cannot_hold_is_no_row_there_and_everything_else_is_verified(lab: Parks) -> None:
    execute(lab.source, "insert into accounts select n, 'n' || n, 1, null, true from generate_series(1, 20) n")
    execute(lab.source, "insert into accounts values (3000000000, 'big', 1, null, true)")
    (row,) = lab.holds("small", {"id": 3_000_000_000})
    assert row.code == "invalid_value"
    for options in ((), ("--repair",)):
        done = lab.cli("verify", "small", "--json", *options)
        assert done.stdout, (done.stderr, lab.log()[-2000:])
        (report,) = json.loads(done.stdout)
        assert (report["matched"], report["parked"], report["missing"]) == (20, 1, 0), (report, lab.log()[-2000:])
    execute(lab.target, "delete from small_view where id = 3", "insert into small_view values (99, true)")
    lab.state.reload(["small"], "asked")
    lab.proven()
    lab.holds("small", {"id": 3_000_000_000})
    lab.until([(20, 20)], "select count(*), max(id) from small_view")


def test_what_a_trigger_raises_with_a_state_of_its_own_parks_the_row_alone(lab: Parks) -> None:
    execute(lab.target, REFUSE)
    try:
        execute(lab.source, "insert into orders select n, 'x', 1, null from generate_series(1, 500) n")
        (row,) = lab.holds("notes", {"shop": 7, "number": "x"})
        assert (row.code, row.sqlstate) == ("row_refused", "ZZ001")
        lab.until([(499,)], "select count(*) from note_view")
        assert lab.state_of("notes") == "running"
    finally:
        execute(lab.target, "drop trigger refuse on note_view")
    lab.holds("notes")


def test_loading_a_view_again_takes_the_place_of_what_was_parked(lab: Parks) -> None:
    execute(lab.source, "insert into orders values (1, 'x', 1, 'bad'), (2, 'y', 1, 'bad'), (3, 'z', 1, 'good')")
    (first, second) = lab.holds("notes", {"shop": 1, "number": "x"}, {"shop": 2, "number": "y"})
    lab.state.reload(["notes"], "asked")
    lab.proven()
    lab.holds("notes", {"shop": 1, "number": "x"}, {"shop": 2, "number": "y"})
    states = {row.id: row.state for row in lab.parked("notes", closed=True)}
    assert (states[first.id], states[second.id]) == ("superseded", "superseded")
    assert len({row.id for row in lab.parked("notes")} & {first.id, second.id}) == 0
    lab.until([(3,)], "select shop from note_view")


# What people do about it


@BOTH
def test_records_are_listed_shown_exported_discarded_and_tried_again(lab: Parks) -> None:
    execute(lab.source, "insert into accounts select n, 'n' || n, 1, null, true from generate_series(1, 4) n")
    execute(lab.source, "insert into orders select n, 'x', 1, 'bad' from generate_series(1, 4) n")
    lab.holds("orders")
    lab.holds("notes", *({"shop": n, "number": "x"} for n in range(1, 5)))
    listed = lab.cli("parked", "list", "notes", "--json")
    assert listed.returncode == 1, "something is parked"
    rows = {row["key"]["shop"]: row for row in json.loads(listed.stdout)}
    assert set(rows) == {1, 2, 3, 4}
    assert {(row["code"], row["state"]) for row in rows.values()} == {("check_violated", "parked")}
    for options, count in ((("--code", "nothing"), 0), (("--since", "1h"), 4), (("--until", "1h"), 0),
                           (("--key", '{"shop": 2, "number": "x"}'), 1)):  # fmt: skip
        assert len(json.loads(lab.cli("parked", "list", "--json", *options).stdout)) == count, options
    assert lab.cli("parked", "list").stdout.startswith("notes: 4 check_violated\nerror notes:")
    shown = json.loads(lab.cli("parked", "show", rows[1]["id"], "--json").stdout)
    assert shown["event"]["after"] == {"shop": 1, "number": "x", "total": "1", "note": "bad"}
    assert shown["record"]["value"]["after"] == shown["event"]["after"]
    assert "check_violated" in lab.cli("parked", "show", rows[1]["id"]).stdout
    exported = lab.cli("parked", "export", "notes", "-o", str(lab.folder / "out.jsonl"))
    assert "4 records" in exported.stderr
    assert len((lab.folder / "out.jsonl").read_text().splitlines()) == 4
    for wrong in ((rows[1]["id"],), (rows[1]["id"], "--reason", " ")):
        assert lab.cli("parked", "discard", *wrong).returncode == 2
    assert lab.cli("parked", "discard", rows[1]["id"], "--reason", "not ours").stdout == "1 record discarded\n"
    lab.holds("notes", *({"shop": n, "number": "x"} for n in range(2, 5)))
    assert rows[1]["id"] in lab.cli("parked", "list", "--closed", "--key", '{"shop":1,"number":"x"}').stdout
    closed = json.loads(lab.cli("parked", "show", rows[1]["id"], "--json").stdout)
    assert (closed["state"], closed["reason"]) == ("discarded", "not ours")
    assert json.loads(lab.cli("parked", "retry", "--pipeline", "notes", "--json").stdout) == {
        "records": 3,
        "held_up": [],
    }
    execute(lab.target, "alter table note_view drop constraint note_view_note_check")
    lab.holds("notes")
    lab.until([(3,)], "select count(*) from note_view")
    execute(lab.target, "alter table note_view add constraint note_view_note_check check (note <> 'bad') not valid")
    assert lab.cli("parked", "list").stdout == "nothing is parked\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("retry",), "nothing_chosen"),
        (("retry", "--all", "--code", "x"), "nothing_chosen"),
        (("show", "notes:0-999999"), "unknown_parked"),
        (("show", "nonsense"), "unknown_parked"),
        (("list", "nobody"), "unknown_name"),
        (("list", "--since", "yesterday"), "bad_time"),
        (("discard", "--all"), "reason_missing"),
    ],
)
def test_bad_questions_are_one_line(hub: Parks, arguments: tuple[str, ...], code: str) -> None:
    done = hub.cli("parked", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{code}: ")
    assert done.stderr.count("\n") == 1


def test_a_pipeline_stops_before_it_parks_the_world_and_goes_on_when_it_may(lab: Parks) -> None:
    execute(lab.source, "insert into accounts select n, 'n' || n, 1, null, true from generate_series(1, 1500) n")
    execute(lab.source, "insert into orders select n, 'x', 1, 'bad' from generate_series(1, 1500) n")
    problem = lab.problem("pipeline_failed", "pipeline:notes")
    assert "too_many_parked" in problem["message"]
    lab.until([(1500,)], "select count(*) from orders", lab.source)
    execute(lab.target, "alter table note_view drop constraint note_view_note_check")
    lab.resume("notes")
    lab.holds("notes")
    lab.until([(1500,)], "select count(*) from note_view")
    execute(lab.target, "alter table note_view add constraint note_view_note_check check (note <> 'bad') not valid")


def test_one_resume_is_enough_when_what_stopped_a_pipeline_was_mended_at_the_source(lab: Parks) -> None:
    execute(lab.source, "insert into accounts select n, 'n' || n, 1, null, true from generate_series(1, 1000) n")
    execute(lab.source, "insert into orders select n, x, 1, 'good' from generate_series(1, 1000) n,"
            " unnest(array['x', 'a', 'b', 'c']) x")  # fmt: skip
    lab.until([(4000,)], "select count(*) from note_view")
    for total, note in ((2, "mended"), (3, "mended again")):
        execute(lab.source, f"update orders set note = 'bad', total = {total} where number = 'x'")
        assert "too_many_parked" in lab.problem("pipeline_failed", "pipeline:notes")["message"], note
        lab.until([(1000,)], f"select count(*) from order_view where total = {total}")  # all of them are in the topic
        # what mends them is polled later than they are
        execute(lab.source, *("update orders set total = total + 1 where number <> 'x'",) * 3)
        execute(lab.source, f"update orders set note = '{note}' where number = 'x'")
        lab.resume("notes")
        lab.until([(1000,)], f"select count(*) from note_view where note = '{note}'", timeout_seconds=90)
        lab.holds("notes")
    closed = [row for row in lab.parked("notes", closed=True) if row.state == "superseded"]
    assert len(closed) >= 2000, "they were parked before they were mended"


def test_a_value_that_the_target_cannot_keep_does_not_keep_its_record_from_being_parked(lab: Parks) -> None:
    execute(
        lab.source,
        """begin; select pg_logical_emit_message(true, 'sync_hub', '{"correlation_id": "a\\u0000b"}');
        insert into orders values (1, 'x', 1, 'bad'), (2, 'y', 1, 'good'); commit""",
    )
    (row,) = lab.holds("notes", {"shop": 1, "number": "x"})
    assert row.correlation_id == "a\N{REPLACEMENT CHARACTER}b"
    lab.until([(2,)], "select shop from note_view")


def test_a_parked_record_that_somebody_deletes_stops_its_pipeline(lab: Parks) -> None:
    execute(lab.source, "insert into orders values (1, 'x', 1, 'bad'), (2, 'y', 1, 'bad')")
    lab.holds("notes", {"shop": 1, "number": "x"}, {"shop": 2, "number": "y"})
    execute(lab.target, "delete from sync_hub_parked where closed_at is null and source_key like '%x%'")
    problem = lab.problem("pipeline_failed", "pipeline:notes")
    assert "parked_lost: pipeline notes: the parked record notes:" in problem["message"]
    execute(lab.source, "update orders set note = 'good'")
    assert lab.cli("snapshot", "notes", "--reload").returncode == 0
    lab.resume("notes")
    lab.until([(1,), (2,)], "select shop from note_view order by 1")
    lab.holds("notes")


def test_a_target_that_is_down_parks_nothing(lab: Parks) -> None:
    with frozen(lab.pids()["deliver:crm"]):
        execute(lab.source, "insert into orders select n, 'x', 1, 'good' from generate_series(1, 500) n")
    execute(
        lab.target,
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and application_name like 'sync-hub%'",
    )
    lab.until([(500,)], "select count(*) from note_view")
    assert lab.parked("notes", closed=True) == [] or all(row.state != "parked" for row in lab.parked("notes"))
