"""The hub's own store: one transaction a method, safe from several processes, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from sync_hub import state as state_module
from sync_hub.errors import ConfigError, Unavailable
from sync_hub.model import Column, Table
from sync_hub.state import PROGRESS_KEPT, Pipeline, Progress, State, Step
from sync_hub.state_snapshots import Snapshot
from sync_hub.state_verifications import FINISHED_KEPT, Verification, VerificationOptions
from sync_hub.store import CHECKPOINT_EVERY_WRITES

PIPELINE = Pipeline("customer_to_crm", "erp", "public.customers", "crm", "{}", 1.0, "new")
SNAPSHOT = Snapshot("s1", "erp", "public.customers", ("customer_to_crm",), rows_estimated=100, asked_at=1.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that does not exist yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/below/state.db"
    return str(request.getfixturevalue("target_dsn"))


@pytest.fixture
def state(url: str) -> Iterator[State]:
    """A new store."""
    store = State(url)
    yield store
    store.close()


def test_positions_and_progress_are_stored_together(state: State) -> None:
    assert state.position("erp") is None
    state.save_position("erp", "0/1", after=None)
    state.snapshots.ask(SNAPSHOT)
    moved = msgspec.structs.replace(SNAPSHOT, last_key=(7, "x"), rows_done=50)
    entries = [Progress("erp", f"0/{n}", float(n), n + 0.5, {"erp.public.t": [n, 2 * n]}) for n in (2, 3, 4)]
    for entry in entries:
        state.save_position("erp", entry.position, after=state.position("erp"), progress=entry, snapshots=[moved])
    assert state.position("erp") == "0/4"
    assert state.progress("erp") == entries[::-1], "newest first"
    assert state.progress("erp", limit=1) == entries[-1:]
    assert state.progress("other") == []
    assert state.snapshots.unfinished("erp") == [moved]


def test_a_position_that_another_worker_has_moved_is_not_taken_back(state: State) -> None:
    state.save_position("erp", "0/1", after=None)
    state.save_position("erp", "0/2", after="0/1")
    late = Progress("erp", "0/3", 1.0, 1.0, {})
    for known in (None, "0/1", "0/3"):
        with pytest.raises(Unavailable, match="position_moved"):
            state.save_position("erp", "0/3", after=known, progress=late)
    assert (state.position("erp"), state.progress("erp")) == ("0/2", [])


def test_old_progress_is_thinned_to_one_a_minute(state: State) -> None:
    total = PROGRESS_KEPT + 121
    for n in range(total):
        entry = Progress("erp", str(n), float(n), float(n), {})
        state.save_position("erp", str(n), after=str(n - 1) if n else None, progress=entry)
    state.thin_progress("erp")
    kept = [entry.source_time for entry in state.progress("erp")]
    assert kept[:PROGRESS_KEPT] == [float(n) for n in range(total - 1, 120, -1)]
    assert [int(at // 60) for at in kept[PROGRESS_KEPT:]] == [2, 1, 0]


def test_tables_of_a_source_are_replaced_whole(state: State) -> None:
    customers = Table("public", "customers", (Column("id", "bigint", nullable=False),), ("id",), (("id",),), "16384", 7)
    orders = Table("public", "orders", (Column("id", "bigint"),))
    state.save_tables("erp", [customers, orders])
    assert state.tables("erp") == {"public.customers": customers, "public.orders": orders}
    state.save_tables("erp", [customers])
    assert state.tables("erp") == {"public.customers": customers}
    assert state.tables("other") == {}


def test_a_pipeline_is_added_once_and_loaded_in_phases(state: State) -> None:
    assert state.add_pipeline(PIPELINE)
    assert not state.add_pipeline(Pipeline("customer_to_crm", "x", "y", "z", "{}", 2.0, "loaded"))
    assert state.pipelines() == [PIPELINE]
    state.advance_phase(["customer_to_crm"], "ready", only_from=["new"])
    state.advance_phase(["customer_to_crm"], "new", only_from=["loading"])
    assert state.pipelines()[0].phase == "ready"
    state.snapshots.begin_ready("erp", {"public.customers": 100})
    assert (state.pipelines()[0].phase, state.pipelines()[0].loaded_at) == ("loading", None)
    (snapshot,) = state.snapshots.unfinished("erp")
    assert (snapshot.reason, snapshot.pipelines, snapshot.rows_estimated) == ("new", ("customer_to_crm",), 100)
    before = time.time()
    state.snapshots.finish(snapshot.id)
    (loaded,) = state.pipelines()
    assert (loaded.phase, loaded.unproven) == ("loaded", "")
    assert loaded.loaded_at is not None
    assert before <= loaded.loaded_at <= time.time()
    assert state.snapshots.unfinished("erp") == []
    state.remove_pipeline("customer_to_crm")
    assert state.pipelines() == []


def test_a_snapshot_is_paused_resumed_and_cancelled(state: State) -> None:
    second = msgspec.structs.replace(SNAPSHOT, id="s2", asked_at=2.0, reason="asked")
    for snapshot in (second, SNAPSHOT):
        state.snapshots.ask(snapshot)
    assert state.snapshots.unfinished("erp") == [SNAPSHOT, second], "oldest first"
    state.snapshots.start("s1")
    assert state.snapshots.pause("s1")
    state.snapshots.start("s1")
    assert [one.state for one in state.snapshots.unfinished("erp")] == ["paused", "waiting"]
    assert state.snapshots.resume("s1")
    assert not state.snapshots.resume("s1")
    assert state.snapshots.cancel("s2")
    assert not state.snapshots.cancel("s2")
    assert [one.id for one in state.snapshots.unfinished("erp")] == ["s1"]


def test_a_load_that_is_cancelled_leaves_its_view_in_doubt(state: State) -> None:
    state.add_pipeline(msgspec.structs.replace(PIPELINE, phase="ready"))
    state.snapshots.begin_ready("erp", {"public.customers": 100})
    state.snapshots.cancel(state.snapshots.unfinished("erp")[0].id)
    assert [(one.phase, one.unproven) for one in state.pipelines()] == [("loaded", "cancelled")]


def test_a_reload_gives_up_what_was_loading_and_is_proven_only_by_its_own_verification(state: State) -> None:
    state.add_pipeline(msgspec.structs.replace(PIPELINE, phase="ready"))
    state.snapshots.begin_ready("erp", {"public.customers": 100})
    assert state.apply([Step("customer_to_crm", state.pipelines()[0], changed('{"new": 1}'), "mapping changed")]) == []
    assert state.snapshots.unfinished("erp") == []
    (again,) = state.pipelines()
    assert (again.phase, again.unproven, again.bundle) == ("adopting", "mapping changed", '{"new": 1}')
    state.advance_phase(["customer_to_crm"], "ready", only_from=["adopting"])
    state.snapshots.begin_ready("erp", {"public.customers": 100})
    (snapshot,) = state.snapshots.unfinished("erp")
    assert snapshot.reason == "reload"
    state.snapshots.finish(snapshot.id)
    (loaded,) = state.pipelines()
    assert (loaded.phase, loaded.unproven) == ("loaded", "mapping changed")
    state.reload(["customer_to_crm"], "recovery")
    assert not state.prove(loaded), "it was loaded again meanwhile"
    assert state.pipelines()[0].unproven == "recovery"
    state.advance_phase(["customer_to_crm"], "loaded", only_from=["adopting"])
    assert state.prove(state.pipelines()[0])
    assert state.pipelines()[0].unproven == ""


def changed(bundle: str, phase: str = "new") -> Pipeline:
    """The pipeline with another bundle."""
    return msgspec.structs.replace(PIPELINE, bundle=bundle, phase=phase)


def test_a_pipeline_that_has_not_begun_is_replaced(state: State) -> None:
    state.add_pipeline(PIPELINE)
    assert state.apply([Step("customer_to_crm", PIPELINE, changed("new"))]) == []
    assert [(one.phase, one.unproven, one.bundle) for one in state.pipelines()] == [("new", "", "new")]
    assert state.apply([Step("customer_to_crm", None, changed("new"))]) == [], "a hub that starts took the same file"


@pytest.mark.parametrize(
    ("known", "planned"),
    [
        (changed("a", "ready"), None),
        (changed("a"), None),
        (changed("a", "starting"), changed("a")),
        (changed("b", "loaded"), changed("a", "loaded")),
        (msgspec.structs.replace(changed("a", "loaded"), reloads=1), changed("a", "loaded")),
    ],
)
def test_what_is_no_longer_what_was_planned_on_is_left_alone(
    state: State, known: Pipeline, planned: Pipeline | None
) -> None:
    other = msgspec.structs.replace(PIPELINE, name="other")
    for pipeline in (known, other):
        state.add_pipeline(pipeline)
    steps = [Step("other", other, None), Step("customer_to_crm", planned, changed("new"), "mapping changed")]
    assert state.apply(steps) == ["customer_to_crm"]
    assert state.pipelines() == [known, other], "all or none"


def test_a_worker_keeps_its_since_while_its_state_lasts(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    for now, worker_state in ((10.0, "starting"), (12.0, "running"), (14.0, "running")):
        monkeypatch.setattr(state_module.time, "time", lambda now=now: now)
        state.beat("capture:erp", worker_state, {"at": now})
    (worker,) = state.workers()
    assert (worker.state, worker.since, worker.beat_at, worker.detail) == ("running", 12.0, 14.0, {"at": 14.0})
    assert worker.pid == os.getpid()
    monkeypatch.setattr(state_module.os, "getpid", lambda: 1)
    state.beat("capture:erp", "running", {})
    assert state.workers()[0].since == 14.0, "a new process begins anew"


def test_workers_of_one_name_on_two_machines_are_two(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("a", "b"):
        monkeypatch.setattr(state_module.socket, "gethostname", lambda host=host: host)
        state.beat("deliver:crm", "running", {})
    assert sorted(worker.host for worker in state.workers()) == ["a", "b"]
    state.forget_workers(["deliver:crm"])
    assert state.workers() == []


def test_requests_wait_until_they_are_done(state: State) -> None:
    first = state.ask("capture:erp", "retry", {"x": 1})
    second = state.ask("capture:erp", "retry", {})
    state.ask("deliver:crm", "retry", {})
    assert [(one.id, one.arguments) for one in state.wishes("capture:erp")[1]] == [(first, {"x": 1}), (second, {})]
    assert state.result(first) is None
    state.finish_request(first, {"ok": True})
    assert state.result(first) == {"ok": True}
    assert [one.id for one in state.wishes("capture:erp")[1]] == [second]


def test_pauses_end_by_themselves_or_by_resume(state: State) -> None:
    state.pause("source:erp", reason="move", until=time.time() + 1000)
    state.pause("target:crm", until=time.time() - 1)
    state.pause("pipeline:x")
    state.pause("pipeline:x", reason="again")
    assert [(one.subject, one.reason) for one in state.pauses()] == [("pipeline:x", "again"), ("source:erp", "move")]
    assert state.resume("source:erp")
    assert not state.resume("source:erp")


def _beat_often(url: str, name: str) -> None:
    store = State(url)
    for n in range(40):
        store.beat(name, "running", {"n": n})
    store.close()


def test_several_processes_write_at_once(url: str) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_beat_often, args=(url, f"deliver:t{n}")) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    store = State(url)
    assert [worker.detail for worker in store.workers()] == [{"n": 39}] * 4
    store.close()


def test_the_write_ahead_log_of_sqlite_stays_small(tmp_path: Path) -> None:
    store = State(f"sqlite:///{tmp_path}/state.db")
    for n in range(2 * CHECKPOINT_EVERY_WRITES):
        entry = Progress("erp", str(n), 0.0, 0.0, {"t": list(range(100))})
        store.save_position("erp", "x" * 1000, after="x" * 1000 if n else None, progress=entry)
    assert (tmp_path / "state.db-wal").stat().st_size < 2_000_000
    store.close()


def test_a_store_that_does_not_answer_is_unavailable_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in (f"sqlite:///{tmp_path}/file/state.db", "postgresql://u:canary@127.0.0.1:1/x"):
        store = State(url)
        with pytest.raises(Unavailable) as caught:
            store.check()
        assert caught.value.code == "state_unavailable"
        assert "\n" not in str(caught.value)
        assert "canary" not in str(caught.value)


def test_a_store_of_an_older_release_gets_what_it_lacks(state: State) -> None:
    state.add_pipeline(PIPELINE)
    with state._store._engine.begin() as connection:
        connection.execute(sa.text("alter table sync_hub_pipelines drop column unproven"))
        connection.execute(sa.text("drop table sync_hub_verifications"))
    state.close()
    state._store._ready = False
    assert state.pipelines() == [PIPELINE]
    assert state.verifications.all() == []


@pytest.mark.parametrize("replaced", [False, True])
def test_a_store_that_was_moved_is_used_no_further_until_it_is_back(tmp_path: Path, replaced: bool) -> None:
    file = tmp_path / "state.db"
    state = State(f"sqlite:///{file}")
    state.save_position("erp", "0/1", after=None)
    elsewhere = file.rename(tmp_path / "elsewhere.db")
    if replaced:
        State(f"sqlite:///{file}").check()
    for use in (lambda: state.save_position("erp", "0/2", after="0/1"), lambda: state.position("erp")):
        with pytest.raises(Unavailable, match=r"state_unavailable.*moved, deleted or replaced"):
            use()
    assert file.exists() == replaced, "none was made in its place"
    if not replaced:
        elsewhere.rename(file)
        state.save_position("erp", "0/3", after="0/1")
        assert state.position("erp") == "0/3"


def test_a_server_that_never_answers_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"postgresql://hub:secret@127.0.0.1:{silent.getsockname()[1]}/hub"
        state = State(address)
        with pytest.raises(Unavailable, match="state_unavailable") as caught:
            state.workers()
    assert f"{address.replace('secret', '***')} cannot be used".replace("sql:", "sql+psycopg:") in caught.value.message
    state.close()


def test_a_damaged_store_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(Unavailable, match="state_unavailable"):
        State(f"sqlite:///{tmp_path}/state.db").workers()


@pytest.mark.parametrize("url", ["nonsense", "nodb://x", "sqlite//x"])
def test_an_address_that_is_none_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"bad_state_url.*sqlite:///"):
        State(url)


def test_a_failed_write_leaves_nothing(state: State) -> None:
    entry = Progress("erp", "0/9", 1.0, 1.0, {"t": [1]})
    state.save_position("erp", "0/1", after=None)
    with sa.create_engine(state._store._engine.url).begin() as connection:
        connection.execute(sa.text("drop table sync_hub_loads"))
    with pytest.raises(Unavailable):
        state.save_position("erp", "0/9", after="0/1", progress=entry, snapshots=[SNAPSHOT])
    assert state.position("erp") == "0/1"
    assert state.progress("erp") == []


def test_the_last_whole_verification_outlives_many_of_a_few_rows(state: State) -> None:
    def finished(name: str, at: float, **options: Any) -> Verification:
        return Verification(
            name, "p", state="done", options=VerificationOptions(**options), asked_at=at, started_at=at, finished_at=at
        )

    verifications = [finished("w1", 1.0), finished("w2", 2.0)]
    verifications += [finished(f"k{n}", 3.0 + n, keys=({"id": n},)) for n in range(FINISHED_KEPT + 5)]
    state.verifications.ask(verifications)
    for one in verifications:
        state.verifications.store(one)
    kept = [one.id for one in state.verifications.all("p")]
    assert kept == ["w2", *(f"k{n}" for n in range(5, FINISHED_KEPT + 5))]
    assert state.verifications.latest()["p"].id == "w2"
