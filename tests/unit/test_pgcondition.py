"""Conditions that stay within the brackets around them, and such that do not."""

from __future__ import annotations

import pytest

from connectors.sources.pgcondition import is_enclosed


@pytest.mark.parametrize(
    "condition",
    [
        "(a = 1) or (b in (1, 2))",
        "name = ')' and n = 'it''s )'",
        r"name = E'\') ' or name = e'\\'",
        'a")" = 1 or "say "")" = 2',
        "name = $$)$$ or name = $t$ ) $$ $t$",
        "true -- )",
        "true /* ) /* ) */ ) */",
        "a$b$ = 1 or c$b$ = 2",
    ],
)
def test_brackets_in_texts_names_and_comments_do_not_count(condition: str) -> None:
    assert is_enclosed(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "1 = 1) or (1 = 1",
        ")",
        "name = 'x') or (true",
        r"name = '\') or (name = '",
        r"name = e'\\') or (true",
        "true -- x\n) or (true",
        "true /* /* */ */) or (true",
        "name = $t$x$t$) or (true",
        "a$b$ = 1) or (c$b$ = 2",
    ],
)
def test_a_bracket_that_ends_the_condition_is_found(condition: str) -> None:
    assert not is_enclosed(condition)
