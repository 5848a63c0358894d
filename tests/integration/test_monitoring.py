"""deploy/monitoring: every metric, label and state that rules and dashboard name is one that the hub exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.hub_state import HubState
from tests.web_server import served

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "prometheus-rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
BOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]

KNOWN_WORDS = {
    "max", "min", "sum", "count", "absent", "rate", "deriv", "predict_linear", "time", "vector",
    "by", "without", "on", "unless", "and", "or",
}  # fmt: skip
SCRAPED = {"job", "instance"}
"""Labels that Prometheus adds."""

Labels = dict[str, set[str]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Labels]]:
    """Metric → label → its values, of a hub that has something to say about everything."""
    hub = HubState(tmp_path_factory.mktemp("monitoring"))
    hub.pipeline()
    hub.well()
    hub.deliver(pipelines={"customer_to_crm": {"parked": 1, "parked_since": hub.now - 60}})
    hub.capture(status={"retained_log_bytes": 5, "retained_log_limit_bytes": 10, "slot_status": "reserved"})
    hub.snapshot("s1")
    hub.verification(report={"different": 2})
    found: dict[str, Labels] = {"up": {}}
    with served(hub) as address:
        for family in text_string_to_metric_families(httpx.get(f"{address}/metrics").text):
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for name, value in sample.labels.items():
                    labels.setdefault(name, set()).add(value)
    yield found
    hub.state.close()


def wrong(expression: str, exported: dict[str, Labels]) -> list[str]:
    """What an expression names that there is not."""
    found, rest = [], expression
    for match in re.finditer(r"(\w+)\{([^}]*)\}", expression):
        labels = exported.get(match[1], {})
        for name, quoted in re.findall(r'(\w+)\s*=~?\s*"([^"]*)"', match[2]):
            if name not in labels.keys() | SCRAPED:
                found.append(f"{match[1]} has no label {name}")
            elif name in labels and not quoted.startswith("$"):
                found += [f"{name} is never {one}" for one in quoted.split("|") if one not in labels[name]]
        rest = rest.replace(match[0], f"{match[1]} ")
    every_label = SCRAPED.union(*exported.values())
    for match in re.finditer(r"\b(?:by|without|on)\s*\(([^)]*)\)", rest):
        found += [f"there is no label {name}" for name in re.findall(r"\w+", match[1]) if name not in every_label]
        rest = rest.replace(match[0], " ")
    rest = re.sub(r"\[[^\]]*\]|\b\d[\w.]*", " ", rest)
    words = re.findall(r"\w+", rest)
    return found + [f"there is no {word}" for word in words if word not in exported.keys() | KNOWN_WORDS]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_names_what_is_exported_and_says_what_to_do(rule: dict[str, Any], exported: dict[str, Labels]) -> None:
    assert wrong(rule["expr"], exported) == []
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    named = {name for name in exported if re.search(rf"\b{name}\b", rule["expr"])}
    labels = SCRAPED.union(*(exported[name] for name in named))
    for text in (rule["annotations"]["summary"], rule["annotations"]["description"]):
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels
        assert text.count("{{") == text.count("}}")


def test_the_rules_cover_what_must_wake_somebody() -> None:
    expressions = " ".join(rule["expr"] for rule in RULES)
    pipelines = [f"sync_hub_pipeline_{name}" for name in ("lag_seconds", "lag_known", "parked")]
    others = ["up{", "absent(sync_hub_status)", "sync_hub_status", "sync_hub_source_retained_log_bytes"]
    for name in (*pipelines, *others, "sync_hub_worker_up"):
        assert name in expressions
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_shows_what_is_exported(panel: dict[str, Any], exported: dict[str, Labels]) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        expression = target["expr"].replace("$__rate_interval", "5m")
        assert wrong(expression, exported) == []
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= SCRAPED.union(*exported.values())
        assert target["datasource"]["uid"] == "${datasource}"


def test_the_dashboard_shows_every_metric_but_a_few_and_its_panels_do_not_overlap(exported: dict[str, Labels]) -> None:
    shown = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    unseen = {name for name in exported if not re.search(rf"\b{name}\b", shown)}
    assert unseen <= {
        "up", "sync_hub_build_info", "sync_hub_source_state", "sync_hub_source_lag_known",
        "sync_hub_source_last_event_timestamp_seconds", "sync_hub_pipeline_last_applied_timestamp_seconds",
    }  # fmt: skip
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in BOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_the_choices_of_the_dashboard_are_labels_that_there_are(exported: dict[str, Labels]) -> None:
    for one in BOARD["templating"]["list"]:
        if one["type"] == "query":
            query = re.fullmatch(r"label_values\((.+), (\w+)\)", one["definition"])
            assert query
            assert wrong(query[1], exported) == []
            metric = query[1].partition("{")[0]
            assert query[2] in exported[metric].keys() | SCRAPED


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("sync_hub_staus == 2", "there is no sync_hub_staus"),
        ('sync_hub_problems{severty="failing"}', "sync_hub_problems has no label severty"),
        ('sync_hub_problems{severity="failed"}', "severity is never failed"),
        ("max by (pipline) (sync_hub_pipeline_parked) > 0", "there is no label pipline"),
        ("maxx(sync_hub_status)", "there is no maxx"),
    ],
)
def test_a_slip_is_found(expression: str, fault: str, exported: dict[str, Labels]) -> None:
    assert wrong(expression, exported) == [fault]
