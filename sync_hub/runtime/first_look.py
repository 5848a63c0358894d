"""The first look of a verification: both ends as they are now, without any order between them."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Final

from sync_hub.model import RangeSum
from sync_hub.ports import Sink, Source
from sync_hub.runtime.compare import digest, judged
from sync_hub.runtime.tally import Tally
from sync_hub.runtime.view import View
from sync_hub.state_verifications import WRONG, VerificationOptions, counted

PAGE_ROWS: Final = 2000
RANGE_ROWS: Final = 20_000


class FirstLook:
    """Finds rows that may differ. What it counts as matched has been equal; what it suspects has to be asked.

    `unaskable` are target keys of rows that may be extra, and that the source's keys cannot be told of.
    """

    def __init__(
        self,
        view: View,
        ends: tuple[Source, Sink],
        options: VerificationOptions,
        tally: Tally,
    ) -> None:
        self._view = view
        self._source, self._sink = ends
        self._options = options
        self._tally = tally
        self.unaskable: list[tuple[Any, ...]] = []

    def suspects(self) -> list[dict[str, Any]]:
        """Compare all rows as they are now; returns the source keys of what does not agree."""
        if not self._options.sample and (names := self._view.summable()):
            suspects = self._look_at_ranges(names)
            if suspects is not None:
                return suspects
        return self._look_at_rows()

    def _look_at_rows(self) -> list[dict[str, Any]]:
        options = self._options
        suspects: list[dict[str, Any]] = []
        seen = array("q")
        share = options.sample / max(1, self._tally.report.rows_estimated) if options.sample else 1.0
        after: tuple[Any, ...] | None = None
        while not self._tally.stopped:
            rows, after = self._source.read_page(self._view.table.full_name, after, PAGE_ROWS, share=share)
            suspects += self._page(rows, seen)
            if after is None or (options.sample and self._tally.report.rows_done >= options.sample):
                break
            self._tally.slow_down()
        if not options.sample and not self._tally.stopped:
            suspects += self._extras(seen)
        return suspects

    def _look_at_ranges(self, names: Mapping[str, str]) -> list[dict[str, Any]] | None:
        """Compare checksums that both systems make of key ranges, and rows where they differ; None: they cannot.

        `names` are source columns by target column. Sound because nothing is between them but the mapping's copying.
        """
        suspects: list[dict[str, Any]] = []
        view = self._view
        after: tuple[Any, ...] | None = None
        with ThreadPoolExecutor(1) as source:  # it works out the next range while the target works on this one

            def following(place: tuple[Any, ...] | None) -> Future[RangeSum | None]:
                return source.submit(
                    self._source.checksum, view.table.full_name, list(names.values()), place, RANGE_ROWS
                )

            asked = following(None)
            while not self._tally.stopped:
                ours = asked.result()
                if ours is None:
                    return None
                if ours.last_key is not None:
                    asked = following(ours.last_key)
                between = (after, ours.last_key)
                theirs = self._sink.checksum(view.target, view.mapping.key, list(names), between, mapping=view.name)
                if theirs is None or theirs.kind != ours.kind:
                    asked.result()
                    return None
                if (theirs.rows, theirs.digest) == (ours.rows, ours.digest):
                    self._tally.add(matched=ours.rows, rows_done=ours.rows)
                else:
                    suspects += self._compare_range(source, ours.rows, between)
                self._tally.turn()
                after = ours.last_key
                if after is None:
                    break
                self._tally.slow_down()
        return suspects

    def _compare_range(
        self, source: Executor, count: int, between: tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]
    ) -> list[dict[str, Any]]:
        """Source keys of what does not agree in a range that had so many rows, page by page.

        Target rows that no source row was seen for are among them.
        """
        seen = array("q")
        suspects: list[dict[str, Any]] = []
        place, left = between[0], count
        while left > 0 and not self._tally.stopped:
            asked = min(PAGE_ROWS, left)
            rows, place = source.submit(self._source.read_page, self._view.table.full_name, place, asked).result()
            suspects += self._page(rows, seen)
            left -= len(rows)
            if place is None:
                break
        known = set(seen)
        keys = self._sink.keys_between(self._view.target, self._view.mapping.key, between, mapping=self._view.name)
        extra = [key for key in keys if digest(key) not in known]
        return suspects + [self._view.source_key(key) for key in extra]

    def _page(self, rows: Sequence[dict[str, Any]], seen: array[int]) -> list[dict[str, Any]]:
        comparer = self._view.comparer
        keys = [self._view.event_key(row) for row in rows]
        expected = self._view.expected(rows, keys)
        found = comparer.found(expected)
        answers = judged(comparer, keys, expected, found, keeps=self._view.keeps)
        for one, row in zip(expected, found, strict=True):
            seen.append(digest(comparer.written_key(one) if row is None else comparer.key_of(row)))
        counts = counted(answers)
        agreed = {name: counts.get(name, 0) for name in ("matched", "kept", "parked")}
        self._tally.add(rows_done=len(rows), **agreed)
        self._tally.turn()
        return [answer.key for answer in answers if answer.outcome in WRONG]

    def _extras(self, seen: array[int]) -> list[dict[str, Any]]:
        """Source keys of target rows that no source row was seen for; they are `kept` where the mapping keeps them."""
        known = array("q", sorted(seen))
        extra = []
        for key in self._sink.read_rows(self._view.target, self._view.mapping.key, mapping=self._view.name):
            self._tally.turn()
            if not _contains(known, digest(key)):
                extra.append(key)
                if self._tally.stopped:
                    return []
        if self._view.keeps:
            return self._kept(extra)
        asked = self._askable(extra) if self._view.undone else [None] * len(extra)
        self.unaskable += [key for key, source_key in zip(extra, asked, strict=True) if source_key is None]
        return [source_key for source_key in asked if source_key is not None]

    def _kept(self, extra: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
        """Source keys of rows that are gone and should have been marked, but are not."""
        view = self._view
        if not (view.mapping.mark_columns and view.undone):
            self._tally.add(kept=len(extra))
            return []
        suspects: list[dict[str, Any]] = []
        for start in range(0, len(extra), PAGE_ROWS):
            keys = [key for key in self._askable(extra[start : start + PAGE_ROWS]) if key is not None]
            expected = view.gone(keys)
            answers = judged(view.comparer, keys, expected, view.comparer.found(expected), keeps=True)
            suspects += [answer.key for answer in answers if answer.outcome in WRONG]
            self._tally.add(kept=counted(answers).get("kept", 0))
            self._tally.turn()
        return suspects

    def _askable(self, keys: Sequence[tuple[Any, ...]]) -> list[dict[str, Any] | None]:
        """The source's keys of target keys, None where the source can have no such key."""
        return self._source.event_keys(self._view.table.full_name, [self._view.source_key(key) for key in keys])


def _contains(ordered: array[int], value: int) -> bool:
    place = bisect_left(ordered, value)
    return place < len(ordered) and ordered[place] == value
