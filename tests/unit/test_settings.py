"""The configuration: what is wrong is said in one line, with its place and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from sync_hub import registry
from sync_hub.errors import ConfigError
from sync_hub.settings import Limits, Settings, config_file, duration_seconds, load, size_bytes

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"ERP_DSN": "postgresql://erp", "CRM_DSN": "postgresql://crm"}
GOOD = """\
hub: {name: acme}
broker: {type: embedded}
sources:
  erp: {type: postgres, dsn: "${ERP_DSN}", tables: [public.customers]}
targets:
  crm: {type: postgres, dsn: "${CRM_DSN}"}
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config" / "hub.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def problem(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text), ENVIRONMENT if environment is None else environment)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_small_configuration_has_sensible_defaults(tmp_path: Path) -> None:
    settings = load(written(tmp_path, GOOD), ENVIRONMENT)
    assert settings.hub.state == f"sqlite:///{tmp_path}/.sync-hub/state.db"
    assert settings.mappings == (tmp_path / "mappings",)
    assert (settings.http.host, settings.http.port, settings.http.token) == ("127.0.0.1", 8080, "")
    assert settings.limits == Limits()
    assert (settings.limits.lag.warn, settings.limits.lag.fail) == (30, 300)
    assert settings.topics.keep == 7 * 86400
    assert settings.targets["crm"].workers == 1


BAD = [
    ("hubb: {}\n", "unknown_key", ":1:1", "hubb", "did you mean hub?"),
    ("http: {prot: 1}\n", "unknown_key", ":1:8", "prot", "did you mean port?"),
    ("limits: {lag: {wran: 3s}}\n", "unknown_key", ":1:16", "wran", "did you mean warn?"),
    ("limits: {lag: {warn: soon}}\n", "bad_value", ":1:22", "'soon' is no duration", "hub.reference.yaml"),
    ("limits: {retained_log: {warn: 5 apples}}\n", "bad_value", ":1:31", "no size", "hub.reference.yaml"),
    ("limits: {parked: {warn: 500, stop: 5}}\n", "bad_value", ":1:18", "`warn` is above `stop`", "hub.reference.yaml"),
    ("limits: {lag: {warn: 5m, fail: 30s}}\n", "bad_value", ":1:15", "`warn` is above `fail`", "hub.reference.yaml"),
    ("limits: {lag: {warn: -5}}\n", "bad_value", ":1:22", "greater than 0", "hub.reference.yaml"),
    ("retry: {first: 20m}\n", "bad_value", ":1:8", "longer than `max`, which is 600 s", "hub.reference.yaml"),
    ("http: {port: 99999}\n", "bad_value", ":1:14", "65535", "hub.reference.yaml"),
    ("http: {host: 0.0.0.0}\n", "token_required", ":1:7", "0.0.0.0", "http.token"),
    ("alerts: {to: [nowhere]}\n", "bad_value", ":1:14", "mailto://…", "hub.reference.yaml"),
    ("alerts: {heartbeat: {every: 10ms}}\n", "bad_value", ":1:29", "1", "hub.reference.yaml"),
    ("alerts: {heartbeat: {url: 'ftp://h/'}}\n", "bad_value", ":1:27", "https://…", "hub.reference.yaml"),
    ("alerts: {heartbeat: {url: 'https://u:p@h/'}}\n", "bad_value", ":1:27", "without user", "hub.reference.yaml"),
    ("topics: {keep: forever}\n", "bad_value", ":1:16", "forever", "hub.reference.yaml"),
    ("hub: 1\n", "yaml_duplicate_key", ":2:1", "already in line 1", ""),
    ("x: [1\n", "yaml_syntax", ":2:4", "", ""),
    ("x: ${NOT_SET}\n", "unset_variable", ":1:4", "NOT_SET", "export NOT_SET"),
]


@pytest.mark.parametrize(("line", "code", "place", "message", "hint"), BAD, ids=[case[0].strip() for case in BAD])
def test_what_is_wrong_is_one_line_with_place_and_suggestion(
    tmp_path: Path, line: str, code: str, place: str, message: str, hint: str
) -> None:
    error = problem(tmp_path, line + GOOD)
    assert error.code == code
    assert error.where.endswith(place), error.where
    assert message in error.message
    assert hint in error.hint
    assert error.exit_code == 2


REPLACED = [
    ("name: acme", "name: Acme!", "bad_value", "hub.name"),
    ("{name: acme}", "{}", "missing_key", "hub.name"),
    ("{name: acme}", '{name: acme, state: "nonsense"}', "bad_state_url", ""),
    ("type: embedded", "type: kafak", "unknown_connector", "broker"),
    ("type: embedded", "type: embedded, partitons: 4", "unknown_key", "broker.partitons"),
    ("type: embedded", "type: embedded, partitions: 0", "bad_value", "broker.partitions"),
    ("{type: embedded}", "{}", "config_invalid", ""),
    ("{type: embedded}", "embedded", "config_invalid", ""),
    ("type: embedded", "partitions: 4", "config_invalid", "broker"),
    ("erp: {", "ERP: {", "bad_name", ""),
    ("tables: [public.customers]", "table: [public.customers]", "unknown_key", "sources.erp.table"),
    (", tables: [public.customers]", "", "missing_key", "sources.erp.tables"),
    ('dsn: "${CRM_DSN}"', 'dsn: "${CRM_DSN}", workers: 0', "bad_value", ""),
]


@pytest.mark.parametrize(("old", "new", "code", "field"), REPLACED, ids=[case[1] for case in REPLACED])
def test_each_part_is_checked_where_it_stands(tmp_path: Path, old: str, new: str, code: str, field: str) -> None:
    assert old in GOOD
    if code == "bad_state_url":
        from sync_hub.state import State

        with pytest.raises(ConfigError, match=code):
            State(load(written(tmp_path, GOOD.replace(old, new)), ENVIRONMENT).hub.state)
        return
    error = problem(tmp_path, GOOD.replace(old, new))
    assert error.code == code
    assert error.field == field or not field
    assert "hub.yaml" in error.message


def test_the_suggestion_for_a_connector_and_its_options(tmp_path: Path) -> None:
    assert problem(tmp_path, GOOD.replace("embedded", "embeded")).hint == "did you mean embedded?"
    error = problem(tmp_path, GOOD.replace("type: embedded", "type: embedded, partitons: 4"))
    assert error.hint == "did you mean partitions?"


@pytest.mark.parametrize(("section", "typed"), [("broker", "brokr"), ("sources", "sorces"), ("targets", "target")])
def test_a_section_under_another_name_is_told_by_that_name(tmp_path: Path, section: str, typed: str) -> None:
    error = problem(tmp_path, GOOD.replace(f"{section}:", f"{typed}:"))
    assert (error.code, error.field, error.hint) == ("unknown_key", typed, f"did you mean {section}?")
    error = problem(tmp_path, GOOD.replace(f"{section}:", "elsewhere:"))
    assert f"`{section}` is missing or empty" in error.message


def test_a_variable_has_a_default_and_its_value_never_changes_the_structure(tmp_path: Path) -> None:
    text = GOOD + 'http: {token: "${TOKEN:-}"}\nmappings: ["${HERE:-mappings}"]\n'
    settings = load(written(tmp_path, text), ENVIRONMENT | {"TOKEN": "a: {b}\n# c", "HERE": ""})
    assert settings.http.token == "a: {b}\n# c"
    assert settings.mappings == (tmp_path / "mappings",)


def test_secrets_are_in_no_error_and_no_representation(tmp_path: Path) -> None:
    secret = "postgresql://u:canary@h/d"
    settings = load(written(tmp_path, GOOD), {"ERP_DSN": secret, "CRM_DSN": secret})
    assert "canary" not in repr(settings)
    text = GOOD.replace("tables: [public.customers]", "tables: 5")
    assert "canary" not in str(problem(tmp_path, text, {"ERP_DSN": secret, "CRM_DSN": secret}))
    assert "canary" not in str(problem(tmp_path, GOOD + "http: {token: canary, port: x}\n"))


def test_receivers_that_are_empty_or_there_twice_are_left_out(tmp_path: Path) -> None:
    text = GOOD + 'alerts: {to: ["${A:-}", "${B:-}", "${B:-}", " "], heartbeat: {url: "${D:-}", every: 5m}}\n'
    alerts = load(written(tmp_path, text), ENVIRONMENT | {"B": " json://h/canary "}).alerts
    assert alerts.to == ("json://h/canary",)
    assert (alerts.heartbeat.url, alerts.heartbeat.every) == ("", 300)
    assert "canary" not in repr(alerts)
    for secret in ('to: ["canary"]', "heartbeat: {url: 'https://canary:canary@h:canary/canary'}"):
        assert "canary" not in str(problem(tmp_path, GOOD + f"alerts: {{{secret}}}\n"))


def test_the_configuration_is_named_by_option_then_environment() -> None:
    assert config_file(Path("a.yaml"), {"SYNC_HUB_CONFIG": "b.yaml"}) == Path("a.yaml")
    assert config_file(None, {"SYNC_HUB_CONFIG": "b.yaml"}) == Path("b.yaml")
    assert config_file(None, {}) == Path("config/hub.yaml")


def test_a_missing_configuration_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config_missing.*sync-hub init"):
        load(tmp_path / "none.yaml", {})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("2h", 7200), ("7d", 604800), (5, 5), ("1.5h", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("512MB", 512 << 20), ("5GB", 5 << 30), ("1.5kb", 1536), (7, 7), ("9B", 9)])
def test_sizes(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "5", "-5s", "5 s x", "h", "1e3s"])
def test_what_is_no_duration_and_no_size(text: str) -> None:
    for read in (duration_seconds, size_bytes):
        with pytest.raises(ValueError, match="is no"):
            read(text)


# The files in config/

EXAMPLES = sorted((ROOT / "config").glob("hub*.yaml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=[file.name for file in EXAMPLES])
def test_the_shipped_configurations_load(file: Path) -> None:
    settings = load(file, ENVIRONMENT)
    assert settings.root == ROOT
    assert set(settings.sources) == {"erp"}
    assert set(settings.targets) == {"crm", "warehouse"}


def reference() -> str:
    return (ROOT / "config" / "hub.reference.yaml").read_text()


def alternative(text: str) -> str:
    """The reference with its commented broker instead of the one it has."""
    head, _, rest = text.partition("\nbroker:\n")
    _, _, rest = rest.partition("# Apache Kafka instead:\n")
    block, _, tail = rest.partition("\n\n")
    return "\n".join([head, *(line.removeprefix("# ") for line in block.splitlines()), tail])


def test_the_commented_broker_of_the_reference_loads_too(tmp_path: Path) -> None:
    settings = load(written(tmp_path, alternative(reference())), ENVIRONMENT | {"KAFKA_PASSWORD": "x"})
    assert settings.broker.type == "kafka"


def keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name in ("file", "root"):
            continue
        yield field.alias or name
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel) and "Connector" not in part.__name__:
                yield from keys(part)


def test_the_reference_names_every_key() -> None:
    text = reference()
    wanted = set(keys(Settings))
    for kind in ("sources", "brokers", "sinks"):
        for name in registry.names(kind):
            wanted |= set(keys(registry.load(kind, name).Options))
            assert f"type: {name}" in text
    assert {"type", "workers", "dsn", "bootstrap_servers", "warn"} <= wanted | {"type", "workers"}
    missing = {key for key in wanted if not re.search(rf"(^|[\s#{{,]){re.escape(key)}:", text)}
    assert missing == set()


def test_the_reference_shows_the_defaults(tmp_path: Path) -> None:
    full, small = load(ROOT / "config" / "hub.reference.yaml", ENVIRONMENT), load(written(tmp_path, GOOD), ENVIRONMENT)
    assert (full.http, full.topics, full.limits) == (small.http, small.topics, small.limits)
    for name, value in small.targets["crm"].options:
        assert getattr(full.targets["crm"].options, name) == value, name
    for name, value in small.sources["erp"].options:
        assert name == "tables" or getattr(full.sources["erp"].options, name) == value, name
    assert full.broker.options.partitions == small.broker.options.partitions
    assert full.broker.options.max_record_bytes == small.broker.options.max_record_bytes


def test_every_key_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    wanted = set(keys(Settings)) | {"type", "workers"}
    for kind in ("sources", "brokers", "sinks"):
        for name in registry.names(kind):
            wanted |= set(keys(registry.load(kind, name).Options))
    assert {key for key in wanted if f"`{key}`" not in text} == set()


@pytest.mark.parametrize(
    "address",
    ["postgresql://u:qqq@zzz@host/db", "postgresql://u:qqq/zzz@host/db", "postgresql://u:p@host:qqq/db"],
)
def test_a_wrong_address_of_the_state_is_refused_without_repeating_it(tmp_path: Path, address: str) -> None:
    error = problem(tmp_path, GOOD.replace("name: acme", f'name: acme, state: "{address}"'))
    assert (error.code, error.field) == ("bad_value", "hub.state")
    assert "%40" in str(error)
    assert not any(part in str(error) for part in ("qqq", "zzz"))


def test_no_secret_is_printed_with_the_settings(tmp_path: Path) -> None:
    text = (
        GOOD.replace("name: acme", 'name: acme, state: "postgresql://u:state-canary@h/d"') + "http: {token: canary-t}\n"
    )
    settings = load(written(tmp_path, text), dict.fromkeys(ENVIRONMENT, "postgresql://u:canary@h/d"))
    assert "canary" not in repr(settings) + str(settings) + repr(settings.sources["erp"].options)
    assert settings.targets["crm"].options.dsn.get_secret_value() == "postgresql://u:canary@h/d"
