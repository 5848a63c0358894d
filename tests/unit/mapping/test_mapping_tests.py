"""The tests inside mapping files, the shipped examples, and saved catalogs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sync_hub.errors import ConfigError
from sync_hub.mapping.apply import compile_mapping
from sync_hub.mapping.catalog import load_catalog, save_catalog
from sync_hub.mapping.check import check_mapping
from sync_hub.mapping.loader import load_bundles
from sync_hub.mapping.spec import parse_spec
from sync_hub.mapping.testing import TestResult, run_tests
from sync_hub.model import Column, Table
from tests.unit.mapping.conftest import ITEMS, bundle

ROOT = Path(__file__).parents[3]
BASE = "key: [id]\nfields:\n  id: id\n  label: upper(name)\n  total: price * stock\n  day: made_on\n  data: data\n"


def result(test: str, body: str = BASE, table: Table | None = ITEMS) -> TestResult:
    (found,) = run_tests(bundle(f"{body}tests:\n  - {test}\n"), table, {})
    return found


@pytest.mark.parametrize(
    ("test", "differences"),
    [
        ("{given: {id: 1, name: ada}, expect: {label: ADA}}", ()),
        ("{given: {id: 1, name: ada}, expect: {label: Ada}}", ("label: expected Ada, got ADA",)),
        ("{given: {id: 1, name: null}, expect: {label: null}}", ()),
        ("{given: {id: 1, name: ''}, expect: {label: null}}", ('label: expected null, got ""',)),
        ("{given: {id: 1, price: 1.10, stock: 2}, expect: {total: 2.2}}", ()),
        ("{given: {id: 1, price: 1.10, stock: 2}, expect: {total: 2.3}}", ("total: expected 2.3, got 2.20",)),
        ("{given: {id: 1, made_on: 2024-02-29}, expect: {day: 2024-02-29}}", ()),
        ('{given: {id: 1, data: {b: [1, 2], a: null}}, expect: {data: \'{"a":null,"b":[1,2.0]}\'}}', ()),
        ("{given: {id: 1}, expect: {label: X}}", ("label: reads name, which is not given",)),
        ("{given: {id: 1}, expect: {lable: X}}", ("lable: the mapping writes no such column",)),
        ("{given: {id: 1}, expect: null}", ("no row was expected, got a row to write",)),
        ("{given: {id: 1, price: 9999999999.99, stock: 2}, error: '22003'}", ("expected error 22003, got upsert",)),
        ("{op: delete, given: {id: 1}, expect: null}", ()),
        ("{op: delete, given: {id: 1}, expect: {id: 1}}", ("no row, but one was expected",)),
    ],
)
def test_only_what_differs_is_shown(test: str, differences: tuple[str, ...]) -> None:
    found = result(test)
    if "expected error" in str(differences):
        assert found.differences[0].startswith("expected error 22003, got up")
    else:
        assert found.differences == differences
    assert found.ok is not bool(differences)
    assert found.where == "mappings/m.yaml:12:5"


def test_rejections_are_expected_by_code_or_sqlstate() -> None:
    body = "key: [id]\nfields: {id: id, x: 10 / stock}\n"
    assert result("{given: {id: 1, stock: 0}, error: '22012'}", body).ok
    assert result("{given: {id: 1, stock: 0}, error: division_by_zero}", body).ok
    assert result("{given: {id: 1, stock: 0}, error: 22012}", body).ok
    (line,) = result("{given: {id: 1, stock: 0}, error: '22003'}", body).differences
    assert line == "expected error 22003, got division_by_zero (22012): mapping m, x: division by zero"
    (line,) = result("{given: {id: 1, stock: 0}, expect: {x: 1}}", body).differences
    assert line == "rejected: division_by_zero (22012): mapping m, x: division by zero"


def test_filters_and_marks() -> None:
    body = (
        "key: [id]\nfields: {id: id}\nwhere: active\non_delete: {set: {gone_at: _committed_at, why: {value: gone}}}\n"
    )
    assert result("{given: {id: 1, active: true}, expect: {id: 1}}", body).ok
    marked = "expect: {id: 1, why: gone, gone_at: 2024-01-01T00:00:00Z}"
    event = "event: {_committed_at: 2024-01-01 01:00:00+01}"
    assert result(f"{{given: {{id: 1, active: false}}, {event}, {marked}}}", body).differences == ()
    assert result(f"{{op: delete, given: {{id: 1}}, {event}, {marked}}}", body).differences == ()
    assert result("{given: {id: 1}, expect: null}", body).differences == ("where reads active, which is not given",)


def test_facts_of_the_event_can_be_given() -> None:
    body = "key: [id]\nfields: {id: id, who: _actor, op: _operation}\n"
    assert result("{given: {id: 1}, event: {_actor: ada, _operation: update}, expect: {who: ada, op: update}}", body).ok


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("{given: {nope: 1}, expect: null}", "has no column nope"),
        ("{given: {id: 1, made_on: soon}, expect: null}", "'soon' is not a valid date"),
        ("{given: {id: 1, stock: [1]}, expect: null}", "a single value is expected for integer"),
        ("{given: {id: 1, price: 1.5, stock: 1}, expect: {total: many}}", "'many' is not a valid numeric"),
        ("{given: {id: 1}, event: {_who: x}, expect: null}", "'_who' is no fact of an event"),
    ],
)
def test_tests_that_cannot_be_run_say_where(test: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        result(test)
    assert caught.value.where.startswith("mappings/m.yaml:12:")


def test_without_a_catalog_values_have_the_types_they_look_like() -> None:
    body = "key: [id]\nfields:\n  id: id\n  next: day + 1\n  total: price * 2\n  x: doc ->> 'a'\n  t: tags[1]\n"
    found = result(
        "{given: {id: 1, day: 2024-02-28, price: 1.50, doc: {a: b}, tags: [q]},"
        " expect: {next: 2024-02-29, total: 3, x: b, t: q}}",
        body,
        None,
    )
    assert found.differences == ()


SHIPPED = load_bundles([Path("mappings")], ROOT)


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda item: item.name)
@pytest.mark.parametrize("with_catalog", [True, False])
def test_the_shipped_mappings_pass_their_own_tests(shipped: object, with_catalog: bool) -> None:
    tables = load_catalog(ROOT / "config" / "catalog" / "erp.yaml")
    spec = parse_spec(shipped)  # type: ignore[arg-type]
    results = run_tests(shipped, tables[spec.table] if with_catalog else None, {"PHONE_KEY": "x"})  # type: ignore[arg-type]
    assert len(results) >= 3
    assert [item for item in results if not item.ok] == []


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda item: item.name)
def test_the_shipped_mappings_fit_the_tables_they_create(shipped: object) -> None:
    tables = load_catalog(ROOT / "config" / "catalog" / "erp.yaml")
    source = tables[parse_spec(shipped).table]  # type: ignore[arg-type]
    mapping = compile_mapping(shipped, source, secrets={"PHONE_KEY": "x"})  # type: ignore[arg-type]
    target = Table("", mapping.spec.target_table, mapping.target_columns(), key=mapping.key, unique=(mapping.key,))
    assert check_mapping(mapping, source, target) == []
    assert check_mapping(mapping, source, None) == []


def test_a_saved_catalog_reads_back(tmp_path: Path) -> None:
    tables = [
        Table(
            "public",
            "odd table",
            (
                Column("id", "bigint", nullable=False, declared="bigint", default=True),
                Column("Größe, cm", "numeric(12,2)", declared="numeric(12,2)"),
                Column("mood", "enum", declared="public.mood"),
                Column("yes", "timestamp with time zone", declared="timestamp with time zone"),
                Column("doubled", "integer", declared="integer", generated=True, carried=False),
                Column("tags", "text[]", declared="text[]"),
            ),
            key=("id", "Größe, cm"),
            unique=(("id", "Größe, cm"), ("yes",)),
        ),
        Table("", "plain", (Column("id", "integer", declared="integer"),)),
    ]
    path = tmp_path / "catalog" / "erp.yaml"
    save_catalog(path, "erp", tables)
    assert load_catalog(path) == {table.full_name: table for table in tables}
    again = path.read_text()
    save_catalog(path, "erp", list(load_catalog(path).values()))
    assert path.read_text() == again


@pytest.mark.parametrize(
    "text", ["- a", "t: 5", "t: {columns: [a]}", "t: {columns: {a: 5}}", "t: {columns: {a: text; odd}}"]
)
def test_a_broken_catalog_is_a_config_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match="bad_catalog"):
        load_catalog(tmp_path / "c.yaml")
