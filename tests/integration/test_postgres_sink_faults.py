"""The PostgreSQL sink under faults: each has its class of error and one line; no batch is half done or done twice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from connectors.local_postgres import LocalPostgres, free_port
from connectors.postgresql import connect
from connectors.sinks.postgres import PostgresSink
from sync_hub.errors import ConfigError, Conflict, Fatal, OffsetsMoved, Rejected, SyncHubError, Unavailable
from sync_hub.model import Column, RowChange, SinkBatch, Table, TableWrite
from sync_hub.testing.sink_case import CUSTOMERS, Writer, first_offset, moved, upserts
from tests.postgres_sink import sink, sql
from tests.servers.postgres import running
from tests.servers.proxy import Proxy


@pytest.fixture
def writer(target_dsn: str) -> Iterator[Writer]:
    writer = Writer(sink(target_dsn))
    writer.sink.create(CUSTOMERS)
    yield writer
    writer.sink.close()


def wait_until(condition: Callable[[], object], timeout_seconds: float = 20) -> None:
    event = threading.Event()
    for _ in range(int(timeout_seconds / 0.01)):
        if condition():
            return
        event.wait(0.01)
    raise TimeoutError("the condition did not come true")


def one_line(error: SyncHubError) -> str:
    text = str(error)
    assert "\n" not in text
    assert "crm" in text
    return text


class Background:
    """Runs a write in a thread and keeps how it ended."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.error: SyncHubError | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except SyncHubError as error:
            self.error = error

    def ended(self) -> SyncHubError | None:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.error


BLOCKED = "select pid from pg_stat_activity where wait_event_type = 'Lock' and application_name like 'sync-hub%'"


def test_backend_killed_in_mid_transaction_leaves_nothing_and_the_next_write_connects_again(
    writer: Writer, target_dsn: str
) -> None:
    writer.write(upserts((1, "before")))
    with psycopg.connect(target_dsn) as other:
        other.execute("select * from public.customers where id = 1 for update")
        write = Background(lambda: writer.write(upserts((1, "after"), (2, "new"))))
        wait_until(lambda: sql(target_dsn, BLOCKED))
        sql(target_dsn, f"select pg_terminate_backend(pid) from ({BLOCKED}) as blocked")
        error = write.ended()
    assert isinstance(error, Unavailable)
    assert error.code in ("server_shut_down", "connection_failed"), str(error)
    one_line(error)
    assert writer.rows("customers", "id", "name") == [(1, "before")]
    assert writer.sink.load_offsets(["customers"]) == [writer.offset]
    writer.write(upserts((1, "after"), (2, "new")))
    assert writer.rows("customers", "id", "name") == [(1, "after"), (2, "new")]


VALUES = """
create table looked_for (id int primary key, email text unique, age int, mood mood check (id < 100), born date,
    parent int references looked_for,
    tags int[], doc jsonb, short varchar(3), at int4range, exclude using gist (at with &&))
"""


@pytest.mark.parametrize(
    ("column", "value", "names"),
    [
        ("email", "canary@example.com", ["looked_for_email_key", "Key (email) already exists"]),
        ("age", "canary", ["integer"]),
        ("age", "99999999999canary", ["integer"]),
        ("mood", "canary", ["mood"]),
        ("born", "canary", ["date"]),
        ("born", "2024-99-99 canary", ["date"]),
        ("parent", 424242, ["looked_for_parent_fkey", "Key (parent) is not present in table"]),
        ("tags", '{"canary', ["array"]),
        ("doc", '{"canary": canary}', ["json"]),
        ("short", "canary", ["character varying(3)"]),
        ("at", "[1,424242)", ["looked_for_at_excl", "Key (at)"]),
    ],
)
def test_what_the_server_says_about_a_row_holds_names_but_no_values(
    target_dsn: str, column: str, value: Any, names: list[str]
) -> None:
    sql(target_dsn, "create type mood as enum ('happy')")
    sql(target_dsn, VALUES)
    sql(target_dsn, "insert into looked_for (id, email, at) values (1, 'canary@example.com', '[1,424242)')")
    writer = Writer(sink(target_dsn))
    change = RowChange("upsert", (2,), (2, value))
    with pytest.raises(Rejected) as caught:
        writer.write(TableWrite("customers", "looked_for", ("id",), ("id", column), [change]))
    writer.sink.close()
    told = one_line(caught.value)
    assert "canary" not in told
    assert "424242" not in told
    assert all(name in told for name in names), told


REFUSES = """
create function refuse() returns trigger language plpgsql as $$ begin
    if new.name = 'bad' then raise exception 'not this one' using errcode = '{state}', detail = 'canary'; end if;
    return new; end $$;
create constraint trigger refuse after insert or update on customers {when} for each row execute function refuse()
"""


@pytest.mark.parametrize("when", ["", "deferrable initially deferred"])
@pytest.mark.parametrize("state", ["ZZ001", "U0001", "45000", "21000", "27000", "38000", "39000", "0A000", "XX000"])
def test_whatever_a_trigger_raises_for_a_row_refuses_the_row_alone(
    writer: Writer, target_dsn: str, state: str, when: str
) -> None:
    sql(target_dsn, REFUSES.format(state=state, when=when))
    with pytest.raises(Rejected) as caught:
        writer.write(upserts((1, "good"), (2, "bad")))
    assert (caught.value.code, caught.value.sqlstate) == ("row_refused", state)
    told = one_line(caught.value)
    assert "not this one" in told
    assert "canary" not in told
    writer.write(upserts((1, "good")))
    assert writer.rows("customers", "id", "name") == [(1, "good")]


def test_a_key_that_no_row_can_have_is_not_found_and_disturbs_no_other(writer: Writer) -> None:
    writer.write(upserts((1, "Ada"), (3, "Cy")))
    keys = [(1,), (3_000_000_000,), (2,), (3,), (-(2**40),)]
    found = writer.sink.find_rows("customers", ["name"], ["id"], keys)
    assert found == [("Ada",), None, None, ("Cy",), None]
    assert writer.sink.find_rows("customers", ["name"], ["id"], [(2**40,)]) == [None]
    writer.write(upserts((2, "Bo")))


TIMEOUTS = ("statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout")


def test_time_outs_of_role_and_database_do_not_hold_for_the_hub(any_dsn: str) -> None:
    name = any_dsn.rpartition("/")[2]
    known = [one for (one,) in sql(any_dsn, "select name from pg_settings") if one in TIMEOUTS]
    assert len(known) >= 3
    for one in known:
        sql(any_dsn, f"alter database \"{name}\" set {one} = '1s'")
        assert sql(any_dsn, f"show {one}") == [("1s",)]
    for replication in (False, True):
        with connect(any_dsn, application_name="sync-hub test", replication=replication) as connection:
            assert [connection.execute(f"show {one}").fetchone() for one in known] == [("0",)] * len(known)  # type: ignore[arg-type]


def test_interrupted_write_leaves_nothing_and_a_usable_sink(writer: Writer, target_dsn: str) -> None:
    def interrupt() -> None:
        wait_until(lambda: sql(target_dsn, BLOCKED))
        os.kill(os.getpid(), signal.SIGINT)

    with psycopg.connect(target_dsn) as other:
        other.execute("lock table public.customers")
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            writer.write(upserts((1, "Ada")))
        interrupting.join()
    writer.write(upserts((1, "Ada")))
    assert writer.rows("customers", "id", "name") == [(1, "Ada")]


def test_lock_held_too_long_is_unavailable(target_dsn: str) -> None:
    writer = Writer(sink(target_dsn, lock_timeout_seconds=0.1))
    writer.sink.create(CUSTOMERS)
    with psycopg.connect(target_dsn) as other:
        other.execute("lock table public.customers")
        with pytest.raises(Unavailable) as caught:
            writer.write(upserts((1, "Ada")))
    assert caught.value.code == "lock_timeout"
    one_line(caught.value)
    writer.write(upserts((1, "Ada")))
    writer.sink.close()


def test_zombie_waiting_for_the_offsets_finds_them_moved(writer: Writer, target_dsn: str) -> None:
    """It had sent its batch before the other worker committed: the row lock decides, not who came first."""
    zombie = Writer(sink(target_dsn))
    with psycopg.connect(target_dsn) as other:
        other.execute("update public.sync_hub_offsets set next_offset = 1, last_version = 'v0001'")
        write = Background(lambda: zombie.write(upserts((1, "ghost"))))
        wait_until(lambda: sql(target_dsn, BLOCKED))
        other.commit()
        assert isinstance(write.ended(), OffsetsMoved)
    assert writer.rows("customers", "id") == []
    assert writer.sink.load_offsets(["customers"])[0].next_offset == 1
    zombie.sink.close()


def test_two_workers_lock_the_same_offsets_in_one_order_whatever_theirs(writer: Writer, target_dsn: str) -> None:
    """Locking in the order given would end in a deadlock, which the server reports as another error."""
    offsets = [first_offset(partition=partition) for partition in range(1, 30)]
    writer.sink.start_offsets(offsets)
    pairs = [(offset, moved(offset)) for offset in offsets]
    with psycopg.connect(target_dsn) as other:
        other.execute("select * from public.sync_hub_offsets where partition = 15 for update")
        sinks = [sink(target_dsn), sink(target_dsn)]
        writes = [
            Background(lambda s=s, p=p: s.write(SinkBatch(p, [])))  # type: ignore[misc]
            for s, p in zip(sinks, (pairs, pairs[::-1]), strict=True)
        ]
        wait_until(lambda: len(sql(target_dsn, BLOCKED)) == 2)
        other.commit()
    ended = [write.ended() for write in writes]
    assert sorted(map(type, ended), key=str) == sorted([type(None), OffsetsMoved], key=str)
    for each in sinks:
        each.close()


def test_commit_whose_answer_was_lost_is_not_applied_twice(
    target_server: LocalPostgres, target_dsn: str, writer: Writer
) -> None:
    proxy = Proxy(target_server.port, cut_after=lambda request: b"commit\0" in request)
    through = sink(
        target_dsn.replace(f":{target_server.port}/", f":{proxy.port}/") + "?sslmode=disable&gssencmode=disable"
    )
    batch = SinkBatch([(writer.offset, moved(writer.offset))], [upserts((1, "Ada"))])
    with pytest.raises(Unavailable) as caught:
        through.write(batch)
    assert proxy.was_cut.is_set()
    one_line(caught.value)
    assert writer.sink.load_offsets(["customers"]) == [moved(writer.offset)]
    with pytest.raises(OffsetsMoved):
        writer.sink.write(batch)
    assert writer.rows("customers", "id", "name") == [(1, "Ada")]
    through.close()
    proxy.close()


@pytest.fixture(scope="module")
def own_server(server_folder: Path) -> Iterator[LocalPostgres]:
    """A server that tests may stop and reconfigure."""
    with running(server_folder, "faults") as server:
        yield server


def test_server_restarted_between_and_during_writes(own_server: LocalPostgres) -> None:
    writer = Writer(sink(own_server.dsn()))
    writer.sink.create(CUSTOMERS)
    writer.write(upserts((1, "Ada")))
    own_server.stop("fast")
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            writer.write(upserts((2, "Bob")))
        one_line(caught.value)
    [finding] = writer.sink.check()
    assert (finding.code, finding.severity, finding.path) == ("connection_failed", "error", "targets.crm")
    own_server.start()
    writer.write(upserts((2, "Bob")))
    assert writer.rows("customers", "id", "name") == [(1, "Ada"), (2, "Bob")]
    writer.sink.close()


def test_server_in_recovery_is_unavailable_until_it_is_the_primary(own_server: LocalPostgres) -> None:
    writer = Writer(sink(own_server.dsn()), first_offset("recovery"))
    writer.sink.create(CUSTOMERS)
    own_server.stop("fast")
    (own_server.data / "standby.signal").touch()
    own_server.start()
    with pytest.raises(Unavailable) as caught:
        writer.write(upserts((3, "Cy"), pipeline="recovery"))
    with pytest.raises(Unavailable) as caught:
        writer.write(upserts((3, "Cy"), pipeline="recovery"))
    assert caught.value.code == "server_read_only"
    assert "server_read_only" in [finding.code for finding in writer.sink.check()]
    sql(own_server.dsn(), "select pg_promote()")
    writer.write(upserts((3, "Cy"), pipeline="recovery"))
    assert (3, "Cy") in writer.rows("customers", "id", "name")
    writer.sink.close()


def test_wrong_password_is_told_without_the_password(own_server: LocalPostgres) -> None:
    sql(own_server.dsn(), "create role guarded login password 'right'")
    rules = own_server.data / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + before)
    sql(own_server.dsn(), "select pg_reload_conf()")
    address = f"postgresql://guarded:wr0ng-secret@127.0.0.1:{own_server.port}/postgres"
    options = PostgresSink.Options(dsn=address)
    assert "wr0ng-secret" not in repr(options)
    target = PostgresSink("crm", options, "test")
    with pytest.raises(Unavailable) as caught:
        target.open()
    assert caught.value.code == "access_denied"
    assert "wr0ng-secret" not in one_line(caught.value)
    assert [finding.code for finding in target.check()] == ["access_denied"]
    rules.write_text(before)
    sql(own_server.dsn(), "select pg_reload_conf()")


@pytest.mark.parametrize(
    ("address", "kind", "code"),
    [
        ("postgresql://postgres@127.0.0.1:{free}/postgres", Unavailable, "connection_failed"),
        ("postgresql://postgres@127.0.0.1:{port}/no_such_database", Unavailable, "database_missing"),
        ("postgresql://nobody_here@127.0.0.1:{port}/postgres", Unavailable, "access_denied"),
        ("postgresql://postgres@[::/postgres", ConfigError, "bad_dsn"),
    ],
)
def test_address_that_leads_nowhere(
    target_server: LocalPostgres, address: str, kind: type[SyncHubError], code: str
) -> None:
    target = sink(address.format(free=free_port(), port=target_server.port))
    with pytest.raises(kind) as caught:
        target.open()
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    [finding] = target.check()
    assert (finding.code, finding.severity) == (code, "error")


@pytest.fixture
def role(target_server: LocalPostgres, target_dsn: str, unique: Callable[[str], str]) -> Iterator[str]:
    """A role that may connect to the test's database and do nothing there."""
    name = unique("writer")
    database = target_dsn.rpartition("/")[2]
    sql(target_dsn, f'create role {name} login; revoke all on database "{database}" from public')
    sql(target_dsn, f'grant connect on database "{database}" to {name}; revoke all on schema public from public')
    yield name
    sql(target_dsn, f"drop owned by {name} cascade; drop role {name}")


def test_what_check_asks_for_is_enough_to_write_and_nothing_less_is(
    target_server: LocalPostgres, target_dsn: str, role: str
) -> None:
    """Run the command of one finding after the other, as a person would, until there is none."""
    sql(target_dsn, "create table public.customers (id int primary key, name text, secret text)")
    target = sink(target_server.dsn(target_dsn.rpartition("/")[2], role))
    seen: list[str] = []
    while findings := target.check(["customers", "no_such_table"]):
        assert {finding.code for finding in findings} == {"privilege_missing"}
        with pytest.raises(Fatal) as caught:
            blocked = Writer(target)
            blocked.write(upserts((1, "Ada")))
        assert caught.value.code == "privilege_missing"
        one_line(caught.value)
        seen.append(findings[0].command)
        sql(target_dsn, findings[0].command)
        assert len(seen) < 10
    assert [command.split(" on ")[0] for command in seen] == [
        "grant temporary",
        "grant usage",
        "grant create",
        "grant select, insert, update, delete",
    ]
    writer = Writer(target)
    writer.write(upserts((1, "Ada")))
    change = [RowChange("update", (1,), (1, "Ada L.")), RowChange("delete", (2,))]
    writer.write(TableWrite("customers", "customers", ("id",), ("id", "name"), change))
    assert writer.rows("customers", "id", "name") == [(1, "Ada L.")]
    target.close()


def test_documented_grants_are_enough(
    target_server: LocalPostgres, target_dsn: str, unique: Callable[[str], str]
) -> None:
    role, database = unique("writer"), target_dsn.rpartition("/")[2]
    sql(target_dsn, f'revoke all on database "{database}" from public; revoke all on schema public from public')
    sql(target_dsn, "create table customer_view (id int primary key, name text)")
    page = Path(__file__).parents[2] / "docs" / "reference" / "targets.md"
    grants = page.read_text().split("```sql\n")[1].split("```")[0]
    sql(target_dsn, grants.replace("sync_hub_writer", role).replace("database crm", f'database "{database}"'))
    target = sink(target_server.dsn(database, role))
    assert target.check(["customer_view"]) == []
    writer = Writer(target)
    writer.write(upserts((1, "Ada"), table="customer_view"))
    change = [RowChange("update", (1,), (1, "Ada L.")), RowChange("delete", (2,))]
    writer.write(TableWrite("customers", "customer_view", ("id",), ("id", "name"), change))
    assert writer.rows("customer_view", "id", "name") == [(1, "Ada L.")]
    target.close()
    sql(target_dsn, f"drop owned by {role} cascade; drop role {role}")


def test_own_table_made_by_an_administrator_needs_no_create_privilege(
    target_server: LocalPostgres, target_dsn: str, role: str
) -> None:
    administrator = sink(target_dsn)
    administrator.open()
    administrator.close()
    database = target_dsn.rpartition("/")[2]
    sql(target_dsn, f'grant temporary on database "{database}" to {role}; grant usage on schema public to {role}')
    target = sink(target_server.dsn(database, role))
    findings = target.check()
    assert ["sync_hub_offsets" in findings[0].message, "sync_hub_parked" in findings[1].message] == [True, True]
    for finding in findings:
        sql(target_dsn, finding.command)
    assert target.check() == []
    Writer(target).write()
    target.close()


def test_missing_schema_is_a_finding_and_stops(target_dsn: str) -> None:
    target = sink(target_dsn, schema="nowhere")
    [finding] = target.check()
    assert finding.code == "schema_missing"
    with pytest.raises(Fatal):
        target.open()
    sql(target_dsn, finding.command)
    assert target.check() == []
    target.open()
    target.close()


def test_reading_rows_of_a_killed_server_process_is_unavailable(writer: Writer, target_dsn: str) -> None:
    columns = (Column("id", "integer", nullable=False), Column("name", "text"))
    writer.sink.create(Table("", "many", columns, ("id",)))
    writer.write(upserts(*((number, "x") for number in range(5000)), table="many"))
    reading = writer.sink.read_rows("many", ["id"])
    next(reading)
    sql(target_dsn, "select pg_terminate_backend(pid) from pg_stat_activity where query like 'fetch%'")
    with pytest.raises(Unavailable) as caught:
        list(reading)
    one_line(caught.value)


CONFLICTS = """
create table v (id int primary key, u int unique, name text, kind char(4), odd text unique, "A b" int unique deferrable,
    parent int references v deferrable, unique (name, kind));
insert into v values (1, 10, 'a, b', 'x', 'o) =(', 20, null), (2, 11, 'c', 'y', 'p', 21, 1);
"""


@pytest.mark.parametrize(
    ("columns", "values", "found"),
    [
        (("id", "u"), (3, 10), Conflict("public.v", ("u",), ("10",))),
        (("id", "A b"), (3, 20), Conflict("public.v", ("A b",), ("20",))),
        (("id", "odd"), (3, "o) =("), Conflict("public.v", ("odd",), ("o) =(",))),
        (("id", "name", "kind"), (3, "c", "y"), Conflict("public.v", ("name", "kind"), ("c", "y   "))),
        (("id", "name", "kind"), (3, "a, b", "x"), None),  # which part is which value cannot be told
        (("id", "parent"), (3, 77), Conflict("public.v", ("parent",), ("77",))),
    ],
)
def test_a_violated_key_tells_which_rows_it_is_about(
    target_dsn: str, columns: tuple[str, ...], values: tuple[Any, ...], found: Conflict | None
) -> None:
    sql(target_dsn, CONFLICTS)
    writer = Writer(sink(target_dsn))
    with pytest.raises(Rejected) as caught:
        writer.write(TableWrite("customers", "v", ("id",), columns, [RowChange("upsert", values[:1], values)]))
    writer.sink.close()
    assert caught.value.conflict == found


def test_a_row_that_is_still_referred_to_tells_its_key(target_dsn: str) -> None:
    sql(target_dsn, CONFLICTS)
    writer = Writer(sink(target_dsn))
    with pytest.raises(Rejected) as caught:
        writer.write(TableWrite("customers", "v", ("id",), ("id", "u"), [RowChange("delete", (1,))]))
    writer.sink.close()
    assert caught.value.conflict == Conflict("public.v", ("id",), ("1",))
