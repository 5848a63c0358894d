"""The health document, told from the state alone: silence is never green, and every problem has its code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sync_hub.runtime.control import LOST_SECONDS
from sync_hub.web import problems
from sync_hub.web.reader import HealthReader
from tests.hub_state import CONFIG, NOW, HubState

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "reference" / "health.md"
PIPELINE = "customer_to_crm"


@pytest.fixture
def hub(tmp_path: Path) -> HubState:
    """A hub with one pipeline that is loaded; nothing has beaten yet."""
    world = HubState(tmp_path)
    world.pipeline()
    return world


def health(hub: HubState) -> dict[str, Any]:
    return HealthReader(hub.settings, hub.state, hub.clock).document()


def codes(document: dict[str, Any]) -> dict[str, str]:
    """Code and subject of each problem → severity; what concerns only the verifying worker has a test of its own."""
    found = {f"{problem['code']} {problem['subject']}": problem["severity"] for problem in document["problems"]}
    return {name: severity for name, severity in found.items() if name not in ("worker_missing hub", "worker_lost hub")}


@pytest.mark.parametrize("phase", ["new", "starting", "ready"])
def test_a_pipeline_that_never_begins_is_a_problem_unless_something_is_loading(tmp_path: Path, phase: str) -> None:
    hub = HubState(tmp_path)
    hub.pipeline(phase=phase)
    hub.well()

    def found(since: float, **capture: Any) -> dict[str, str]:
        hub.capture(**capture)
        hub.deliver(pipelines={PIPELINE: {"state": "snapshotting", "since": NOW - since}})
        return codes(health(hub))

    assert found(14) == {}
    assert found(16) == {f"pipeline_waiting pipeline:{PIPELINE}": "degraded"}
    assert found(400, snapshot={"table": "public.other", "rows_done": 1, "rows_estimated": 2}) == {}
    assert found(400, waiting="transaction 7 of app") == {"source_waiting source:erp": "degraded"}
    hub.pipeline("other", phase="loaded")
    hub.execute("update sync_hub_pipelines set loaded_at = :at where name = 'other'", at=NOW - 3)
    assert f"pipeline_waiting pipeline:{PIPELINE}" not in found(400), "the one before has just been loaded"


def test_the_verifying_worker_belongs_to_the_hub_and_stops_nothing_when_it_is_away(hub: HubState) -> None:
    hub.well()
    assert {worker["name"]: worker["subject"] for worker in health(hub)["workers"]}["verify"] == "hub"
    hub.execute("update sync_hub_workers set beat_at = :at where name = 'verify'", at=NOW - 60)
    (lost,) = health(hub)["problems"]
    assert (lost["code"], lost["subject"], lost["severity"], lost["affects"]) == ("worker_lost", "hub", "degraded", [])
    hub.execute("delete from sync_hub_workers where name = 'verify'")
    (missing,) = health(hub)["problems"]
    assert (missing["code"], missing["severity"]) == ("worker_missing", "degraded")


def test_a_part_that_was_stopped_is_started_alone_while_the_others_run(hub: HubState) -> None:
    hub.well()
    hub.capture(state="stopped")
    (problem,) = health(hub)["problems"]
    assert (problem["code"], problem["command"]) == ("worker_stopped", "sync-hub run --only capture:erp")


def test_all_is_well_only_with_beats_and_proof(hub: HubState) -> None:
    hub.well()
    document = health(hub)
    assert document["problems"] == []
    assert document["status"] == "ok"
    assert document["hub"] == "acme"
    pipeline = document["pipelines"][PIPELINE]
    assert pipeline["state"] == "running"
    assert pipeline["lag_seconds"] == 0
    assert pipeline["lag_events"] == 0
    assert pipeline["owner"] == f"{PIPELINE}@example.com"
    assert pipeline["applied_total"] == 12000
    source = document["sources"]["erp"]
    assert (source["state"], source["slot_status"], source["lag_seconds"]) == ("streaming", "reserved", 0)


def test_the_document_has_every_field_of_its_design(hub: HubState) -> None:
    hub.well()
    hub.state.pause("source:erp")
    document = health(hub)
    assert {"status", "hub", "version", "time", "act_before", "problems", "workers", "sources", "pipelines"} == set(
        document
    )
    expected = {
        "problems": "code severity subject since message hint command affects owner act_before",
        "workers": "name host pid state since restarts_last_hour seen_at",
        "sources": "state since position lag_seconds retained_log_bytes retained_log_limit_bytes slot_status "
        "last_event_at snapshot error",
        "pipelines": "source target owner state since waiting_for lag_seconds lag_capture_seconds lag_deliver_seconds "
        "lag_events arriving_per_second applied_per_second caught_up_in_seconds applied_total last_applied_at parked "
        "parked_since attempt next_attempt_at verified mapping error",
    }
    for part, names in expected.items():
        entries = document[part].values() if isinstance(document[part], dict) else document[part]
        for entry in entries:
            assert set(names.split()) <= set(entry), part
    assert set(document["pipelines"][PIPELINE]["mapping"]) == {"applied", "pending"}


def test_a_hub_that_never_ran_is_failing(hub: HubState) -> None:
    document = health(hub)
    assert document["status"] == "failing"
    assert codes(document) == {"worker_missing source:erp": "failing", "worker_missing target:crm": "failing"}
    assert document["pipelines"][PIPELINE]["lag_seconds"] is None


@pytest.mark.parametrize("silence", [6.5, 60.0, 86400.0])
def test_silence_is_never_green(hub: HubState, silence: float) -> None:
    hub.well()
    hub.now += silence
    document = health(hub)
    assert document["status"] == "failing"
    assert codes(document) == {"worker_lost source:erp": "failing", "worker_lost target:crm": "failing"}
    assert {worker["state"] for worker in document["workers"]} == {"lost"}
    assert document["pipelines"][PIPELINE]["state"] == "stopped"
    assert document["pipelines"][PIPELINE]["lag_seconds"] is None
    assert document["pipelines"][PIPELINE]["applied_per_second"] == 0
    assert document["sources"]["erp"]["state"] == "stopped"


def test_a_worker_may_miss_two_beats(hub: HubState) -> None:
    hub.well()
    hub.now += LOST_SECONDS - 0.1
    hub.progress([5, 7])
    assert health(hub)["status"] == "ok"


def test_a_deliver_worker_alone_does_not_make_it_green(hub: HubState) -> None:
    hub.well()
    hub.now += 60
    hub.deliver(pipelines={PIPELINE: {}})
    document = health(hub)
    assert document["status"] == "failing"
    assert document["pipelines"][PIPELINE]["lag_seconds"] is None


def test_a_clock_behind_the_workers_does_not_make_silence_green(hub: HubState) -> None:
    hub.well()
    reader = HealthReader(hub.settings, hub.state, lambda: hub.now - 600)
    assert reader.document()["status"] == "ok"
    hub.now += 20
    reader.fresh()
    assert reader.document()["status"] == "failing"


def test_a_heartbeat_that_does_not_come_back_degrades_then_fails(hub: HubState) -> None:
    hub.progress([5, 7])
    hub.now += 10
    hub.capture()
    hub.deliver(pipelines={PIPELINE: {}})
    document = health(hub)
    assert codes(document) == {"source_no_heartbeat source:erp": "degraded"}
    assert document["problems"][0]["affects"] == [PIPELINE]
    assert document["problems"][0]["since"].startswith("2027-01-15T08:00:04")
    hub.now += 300
    hub.capture()
    hub.deliver(pipelines={PIPELINE: {}})
    assert codes(health(hub)) == {"source_no_heartbeat source:erp": "failing"}


@pytest.mark.parametrize(("age", "severity"), [(29, None), (30, "degraded"), (299, "degraded"), (300, "failing")])
def test_lag_is_measured_against_its_limits(hub: HubState, age: float, severity: str | None) -> None:
    hub.capture()
    hub.deliver(pipelines={PIPELINE: {}})
    hub.progress([5, 7], age=age)
    hub.progress([6, 7])
    document = health(hub)
    assert document["pipelines"][PIPELINE]["lag_seconds"] == age
    assert codes(document) == ({f"lag pipeline:{PIPELINE}": severity} if severity else {})


def test_offsets_of_several_workers_are_put_together(hub: HubState, tmp_path: Path) -> None:
    hub = HubState(tmp_path / "two", CONFIG.replace("path: crm.db", "path: crm.db, workers: 2"))
    hub.pipeline()
    hub.capture()
    hub.progress([5, 7])
    hub.deliver(member=":0", pipelines={PIPELINE: {"offsets": {"0": 5}}})
    assert health(hub)["pipelines"][PIPELINE]["lag_seconds"] is None
    hub.deliver(member=":1", pipelines={PIPELINE: {"offsets": {"1": 7}, "state": "retrying", "waiting_for": "target"}})
    pipeline = health(hub)["pipelines"][PIPELINE]
    assert pipeline["lag_seconds"] == 0
    assert pipeline["state"] == "retrying", "the worst of them"
    assert pipeline["applied_total"] == 24000


def test_offsets_of_a_lost_worker_prove_nothing(hub: HubState) -> None:
    hub.deliver(pipelines={PIPELINE: {}})
    hub.now += 10
    hub.capture()
    hub.progress([5, 7])
    assert health(hub)["pipelines"][PIPELINE]["lag_seconds"] is None


def test_a_pipeline_far_behind_is_proven_by_old_progress(hub: HubState) -> None:
    hub.progress([5, 7], age=5000)
    for age in range(600, 0, -1):
        hub.progress([500, 700], age=age)
    hub.progress([500, 700])
    hub.capture()
    hub.deliver(pipelines={PIPELINE: {}})
    document = health(hub)
    assert document["pipelines"][PIPELINE]["lag_seconds"] == 5000
    assert codes(document) == {f"lag pipeline:{PIPELINE}": "failing"}


def test_a_worker_replaced_on_another_machine_degrades_for_a_while(hub: HubState) -> None:
    hub.capture(host="old")
    hub.now += 100
    hub.well()
    document = health(hub)
    assert codes(document) == {"worker_lost source:erp": "degraded"}
    hub.now += 3600
    hub.well()
    assert health(hub)["problems"] == []


def test_loading_is_no_problem_but_lag_is_unknown(hub: HubState) -> None:
    hub.pipeline("new_one", phase="loading")
    hub.capture(state="running", snapshot={"table": "public.customers", "rows_done": 5, "rows_estimated": 10})
    hub.deliver(pipelines={PIPELINE: {}, "new_one": {"state": "snapshotting"}})
    hub.progress([5, 7])
    document = health(hub)
    assert document["status"] == "ok"
    assert document["pipelines"]["new_one"]["lag_seconds"] is None
    assert document["sources"]["erp"]["snapshot"]["rows_done"] == 5


ERROR = {"code": "slot_gone", "message": "the slot\nis gone", "hint": "recover", "command": "sync-hub recover erp"}
GIGABYTE = 1 << 30


def figures(**status: Any) -> dict[str, Any]:
    return {"status": {"retained_log_bytes": 1, "retained_log_limit_bytes": None, "slot_status": "reserved"} | status}


CASES: list[tuple[str, str, Callable[[HubState], object]]] = [
    ("worker_failed source:erp", "failing", lambda hub: hub.capture(state="failed", error=ERROR)),
    ("worker_stopped source:erp", "failing", lambda hub: hub.capture(state="stopped")),
    ("worker_backing_off source:erp", "degraded", lambda hub: hub.capture(state="backing_off", error=ERROR)),
    ("worker_stuck source:erp", "degraded", lambda hub: hub.capture(turn_at=NOW - 61)),
    ("worker_stuck target:crm", "failing", lambda hub: hub.deliver(pipelines={PIPELINE: {}}, turn_at=NOW - 301)),
    ("source_failed source:erp", "failing", lambda hub: hub.beat(
        "capture:erp", "running", "host-a", {"state": "failed", "error": ERROR})),
    ("source_stopped source:erp", "failing", lambda hub: hub.beat("capture:erp", "running", "host-a", {})),
    ("source_waiting source:erp", "degraded", lambda hub: hub.capture(waiting="transaction 7 of app")),
    ("retained_log source:erp", "degraded", lambda hub: hub.capture(**figures(retained_log_bytes=5 * GIGABYTE))),
    ("retained_log source:erp", "failing", lambda hub: hub.capture(**figures(retained_log_bytes=20 * GIGABYTE))),
    ("slot_at_risk source:erp", "degraded", lambda hub: hub.capture(
        **figures(retained_log_bytes=GIGABYTE, retained_log_limit_bytes=2 * GIGABYTE))),
    ("slot_at_risk source:erp", "failing", lambda hub: hub.capture(
        **figures(retained_log_bytes=GIGABYTE, retained_log_limit_bytes=GIGABYTE))),
    ("slot_at_risk source:erp", "failing", lambda hub: hub.capture(**figures(slot_status="unreserved"))),
    ("slot_lost source:erp", "failing", lambda hub: hub.capture(**figures(slot_status="lost"))),
    ("snapshot_paused source:erp", "degraded", lambda hub: hub.snapshot(state="paused")),
    (f"view_unproven pipeline:{PIPELINE}", "degraded", lambda hub: hub.state.doubt([PIPELINE], "a reason")),
    (f"view_differs pipeline:{PIPELINE}", "failing", lambda hub: hub.verification(report={"missing": 1})),
    (f"verification_failed pipeline:{PIPELINE}", "degraded", lambda hub: hub.verification(
        state="failed", error="probe_unanswered: no answer")),
    (f"verification_old pipeline:{PIPELINE}", "degraded", lambda hub: hub.verification(age=25 * 3600)),
    ("paused source:erp", "degraded", lambda hub: hub.state.pause("source:erp", reason="move", until=NOW + 1e9)),
    ("paused target:crm", "degraded", lambda hub: hub.state.pause("target:crm")),
    (f"paused pipeline:{PIPELINE}", "degraded", lambda hub: hub.state.pause(f"pipeline:{PIPELINE}")),
    (f"pipeline_missing pipeline:{PIPELINE}", "failing", lambda hub: hub.deliver()),
    (f"pipeline_waiting pipeline:{PIPELINE}", "degraded", lambda hub: hub.deliver(
        pipelines={PIPELINE: {"state": "snapshotting", "waiting_for": "source", "since": NOW - 16}})),
    (f"pipeline_waiting pipeline:{PIPELINE}", "failing", lambda hub: hub.deliver(
        pipelines={PIPELINE: {"state": "snapshotting", "waiting_for": "source", "since": NOW - 301}})),
    (f"pipeline_failed pipeline:{PIPELINE}", "failing", lambda hub: hub.deliver(
        pipelines={PIPELINE: {"state": "failed", "error": ERROR}})),
    (f"pipeline_stopped pipeline:{PIPELINE}", "failing", lambda hub: hub.deliver(
        pipelines={PIPELINE: {"state": "stopped"}})),
    (f"pipeline_retrying pipeline:{PIPELINE}", "degraded", lambda hub: hub.deliver(
        pipelines={PIPELINE: {"state": "retrying", "since": NOW - 10, "error": ERROR}})),
    (f"pipeline_retrying pipeline:{PIPELINE}", "failing", lambda hub: hub.deliver(
        pipelines={PIPELINE: {"state": "retrying", "since": NOW - 300}})),
    (f"lag_unknown pipeline:{PIPELINE}", "degraded", lambda hub: hub.deliver(
        pipelines={PIPELINE: {"offsets": {}, "since": NOW - 3}})),
    (f"lag_unknown pipeline:{PIPELINE}", "failing", lambda hub: hub.deliver(
        pipelines={PIPELINE: {"offsets": {"0": 5}, "since": NOW - 600}})),
    ("no_pipelines hub", "degraded", lambda hub: hub.state.remove_pipeline(PIPELINE)),
]  # fmt: skip


@pytest.mark.parametrize(("problem", "severity", "spoil"), CASES, ids=[f"{name}-{level}" for name, level, _ in CASES])
def test_each_problem_is_found_alone(
    hub: HubState, problem: str, severity: str, spoil: Callable[[HubState], object]
) -> None:
    hub.well()
    assert health(hub)["problems"] == []
    spoil(hub)
    document = health(hub)
    assert codes(document) == {problem: severity}
    assert document["status"] == severity
    (found,) = document["problems"]
    assert found["since"]
    assert "\n" not in found["message"] + found["hint"]
    assert found["owner"] in (None, f"{PIPELINE}@example.com")
    if found["subject"] != "hub":
        assert found["affects"] == [PIPELINE]


def doubted(hub: HubState) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {problem["code"]: problem for problem in health(hub)["problems"]}
    assert set(found) == {"view_unproven"}, "said once"
    return found["view_unproven"]


def test_a_view_in_doubt_says_why_and_what_happens_now(hub: HubState) -> None:
    hub.well()
    hub.state.reload([PIPELINE], "public.customers: its columns changed")
    assert "(public.customers: its columns changed): it will be loaded again" in doubted(hub)["message"]
    hub.state.advance_phase([PIPELINE], "loading", only_from=["adopting"])
    hub.snapshot(reason="reload")
    assert doubted(hub)["message"].endswith("it is loaded again, 50 %")
    hub.state.snapshots.pause("s1")
    paused = doubted(hub)
    assert paused["message"].endswith("its loading is paused at 50 %")
    assert paused["command"] == "sync-hub snapshot s1 --do resume"
    hub.state.snapshots.resume("s1")
    hub.state.snapshots.finish("s1")
    assert doubted(hub)["message"].endswith("it waits for its verification")
    reason = "public.customers: its columns changed"
    hub.verification("v1", age=None, reason=reason, report={"rows_done": 3})
    assert doubted(hub)["message"].endswith("it is verified now, 25 %")
    hub.state.verifications.cancel(["v1"])
    hub.verification("v2", reason=reason, state="failed", error="lost: no answer")
    assert doubted(hub)["message"].endswith("its verification failed (lost: no answer) and is tried again")
    hub.verification("v3", age=-1, reason=reason, report={"extra": 1})
    assert doubted(hub)["command"] == f"sync-hub verify {PIPELINE} --repair"
    hub.verification("v4", age=-2, reason=reason, report={"busy": 2})
    assert "2 rows changed whenever they were verified" in doubted(hub)["message"]
    (pipeline,) = hub.state.pipelines()
    assert hub.state.prove(pipeline)
    hub.execute("update sync_hub_pipelines set loaded_at = :at", at=NOW - 60)
    assert health(hub)["problems"] == []


def test_a_view_in_doubt_whose_pipeline_failed_does_not_say_that_nothing_needs_to_be_done(hub: HubState) -> None:
    hub.well()
    hub.state.reload([PIPELINE], "public.customers: its columns changed")
    hub.deliver(pipelines={PIPELINE: {"state": "failed", "error": ERROR}})
    found = {problem["code"]: problem for problem in health(hub)["problems"]}
    assert set(found) == {"pipeline_failed", "view_unproven"}
    assert found["view_unproven"]["message"].endswith("it has stopped")
    assert found["view_unproven"]["hint"].startswith("mend what stopped it")


def test_loading_that_was_given_up_waits_for_a_person(hub: HubState) -> None:
    hub.well()
    hub.execute("update sync_hub_pipelines set phase = 'loading'")
    hub.snapshot()
    assert health(hub)["problems"] == []
    assert health(hub)["pipelines"][PIPELINE]["loading"]["rows_done"] == 5
    hub.state.snapshots.cancel("s1")
    hub.execute("update sync_hub_pipelines set loaded_at = :at", at=NOW - 60)
    problem = doubted(hub)
    assert "its loading was given up): nothing is done about it" in problem["message"]
    assert problem["command"] == f"sync-hub verify {PIPELINE} --repair"


def test_differences_are_told_until_they_are_repaired_or_the_view_is_loaded_again(hub: HubState) -> None:
    hub.well()
    hub.verification(age=60, report={"different": 3, "extra": 1})
    (problem,) = health(hub)["problems"]
    assert "3 different, 1 extra rows" in problem["message"]
    verified = health(hub)["pipelines"][PIPELINE]["verified"]
    assert (verified["at"], verified["agrees"], verified["different"], verified["reason"]) == (
        "2027-01-15T07:59:00.000Z", False, 3, "asked",
    )  # fmt: skip
    hub.execute("update sync_hub_pipelines set loaded_at = :at", at=NOW - 30)
    assert health(hub)["problems"] == [], "loaded again since"
    hub.verification("v2", age=20, report={"missing": 1})
    assert codes(health(hub)) == {f"view_differs pipeline:{PIPELINE}": "failing"}
    hub.verification("v3", age=15, sample=5)
    assert codes(health(hub)) == {f"view_differs pipeline:{PIPELINE}": "failing"}, "a sample proves nothing"
    hub.verification("v4", age=10, report={"repaired": 1})
    assert health(hub)["problems"] == []


def test_a_verification_is_old_only_where_views_are_verified(hub: HubState) -> None:
    hub.well()
    assert health(hub)["problems"] == [], "never, and nobody asked for it"
    hub.verification(age=27 * 3600, reason="public.customers: its columns changed")
    assert health(hub)["problems"] == [], "only by itself, after a doubt"
    hub.verification("v2", age=26 * 3600)
    (problem,) = health(hub)["problems"]
    assert (problem["code"], problem["since"]) == ("verification_old", "2027-01-15T07:00:00.000Z")
    hub.verification("v3", age=None)
    assert health(hub)["problems"] == [], "it is verified now"


@pytest.mark.parametrize(
    ("every", "hours", "old"), [("24h", 24.9, False), ("24h", 25, True), ("7d", 168.9, False), ("7d", 169, True)]
)
def test_a_schedule_may_be_late_by_an_hour(tmp_path: Path, every: str, hours: float, old: bool) -> None:
    hub = HubState(tmp_path, CONFIG + f"verify: {{every: {every}}}\n")
    hub.pipeline()
    hub.well()
    hub.execute("update sync_hub_pipelines set applied_at = :at", at=NOW - hours * 3600)
    expected = {f"verification_old pipeline:{PIPELINE}": "degraded"} if old else {}
    assert codes(health(hub)) == expected


def test_status_of_one_pipeline_tells_how_far_it_is_loaded_and_verified(hub: HubState) -> None:
    hub.pipeline("new_one", phase="loading")
    hub.well()
    hub.snapshot("s1", "new_one")
    hub.verification(age=60, report={"different": 3})
    hub.verification("v2", age=None, report={"rows_done": 4})
    hub.state.doubt([PIPELINE], "a standby became the primary")
    shown = {name: status(hub, name) for name in (PIPELINE, "new_one")}
    assert "2027-01-15 07:59:00 UTC: differs (12 matched, 3 different)" in shown[PIPELINE]
    assert "a standby became the primary; verifying 4 of 12" in shown[PIPELINE]
    assert "running: 5 of 10" in shown["new_one"]
    assert "never" in shown["new_one"]


def status(hub: HubState, name: str) -> str:
    command = [sys.executable, "-m", "sync_hub.cli.main", "-c", str(hub.file), "status", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    assert done.stderr == ""
    return done.stdout


def test_a_failed_worker_passes_on_what_to_do(hub: HubState) -> None:
    hub.well()
    hub.capture(state="failed", error=ERROR)
    (problem,) = health(hub)["problems"]
    assert problem["message"] == "capture:erp: slot_gone: the slot is gone"
    assert (problem["hint"], problem["command"]) == ("recover", "sync-hub recover erp")


def test_backing_off_for_long_is_failing(hub: HubState) -> None:
    hub.well()
    hub.capture(state="backing_off", error=ERROR)
    hub.now += 300
    hub.capture(state="backing_off", error=ERROR)
    hub.deliver(pipelines={PIPELINE: {}})
    assert codes(health(hub)) == {"worker_backing_off source:erp": "failing"}


def test_a_warning_about_a_source_hides_no_stopped_pipeline(hub: HubState) -> None:
    hub.well()
    hub.capture(**figures(retained_log_bytes=5 * GIGABYTE))
    hub.deliver(pipelines={PIPELINE: {"offsets": {}, "since": NOW - 900}})
    assert codes(health(hub)) == {
        "retained_log source:erp": "degraded",
        f"lag_unknown pipeline:{PIPELINE}": "failing",
    }


def test_a_state_that_cannot_be_read_is_a_problem_of_its_own(hub: HubState) -> None:
    hub.well()
    hub.execute("drop table sync_hub_workers")
    document = health(hub)
    assert document["status"] == "failing"
    assert codes(document) == {"state_unavailable hub": "failing"}
    assert document["pipelines"] == {}


def test_a_mapping_file_that_changed_is_pending_and_a_broken_one_is_named(hub: HubState) -> None:
    hub.well()
    hub.execute("delete from sync_hub_pipelines")
    text = (
        "mapping: customer_to_crm\nowner: a@b.c\nfrom: {source: erp, table: public.customers}\n"
        "to: {target: crm, table: customers}\nkey: [id]\nfields: {id: id}\n"
    )
    file = hub.file.parents[1] / "mappings" / "customer.yaml"
    file.write_text(text)
    from sync_hub.runtime.pipelines import register

    register(hub.settings, hub.state)
    hub.state.advance_phase([PIPELINE], "loaded", only_from=["new"])
    pipeline = health(hub)["pipelines"][PIPELINE]
    assert (pipeline["mapping"]["pending"], pipeline["owner"]) == (False, "a@b.c")
    file.write_text(text.replace("id: id", "id: id + 0"))
    assert health(hub)["pipelines"][PIPELINE]["mapping"]["pending"] is True
    file.write_text("mapping: [")
    document = health(hub)
    assert codes(document) == {"mapping_unreadable hub": "degraded"}
    assert "customer.yaml:1:" in document["problems"][0]["message"]


def test_log_that_only_grows_tells_when_it_will_be_full(hub: HubState) -> None:
    reader = HealthReader(hub.settings, hub.state, hub.clock)
    for step in range(14):
        hub.well()
        hub.capture(**figures(retained_log_bytes=step * 100 << 20, retained_log_limit_bytes=20 * GIGABYTE))
        reader.fresh()
        document = reader.document()
        if step < 12:
            assert document["act_before"] is None, "less than two minutes are measured"
        hub.now += 10
    assert codes(document) == {"log_filling source:erp": "degraded"}
    assert document["act_before"] == document["problems"][0]["act_before"] == "2027-01-15T08:34:08.000Z"
    hub.well()
    reader.fresh()
    assert reader.document()["act_before"] is None


def test_a_problem_keeps_its_since_while_it_lasts(hub: HubState) -> None:
    reader = HealthReader(hub.settings, hub.state, hub.clock)
    seen = []
    for waiting in ("transaction 7", "transaction 7", "", "transaction 9"):
        hub.well()
        hub.capture(waiting=waiting)
        reader.fresh()
        seen.append([problem["since"][17:19] for problem in reader.document()["problems"]])
        hub.now += 5
    assert seen == [["00"], ["00"], [], ["15"]]


def test_ready_once_every_worker_has_beaten(hub: HubState) -> None:
    reader = HealthReader(hub.settings, hub.state, hub.clock)
    assert reader.ready() == "not yet heard of: capture:erp, deliver:crm, verify"
    hub.capture()
    reader.fresh()
    assert reader.ready() == "not yet heard of: deliver:crm"
    hub.deliver()
    reader.fresh()
    assert reader.ready() == ""
    hub.now += 3600
    reader.fresh()
    assert reader.ready() == "", "what is lost later is for health to say"
    hub.execute("drop table sync_hub_workers")
    reader.fresh()
    assert "state" in reader.ready()


def test_beats_of_an_earlier_run_make_nothing_ready(hub: HubState) -> None:
    hub.well()
    hub.now += 60
    assert HealthReader(hub.settings, hub.state, hub.clock).ready()


@pytest.mark.parametrize(("parked", "severity"), [(1, "degraded"), (99, "degraded"), (100, "failing")])
def test_parked_records_are_told_and_make_the_view_as_old_as_the_oldest(
    hub: HubState, parked: int, severity: str
) -> None:
    hub.well()
    since = NOW - 90
    hub.deliver(pipelines={PIPELINE: {"parked": parked, "waiting_rows": 2, "parked_since": since}})
    document = health(hub)
    found = {f"{one['code']} {one['subject']}": one for one in document["problems"]}
    assert set(found) == {f"parked pipeline:{PIPELINE}"}, "the lag needs no words of its own"
    assert found[f"parked pipeline:{PIPELINE}"]["severity"] == severity
    assert found[f"parked pipeline:{PIPELINE}"]["command"] == f"sync-hub parked list {PIPELINE}"
    pipeline = document["pipelines"][PIPELINE]
    assert (pipeline["parked"], pipeline["waiting_rows"], pipeline["lag_seconds"]) == (parked, 2, 90)


@pytest.mark.parametrize("held", [{"parked": 1}, {"waiting_rows": 1}])
@pytest.mark.parametrize(("age", "severity"), [(0, None), (29, None), (30, "degraded"), (300, "failing")])
def test_what_is_held_neither_raises_nor_hides_lag(
    hub: HubState, held: dict[str, int], age: float, severity: str | None
) -> None:
    hub.capture()
    hub.deliver(pipelines={PIPELINE: {**held, "parked_since": NOW - 5000}})
    hub.progress([5, 7], age=age)
    hub.progress([6, 7])
    document = health(hub)
    pipeline = document["pipelines"][PIPELINE]
    assert (pipeline["lag_seconds"], pipeline["lag_proven_seconds"]) == (5000, age)
    lag = {f"lag pipeline:{PIPELINE}": severity} if severity else {}
    assert codes(document) == lag | ({f"parked pipeline:{PIPELINE}": "degraded"} if "parked" in held else {})
    assert all(f" {age} s behind" in one["message"] for one in document["problems"] if one["code"] == "lag")


def test_what_is_held_hides_no_unknown_lag(hub: HubState) -> None:
    hub.well()
    hub.deliver(
        pipelines={PIPELINE: {"parked": 1, "parked_since": NOW - 5000, "offsets": {"0": 5}, "since": NOW - 600}}
    )
    assert codes(health(hub)) == {
        f"parked pipeline:{PIPELINE}": "degraded",
        f"lag_unknown pipeline:{PIPELINE}": "failing",
    }


def test_one_parked_record_is_told_as_one(hub: HubState) -> None:
    hub.well()
    hub.deliver(pipelines={PIPELINE: {"parked": 1, "parked_since": NOW - 5}})
    (found,) = health(hub)["problems"]
    assert found["message"] == f"{PIPELINE} holds 1 rejected record"


def test_rows_that_wait_for_others_are_no_problem_yet(hub: HubState) -> None:
    hub.well()
    hub.deliver(pipelines={PIPELINE: {"parked": 0, "waiting_rows": 2, "parked_since": NOW - 3}})
    document = health(hub)
    assert (document["status"], document["pipelines"][PIPELINE]["lag_seconds"]) == ("ok", 3)


def test_every_code_is_found_by_a_test_and_documented() -> None:
    source = Path(__file__).read_text()
    text = DOCUMENTATION.read_text()
    assert set(re.findall(r"^### `(\w+)`", text, re.MULTILINE)) == set(problems.CODES)
    for code in problems.CODES:
        assert re.search(rf"[\"]{code} ", source), f"no test provokes {code}"


def test_every_field_is_documented(hub: HubState) -> None:
    hub.well()
    hub.state.pause("source:erp")
    document = health(hub)
    text = DOCUMENTATION.read_text()
    fields = {*document, *document["problems"][0], *document["workers"][0]}
    fields |= {*document["sources"]["erp"], *document["pipelines"][PIPELINE]}
    assert {field for field in fields if f"`{field}`" not in text} == set()
