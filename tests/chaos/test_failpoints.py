"""A worker dies at every step that has a name, begins again, and everything ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from connectors.local_postgres import LocalPostgres
from sync_hub import failpoints
from sync_hub.errors import ConfigError
from sync_hub.runtime.pipelines import register
from sync_hub.state_snapshots import Snapshot, new_id
from sync_hub.state_verifications import Verification, VerificationOptions
from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute, is_alive, query
from tests.end_to_end.workload import SCHEMA
from tests.servers.postgres import database

ROOT = Path(__file__).parents[2]
NAME = "fail"
CAPTURE, CRM, WH, VERIFY = f"capture:{NAME}", "deliver:crm", "deliver:wh", "verify"
MAPPINGS = """
mapping: accounts
from: {source: {source}, table: public.accounts}
to: {target: crm, table: account_view}
key: [account]
fields: {account: id, title: upper(name), balance: balance, big: big, event: _event_id}
where: active
---
mapping: orders
from: {source: {source}, table: public.orders}
to: {target: crm, table: order_view}
key: [shop, number]
copy: all
---
mapping: orders_lite
from: {source: {source}, table: public.orders}
to: {target: wh, table: order_view, create: true}
key: [shop, number]
copy: all
"""
ANOTHER = """
mapping: {name}
from: {{source: fail, table: public.orders}}
to: {{target: crm, table: {name}, create: true}}
key: [shop, number]
copy: all
"""
TARGET = """
create table account_view (account bigint primary key, title text, balance numeric, big text, event text);
create table order_view (shop int, number text, total numeric, note text check (note <> 'bad'), primary key (shop, number));
create table writes (at bigserial, account bigint, event text);
create function audit() returns trigger language plpgsql as
    'begin insert into writes (account, event) values (new.account, new.event); return new; end';
create trigger audit after insert or update on account_view for each row execute function audit();
"""  # noqa: E501
ROWS = """
insert into accounts select n, 'before', n, repeat('z', 9000), true from generate_series(1, 60) n;
insert into orders select n % 3, n::text, n, 'before' from generate_series(1, 100) n;
"""
TWICE = "select account, event, count(*) from writes group by 1, 2 having count(*) > 1"


class Bench(Lab):
    """A hub whose workers the test starts one by one, so that it says which of them dies where."""

    def __init__(self, folder: Path, source: str, target: str) -> None:
        super().__init__(folder, NAME, source, target, MAPPINGS)
        small = "heartbeat_seconds: 0.3\n    snapshot_rows: 20"
        text = self.config.read_text().replace("heartbeat_seconds: 0.5", small)
        self.config.write_text(text + "retry: {first: 0.3s, factor: 1, attempts: 1000}\n")
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.turn = 0

    def begin(self, worker: str, armed: str = "") -> subprocess.Popen[bytes]:
        """Start a worker, with a failpoint armed or without."""
        with (self.folder / "hub.log").open("ab") as log:
            self.workers[worker] = subprocess.Popen(
                [sys.executable, "-m", "sync_hub.runtime.worker", worker, "-c", str(self.config)],
                stdin=subprocess.PIPE,
                stderr=log,
                env=self.environment | {failpoints.VARIABLE: armed},
                cwd=self.folder,
            )
        return self.workers[worker]

    def end(self, worker: str) -> None:
        """Have a worker finish what it has begun."""
        process = self.workers.pop(worker)
        process.communicate(timeout=20)

    def close(self) -> None:
        for process in self.workers.values():
            process.kill()
            process.communicate()
        super().close()

    def equal(self) -> None:
        """Wait until every view is what its mapping makes of its source."""

        def agree() -> bool:
            seen[:] = [one for one in self.compare() if not one.agrees]
            return not seen

        seen: list[object] = []
        try:
            wait_until(agree, "all views agree", 40)
        except AssertionError as error:
            raise AssertionError(f"{error}: {seen}\n{self.log()[-3000:]}") from error

    def parked(self) -> bool:
        """Whether something is held."""
        return query(self.target, "select exists (select from sync_hub_parked where closed_at is null)") == [(True,)]


def changes(bench: Bench) -> None:
    """Transactions of all kinds, some over several tables."""
    turn = bench.turn
    with psycopg.connect(bench.source) as connection:
        for n in range(1, 21):
            connection.execute("update accounts set balance = balance + 1, name = %s where id <= 30", (f"{turn} {n}",))
            connection.execute("update orders set total = %s where shop = %s", (turn * 100 + n, n % 3))
            connection.commit()
        connection.execute("update accounts set id = -id where id in (1, 2)")
        connection.execute("update accounts set id = 3 + id where id in (-1, -2) and false")
        connection.execute("update accounts set id = 3 - abs(id) where id < 0")
        connection.execute("update accounts set active = not active where id between 40 and 50")
        connection.execute("delete from orders where shop = 2")
        connection.execute("insert into orders select 2, n::text, %s, 'again' from generate_series(1, 30) n", (turn,))


def truncated(bench: Bench) -> None:
    """A table that is emptied, and filled again."""
    execute(bench.source, "truncate orders", f"insert into orders select n % 3, n::text, {bench.turn}, 'new'"
            " from generate_series(1, 100) n")  # fmt: skip


def refused(bench: Bench) -> None:
    """Rows that a target refuses, among others."""
    execute(bench.source, f"update orders set note = case when number = '7' then 'bad' else 'good' end,"
            f" total = {bench.turn}")  # fmt: skip


def taken_later(bench: Bench) -> None:
    """What was refused fits now, because the target was mended."""
    refused(bench)
    bench.begin(CRM)
    wait_until(bench.parked, "the refused row is held", 20)
    bench.end(CRM)
    execute(bench.target, "alter table order_view drop constraint order_view_note_check")


def another_pipeline(bench: Bench) -> None:
    """A new view, which is filled."""
    name = f"another_{bench.turn}"
    (bench.mappings / f"{name}.yaml").write_text(ANOTHER.format(name=name))
    register(bench.settings, bench.state)


def rows_sent_again(bench: Bench) -> None:
    """Existing rows, in several chunks, through the topic."""
    one = Snapshot(new_id(), NAME, "public.orders", ("orders", "orders_lite"), reason="asked", asked_at=time.time())
    bench.state.snapshots.ask(one)


def differing_view(bench: Bench) -> None:
    """A view that lost rows, and a question that finds it."""
    execute(bench.target, "delete from order_view where shop = 1")
    repair = VerificationOptions(repair=True)
    bench.state.verifications.ask([Verification(new_id(), "orders", options=repair, asked_at=time.time())])


class Case(NamedTuple):
    """Which worker dies at the how manyth passing, while this happens."""

    point: str
    worker: str
    passing: int
    happens: Callable[[Bench], None]


CASES = [
    Case("before_open", CAPTURE, 1, changes),
    Case("after_read", CAPTURE, 2, changes),
    Case("after_publish", CAPTURE, 1, changes),
    Case("after_flush", CAPTURE, 2, changes),
    Case("before_save", CAPTURE, 1, changes),
    Case("before_ack", CAPTURE, 1, changes),
    Case("after_ack", CAPTURE, 1, changes),
    Case("after_chunk", CAPTURE, 2, rows_sent_again),
    Case("before_finish", CAPTURE, 1, rows_sent_again),
    Case("after_start_offsets", CRM, 1, another_pipeline),
    Case("before_block_commit", CRM, 2, another_pipeline),
    Case("after_block", CRM, 2, another_pipeline),
    Case("after_poll", CRM, 1, changes),
    Case("before_write", CRM, 1, changes),
    Case("after_write", CRM, 1, changes),
    Case("before_commit", CRM, 1, changes),
    Case("after_commit", CRM, 1, changes),
    Case("before_commit", WH, 1, changes),
    Case("after_commit", WH, 1, changes),
    Case("before_barrier", CRM, 1, truncated),
    Case("after_barrier", WH, 1, truncated),
    Case("after_half", CRM, 2, refused),
    Case("before_replay", CRM, 1, refused),
    Case("after_replay", CRM, 1, taken_later),
    Case("before_answer", CRM, 1, differing_view),
]


@pytest.fixture(scope="module")
def bench(
    source_server: LocalPostgres, target_server: LocalPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """One hub for all tests of this file."""
    with database(source_server) as source, database(target_server) as target:
        execute(source, SCHEMA, ROWS)
        execute(target, TARGET)
        bench = Bench(tmp_path_factory.mktemp("failpoints"), source, target)
        register(bench.settings, bench.state)
        try:
            for worker in (CAPTURE, CRM, WH, VERIFY):
                bench.begin(worker)
            bench.settle()
            yield bench
        finally:
            bench.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.point}-{case.worker}")
def test_a_worker_that_dies_at_this_step_changes_nothing_in_the_end(bench: Bench, case: Case) -> None:
    bench.turn += 1
    bench.end(case.worker)
    case.happens(bench)
    process = bench.begin(case.worker, f"{case.point}=kill:{case.passing}")
    assert process.wait(20) == -signal.SIGKILL, bench.log()[-3000:]
    process.communicate()
    bench.begin(case.worker)
    if case.happens is refused:
        wait_until(bench.parked, "the refused row is held", 20)
        execute(bench.source, "update orders set note = 'mended' where note = 'bad'")
    bench.equal()
    assert query(bench.target, TWICE) == []
    assert not bench.parked()
    if case.happens is taken_later:
        execute(bench.source, "update orders set note = 'mended' where note = 'bad'")
        bench.equal()
        execute(bench.target, "alter table order_view add check (note <> 'bad')")


def test_a_step_that_fails_is_done_again(bench: Bench) -> None:
    bench.turn += 1
    armed = {CAPTURE: "before_save=raise,after_publish=raise:2", CRM: "before_commit=raise", WH: "after_commit=raise"}
    for worker, text in armed.items():
        bench.end(worker)
        bench.begin(worker, text)
    changes(bench)
    for name in ("before_save", "after_publish", "before_commit", "after_commit"):
        wait_until(lambda name=name: f"failpoint {name}: told to fail" in bench.log(), f"{name} fails", 20)
    bench.equal()
    assert query(bench.target, TWICE) == []


def test_a_worker_that_stands_still_before_it_writes_has_no_effect_when_it_wakes_up(bench: Bench) -> None:
    bench.turn += 1
    bench.end(CRM)
    zombie = bench.begin(CRM, "before_write=stop")
    changes(bench)
    wait_until(lambda: state_of(zombie.pid) == "T", "it stands still", 20)
    bench.begin(CRM)
    bench.equal()
    zombie.send_signal(signal.SIGCONT)
    wait_until(lambda: f"{zombie.pid} offsets_moved" in bench.log(), "it notices", 20)
    with contextlib.suppress(BrokenPipeError):
        zombie.communicate(timeout=20)
    assert not is_alive(zombie.pid)
    bench.equal()
    assert query(bench.target, TWICE) == []


@pytest.mark.parametrize("point", ["before_open", "before_save"])
def test_a_capture_that_stands_still_takes_no_position_back_when_it_wakes_up(bench: Bench, point: str) -> None:
    """Else the log could not be proven to go on there: the one that took over has had the slot moved on."""
    bench.turn += 1
    bench.end(CAPTURE)
    zombie = bench.begin(CAPTURE, f"{point}=stop")
    changes(bench)
    wait_until(lambda: state_of(zombie.pid) == "T", "it stands still", 20)
    execute(bench.source, "select pg_terminate_backend(active_pid) from pg_replication_slots where active")
    bench.begin(CAPTURE)
    bench.equal()
    changes(bench)
    bench.equal()
    bench.end(CAPTURE)
    zombie.send_signal(signal.SIGCONT)
    wait_until(lambda: f"{zombie.pid} position_moved" in bench.log(), "it notices", 20)
    bench.workers[CAPTURE] = zombie
    bench.turn += 1
    changes(bench)
    bench.equal()


def test_after_all_of_it_the_hub_is_settled(bench: Bench) -> None:
    for worker in (CAPTURE, CRM, WH):
        bench.end(worker)
        bench.begin(worker)
    bench.agrees()
    assert query(bench.target, TWICE) == []


def state_of(pid: int) -> str:
    """A process's state, as ps shows it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_every_failpoint_in_the_code_is_known_and_tested() -> None:
    files = [path for folder in ("sync_hub", "connectors") for path in (ROOT / folder).rglob("*.py")]
    passed = {name for path in files for name in re.findall(r'\bfailpoint\("(\w+)"\)', path.read_text())}
    assert passed == failpoints.FAILPOINTS
    assert {case.point for case in CASES} == failpoints.FAILPOINTS


@pytest.mark.parametrize("text", ["no_such=kill", "after_read", "after_read=", "after_read=jump", "after_read=kill:x"])
def test_what_the_variable_cannot_mean_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        failpoints.arm({failpoints.VARIABLE: text})
    assert caught.value.code == "bad_failpoint"
    assert failpoints.VARIABLE in caught.value.message


def test_a_hub_and_a_worker_refuse_a_name_that_is_no_failpoint(
    tmp_path: Path, source_dsn: str, target_dsn: str
) -> None:
    lab = Lab(tmp_path, "refuses", source_dsn, target_dsn, MAPPINGS)
    lab.environment[failpoints.VARIABLE] = "after_rad=kill"
    try:
        done = lab.cli("run")
        assert (done.returncode, done.stdout) == (2, "")
        assert "bad_failpoint" in done.stderr
        assert "after_read" in done.stderr
        command = [sys.executable, "-m", "sync_hub.runtime.worker", "verify", "-c", str(lab.config)]
        worker = subprocess.run(command, env=lab.environment, capture_output=True, text=True, check=False, timeout=30)
        assert worker.returncode == 2
        assert len(worker.stderr.splitlines()) == 1
    finally:
        lab.close()
