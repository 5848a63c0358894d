"""A worker tells how it is, whatever happens while it is asked."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from sync_hub.runtime.control import Beat, Control
from sync_hub.state import State
from tests.end_to_end.hub import wait_until


def test_a_beat_that_fails_is_followed_by_the_next_one(tmp_path: Path) -> None:
    state, control, asked = State(f"sqlite:///{tmp_path}/state.db"), Control("deliver:crm"), []

    def detail() -> dict[str, Any]:
        asked.append(1)
        if len(asked) == 1:
            raise RuntimeError("dictionary changed size during iteration")
        return {"kind": "deliver", "asked": len(asked)}

    beat = Beat(control, state, detail, logging.getLogger("test"))
    beat.start()
    try:
        control.changed.set()
        wait_until(lambda: bool(asked), "the first beat")
        control.changed.set()
        wait_until(lambda: bool(state.workers()), "a beat after the one that failed")
    finally:
        beat.end()
        state.close()
