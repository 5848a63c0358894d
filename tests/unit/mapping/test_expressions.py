"""What expressions may be: everything else is refused with its place, and says what was probably meant."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync_hub.errors import ConfigError, Rejected
from sync_hub.mapping.compile import compile_expression
from sync_hub.mapping.faults import SyntaxProblem
from sync_hub.mapping.functions import names
from sync_hub.mapping.lookups import parse_lookup
from sync_hub.mapping.scope import Scope
from sync_hub.mapping.types import parse_type
from sync_hub.mapping.values import to_text
from tests.unit.mapping.conftest import ITEMS, change, compiled

SCOPE = Scope(
    {column.name: parse_type(column.type) for column in ITEMS.columns},
    {"countries": parse_lookup("countries", "code,name,region\nNZ,New Zealand,Oceania\nXX,,\n")},
    {"KEY": "swordfish"},
)


@pytest.mark.parametrize(
    ("text", "message", "offset", "hint"),
    [
        ("", "the expression is empty", 0, ""),
        ("nam", "there is no column nam", 0, "did you mean name?"),
        ("upper(nam)", "there is no column nam", 6, "did you mean name?"),
        ("firstname", "there is no column firstname", 0, 'write "firstName"'),
        ("items.name", "a column is written without its table", 0, "write name"),
        ("uper(name)", "there is no function uper", 0, "did you mean upper?"),
        ('"upper"(name)', "'upper' is not expected here", 0, ""),
        ("upper(stock)", "there is no upper(integer)", 0, "there is: upper(text)"),
        ("upper(name, name)", "there is no upper(text, text)", 0, ""),
        ("name + 1", "there is no text + integer", 0, "cast"),
        ("price || stock", "there is no numeric(12,2) || integer", 0, "::text"),
        ("name = 5", "parts of different types: text, integer", 0, "cast"),
        ("coalesce(name, stock)", "parts of different types", 9, "cast"),
        ("stock and active", "integer where a condition is expected", 0, "compare it"),
        ("case when stock then 1 end", "a condition is expected", 10, ""),
        ("stock = 'abc'", "'abc' is not a valid integer", 8, ""),
        ("'abc'::date", "'abc' is not a valid date", 0, ""),
        ("name::datum", "there is no type datum", 6, "did you mean date?"),
        ("name::interger", "there is no type interger", 6, "did you mean integer?"),
        ("active::date", "boolean cannot be cast to date", 0, ""),
        ("extract(hour from made_on)", "date has no field 'hour'", 18, "century"),
        ("now()", "the clock may not be read", 0, "use _committed_at"),
        ("current_timestamp", "the clock may not be read", 0, "use _committed_at"),
        ("current_date - made_on", "the clock may not be read", 0, "use _committed_at"),
        ("gen_random_uuid()", "the same event must always give the same row", 0, "uuid_v5"),
        ("random()", "the same event must always give the same row", 0, ""),
        ("count(*)", "there is no function count", 0, ""),
        ("(select 1)", "SUBQUERY is not allowed", 8, ""),
        ("select 1", "not a valid expression", 0, ""),
        ("name; drop table x", "one expression is expected", 4, ""),
        ("name in (select 1)", "not allowed", 0, ""),
        ("$1", "not allowed", 1, ""),
        ("*", "not allowed", 0, ""),
        ("(name, stock)", "not allowed", 1, ""),
        ("array[1,2]", "not allowed", 6, ""),
        ('name collate "C"', "not allowed", 0, ""),
        ("stock & 1", "not allowed", 0, ""),
        ("upper(name,)", "an argument is missing", 11, ""),
        ("concat(,name)", "an argument is missing", 7, ""),
        ("upper(name", "not a valid expression near 'name'", 6, ""),
        ("upper(name))", "not a valid expression", 11, ""),
        ("name name", "not a valid expression near 'name'", 5, ""),
        ("'open", "a quote or a comment is not closed", 0, ""),
        ("name || 'x", "a quote or a comment is not closed", 8, ""),
        ("name /* open", "a quote or a comment is not closed", 5, ""),
        ("a" * 4001, "at most 4000", 0, ""),
        ("(" * 51 + "1" + ")" * 51, "nested deeper than 50", 50, ""),
        ("stock" + " + stock" * 150, "nested too deeply", 416, ""),
        ("- " * 1500 + "stock", "nested too deeply", 0, ""),
        ("lookup('countrys', code)", "there is no lookup 'countrys'", 7, "did you mean 'countries'?"),
        ("lookup('countries', code, 'regions')", "has no column 'regions'", 26, "code, name, region"),
        ("lookup(name, code)", "the lookup's name must be a literal text", 7, ""),
        ("regexp_replace(name, name, '')", "must be a literal text", 21, ""),
        ("regexp_replace(name, '(', '')", "the regular expression is not valid", 21, ""),
        ("regexp_replace(name, 'a', '', 'q')", "unknown flag 'q'", 21, ""),
        ("name like 'a\\'", "ends with its escape", 10, ""),
        ("to_char(made_on, 'TZ')", "the pattern 'TZ' is not supported", 17, ""),
        ("to_date(name, 'Day')", "cannot be read, only written", 14, ""),
        ("to_char(price, '9.9.9')", "one point", 15, ""),
        ("json_extract(data, 'a.b')", "is not a path", 19, "$.member[0]"),
        ("name -> 'a'", "text where json is expected", 0, "::jsonb"),
        ("interval '1' day '2'", "not a valid expression", 17, ""),
        ("interval '1 day' hour", "write the units inside the quotes", 17, ""),
        ("stock between symmetric 1 and 2", "not allowed", 0, ""),
        ("secret('KEY')", "a secret may only be the key of hmac_sha256", 0, ""),
        ("name || secret('KEY')", "secret where text is expected", 8, ""),
        ("upper(secret('KEY'))", "there is no upper(secret)", 0, ""),
        ("concat(secret('KEY'))", "a secret may only be", 7, ""),
        ("coalesce(secret('KEY'), '')", "a secret may only be", 0, ""),
        ("secret('KEY')::text", "secret cannot be cast to text", 0, ""),
        ("try(secret('KEY'))", "a secret may only be", 0, ""),
        ("hmac_sha256(secret('KEY'), name)", "there is no hmac_sha256(secret, text)", 0, ""),
        ("secret('NOPE')", "the secret NOPE is not set", 0, "environment variable NOPE"),
        ("secret(name)", "must be a literal text", 7, ""),
        ("E'a\\000'", "a text cannot hold the character U+0000", 0, ""),
    ],
)
def test_what_cannot_be_compiled_says_what_and_where(text: str, message: str, offset: int, hint: str) -> None:
    with pytest.raises(SyntaxProblem) as caught:
        compile_expression(text, SCOPE)
    assert message in caught.value.message
    assert caught.value.offset == offset
    assert hint in caught.value.hint
    assert "swordfish" not in str(caught.value) + caught.value.hint


def test_the_error_names_file_line_and_column_of_the_part() -> None:
    with pytest.raises(ConfigError) as caught:
        compiled("key: [id]\nfields:\n  id: id\n  label: concat(name, uper(name))\n")
    assert caught.value.where == "mappings/m.yaml:7:23"
    assert caught.value.field == "fields.label"
    assert str(caught.value) == (
        "bad_expression: mappings/m.yaml:7:23, fields.label: there is no function uper — did you mean upper?"
    )


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("interval '1 day 02:00'", "1 day 02:00:00"),
        ("interval '1' day + interval 'PT2H'", "1 day 02:00:00"),
        ("'{\"a.b\": 1}'::jsonb -> 'a.b'", "1"),
        ("'{\"$.a\": 1}'::jsonb ->> '$.a'", "1"),
        ("'[5]'::jsonb ->> 0", "5"),
        (".5 + 1.", "1.5"),
        ("1e3", "1000"),
        ("1.50", "1.50"),
        ("E'tab\\there'", "tab\there"),
        ("$$it's$$", "it's"),
        ("'it''s'", "it's"),
        ("- -3", "3"),
        ("2 + 3 * 4 - 6 / 2", "11"),
        ("-2 ^ 2", "4"),
        ("not true or true", "true"),
        ("1 < 2 and 'a' || 'b' = 'ab'", "true"),
        ("left('abc', 2) || right('abc', 1)", "abc"),
        ("date '2024-02-29'", "2024-02-29"),
        ("upper('a') -- comment", "A"),
        ("upper(/* comment */ 'a')", "A"),
        ("cast('1.5' as numeric(4, 2))", "1.50"),
        ("'1'::int::text || 'x'", "1x"),
        ("null || 'x'", None),
        ("coalesce(null, null)", None),
        ("9223372036854775808", "9223372036854775808"),
        (" or ".join(["false"] * 300) + " or true", "true"),
        ("||".join(["'x'"] * 500), "x" * 500),
    ],
)
def test_sql_means_what_it_means_in_postgres(text: str, result: str | None) -> None:
    compiled_ = compile_expression(text, SCOPE)
    value = compiled_.run({})
    show = to_text(compiled_.type)
    assert (value if value is None or show is None else show(value)) == result


def test_char_loses_its_padding_and_citext_its_case(value: Callable[..., Any]) -> None:
    assert value("code || '!'", code="ab  ") == "ab!"
    assert value("case when code = 'ab' then 1 else 2 end", code="ab  ") == 1
    scope = Scope({"mail": parse_type("citext"), "kind": parse_type("enum")})
    assert compile_expression("mail = 'Ada@X.io'", scope).run({"mail": "ADA@x.IO"}) is True
    assert compile_expression("mail in ('a', 'ada@x.io')", scope).run({"mail": "ADA@x.IO"}) is True
    assert compile_expression("upper(kind)", scope).run({"kind": "open"}) == "OPEN"
    assert compile_expression("kind = 'open'", scope).run({"kind": "open"}) is True
    with pytest.raises(SyntaxProblem, match="has no <"):
        compile_expression("kind < 'open'", scope)


def test_lookups_give_null_for_what_is_not_there(value: Callable[..., Any]) -> None:
    def look(text: str, code: str | None) -> Any:
        return compile_expression(text, SCOPE).run({"code": code})

    assert look("lookup('countries', code)", "NZ  ") == "New Zealand"
    assert look("lookup('countries', code, 'region')", "NZ") == "Oceania"
    assert look("lookup('countries', code)", "DE") is None
    assert look("lookup('countries', code)", "XX") is None, "an empty cell"
    assert look("lookup('countries', code)", None) is None


def test_a_hash_with_a_secret_key() -> None:
    compiled_ = compile_expression("hmac_sha256(name, secret('KEY'))", SCOPE)
    assert compiled_.run({"name": "a"}) == hmac.new(b"swordfish", b"a", "sha256").hexdigest()
    assert compiled_.secrets == {"KEY"}
    assert compiled_.run({"name": None}) is None


def test_try_gives_null_where_a_value_would_be_rejected() -> None:
    assert compile_expression("try(10 / stock)", SCOPE).run({"stock": 0}) is None
    assert compile_expression("try(10 / stock)", SCOPE).run({"stock": 3}) == 3
    assert compile_expression("try_cast(name as date)", SCOPE).run({"name": "soon"}) is None
    assert compile_expression("try(price * 10 ^ 3000)", SCOPE).run({"price": "1.00"}) is None


def test_an_error_in_a_constant_waits_until_it_is_computed() -> None:
    compiled_ = compile_expression("case when stock = 0 then 1 / 0 else stock end", SCOPE)
    assert compiled_.run({"stock": 5}) == 5
    with pytest.raises(Rejected, match="division_by_zero"):
        compiled_.run({"stock": 0})


def test_a_regular_expression_cannot_stall_the_hub() -> None:
    compiled_ = compile_expression("regexp_replace(name, '(a|aa)+$', 'x')", SCOPE)
    assert compiled_.run({"name": "aaa"}) == "x"
    with pytest.raises(Rejected) as caught:
        compiled_.run({"name": "a" * 40 + "b"})
    assert caught.value.sqlstate == "2201B"


def test_like_takes_time_in_proportion_to_the_text() -> None:
    pattern = "%a" * 200 + "%b"
    assert compile_expression(f"name like '{pattern}'", SCOPE).run({"name": "a" * 20_000}) is False


@pytest.mark.parametrize("text", ["lpad(name, 100000000, 'x')", "repeat(name, 100000000)", "rpad(name, 2000000)"])
def test_results_have_a_limit(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        compile_expression(text, SCOPE).run({"name": "x"})
    assert caught.value.sqlstate == "54000"


def test_numbers_beyond_two_thousand_digits_are_rejected_not_rounded(value: Callable[..., Any]) -> None:
    digits = "9" * 1500
    assert value("price + 1", price=digits) == "1" + "0" * 1500
    with pytest.raises(Rejected) as caught:
        value("price * price", price=digits)
    assert caught.value.sqlstate == "22003"


def test_what_an_expression_reads_is_known() -> None:
    compiled_ = compile_expression("case when active then upper(name) else _actor end", SCOPE)
    assert compiled_.reads == {"active", "name"}
    assert compiled_.facts == {"_actor"}
    assert compile_expression("(stock)", SCOPE).column == "stock"
    assert compile_expression("stock + 0", SCOPE).column == ""


def test_events_that_do_not_read_the_clock_give_the_same_row_again() -> None:
    mapping = compiled("key: [id]\nfields:\n  id: id\n  at: _committed_at + interval '1 day'\n")
    event = change("update", {"id": 1})
    assert mapping.apply([event]) == mapping.apply([event])


FRAGMENTS = [
    *names(), "name", "price", "stock", "active", "made_on", "data", "code", "updated_at", "(", ")", "(", ")", ",", ",",
    "'a'", "1", "1.5", "null", "true", "+", "-", "*", "/", "%", "||", "->", "->>", "#>>", "=", "<", "and", "or", "not",
    "in", "between", "like", "is", "case", "when", "then", "else", "end", "::", "integer", "text", "cast", "as",
    "extract", "year", "from", "interval", "'1 day'", "at time zone", "'UTC'", "[", "]", "'", '"', "--", "/*", ";",
    "$$", "@", "{", "}", "trim", "both", "substring", "for", "position", "any", "select", "distinct", "\n", "é", "😀",
    "\\",
    "..", "E'",
]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14), st.sampled_from([" ", ""]))
def test_any_text_compiles_or_is_refused_with_a_place(fragments: list[str], between: str) -> None:
    text = between.join(fragments)
    try:
        compiled_ = compile_expression(text, SCOPE)
    except SyntaxProblem as problem:
        assert 0 <= problem.offset <= max(len(text), 1)
        assert "\n" not in problem.hint
        return
    row = {"name": "x", "price": "1.5", "stock": 1, "active": True, "made_on": "2024-01-01", "data": "{}", "code": "a"}
    with contextlib.suppress(Rejected, ArithmeticError):
        compiled_.run(row | {"updated_at": "2024-01-01T00:00:00Z", "id": 1, "firstName": "f", "_actor": "a"})
