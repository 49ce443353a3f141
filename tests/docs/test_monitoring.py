"""The board for Grafana and the alert rules name only what a node says; promtool reads them, where it is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from serving.admin.health.troubles import KINDS, Severity
from serving.admin.metric_catalogue import METRICS, PREFIX

MONITORING = Path(__file__).resolve().parents[2] / "docs" / "monitoring"
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
BOARD = json.loads((MONITORING / "grafana.json").read_text())
SERIES = re.compile(rf"\b{PREFIX}(\w+)(?:{{([^}}]*)}})?")
SUFFIXES = ("_bucket", "_sum", "_count")
SET_BY_SCRAPING = {"instance", "job"}


def find_expressions() -> Iterator[tuple[str, str]]:
    """Where an expression stands, and the expression."""
    yield from ((rule["alert"], rule["expr"]) for rule in RULES)
    for panel in BOARD["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))


def find_faults(expression: str) -> list[str]:
    """The series of an expression that no node has."""
    faults = []
    for name, selectors in SERIES.findall(expression):
        base = next((name.removesuffix(each) for each in SUFFIXES if name.endswith(each)), name)
        metric = METRICS.get(base if METRICS.get(base, METRICS["build_info"]).kind == "histogram" else name)
        if metric is None:
            faults.append(name)
            continue
        labels = {*re.findall(r"(\w+)\s*[=!]", selectors)} - SET_BY_SCRAPING
        faults += [f"{name}: {label}" for label in sorted(labels - {*metric.labels})]
    return faults


def test_every_expression_names_series_and_labels_that_there_are() -> None:
    expressions = list(find_expressions())
    assert len(expressions) > 35
    assert {place: faults for place, expression in expressions if (faults := find_faults(expression))} == {}
    named = {name for _, expression in expressions for name, _ in SERIES.findall(expression)}
    assert len(named) > 25


def test_the_search_finds_what_there_is_not() -> None:
    assert find_faults('rate(wwwserve_request_total[5m]) + wwwserve_trouble{reason="x"}') == [
        "request_total",
        "trouble: reason",
    ]
    assert find_faults("wwwserve_requests_total_bucket") == ["requests_total_bucket"]


def test_alerts_speak_of_troubles_that_there_are_and_say_what_mends_them() -> None:
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "mend"} and rule["labels"]["severity"], rule["alert"]
        for code in re.findall(r'code="(\w+)"', rule["expr"]):
            assert code in KINDS and KINDS[code].severity is not Severity.NOTE
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 10


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool (Debian: apt-get install promtool)")
def test_promtool_reads_configuration_and_rules_and_the_rules_pass_their_tests() -> None:
    for command in (
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ):
        outcome = subprocess.run(["promtool", *command], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
