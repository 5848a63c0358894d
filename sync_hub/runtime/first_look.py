"""The first look of a verification: both ends as they are now, without any order between them."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from sync_hub.model import RangeSum
from sync_hub.ports import Sink, Source
from sync_hub.runtime.compare import Expected, digest, judged
from sync_hub.runtime.tally import Tally
from sync_hub.runtime.view import View
from sync_hub.state_verifications import WRONG, VerificationOptions, counted

Values = tuple[Any, ...]
Between = tuple[Values | None, Values | None]

PAGE_ROWS: Final = 2000
MOST_ROWS: Final = 5 * PAGE_ROWS
"""So many rows of a target are read at once, where the source has a page."""
ALL_ROWS: Final = 1 << 62
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
        self.unaskable: list[Values] = []

    def suspects(self) -> list[dict[str, Any]]:
        """Compare all rows as they are now; returns the source keys of what does not agree."""
        suspects: list[dict[str, Any]] | None = None
        if not self._options.sample and (names := self._view.summable()):
            suspects = self._look_at_ranges(names)
        if suspects is None and not self._options.sample and self._view.ordered():
            with self._threads() as (source, sink):
                suspects = self._look_at_pages(source, sink, (None, None))
        return self._look_at_keys() if suspects is None else suspects

    def _look_at_keys(self) -> list[dict[str, Any]]:
        """Compare page by page with the target's rows of the same keys; then look for keys that were not met."""
        options, view = self._options, self._view
        suspects: list[dict[str, Any]] = []
        seen = array("q")
        share = options.sample / max(1, self._tally.report.rows_estimated) if options.sample else 1.0
        after: tuple[Any, ...] | None = None
        while not self._tally.stopped:
            rows, after = self._source.read_page(view.table.full_name, after, PAGE_ROWS, share=share)
            keys = view.event_keys(rows, self._source)
            values = [view.values(row, key) for row, key in zip(rows, keys, strict=True)]
            suspects += self._compared(rows, keys, values, self._found(values, seen), partial(self._met, seen=seen))
            if after is None or (options.sample and self._tally.report.rows_done >= options.sample):
                break
            self._tally.slow_down()
        if not options.sample and not self._tally.stopped:
            suspects += self._extras(seen)
        return suspects

    @contextmanager
    def _threads(self) -> Iterator[tuple[Executor, Executor]]:
        """One thread for each end: they work while rows are mapped, and each end is used by one thread at a time."""
        with ThreadPoolExecutor(1) as source, ThreadPoolExecutor(1) as sink:
            yield source, sink

    def _look_at_ranges(self, names: Mapping[str, str]) -> list[dict[str, Any]] | None:
        """Compare checksums that both systems make of key ranges, and rows where they differ; None: they cannot.

        `names` are source columns by target column. Sound because nothing is between them but the mapping's copying.
        """
        suspects: list[dict[str, Any]] = []
        view = self._view
        after: tuple[Any, ...] | None = None
        with self._threads() as (
            source,
            sink,
        ):  # the source works out the next range while the target works on this one

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
                    suspects += self._look_at_pages(source, sink, between, ours.rows) or []
                self._tally.turn()
                after = ours.last_key
                if after is None:
                    break
                self._tally.slow_down()
        return suspects

    def _look_at_pages(
        self, source: Executor, sink: Executor, between: Between, count: int | None = None
    ) -> list[dict[str, Any]] | None:
        """Compare the rows of a key range page by page with the target's rows in it; None: the target cannot.

        The source had `count` rows in the range; None: as many as there are.
        """
        view, left = self._view, count
        suspects: list[dict[str, Any]] = []
        extra: list[Values] = []
        after, end = between

        def following(place: Values | None) -> Future[tuple[list[dict[str, Any]], Values | None]]:
            rows = PAGE_ROWS if left is None else min(PAGE_ROWS, left)
            return source.submit(self._source.read_page, view.table.full_name, place, rows)

        asked = following(after)
        while not self._tally.stopped:
            rows, place = asked.result()
            left = None if left is None else left - len(rows)
            if left is not None and left <= 0:
                place = None
            theirs = sink.submit(self._rows_between, view.comparer.columns, (after, place or end), MOST_ROWS)
            if place is not None:
                asked = following(place)
            values = [view.values(row) for row in rows]
            there = theirs.result()
            if there is None:
                asked.result()
                return None
            known = self._by_key(there, values, (after, place or end))
            found = [None if one is None else known.pop(view.comparer.key_of(one), None) for one in values]
            keys = [view.event_key(row) for row in rows]
            suspects += self._compared(rows, keys, values, found, partial(_popped, known))
            extra += known
            after = place
            if after is None:
                break
            self._tally.slow_down()
        # the source's thread may be working on the next range
        return suspects + (self._kept(extra) if view.keeps else source.submit(self._suspected, extra).result())

    def _rows_between(self, columns: Sequence[str], between: Between, limit: int) -> list[Values] | None:
        view = self._view
        return self._sink.rows_between(view.target, columns, view.comparer.key, between, limit, mapping=view.name)

    def _by_key(
        self, there: Sequence[Values], values: Sequence[Values | None], between: Between
    ) -> dict[Values, Values | None]:
        """The target's rows of a range by their keys; of far too many the keys alone, with the rows that are wanted."""
        comparer = self._view.comparer
        if len(there) < MOST_ROWS:
            return {comparer.key_of(row): row for row in there}
        known: dict[Values, Values | None] = dict.fromkeys(self._rows_between(comparer.key, between, ALL_ROWS) or [])
        for row in self._found(values, array("q")):
            if row is not None:
                known[comparer.key_of(row)] = row
        return known

    def _found(self, values: Sequence[Values | None], seen: array[int]) -> list[Values | None]:
        """The target's rows under the keys of these; which keys were met is noted."""
        comparer = self._view.comparer
        known = [one for one in values if one is not None]
        rows = iter(comparer.find([comparer.key_of(one) for one in known]))
        found = [None if one is None else next(rows) for one in values]
        seen.extend(
            digest(comparer.key_of(row or one)) for one, row in zip(values, found, strict=True) if one is not None
        )
        return found

    def _met(self, expected: Sequence[Expected], seen: array[int]) -> list[Values | None]:
        """As `_found`, of rows that the target should not have."""
        comparer = self._view.comparer
        found = comparer.found(expected)
        rejected = [one.key for one in expected if one.error is not None and one.key]
        there = [row for row in (*found, *comparer.find(rejected)) if row is not None]
        seen.extend(digest(comparer.key_of(row)) for row in there)
        return found

    def _compared(
        self,
        rows: Sequence[dict[str, Any]],
        row_keys: Sequence[dict[str, Any]],
        values: Sequence[Values | None],
        found: Sequence[Values | None],
        find_others: Callable[[Sequence[Expected]], Sequence[Values | None]],
    ) -> list[dict[str, Any]]:
        """Source keys of what does not agree; `found` are the target's rows, `find_others` finds those of None."""
        view = self._view
        pairs = enumerate(zip(values, found, strict=True))
        doubtful = [place for place, (one, actual) in pairs if one is None or one != actual]
        self._tally.add(rows_done=len(rows), matched=len(rows) - len(doubtful))
        keys = [row_keys[place] for place in doubtful]
        expected = view.expected([rows[place] for place in doubtful], keys)
        unwanted = [one for place, one in zip(doubtful, expected, strict=True) if values[place] is None]
        others = iter(find_others(unwanted) if unwanted else ())
        actual = [next(others) if values[place] is None else found[place] for place in doubtful]
        answers = judged(view.comparer, keys, expected, actual, keeps=view.keeps)
        counts = counted(answers)
        self._tally.add(**{name: counts.get(name, 0) for name in ("matched", "kept", "parked")})
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
        return self._suspected(extra)

    def _suspected(self, extra: Sequence[Values]) -> list[dict[str, Any]]:
        """Source keys of target rows that may be extra; those that have none are `unaskable`."""
        asked: list[dict[str, Any] | None] = [None] * len(extra)
        if self._view.undone:
            pages = [extra[start : start + PAGE_ROWS] for start in range(0, len(extra), PAGE_ROWS)]
            asked = [key for page in pages for key in self._askable(page)]
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

    def _askable(self, keys: Sequence[Values]) -> list[dict[str, Any] | None]:
        """The source's keys of target keys; None where the source can have no such key, or it would find another row.

        A key that is kept as text may be spelled as no event spells it.
        """
        view, comparer = self._view, self._view.comparer
        asked = self._source.event_keys(view.table.full_name, [view.source_key(key) for key in keys])
        known = [key for key in asked if key is not None]
        rows = comparer.find([view.mapping.map_key(key) for key in known])
        met = {repr(comparer.key_of(row)) for row in rows if row is not None}
        unmet = [key for key in keys if repr(key) not in met]
        there = {repr(comparer.key_of(row)) for row in comparer.find(unmet) if row is not None}
        return [None if repr(key) in there else source_key for key, source_key in zip(keys, asked, strict=True)]


def _contains(ordered: array[int], value: int) -> bool:
    place = bisect_left(ordered, value)
    return place < len(ordered) and ordered[place] == value


def _popped(known: dict[Values, Values | None], expected: Sequence[Expected]) -> list[Values | None]:
    """Those of the known rows that are not expected, or that nothing is known about; taken out."""
    return [known.pop(one.key, None) for one in expected]
