"""Whether a condition that a person wrote stays within the brackets that are put around it. Pure."""

from __future__ import annotations

import re
from typing import Final

_TOKEN: Final = re.compile(
    r"""
    --[^\n]*                                        # a comment up to the end of its line
    | e'(?:[^'\\]|\\.|'')*'                         # a text with escapes
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | \$((?:[a-z_\x80-\U0010ffff]\w*)?)\$.*?\$\1\$  # a text between dollar signs
    | [a-z_\x80-\U0010ffff][\w$]*                  # a word, which may hold dollar signs
    | /\* | \*/ | [()]
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_COMMENT: Final = re.compile(r"/\*|\*/")


def is_enclosed(condition: str) -> bool:
    """False where a condition closes a bracket that it did not open: what follows would not belong to it any more.

    One that opens more than it closes is refused by the server.
    """
    open_brackets = place = 0
    while token := _TOKEN.search(condition, place):
        place = token.end()
        if token[0] == "/*":
            place = _end_of_comment(condition, place)
        elif token[0] == "(":
            open_brackets += 1
        elif token[0] == ")":
            open_brackets -= 1
            if open_brackets < 0:
                return False
    return True


def _end_of_comment(text: str, place: int) -> int:
    """Where the comment that begins before `place` ends; comments may hold comments."""
    depth = 1
    while depth and (mark := _COMMENT.search(text, place)):
        depth += 1 if mark[0] == "/*" else -1
        place = mark.end()
    return len(text) if depth else place
