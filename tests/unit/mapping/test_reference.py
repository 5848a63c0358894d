"""The reference page, the functions and their examples are one thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from sync_hub.mapping.functions import ENTRIES, FORMS, OVERLOADS, THEMES
from sync_hub.mapping.reference import evaluate, render

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "functions.md"

EXPECTED = """lower upper trim ltrim rtrim length substring replace split_part left right lpad rpad concat concat_ws
initcap regexp_replace position reverse coalesce nullif greatest least case try_cast try round ceil floor abs mod power
sign date_trunc extract to_char to_date to_timestamp age json_extract in between like md5 sha256 hmac_sha256 mask lookup
secret uuid_v5"""


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "run: python -m sync_hub.mapping.reference docs/reference/functions.md"
    )


@pytest.mark.parametrize(
    ("expression", "result"),
    [(expression, result) for entry in ENTRIES for expression, result in entry.examples.items()],
)
def test_every_example_gives_the_documented_result(expression: str, result: str | None) -> None:
    assert evaluate(expression) == result


def test_every_function_has_an_entry_with_examples_and_every_entry_a_theme() -> None:
    signatures = {signature.partition("(")[0] for entry in ENTRIES for signature in entry.signatures}
    alone = {name for name in OVERLOADS if name not in signatures}
    assert alone == {"substr"}, "an alias without an entry: only substr, as in PostgreSQL"
    assert {entry.name for entry in ENTRIES} >= FORMS
    for entry in ENTRIES:
        assert entry.examples, entry.name
        assert entry.theme in THEMES, entry.name
        assert entry.sentence.endswith("."), entry.name


def test_what_was_promised_is_there() -> None:
    page = render()
    for name in EXPECTED.split():
        assert f"{name}(" in page or f"`{name}`" in page, name
    for sign in ("||", "->>", "#>>", "::", "at time zone", "ilike", "is [not] null", "interval"):
        assert sign in page.replace("\\|", "|"), sign
