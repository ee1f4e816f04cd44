"""The chart's alerts and dashboard: every metric has a panel, and every alert a section of the runbook."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from gateway.metrics import Metrics

ROOT = Path(__file__).parents[2]
FILES = ROOT / "charts" / "offload" / "files"
RULES = [rule for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
PANELS = json.loads((FILES / "dashboard.json").read_text())["panels"]
METRIC = re.compile(r"\boffload_[a-z_]+\b")


def metrics() -> set[str]:
    """Return the names of all of the gateway's metrics, as they are exported."""
    families = Metrics().registry.collect()
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in families}


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel.get("targets", [])]


def test_every_metric_has_a_panel_and_a_line_of_the_reference():
    shown = set(METRIC.findall("\n".join(expressions())))
    assert metrics() - shown == set()
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert {name for name in metrics() if f"`{name}" not in page} == set()


def test_panels_and_alerts_name_metrics_that_there_are():
    named = set(METRIC.findall("\n".join([*expressions(), *(rule["expr"] for rule in RULES)])))
    assert named - metrics() == set()


def test_every_alert_has_a_section_of_the_runbook_and_a_test():
    headings = re.findall(r"^## (.*)$", (ROOT / "docs" / "how-to" / "runbook.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert {rule["labels"]["runbook"] for rule in RULES} - anchors == set()
    tests = yaml.safe_load((ROOT / "tests" / "integration" / "alert_tests.yaml").read_text())["tests"]
    tried = [one for test in tests for one in test["alert_rule_test"]]
    for rule in RULES:
        of_it = [one for one in tried if one["alertname"] == rule["alert"]]
        assert any(one.get("exp_alerts") for one in of_it), f"nothing shows that {rule['alert']} fires"
        assert any(not one.get("exp_alerts") for one in of_it), f"nothing shows that {rule['alert']} ends"
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
