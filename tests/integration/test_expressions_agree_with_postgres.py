"""Random expressions over random rows: the hub must say what PostgreSQL itself says, value, type and SQLSTATE alike.

Where it differs on purpose the reference page of the functions says so, and the generator here avoids it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.local_postgres import LocalPostgres
from connectors.pgtypes import to_wire as wire_of
from connectors.postgresql import SESSION
from sync_hub.errors import Rejected
from sync_hub.mapping.compile import compile_expression
from sync_hub.mapping.faults import SyntaxProblem
from sync_hub.mapping.functions import ENTRIES
from sync_hub.mapping.scope import Scope
from sync_hub.mapping.types import parse_type
from sync_hub.mapping.values import to_text

COLUMNS = {
    "i2": "smallint", "i4": "integer", "i8": "bigint", "n": "numeric", "n2": "numeric(12,2)", "f4": "real",
    "f8": "double precision", "s": "text", "v": "character varying(20)", "c": "character(5)", "b": "boolean",
    "d": "date", "t": "time without time zone", "ts": "timestamp without time zone", "tz": "timestamp with time zone",
    "iv": "interval", "js": "json", "jb": "jsonb", "ta": "text[]", "ia": "integer[]", "by": "bytea", "u": "uuid",
}  # fmt: skip

SETUP = f"""
create table rows (id integer primary key, {", ".join(f"{name} {type_}" for name, type_ in COLUMNS.items())});
create function evaluate(expression text, number integer) returns text[] language plpgsql as $$
declare result text[];
begin
    execute 'select array[pg_typeof(x)::text, x::text] from (select ' || expression
        || ' as x from rows where id = $1) y' into result using number;
    return result;
exception when others then
    return array['error', sqlstate];
end $$;
"""

TEXTS = [
    "",
    " ",
    "a",
    "Ada Lovelace",
    " trimmed  ",
    "ÄÖÜ straße",
    "naïve",
    "x,y,,z",
    "100%",
    "a_b\\c",
    "42",
    "-1.50",
    "1e3",
]
TEXTS += [
    "true",
    "2024-02-29",
    "O'Brien",
    "漢字かな",
    "😀 smile",
    "line\nbreak",
    "ﬁn İstanbul ς",
    "NaN",
    "0x1F",
    "null",
    "{1,2}",
]
TEXTS += ["2024-02-29 23:59:59.999999", "12:30", "1 day 02:00", "aaa", "abcABC123", "ǅ", "\u0130"]
INTEGERS = ["0", "1", "-1", "2", "7", "-7", "100", "32767", "-32768"]
VALUES: dict[str, list[str]] = {
    "smallint": INTEGERS,
    "integer": [*INTEGERS, "2147483647", "-2147483648", "123456"],
    "bigint": [*INTEGERS, "9223372036854775807", "-9223372036854775808", "12345678901"],
    "numeric": [
        "0", "0.00", "1", "-1", "1.10", "2.5", "-2.5", "0.001", "-0.0049", "99999.995",
        "123456789012345678901234567890",
        "3.14159265358979323846", "1e-20", "-7.25", "10000", "0.5", "1.5", "NaN", "Infinity", "-Infinity", "1e30",
    ],
    "numeric(12,2)": ["0.00", "1.10", "-1.10", "9999999999.99", "10000.00", "0.01", "2.50"],
    "real": ["0", "1", "-1.5", "0.1", "3.4e38", "1e-30", "NaN", "Infinity", "16777217", "123456.789", "-0", "1e10"],
    "double precision": [
        "0", "1", "-1", "0.1", "2.5", "-2.5", "1e300", "1e-300", "1e15", "1e16", "123456789.125", "NaN", "Infinity",
        "-Infinity", "-0", "1e-5", "0.0001", "5e-324", "1.7976931348623157e308", "3.5",
    ],
    "text": TEXTS,
    "character varying(20)": [text for text in TEXTS if len(text) <= 20],
    "character(5)": ["", "a", "ab  ", "abcde", "Ä"],
    "boolean": ["true", "false"],
    "date": ["2024-02-29", "2023-12-31", "1970-01-01", "0044-03-15 BC", "infinity", "-infinity", "2000-01-03",
        "9999-12-31",
             "12345-06-07", "1999-11-30"],
    "time without time zone": ["00:00:00", "12:34:56.789", "23:59:59.999999", "24:00:00", "06:00:00"],
    "timestamp without time zone": [
        "2024-02-29 12:34:56.789012", "1970-01-01 00:00:00", "2023-12-31 23:59:59.5", "0001-01-01 00:00:00",
        "0044-03-15 10:00:00 BC", "infinity", "2021-03-28 02:30:00", "2021-10-31 02:30:00", "10000-01-01 00:00:00",
        "2000-01-31 06:07:08",
    ],
    "timestamp with time zone": [
        "2024-02-29 12:34:56.789012+00", "1970-01-01 00:00:00+00", "2023-12-31 23:59:59.5+00", "-infinity",
        "2021-03-28 01:30:00+00", "2021-10-31 00:30:00+00", "0100-01-01 00:00:00+00 BC", "1950-06-15 12:00:00+00",
    ],
    "interval": [
        "0", "1 day", "-1 day", "1 mon", "1 year 2 mons 3 days 04:05:06.7", "-1 mon +2 days -03:00:00", "36:00:00",
        "00:00:00.000001", "-00:00:01.5", "30 days", "100 years",
    ],
    "json": ['{"a": 1, "b": {"c": [1, 2.50, null]}}', '[1, "x", {"a":  true}]', '"text"', "null", "12.0",
        '{"a":1,"a":2}', "[]",
             '{"a": "\\u00e4\\n"}', "{}"],
    "jsonb": ['{"a": 1.10, "b": {"c": [1, 2.50, null]}}', '[1, "x", {"a": true}]', '"text"', "null", "12.0",
        '{"bb":1,"a":2}',
              "true", '{"a": "ä\\n\\"q\\""}', "[]", "1e3"],
    "text[]": ["{}", "{a}", '{a,NULL,"b c"}', '{"","x,y"}'],
    "integer[]": ["{}", "{1}", "{1,NULL,3}"],
    "bytea": ["\\x", "\\x00ff", "\\x616263"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "123e4567-e89b-12d3-a456-426614174000"],
}  # fmt: skip

Rows = list[dict[str, str | None]]
Draw = Callable[[st.SearchStrategy[Any]], Any]

NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
MOMENTS = ("date", "timestamp without time zone", "timestamp with time zone")
ORDERED = (*NUMBERS, "text", "boolean", *MOMENTS, "time without time zone", "interval", "uuid", "bytea")


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class Generator:
    """Draws expressions that PostgreSQL accepts: typed, and at most so many levels deep."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw

    def one_of(self, options: Any) -> Any:
        return self._draw(st.sampled_from(list(options)))

    def columns(self, type_: str) -> list[str]:
        return [name for name, declared in COLUMNS.items() if declared.partition("(")[0] == type_]

    def leaf(self, type_: str) -> str:
        names = self.columns(type_)
        if type_ == "text":
            names = ["s"]
        if names and self._draw(st.integers(0, 3)):
            return self.one_of(names)
        base = next(known for known in VALUES if known.partition("(")[0] == type_)
        return f"⟦{quoted(self.one_of(VALUES[base]))}::{type_}⟧"

    def of(self, type_: str, depth: int) -> str:
        if depth <= 0:
            return self.leaf(type_)
        makers = MAKERS.get(type_, [])
        index = self._draw(st.integers(-2, len(makers) + 2))
        if 0 <= index < len(makers):
            return makers[index](self, depth - 1)
        if index < 0:
            return self.leaf(type_)
        return self.common(type_, depth - 1, index - len(makers))

    def common(self, type_: str, depth: int, which: int) -> str:
        first, second = self.of(type_, depth), self.of(type_, depth)
        if which == 0:
            return f"coalesce({first}, {second})"
        if which == 1:
            return f"case when {self.of('boolean', depth)} then {first} else {second} end"
        if type_ in {"json", "text[]", "integer[]"}:
            return self.leaf(type_)
        if type_ in ORDERED:
            return f"{self.one_of(['greatest', 'least', 'nullif'])}({first}, {second})"
        return f"nullif({first}, {second})"

    def number(self, depth: int) -> str:
        return self.of(self.one_of(NUMBERS), depth)

    def small(self) -> str:
        return f"⟦{self.one_of([-3, -1, 0, 1, 2, 3, 5, 12])}⟧"

    def any(self, depth: int) -> str:
        return self.of(self.one_of(ORDERED), depth)


def arithmetic(type_: str, signs: str) -> list[Callable[[Generator, int], str]]:
    def make(g: Generator, depth: int) -> str:
        return f"({g.of(type_, depth)} {g.one_of(signs)} {g.of(type_, depth)})"

    return [make, make, lambda g, depth: f"(- {g.of(type_, depth)})", lambda g, depth: f"abs({g.of(type_, depth)})"]


def call(template: str) -> Callable[[Generator, int], str]:
    """`lower({text})`: each name in braces is drawn: a type (spaces as _), `small` or one of LITERALS."""

    def make(g: Generator, depth: int) -> str:
        out, rest = "", template
        while "{" in rest:
            before, _, rest = rest.partition("{")
            name, _, rest = rest.partition("}")
            out += before
            if name == "small":
                out += g.small()
            elif name == "number":
                out += g.number(depth)
            elif name == "any":
                out += g.any(depth)
            elif name in LITERALS:
                out += quoted(g.one_of(LITERALS[name]))
            else:
                out += g.of(name.replace("_", " "), depth)
        return out + rest

    return make


LITERALS = {
    "unit": ["year", "month", "day", "hour", "minute", "second", "week", "quarter", "decade", "century", "millennium",
             "milliseconds", "microseconds"],
    "span": ["year", "month", "day", "hour", "second"],
    "zone": ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"],
    "like": ["%", "a%", "%a", "_d%", "%a%a%", "", "A", "100\\%", "%ä%", "__", "%e"],
    "regex": ["a", "[a-z]+", "^\\s+", "(\\w)(\\w)", "[[:digit:]]", "a|ab", "x*", "\\d+$", "[^,]+", "(a)|b", "\\yL",
        "."],
    "replacement": ["", "X", "<\\1>", "[\\&]", "\\\\"],
    "flags": ["", "g", "i", "gi"],
    "moment": ["YYYY-MM-DD", "DD.MM.YY HH24:MI:SS", "FMDay, FMDD FMMonth YYYY", "HH12:MI am", "MS US",
        "Q WW IW ID DDD", "Month",
               "DY Mon", "\"year:\" YYYY", "IYYY", "SSSS", "D W"],
    "digits": ["999", "FM999", "000", "9,999.99", "FM9,990.00", "S999.9", "999MI", "999PR", "FM999999990.099",
        "99.9", ".99",
               "9G999D99", "FM.99", "0999", "$", "9 9"],
    "path": ["{a}", "{b,c}", "{b,c,1}", "{0}", "{-1}", "{2,a}", "{}"],
    "key": ["a", "b", "c", "zz", ""],
}  # fmt: skip

CASTS = (
    "text",
    "integer",
    "bigint",
    "smallint",
    "numeric",
    "numeric(8,2)",
    "double precision",
    "real",
    "boolean",
    "date",
)
CASTS += (
    "timestamp",
    "timestamptz",
    "time",
    "interval",
    "uuid",
    "varchar(3)",
    "char(4)",
    "timestamp(0)",
    "jsonb",
    "bytea",
)
TO_TEXT = [f"({{{type_.replace(' ', '_')}}})::text" for type_ in (*ORDERED, "json", "jsonb", "text[]", "integer[]")]

MAKERS: dict[str, list[Callable[[Generator, int], str]]] = {
    "smallint": [*arithmetic("smallint", "+-*/%"), call("({text})::smallint"), call("({number})::smallint")],
    "integer": [
        *arithmetic("integer", "+-*/%"),
        *map(call, [
            "length({text})", "position({text} in {text})", "strpos({text}, {text})", "({number})::integer",
            "({text})::integer", "mod({integer}, {small})", "({date} - {date})", "({boolean})::integer",
            "jsonb_array_length({jsonb})", "cardinality({text[]})", "({integer[]})[{small}]", "length({bytea})",
            "({smallint} + {integer})", "({jsonb})::integer",
        ]),
    ],
    "bigint": [*arithmetic("bigint", "+-*/%"), call("({integer} * {bigint})"), call("({number})::bigint")],
    "numeric": [
        *arithmetic("numeric", "+-*/%"),
        *map(call, [
            "round({numeric}, {small})", "round({numeric})", "trunc({numeric}, {small})", "ceil({numeric})",
            "floor({numeric})", "sign({numeric})", "mod({numeric}, {numeric})", "power({numeric}, {small}::numeric)",
            "({number})::numeric", "({text})::numeric", "({integer} / {numeric})", "({number})::numeric(8,2)",
            "extract(year from {date})", "extract(dow from {timestamp_without_time_zone})",
            "extract(epoch from {timestamp_with_time_zone})", "extract(second from {time_without_time_zone})",
            "extract(month from {interval})", "extract(epoch from {interval})", "extract(week from {date})",
            "extract(isoyear from {date})", "extract(century from {date})", "extract(decade from {date})",
            "extract(quarter from {interval})", "extract(hour from {interval})", "extract(doy from {date})",
            "extract(milliseconds from {timestamp_without_time_zone})", "(n2 * {numeric})", "({jsonb})::numeric",
        ]),
    ],
    "real": [*arithmetic("real", "+-*/"), call("({number})::real"), call("({text})::real")],
    "double precision": [
        *arithmetic("double precision", "+-*/"),
        *map(call, [
            "round({double_precision})", "ceil({double_precision})", "floor({number})", "trunc({double_precision})",
            "sign({double_precision})", "power({double_precision}, {small})", "({number})::double precision",
            "({text})::double precision", "({numeric} * {double_precision})", "({real} + {double_precision})",
            "date_part({span}, {timestamp_without_time_zone})", "({integer} ^ {small})",
        ]),
    ],
    "text": [
        *map(call, [
            "lower({text})", "upper({text})", "initcap({text})", "trim({text})", "ltrim({text}, {text})",
            "rtrim({text})", "btrim({text}, {text})", "trim(leading {key} from {text})", "substring({text}, {small})",
            "substring({text} from {small} for {small})", "replace({text}, {text}, {text})",
            "split_part({text}, {key}, {small})", "split_part({text}, ',', {small})", "left({text}, {small})",
            "right({text}, {small})", "lpad({text}, {small}, {text})", "rpad({text}, {small})", "({text} || {text})",
            "({text} || {any})", "concat({text}, {any}, {any})", "concat_ws({key}, {text}, {any}, {text})",
            "reverse({text})", "translate({text}, {text}, {text})", "repeat({text}, {small})", "md5({text})",
            "regexp_replace({text}, {regex}, {replacement}, {flags})", "regexp_replace({text}, {regex}, {replacement})",
            "({text})::varchar(3)::text", "to_char(n2 * {integer}, {digits})", "to_char({integer}, {digits})",
            "to_char({timestamp_without_time_zone}, {moment})", "to_char({date}, {moment})",
            "({jsonb} ->> {key})", "({json} ->> {key})", "({jsonb} #>> {path})", "({json} #>> {path})",
            "({json} ->> {small})", "array_to_string({text[]}, ', ')", "array_to_string({integer[]}, {key}, 'none')",
            "({text[]})[{small}]", "encode({bytea}, 'hex')", "encode({bytea}, 'base64')", "jsonb_typeof({jsonb})",
            "(c || {text})", "(v || c)", "concat(b, n2, f4)", *TO_TEXT,
        ]),
    ],
    "boolean": [
        *[call(f"({{{type_.replace(' ', '_')}}} {sign} {{{type_.replace(' ', '_')}}})")
          for type_ in ORDERED for sign in ("=", "<", ">=")],
        *map(call, [
            "({boolean} and {boolean})", "({boolean} or {boolean})", "(not {boolean})", "({any} is null)",
            "({boolean} is not true)", "({boolean} is unknown)", "({text} is distinct from {text})",
            "({numeric} is not distinct from {integer})", "({integer} between {integer} and {small})",
            "({text} not between {text} and {text})", "({text} in ('a', {text}, null))", "({integer} not in (1, 2, 7))",
            "({text} like {like})", "({text} not like {like})", "({text} ilike {like})", "({text} like {text})",
            "({text} ~ {regex})", "({text} !~* {regex})", "({integer} = {numeric})", "({real} < {double_precision})",
            "({numeric} <> {double_precision})", "({date} < {timestamp_without_time_zone})",
            "({timestamp_without_time_zone} = {timestamp_with_time_zone})", "({jsonb} = {jsonb})",
            "({text} = any({text[]}::text[]))", "({text})::boolean", "({integer})::boolean", "(c = {key})", "(c = c)",
            "starts_with({text}, {text})", "(v = {text})", "({text} >= '')", "({numeric} in (1, 2.50))",
            "({jsonb})::boolean",
        ]),
    ],
    "date": list(map(call, [
        "({date} + {small})", "({date} - {small})", "({timestamp_without_time_zone})::date",
        "({timestamp_with_time_zone})::date", "({text})::date", "to_date('23.11.2026', 'DD.MM.YYYY')",
        "make_date({small}, {small}, {small})",
    ])),
    "time without time zone": list(map(call, [
        "({timestamp_without_time_zone})::time", "({time_without_time_zone} + {interval})", "({interval})::time",
        "({text})::time",
    ])),
    "timestamp without time zone": list(map(call, [
        "({date} + {interval})", "({timestamp_without_time_zone} - {interval})", "({date})::timestamp",
        "date_trunc({unit}, {timestamp_without_time_zone})", "({timestamp_with_time_zone} at time zone {zone})",
        "({text})::timestamp", "({date} + {time_without_time_zone})", "({timestamp_without_time_zone})::timestamp(0)",
        "({timestamp_without_time_zone} + interval '1 month')",
    ])),
    "timestamp with time zone": list(map(call, [
        "({timestamp_with_time_zone} + {interval})", "date_trunc({unit}, {timestamp_with_time_zone})",
        "({timestamp_without_time_zone} at time zone {zone})", "({text})::timestamptz", "date_trunc({unit}, {date})",
        "date_trunc({unit}, {timestamp_with_time_zone}, {zone})", "to_timestamp({double_precision})",
        "({date})::timestamptz", "({timestamp_with_time_zone} at time zone {zone})::timestamptz",
    ])),
    "interval": list(map(call, [
        "({timestamp_without_time_zone} - {timestamp_without_time_zone})", "({interval} + {interval})",
        "({interval} - {interval})", "({interval} * {small})", "({interval} * 1.5)", "({interval} / 3)",
        "({interval} * {double_precision})", "(- {interval})",
        "age({timestamp_without_time_zone}, {timestamp_without_time_zone})",
        "({time_without_time_zone} - {time_without_time_zone})", "date_trunc({unit}, {interval})",
        "({time_without_time_zone})::interval", "({timestamp_with_time_zone} - {timestamp_without_time_zone})",
        "({text})::interval",
    ])),
    "json": list(map(call, ["({json} -> {key})", "({json} -> {small})", "({json} #> {path})", "({jsonb})::json"])),
    "jsonb": list(map(call, [
        "({jsonb} -> {key})", "({jsonb} -> {small})", "({jsonb} #> {path})", "({json})::jsonb", "({text})::jsonb",
    ])),
    "text[]": [],
    "integer[]": [],
    "bytea": list(map(call, ["decode({text}, 'hex')", "({text})::bytea"])),
    "uuid": [call("({text})::uuid")],
}  # fmt: skip

TYPES = [*MAKERS, "text", "text", "boolean", "numeric"]


@st.composite
def expressions(draw: Draw) -> str:
    generator = Generator(draw)
    return generator.of(generator.one_of(TYPES), draw(st.integers(1, 3)))


@st.composite
def rows(draw: Draw) -> dict[str, str | None]:
    return {name: draw(st.sampled_from([None, *VALUES[type_], *VALUES[type_]])) for name, type_ in COLUMNS.items()}


@pytest.fixture(scope="module")
def connection(source_server: LocalPostgres) -> Iterator[psycopg.Connection[Any]]:
    """A database whose upper, lower and order of texts are Unicode's own, as the hub's are."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(source_server.dsn(), autocommit=True) as admin:
        admin.execute(
            f"create database {name} template template0 locale_provider builtin builtin_locale 'PG_UNICODE_FAST'"
        )
        options = f"{SESSION} -c IntervalStyle=postgres -c jit=off"
        with psycopg.connect(source_server.dsn(name), autocommit=True, options=options) as session:
            session.execute(SETUP)
            yield session
        admin.execute(f"drop database {name} with (force)")


def ask(connection: psycopg.Connection[Any], texts: list[str], given_rows: Rows) -> tuple[Rows, list[list[Any]]]:
    """Insert the rows; return them as the log would carry them, and PostgreSQL's answer to each expression for each."""
    names = list(COLUMNS)
    connection.execute("truncate rows")
    with connection.cursor() as cursor:
        marks = ", ".join(f"%s::{type_}" for type_ in COLUMNS.values())
        cursor.executemany(
            f"insert into rows values (%s, {marks})",
            [(number, *(row[name] for name in names)) for number, row in enumerate(given_rows)],
        )
        shown = ", ".join(
            f"{name}::text" if type_ not in {"boolean", "character(5)", "interval"} else f"format('%s', {name})"
            for name, type_ in COLUMNS.items()
        )
        cursor.execute("set intervalstyle = iso_8601")
        stored = cursor.execute(f"select {shown} from rows order by id").fetchall()
        cursor.execute("set intervalstyle = postgres")
        nulls = cursor.execute(
            f"select {', '.join(f'{name} is null' for name in names)} from rows order by id"
        ).fetchall()
        answers = cursor.execute(
            "select evaluate(e.text, r.id) from unnest(%s::text[]) with ordinality e(text, place), rows r"
            " order by e.place, r.id",
            # a subselect: PostgreSQL would compute constants while planning, and fail for branches never taken
            ([text.replace("⟦", "(select ").replace("⟧", " offset 0)") for text in texts],),
        ).fetchall()
    wire = [
        {
            name: None if null else wire_of(COLUMNS[name])(text)
            for name, text, null in zip(names, values, empty, strict=True)
        }
        for values, empty in zip(stored, nulls, strict=True)
    ]
    flat = [answer for (answer,) in answers]
    size = len(given_rows)
    return wire, [flat[start : start + size] for start in range(0, len(flat), size)]


SCOPE = Scope({name: parse_type(type_) for name, type_ in COLUMNS.items()})


def ours(text: str, wire: list[dict[str, Any]]) -> list[list[Any]]:
    """What the hub says: [type, text] or ["error", SQLSTATE] for each row."""
    try:
        compiled = compile_expression(text.replace("⟦", "(").replace("⟧", ")"), SCOPE)
    except SyntaxProblem as problem:
        return [["refused", problem.message]] * len(wire)
    show, out = to_text(compiled.type) or str, []
    for row in wire:
        try:
            value = compiled.run(row)
            out.append([compiled.type.name, None if value is None else show(value)])
        except Rejected as error:
            out.append(["error", "intended" if "infinite" in error.message else error.sqlstate])
        except ArithmeticError:
            out.append(["error", "22003"])
    return out


def agree(mine: list[Any], theirs: list[Any]) -> bool:
    """Equal; or an intended difference (see the reference page)."""
    if mine == theirs:
        return True
    if mine[0] != "error":
        return False
    if mine[1] == "22007":  # dates and times are read in ISO form only, PostgreSQL knows many more
        return True
    alike = [{"22003", "22P02"}, {"22008", "22015"}]
    return mine[1] == "intended" or (theirs[0] == "error" and {mine[1], theirs[1]} in alike)


EXAMPLES = int(os.environ.get("SYNC_HUB_TEST_EXPRESSIONS", "60"))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="SYNC_HUB_TEST_EXPRESSIONS" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(texts=st.lists(expressions(), min_size=20, max_size=40), given_rows=st.lists(rows(), min_size=3, max_size=3))
def test_random_expressions_give_what_postgres_gives(
    connection: psycopg.Connection[Any], texts: list[str], given_rows: Rows
) -> None:
    wire, answers = ask(connection, texts, given_rows)
    for text, theirs in zip(texts, answers, strict=True):
        for row, mine, expected in zip(wire, ours(text, wire), theirs, strict=True):
            assert agree(mine, expected), f"{text}\n  row {row}\n  hub {mine}\n  PostgreSQL {expected}"


OWN = "The hub's own"
DIFFERENT = frozenset({"left(sha256('a'), 16)"})


def test_the_documented_examples_give_what_postgres_gives(connection: psycopg.Connection[Any]) -> None:
    """Every example of the reference page, save those of functions that PostgreSQL does not have."""
    connection.execute("truncate rows")
    connection.execute("insert into rows (id) values (0)")
    asked = 0
    for entry in ENTRIES:
        for expression, result in {} if entry.note.startswith(OWN) else entry.examples.items():
            if expression in DIFFERENT:
                continue
            (answer,) = connection.execute("select evaluate(%s, 0)", (expression,)).fetchone() or (None,)
            assert answer is not None
            expected = f"error {answer[1]}" if answer[0] == "error" else answer[1]
            assert result == expected, expression
            asked += 1
    assert asked > 100
