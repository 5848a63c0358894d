"""Views are proven, repaired and loaded again over HTTP, beside a hub that runs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import Lab, execute
from tests.end_to_end.workload import SCHEMA

MAPPING = """
mapping: accounts
from: {source: {source}, table: public.accounts}
to: {target: crm, table: account_view, create: true}
key: [id]
copy: [id, name]
"""
FILL = "insert into accounts select n, 'name ' || n, n, null, true from generate_series(1, 3000) n"


@pytest.fixture
def lab(source_dsn: str, target_dsn: str, tmp_path: Path) -> Iterator[Lab]:
    """A hub that has loaded 3000 rows; it loads in chunks of two, so that loading again can be seen."""
    execute(source_dsn, SCHEMA, FILL, "analyze")
    made = Lab(tmp_path, f"w{uuid.uuid4().hex[:8]}", source_dsn, target_dsn, MAPPING)
    made.config.write_text(made.config.read_text().replace("heartbeat_s", "snapshot_rows: 2\n    heartbeat_s"))
    try:
        made.start()
        made.settle()
        yield made
    finally:
        made.close()


def test_a_broken_view_is_found_repaired_and_loaded_again(lab: Lab) -> None:
    with httpx.Client(base_url=lab.address) as web:

        def pipeline() -> dict[str, Any]:
            found: dict[str, Any] = web.get("/health/pipelines/accounts").json()
            return found

        def verified(**how: Any) -> dict[str, Any]:
            (asked,) = web.post("/api/verifications", json={"pipelines": ["accounts"], **how}).json()

            def done() -> dict[str, Any] | None:
                known: dict[str, dict[str, Any]] = {one["id"]: one for one in web.get("/api/verifications").json()}
                return known[asked["id"]] if known[asked["id"]]["at"] else None

            finished: dict[str, Any] = wait_until(done, "the verification is done", 60)
            return finished

        def codes() -> set[str]:
            return {problem["code"] for problem in pipeline()["problems"]}

        execute(lab.target, "update account_view set name = 'x' where id < 4", "delete from account_view where id = 9")
        assert (verified()["different"], verified()["missing"]) == (3, 1)
        wait_until(lambda: codes() == {"view_differs"}, "health says so")
        assert web.get("/health").status_code == 503
        assert verified(repair=True)["repaired"] == 4
        wait_until(lambda: codes() == set() and pipeline()["verified"]["agrees"], "health says that it is mended")

        refused = web.post("/api/snapshots", json={"pipeline": "accounts", "where": "true"})
        assert refused.json()["code"] == "condition_refused"
        assert web.post("/api/snapshots", json={"pipeline": "accounts", "reload": True}).status_code == 200
        (loading,) = wait_until(lambda: lab.state.snapshots.unfinished(lab.name), "it is loaded again")
        assert web.post(f"/api/snapshots/{loading.id}/pause", json={}).status_code == 200
        wait_until(lambda: pipeline()["state"] == "reloading" and codes() == {"view_unproven"}, "it says so")
        (problem,) = pipeline()["problems"]
        assert "its loading is paused at " in problem["message"]
        assert web.post(f"/api/snapshots/{loading.id}/resume", json={}).status_code == 200
        wait_until(lambda: pipeline()["unproven"] is None and codes() == set(), "it is loaded and proven", 90)
        assert pipeline()["verified"]["reason"] == "somebody had it loaded again"
