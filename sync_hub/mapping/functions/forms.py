"""What the reference says of operators and of the forms that the compiler builds itself."""

from __future__ import annotations

from sync_hub.mapping.functions.registry import describe, form

describe(
    "Operators",
    "+ - * / %",
    ["number + number", "number - number", "number * number", "number / number", "number % number", "- number"],
    "Arithmetic: integers stay integers (and overflow is an error), decimals are exact, floats are floats.",
    {
        "7 / 2": "3",
        "-7 / 2": "-3",
        "7 / 2.0": "3.5000000000000000",
        "1.10 + 2": "3.10",
        "0.1 * 3": "0.3",
        "1 / 0": "error 22012",
        "2147483647 + 1": "error 22003",
    },
)
describe(
    "Operators",
    "^",
    ["number ^ number"],
    "Power, as `power`.",
    {"2 ^ 3": "8"},
)
describe(
    "Operators",
    "||",
    ["text || text"],
    "Texts joined; NULL when one of them is NULL (`concat` leaves NULL out).",
    {"'a' || 'b' || 1": "ab1", "'a' || null": None},
)
describe(
    "Operators",
    "= <> < <= > >=",
    ["value = value"],
    "Comparison; NULL when one side is NULL. NaN equals NaN and is greater than every number.",
    {"1 = 1.0": "true", "'a' < 'b'": "true", "1 <> null": None},
    "Text compares by code points (collation C).",
)
describe(
    "Operators",
    "dates and intervals",
    ["timestamp + interval", "timestamp - timestamp", "date + integer", "date - date", "interval * number"],
    "Arithmetic with dates, times and intervals.",
    {
        "date '2024-01-31' + 1": "2024-02-01",
        "date '2024-03-01' - date '2024-02-01'": "29",
        "timestamp '2024-01-31 10:00' + interval '1 month'": "2024-02-29 10:00:00",
        "timestamp '2024-01-02 00:00' - timestamp '2024-01-01 12:00'": "12:00:00",
        "interval '1 day 02:30' * 2": "2 days 05:00:00",
    },
)
describe(
    "Operators",
    "::",
    ["value::type", "cast(value as type)"],
    "Cast; texts are read as PostgreSQL reads them (dates in ISO form only).",
    {"'12.345'::numeric(6,2)": "12.35", "cast(2.5 as integer)": "3", "'yes'::boolean": "true", "1::text": "1"},
    "Dates and timestamps are read in ISO form only. `timestamptz` to text, date or timestamp is by UTC.",
)
describe(
    "JSON",
    "-> ->> #> #>>",
    ["json -> text", "json -> integer", "json ->> text", "json #> '{path}'", "json #>> '{path}'"],
    "A member or an element, as JSON or (`->>`, `#>>`) as text; NULL when there is none.",
    {
        """'{"a": {"b": "x"}}'::jsonb -> 'a'""": '{"b": "x"}',
        """'{"a": {"b": "x"}}'::jsonb -> 'a' ->> 'b'""": "x",
        """'[10, 20]'::jsonb -> -1""": "20",
        """'{"a": [1, null]}'::jsonb #>> '{a,1}'""": None,
    },
)
describe(
    "Conditions",
    "and or not",
    ["boolean and boolean", "boolean or boolean", "not boolean"],
    "Three-valued logic: NULL means unknown.",
    {"true and null": None, "false and null": "false", "true or null": "true", "not null": None},
)
describe(
    "Conditions",
    "is null",
    ["value is [not] null", "boolean is [not] true", "value is [not] distinct from value"],
    "Tests that are never NULL.",
    {"null is null": "true", "null is not true": "true", "null is distinct from 1": "true"},
)
describe(
    "Conditions",
    "between",
    ["value [not] between low and high"],
    "Whether a value lies between two others, both included.",
    {"5 between 1 and 5": "true", "null between 1 and 5": None},
)
describe(
    "Conditions",
    "in",
    ["value [not] in (value, …)", "value = any(array)"],
    "Whether a value is among others; with NULL among them and no match, NULL.",
    {"2 in (1, 2)": "true", "3 in (1, null)": None, "'b' = any('{a,b}'::text[])": "true"},
)
describe(
    "Conditions",
    "like",
    ["text [not] like pattern [escape 'c']", "text [not] ilike pattern"],
    "Whether a text has a form: `%` is any text, `_` any character; `ilike` ignores case.",
    {"'Lovelace' like 'Love%'": "true", "'50%' like '50!%' escape '!'": "true", "'ADA' ilike '_da'": "true"},
)
describe(
    "Conditions",
    "case",
    ["case when boolean then value … [else value] end", "case value when value then value … [else value] end"],
    "The value of the first condition that is true.",
    {"case when 1 > 2 then 'a' else 'b' end": "b", "case 2 when 1 then 'one' when 2 then 'two' end": "two"},
)
form(
    "Conditions",
    "coalesce(value, …)",
    "The first value that is not NULL.",
    {"coalesce(null, 'x', 'y')": "x"},
)
form("Conditions", "nullif(value, value)", "NULL when both are equal, else the first.", {"nullif('', '')": None})
form(
    "Conditions",
    "greatest(value, …)",
    "The greatest value; NULLs do not count.",
    {"greatest(1, 3, null, 2)": "3"},
)
form("Conditions", "least(value, …)", "The least value; NULLs do not count.", {"least('b', 'a')": "a"})
form(
    "Conditions",
    "try(value)",
    "The value, or NULL where computing it would be rejected.",
    {"try(1 / 0)": None, "try(2 + 2)": "4"},
    "The hub's own function.",
)
describe(
    "Types",
    "try_cast",
    ["try_cast(value as type)"],
    "A cast that gives NULL where the value cannot be cast.",
    {"try_cast('abc' as integer)": None, "try_cast('42' as integer)": "42"},
    "The hub's own form, as in other databases.",
)
form(
    "Text",
    "concat(value, …)",
    "All values as text, one after the other; NULLs are left out.",
    {"concat('a', null, 1)": "a1"},
)
form(
    "Text",
    "concat_ws(text, value, …)",
    "All values as text with a separator between them; NULLs are left out.",
    {"concat_ws(' ', 'Ada', null, 'Lovelace')": "Ada Lovelace"},
)
form(
    "Text",
    "array_to_string(array, text [, text])",
    "The elements with a separator between them; NULLs are left out, or shown as the third argument.",
    {"array_to_string('{a,NULL,b}'::text[], ', ')": "a, b"},
)
form(
    "Types",
    "cardinality(array)",
    "How many elements an array has; `array[1]` is its first.",
    {"cardinality('{a,b}'::text[])": "2", "('{a,b}'::text[])[1]": "a"},
)
form(
    "Text",
    "lookup(text, value [, text])",
    "The value of a key in `lookups/NAME.csv` beside the mapping: of the second column, or of a named one; NULL when "
    "the key is not there.",
    {"lookup('countries', 'NZ')": "New Zealand", "lookup('countries', 'XX')": None},
    "The hub's own function. The table's name and column are literals.",
)
form(
    "Hashes and masking",
    "secret(text)",
    "A secret from the environment, as the key of `hmac_sha256`; anywhere else it is refused.",
    {"length(hmac_sha256('+64 21', secret('PHONE_KEY')))": "64"},
    "The hub's own function. A secret that is not set is an error; a changed one is a changed mapping.",
)
describe(
    "Dates and times",
    "extract",
    ["extract(field from value)"],
    "A field of a date, a time, a timestamp (by UTC) or an interval, exactly.",
    {
        "extract(year from date '2026-11-23')": "2026",
        "extract(epoch from interval '1 day')": "86400.000000",
        "extract(isodow from date '2026-11-23')": "1",
    },
)
