"""What people do about parked records: look, have them tried again, discard, export. Shared by CLI and API.

Changes are written into the target itself, with the offsets compared and set as a worker does: whoever reads the
partition then finds its offsets moved and begins with what is parked now.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from sync_hub.errors import ConfigError, OffsetsMoved, SyncHubError, Unavailable
from sync_hub.model import Offset, Parked, SinkBatch
from sync_hub.ports import Sink
from sync_hub.runtime import parking, worker
from sync_hub.runtime.control import PARKED
from sync_hub.settings import Settings, duration_seconds
from sync_hub.state import Pipeline, State
from sync_hub.web import parked_shown

TABLE: Final = "sync_hub_parked"
ATTEMPTS: Final = 50
"""How often a change is tried beside workers that write all the while."""
_ID: Final = re.compile(r"(?P<pipeline>[^:]+):(?P<partition>\d+)-(?P<seq>\d+)")


class Filter(Struct, frozen=True):
    """Which records are meant. Empty fields leave none out; `closed` takes in what is over.

    `key` is the key's JSON, or the one value of a key of one column. Times are seconds since 1970.
    """

    ids: tuple[str, ...] = ()
    pipelines: tuple[str, ...] = ()
    code: str = ""
    key: str = ""
    since: float | None = None
    until: float | None = None
    closed: bool = False

    @property
    def names_some(self) -> bool:
        """Whether it leaves anything out."""
        return bool(self.ids or self.pipelines or self.code or self.key or self.since or self.until)

    def takes(self, row: Parked) -> bool:
        """Whether a record is meant."""
        return (
            (not self.ids or row.id in self.ids)
            and (not self.pipelines or row.pipeline in self.pipelines)
            and (not self.code or row.code == self.code)
            and (not self.key or _is_key(self.key, row.key))
            and (self.since is None or row.first_at >= self.since)
            and (self.until is None or row.first_at <= self.until)
        )


def moment(text: str | None, now: float) -> float | None:
    """A time that a person writes: `2026-11-23T10:00:00Z`, or how long ago, as `2h`. Raises `ConfigError`."""
    if text is None:
        return None
    try:
        return now - duration_seconds(text)
    except ValueError:
        pass
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            "bad_time", f"{text!r} is no time", hint="write 2026-11-23T10:00:00Z, or how long ago: 2h, 30m"
        ) from None
    return (given if given.tzinfo else given.astimezone()).timestamp()


class Found(Struct, frozen=True):
    """What targets hold of what is meant, oldest first.

    `silent`: the targets that did not answer, with their errors; what they hold is unknown.
    `pipelines`: those that were looked for, by name. `whole`: the records were read with their events.
    """

    rows: list[Parked]
    silent: dict[str, SyncHubError]
    pipelines: dict[str, Pipeline]
    whole: bool = False

    def documents(self, rows: Iterable[Parked]) -> list[parked_shown.Document]:
        """Some of them as JSON."""
        return [parked_shown.document(row, self.pipelines[row.pipeline], whole=self.whole) for row in rows]


def look(settings: Settings, state: State, wanted: Filter, *, records: bool = False) -> Found:
    """The records that are meant, of all targets that answer. Raises `ConfigError` for an id that there is not."""
    found: list[Parked] = []
    silent: dict[str, SyncHubError] = {}
    by_target = _by_target(state, wanted)
    for target, pipelines in by_target.items():
        names = [one.name for one in pipelines]
        try:
            found += _held(settings, target, names, wanted, records=records)
        except SyncHubError as error:
            silent[target] = error
    chosen = sorted((row for row in found if wanted.takes(row)), key=lambda row: (row.first_at, row.id))
    missing = sorted(set(wanted.ids) - {row.id for row in chosen})
    if missing and not silent:
        raise _unknown(settings, state, wanted, missing[0])
    looked_for = {one.name: one for pipelines in by_target.values() for one in pipelines}
    return Found(chosen, silent, looked_for, records)


def find(settings: Settings, state: State, wanted: Filter, *, records: bool = False) -> Found:
    """As `look`, for what has to know all that is meant: raises the error of a target that does not answer."""
    found = look(settings, state, wanted, records=records)
    for error in found.silent.values():
        raise error
    return found


def retry(settings: Settings, state: State, rows: Sequence[Parked]) -> int:
    """Have records tried now, with all attempts before them; how many were still open."""
    now = time.time()
    return _change(settings, state, rows, lambda row: replace(row, attempts=0, next_at=now))


def discard(settings: Settings, state: State, rows: Sequence[Parked], reason: str) -> int:
    """Close records that are not to be applied; how many were still open. The reason is kept with them."""
    if not reason.strip():
        raise ConfigError("reason_missing", "a record is discarded for a reason", hint="--reason TEXT")
    now = time.time()
    return _change(settings, state, rows, lambda row: parking.closed(row, "discarded", now, reason.strip()))


def _change(settings: Settings, state: State, rows: Sequence[Parked], change: Callable[[Parked], Parked]) -> int:
    targets = {one.name: one.target for one in state.pipelines()}
    changed = 0
    for pipeline in sorted({row.pipeline for row in rows}):
        mine = [row for row in rows if row.pipeline == pipeline]
        sink = settings.sink(targets[pipeline])
        try:
            sink.open()
            changed += _change_in(sink, pipeline, mine, change)
        finally:
            sink.close()
        for name in worker.names(settings):
            if name == f"deliver:{targets[pipeline]}" or name.startswith(f"deliver:{targets[pipeline]}:"):
                state.ask(name, PARKED, {})
    return changed


def _change_in(sink: Sink, pipeline: str, rows: Sequence[Parked], change: Callable[[Parked], Parked]) -> int:
    for _ in range(ATTEMPTS):
        offsets = {(one.topic, one.partition): one for one in sink.load_offsets([pipeline])}
        wanted = {row.id for row in rows}
        still = [row for row in sink.find_parked([pipeline]) if row.id in wanted]
        if not still:
            return 0
        changed = [change(row) for row in still]
        try:
            sink.write(SinkBatch(_raised(offsets, changed), [], changed))
        except OffsetsMoved:
            continue
        return len(changed)
    raise Unavailable(
        "target_busy", f"{pipeline}: its worker writes all the while, and nothing was changed", hint="try again"
    )


def _raised(offsets: dict[tuple[str, int], Offset], changed: Iterable[Parked]) -> list[tuple[Offset, Offset]]:
    places = sorted({(row.topic, row.partition) for row in changed})
    return [(offsets[place], replace(offsets[place], parked_seq=offsets[place].parked_seq + 1)) for place in places]


def _held(settings: Settings, target: str, names: Sequence[str], wanted: Filter, *, records: bool) -> list[Parked]:
    if target not in settings.targets:
        raise ConfigError("unknown_target", f"the target {target} is no longer configured", hint="configure it again")
    sink = settings.sink(target)
    try:
        if sink.describe(TABLE) is None:
            return []
        held: list[Parked] = sink.find_parked(names, closed=wanted.closed, records=records, seqs=_seqs(wanted))
        return held
    finally:
        sink.close()


def _unknown(settings: Settings, state: State, wanted: Filter, name: str) -> ConfigError:
    """Why an id is not among the open ones: what has become of it, or that there never was one."""
    if not wanted.closed:
        rows = look(settings, state, Filter(ids=(name,), closed=True)).rows
        if rows and not rows[0].is_open:
            said = f"{name} is over: {parked_shown.became(rows[0])}"
            return ConfigError("unknown_parked", said, hint="`sync-hub parked list --closed` shows all")
    return ConfigError("unknown_parked", f"nothing is parked as {name!r}", hint="`sync-hub parked list` shows what is")


def _by_target(state: State, wanted: Filter) -> dict[str, list[Pipeline]]:
    named = set(wanted.pipelines) | {found["pipeline"] for one in wanted.ids if (found := _ID.fullmatch(one))}
    targets: dict[str, list[Pipeline]] = {}
    for pipeline in state.pipelines():
        if not named or pipeline.name in named:
            targets.setdefault(pipeline.target, []).append(pipeline)
    return targets


def _seqs(wanted: Filter) -> list[int]:
    return sorted({int(found["seq"]) for one in wanted.ids if (found := _ID.fullmatch(one))})


def _is_key(given: str, key: str) -> bool:
    known, wanted = parked_shown.parsed(key), parked_shown.parsed(given)
    if isinstance(wanted, dict):
        return bool(wanted == known)
    values = list(known.values()) if isinstance(known, dict) else [known]
    return len(values) == 1 and (str(values[0]) == given or (isinstance(wanted, str) and values[0] == wanted))
