"""Views are proven while everything changes: no false alarm, what was broken by hand is found and mended."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from connectors.local_postgres import LocalPostgres
from sync_hub.cli.main import main
from sync_hub.runtime.control import Control
from sync_hub.runtime.extras import Extras
from sync_hub.runtime.first_look import FirstLook
from sync_hub.runtime.verify import Run
from sync_hub.state_snapshots import new_id
from sync_hub.state_verifications import Report, Verification, VerificationOptions
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, query
from tests.end_to_end.workload import SCHEMA
from tests.servers.postgres import database

FULL = """
mapping: accounts_to_crm
from: {source: {source}, table: public.accounts}
to: {target: crm, table: account_view, create: true}
key: [account]
fields:
  account: id
  title: upper(name) || '!'
  balance: {expr: balance, type: "numeric(14,1)"}
  big: big
  event: _event_id
where: active
---
mapping: orders_to_wh
from: {source: {source}, table: public.orders}
to: {target: wh, table: order_view, create: true}
key: [shop, number]
copy: all
---
mapping: orders_to_crm
from: {source: {source}, table: public.orders}
to: {target: crm, table: order_copy, create: true}
key: [shop, number]
copy: all
---
mapping: plain
from: {source: {source}, table: public.plain}
to: {target: crm, table: plain_copy, create: true}
key: [id]
copy: all
---
mapping: computed_key
from: {source: {source}, table: public.orders}
to: {target: crm, table: computed, create: true}
key: [name]
fields:
  name: shop || '/' || number
  total: total
---
mapping: kept
from: {source: {source}, table: public.accounts}
to: {target: crm, table: kept, create: true}
key: [id]
copy: [id, name]
on_delete: keep
---
mapping: ratio
from: {source: {source}, table: public.accounts}
to: {target: wh, table: ratio, create: true}
key: [id]
fields:
  id: id
  share: {expr: "round(100 / balance, 2)", type: "numeric(14,2)"}
---
mapping: marked
from: {source: {source}, table: public.accounts}
to: {target: crm, table: marked, create: true}
key: [id]
copy: [id, name]
where: active
on_delete: {set: {status: {value: closed}, deleted_at: _committed_at, old: id}}
"""


@pytest.fixture(
    scope="module",
    params=["embedded", "kafka"],
)
def lab(
    request: pytest.FixtureRequest,
    source_server: LocalPostgres,
    target_server: LocalPostgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lab]:
    """A hub with rows in all its views."""
    broker = ""
    if request.param == "kafka":
        address = request.getfixturevalue("kafka_address")
        broker = f"{{type: kafka, bootstrap_servers: ['{address}'], partitions: 3, replication_factor: 1}}"
    with database(source_server) as source, database(target_server) as target:
        execute(
            source,
            SCHEMA,
            "create table plain (id bigint primary key, name text, amount numeric(10,2), at timestamptz)",
            "insert into plain select n, 'name ' || n, n, now() from generate_series(-20000, 25000) n",
            "insert into accounts select n, 'name ' || n, n + 0.25, repeat('x', 9000), n % 5 > 0"
            " from generate_series(1, 500) n",
            "analyze accounts",
            "insert into orders select n % 7, n, n / 3.0, null from generate_series(1, 5000) n",
        )
        name, tables = f"v{uuid.uuid4().hex[:8]}", "public.accounts, public.orders, public.plain"
        folder = tmp_path_factory.mktemp("verify")
        lab = Lab(folder, name, source, target, FULL, broker=broker, tables=tables)
        lab.start()
        try:
            lab.settle()
            yield lab
        finally:
            lab.close()


def test_equal_views_agree(lab: Lab) -> None:
    accounts, orders, computed, kept = lab.verify("accounts_to_crm", "orders_to_wh", "computed_key", "kept")
    assert (accounts.matched, accounts.rows_done, accounts.agrees) == (400, 500, True)
    assert (orders.matched, orders.agrees) == (5000, True)
    assert (computed.matched, computed.agrees) == (5000, True)
    assert (kept.matched, kept.kept, kept.agrees) == (500, 0, True)


def test_what_was_broken_by_hand_is_found_and_repaired(lab: Lab) -> None:
    execute(
        lab.target,
        "update account_view set title = 'broken' where account = 1",
        "update account_view set balance = balance + 1, big = null where account in (2, 3)",
        "delete from account_view where account = 4",
        "insert into account_view (account, title) values (100000, 'extra'), (5, 'its source row is not active')",
        "insert into kept values (777777, 'gone at the source')",
    )
    accounts, kept = lab.verify("accounts_to_crm", "kept")
    assert (accounts.matched, accounts.different, accounts.missing, accounts.extra) == (396, 3, 1, 2)
    assert accounts.columns == {"title": 1, "balance": 2, "big": 2}
    assert "id=1: different in title" in accounts.examples
    assert (kept.matched, kept.kept, kept.agrees) == (500, 1, True)
    (repaired,) = lab.verify("accounts_to_crm", repair=True)
    assert (repaired.repaired, repaired.agrees, repaired.matched) == (6, True, 400)
    lab.agrees()


def test_rows_that_are_gone_and_were_not_marked_are_found_and_marked(lab: Lab) -> None:
    execute(
        lab.target,
        "insert into marked (id, status, deleted_at) values (900001, 'closed', now()), (900002, null, null),"
        " (900003, 'closed', null), (900004, 'open', '2026-01-01Z'), (5, null, null), (10, 'closed', '2026-01-01Z')",
    )
    (found,) = lab.verify("marked")
    assert (found.matched, found.different, found.kept, found.missing, found.extra) == (400, 4, 2, 0, 0)
    assert found.columns == {"status": 3, "deleted_at": 3}
    (repaired,) = lab.verify("marked", repair=True)
    assert (repaired.repaired, repaired.agrees, repaired.matched, repaired.kept) == (4, True, 400, 6)
    marked = "select id from marked where status = 'closed' and deleted_at is not null order by id"
    assert query(lab.target, marked) == [(number,) for number in (5, 10, 900001, 900002, 900003, 900004)]
    untouched = "select deleted_at = '2026-01-01Z' from marked where id = 10"
    assert query(lab.target, untouched) == [(True,)]


def test_plain_copies_are_compared_by_ranges_and_broken_rows_found_in_them(lab: Lab) -> None:
    (equal,) = lab.verify("plain")
    assert (equal.matched, equal.rows_done, equal.agrees) == (45001, 45001, True)
    execute(
        lab.target,
        "update plain_copy set name = 'broken' where id = -19999",
        "update plain_copy set amount = amount + 0.01, at = at + interval '1 microsecond' where id = 17",
        "delete from plain_copy where id in (3, 25000)",
        "insert into plain_copy values (-99999, 'before the first', 1, null), (99999, 'behind the last', 1, null)",
    )
    (found,) = lab.verify("plain")
    assert (found.matched, found.different, found.missing, found.extra) == (44997, 2, 2, 2)
    assert found.columns == {"name": 1, "amount": 1, "at": 1}
    (repaired,) = lab.verify("plain", repair=True)
    assert (repaired.repaired, repaired.agrees) == (6, True)
    assert query(lab.target, "select count(*) from plain_copy") == [(45001,)]


def test_a_target_with_far_more_rows_than_its_source_is_compared(lab: Lab) -> None:
    execute(
        lab.target,
        "insert into kept select n, 'gone' from generate_series(1000001, 1012000) n",
        "update kept set name = 'broken' where id = 3",
    )
    (found,) = lab.verify("kept")
    assert (found.matched, found.different, found.kept // 12000, found.extra) == (499, 1, 1, 0)
    execute(lab.target, "delete from kept where id > 1000000", "update kept set name = 'name 3' where id = 3")


def test_only_some_keys_are_looked_at(lab: Lab) -> None:
    execute(lab.target, "update account_view set title = 'broken' where account in (6, 7)")
    (some,) = lab.verify("accounts_to_crm", keys=({"id": 6}, {"id": 8}, {"id": "9"}, {"id": -5}))
    assert (some.matched, some.different, some.missing, some.extra) == (2, 1, 0, 0)
    (sampled,) = lab.verify("accounts_to_crm", sample=50)
    assert 0 < sampled.rows_done < 500
    (repaired,) = lab.verify("accounts_to_crm", repair=True, keys=({"id": 6}, {"id": 7}))
    assert (repaired.repaired, repaired.agrees) == (2, True)


def test_what_can_be_no_key_is_refused(lab: Lab) -> None:
    (failed,) = lab.verified("accounts_to_crm", keys=({"id": 6}, {"id": "six"}))
    assert (failed.state, failed.report.extra) == ("failed", 0)
    assert "bad_key: public.accounts: {'id': 'six'} is no key of this table" in failed.error


def test_keys_that_say_nothing_are_refused_by_the_command(lab: Lab) -> None:
    refused = lab.cli("verify", "accounts_to_crm", "--keys", "six", "--json")
    assert refused.returncode == 2
    (shown,) = json.loads(refused.stdout)
    assert (shown["state"], shown["agrees"]) == ("failed", None)
    assert "bad_key" in lab.cli("verify", "accounts_to_crm", "--keys", "six").stderr
    assert lab.cli("verify", "accounts_to_crm", "--keys", "").returncode == 2
    assert "verification_failed" not in {one["code"] for one in lab.health()["problems"]}


def test_rows_that_the_mapping_rejects_are_counted_once_and_named_beside_equal(lab: Lab) -> None:
    execute(lab.source, "update accounts set balance = 0 where id in (21, 22)")
    try:
        (found,) = lab.verify("ratio")
        assert (found.matched, found.parked, found.missing, found.extra) == (498, 2, 0, 0)
        shown = lab.cli("verify", "ratio")
        assert (shown.returncode, "equal, 2 parked" in shown.stdout) == (0, True), shown.stdout
    finally:
        execute(lab.source, "update accounts set balance = id + 0.25 where id in (21, 22)")


def test_who_waits_for_a_verification_is_told_when_the_hub_is_gone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sync_hub.cli.verify.SILENT_SECONDS", -1.0)
    with pytest.raises(SystemExit) as ended:
        main(["-c", str(lab.config), "verify", "ratio"])
    assert ended.value.code == 3
    assert "hub_not_running" in capsys.readouterr().err


def test_extra_rows_under_a_computed_key_are_found_and_removed(lab: Lab) -> None:
    execute(lab.target, "insert into computed values ('99/none', 1), ('98/none', 1)")
    (found,) = lab.verify("computed_key")
    assert (found.extra, found.missing, found.different) == (2, 0, 0)
    assert sorted(found.examples) == ["98/none: extra", "99/none: extra"]
    (repaired,) = lab.verify("computed_key", repair=True)
    assert (repaired.repaired, repaired.extra, repaired.matched, repaired.agrees) == (2, 0, 5000, True)
    assert query(lab.target, "select count(*) from computed") == [(5000,)]


def test_rows_that_come_and_go_under_a_computed_key_are_not_taken_for_extra(lab: Lab) -> None:
    """What is deleted and inserted again as it was is not in the source when that is looked at."""
    stop, rounds = threading.Event(), 0

    def come_and_go() -> None:
        nonlocal rounds
        with psycopg.connect(lab.source, autocommit=True) as connection:
            connection.execute("create temporary table away as select * from orders where number::int > 4980")
            while not stop.wait(0.05):
                connection.execute("delete from orders where number::int > 4980")
                stop.wait(0.05)
                connection.execute("insert into orders select * from away")
                rounds += 1

    writer = threading.Thread(target=come_and_go)
    writer.start()
    try:
        for _ in range(3):
            execute(lab.target, "insert into computed values ('99/none', 1) on conflict do nothing")
            (report,) = lab.verify("computed_key", repair=True)
            assert (report.repaired, report.agrees) == (1, True), report
    finally:
        stop.set()
        writer.join()
    assert rounds > 3
    lab.agrees()


def settled(lab: Lab, key: str, monkeypatch: pytest.MonkeyPatch, **patched: Callable[..., Any]) -> Report:
    """What becomes of a row that a verification with repair takes for extra, where some steps are others."""

    def suspects(look: FirstLook) -> list[dict[str, Any]]:
        look.unaskable = [(key,)]
        return []

    monkeypatch.setattr(FirstLook, "suspects", suspects)
    for name, step in patched.items():
        monkeypatch.setattr(Extras, name, step)
    asked = Verification(new_id(), "computed_key", options=VerificationOptions(repair=True), asked_at=time.time())
    lab.state.verifications.ask([replace(asked, state="running")])
    run = Run(asked, lab.settings, lab.state, Control("test"))
    try:
        done = run.verify()
        assert done is not None
        lab.state.verifications.store(replace(done, finished_at=time.time()))
        return done.report
    finally:
        run.close()


def test_a_row_that_came_back_since_the_source_was_read_is_not_removed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_made = Extras._not_made

    def gone_meanwhile(extras: Extras, keys: Sequence[Any]) -> list[Any]:
        execute(lab.source, "create table away as select * from orders where number = '77'")
        execute(lab.source, "delete from orders where number = '77'")
        try:
            return not_made(extras, keys)
        finally:
            execute(lab.source, "insert into orders select * from away", "drop table away")

    report = settled(lab, "0/77", monkeypatch, _not_made=gone_meanwhile)
    assert (report.repaired, report.extra) == (0, 0)
    assert query(lab.target, "select count(*) from computed where name = '0/77'") == [(1,)]


def test_a_row_that_comes_while_it_is_about_to_be_removed_stays(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_until(lambda: not any(one.unproven for one in lab.state.pipelines()), "nothing else repairs the view", 60)
    execute(lab.target, "insert into computed values ('5/late', 1)")
    remove, attempts = Extras._settled, []

    def too_late(extras: Extras, extra: Sequence[Any], now: Any, **options: Any) -> bool:
        if extra and not attempts:
            execute(lab.source, "insert into orders values (5, 'late', 2, null)")
            lab.until([(2,)], "select total::int from computed where name = '5/late'")
        done = remove(extras, extra, now, **options)
        attempts.append((len(extra), done))
        return done

    report = settled(lab, "5/late", monkeypatch, _settled=too_late)
    assert (report.repaired, report.extra, attempts) == (0, 0, [(1, False), (0, True)])
    assert query(lab.target, "select total::int from computed where name = '5/late'") == [(2,)]
    execute(lab.source, "delete from orders where number = 'late'")
    lab.agrees()


def test_constant_writes_raise_no_false_alarm(lab: Lab, request: pytest.FixtureRequest) -> None:
    """A TRUNCATE of the application may leave a table empty for a moment, but not each time."""
    rounds, matched = 10 if "embedded" in request.node.name else 3, 0
    with lab.load(seed=5):
        for _ in range(rounds):
            for report in lab.verify("accounts_to_crm", "orders_to_wh", "orders_to_crm"):
                assert report.agrees, report
                matched += report.matched
    assert matched > 0
    lab.agrees()


def test_a_view_that_is_loaded_again_loses_what_is_extra_and_is_proven(lab: Lab) -> None:
    execute(
        lab.target,
        "insert into account_view (account, title) values (200000, 'extra')",
        "update account_view set title = 'broken' where account = 10",
        "delete from account_view where account = 11",
    )
    with lab.load(seed=6):
        lab.state.reload(["accounts_to_crm", "orders_to_wh"], "a reload was asked for")

        def proven() -> bool:
            return all(one.phase == "loaded" and not one.unproven for one in lab.state.pipelines())

        try:
            wait_until(proven, "loaded and verified", 60)
        except AssertionError as error:
            states = [(one.name, one.phase, one.unproven) for one in lab.state.pipelines()]
            raise AssertionError(f"{error}: {states}\n{lab.log()[-3000:]}") from error
    lab.agrees()
    assert query(lab.target, "select count(*) from account_view where account = 200000") == [(0,)]
