"""SQL text of one expression → a tree of sqlglot's nodes, with every function under our own name.

Before parsing, the tokens are prepared so that sqlglot rewrites nothing: functions get a prefix (each is then a plain
call, looked up in our table), `interval '…'` becomes such a call, and a key after `->` is put in parentheses. After
parsing every literal and name must still be there: what the parser would drop silently is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from sqlglot import ErrorLevel, Token, TokenType, exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import SqlglotError

from sync_hub.mapping.faults import SyntaxProblem

MAX_CHARACTERS: Final = 4000
MAX_DEPTH: Final = 50
PREFIX: Final = "fn__"
INTERVAL: Final = "interval"

_KEYWORDS: Final = frozenset(
    {
        "cast", "try_cast", "extract", "trim", "substring", "position", "and", "or", "not", "in", "between", "is",
        "when", "then", "else", "case", "like", "ilike", "zone", "from", "for", "escape", "both", "leading", "trailing",
        "as", "symmetric",
    }
)  # fmt: skip
_UNITS: Final = frozenset(
    {unit + plural for unit in ("year", "month", "week", "day", "hour", "minute", "second") for plural in ("", "s")}
)
_ARROWS: Final = frozenset({TokenType.ARROW, TokenType.DARROW, TokenType.HASH_ARROW, TokenType.DHASH_ARROW})
_KEPT: Final = frozenset({TokenType.STRING, TokenType.NUMBER, TokenType.IDENTIFIER, TokenType.BYTE_STRING})


class ExpressionDialect(Postgres):
    """PostgreSQL's dialect without the shift of array indexes."""

    INDEX_OFFSET = 0


_DIALECT: Final = ExpressionDialect()


def parse(text: str) -> exp.Expr:
    """The tree of one expression. Raises `SyntaxProblem`."""
    if len(text) > MAX_CHARACTERS:
        raise SyntaxProblem(f"{len(text)} characters; at most {MAX_CHARACTERS} are allowed")
    try:
        tokens = _DIALECT.tokenize(text)
    except SqlglotError as error:
        raise SyntaxProblem("a quote or a comment is not closed", _last_quote(text)) from error
    if not tokens:
        raise SyntaxProblem("the expression is empty")
    _check(tokens)
    prepared = list(_prepared(tokens))
    try:
        trees = _DIALECT.parser(error_level=ErrorLevel.IMMEDIATE).parse_into(exp.Condition, prepared, text)
    except SqlglotError as error:
        raise _problem(error, tokens) from error
    except RecursionError as error:
        raise SyntaxProblem("nested too deeply") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise SyntaxProblem("not a valid expression") from error  # the parser's own stumbling
    if len(trees) != 1 or trees[0] is None:
        raise SyntaxProblem("not a valid expression")
    tree = trees[0]
    _check_nothing_lost(tokens, tree)
    _check_depth(tree)
    return tree


def _last_quote(text: str) -> int:
    return max(text.rfind("'"), text.rfind('"'), text.rfind("$$"), text.rfind("/*"), 0)


def _check(tokens: list[Token]) -> None:
    depth = 0
    for previous, token in zip([None, *tokens], tokens, strict=False):
        if token.token_type == TokenType.SEMICOLON:
            raise SyntaxProblem("one expression is expected, `;` ends it", token.start)
        if token.token_type in {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.CASE}:
            depth += 1
        elif token.token_type in {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END}:
            depth -= 1
        if depth > MAX_DEPTH:
            raise SyntaxProblem(f"nested deeper than {MAX_DEPTH}", token.start)
        after_comma = previous is not None and previous.token_type in {TokenType.COMMA, TokenType.L_PAREN}
        if token.token_type == TokenType.COMMA and after_comma:
            raise SyntaxProblem("an argument is missing before the comma", token.start)
        if token.token_type == TokenType.R_PAREN and previous and previous.token_type == TokenType.COMMA:
            raise SyntaxProblem("an argument is missing after the comma", token.start)


def _prepared(tokens: list[Token]) -> Iterator[Token]:
    """The tokens as the parser shall see them."""
    index = 0
    while index < len(tokens):
        token, following = tokens[index], tokens[index + 1] if index + 1 < len(tokens) else None
        before = tokens[index - 1].token_type if index else None
        if token.token_type == TokenType.INTERVAL and following and following.token_type == TokenType.STRING:
            literal, index = _interval_literal(tokens, index)
            yield _changed(token, TokenType.VAR, PREFIX + INTERVAL)
            yield from _in_parentheses(literal)
            continue
        if token.token_type in {TokenType.STRING, TokenType.NUMBER} and before in _ARROWS:
            yield from _in_parentheses(token)
        elif _is_call(token, following, before):
            yield _changed(token, TokenType.VAR, PREFIX + token.text.lower())
        else:
            yield token
        index += 1


def _is_call(token: Token, following: Token | None, before: TokenType | None) -> bool:
    return (
        following is not None
        and following.token_type == TokenType.L_PAREN
        and token.text.replace("_", "a").isalnum()
        and not token.text[0].isdigit()
        and token.token_type not in _KEPT
        and token.text.lower() not in _KEYWORDS
        and before not in {TokenType.DCOLON, TokenType.ALIAS}
    )


def _interval_literal(tokens: list[Token], index: int) -> tuple[Token, int]:
    """The literal of `interval '…'`, with the unit of `interval '1' day` in it; and where to go on."""
    literal = tokens[index + 1]
    unit = tokens[index + 2] if index + 2 < len(tokens) else None
    if unit is not None and unit.text.lower() in _UNITS and unit.token_type not in _KEPT:
        if not literal.text.strip().lstrip("+-").replace(".", "", 1).isdigit():
            raise SyntaxProblem("write the units inside the quotes: interval '1 day 2 hours'", unit.start)
        return _changed(literal, TokenType.STRING, f"{literal.text} {unit.text}"), index + 3
    return literal, index + 2


def _changed(token: Token, type_: TokenType, text: str) -> Token:
    return Token(type_, text, token.line, token.col, token.start, token.end, token.comments)


def _in_parentheses(token: Token) -> Iterator[Token]:
    yield _changed(token, TokenType.L_PAREN, "(")
    yield token
    yield _changed(token, TokenType.R_PAREN, ")")


def _problem(error: SqlglotError, tokens: list[Token]) -> SyntaxProblem:
    details: list[dict[str, Any]] = getattr(error, "errors", None) or []
    for detail in details:
        line, column = detail.get("line"), detail.get("col")
        for token in tokens:
            if (token.line, token.col) == (line, column):
                return SyntaxProblem(f"not a valid expression near {token.text[:30]!r}", token.start)
    return SyntaxProblem("not a valid expression", tokens[-1].start)


def _check_nothing_lost(tokens: list[Token], tree: exp.Expr) -> None:
    """Every literal and quoted name of the text is in the tree, as often as it was written."""
    left: Counter[str] = Counter()
    for node in tree.walk():
        if isinstance(node, exp.Literal | exp.ByteString | exp.Identifier | exp.Var | exp.DataTypeParam):
            left[str(node.this)] += 1
        elif isinstance(node, exp.DataType) and node.args.get("kind"):
            left[str(node.args["kind"])] += 1
    for index, token in enumerate(tokens):
        before = tokens[index - 1].token_type if index else None
        if token.token_type not in _KEPT or before == TokenType.INTERVAL:
            continue
        text = f"0.{token.text}" if before == TokenType.DOT else token.text
        if not left[text]:
            raise SyntaxProblem(f"{token.text[:30]!r} is not expected here", token.start)
        left[text] -= 1


CHAINS: Final = (exp.And, exp.Or, exp.DPipe)


def chain(node: exp.Expr) -> list[exp.Expr]:
    """The operands of `a and b and c`, however long, in order; of another node, the node."""
    if not isinstance(node, CHAINS):
        return [node]
    operands: list[exp.Expr] = []
    stack: list[exp.Expr] = [node]
    while stack:
        top = stack.pop()
        if type(top) is type(node):
            stack += [top.args["expression"], top.this]
        else:
            operands.append(top)
    return operands


def _check_depth(tree: exp.Expr) -> None:
    """Chains of `and`, `or` and `||` may be long; everything else nests at most twice as deep as parentheses may."""
    stack = [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        if depth > 2 * MAX_DEPTH:
            raise SyntaxProblem("nested too deeply", place_of(node))
        parts = chain(node) if isinstance(node, CHAINS) else list(node.iter_expressions())
        stack += [(part, depth + 1) for part in parts]


def place_of(node: exp.Expr) -> int:
    """Where in the text a node begins, as nearly as its own or its parts' places tell."""
    starts = [found.meta["start"] for found in node.walk() if "start" in found.meta]
    return min(starts, default=0)
