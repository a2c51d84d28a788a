"""Rules and dashboard: valid, tried on series, and about metrics that the code has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.common.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dpst.json"
COMPOSE = ROOT / "deploy" / "docker" / "compose.yaml"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
EVERY = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in EVERY if "alert" in rule]
OUTCOMES = {"done", "refused", "cancelled", "failed"}


def promtool(*arguments: str, cwd: Path = ROOT) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("needs promtool, of Debian's prometheus")
    done = subprocess.run([tool, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def panels() -> list[tuple[str, str]]:
    """Title and expression of every query."""
    dashboard = json.loads(DASHBOARD.read_text())
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]


def expressions() -> list[str]:
    return [*(rule["expr"] for rule in EVERY), *(expression for _, expression in panels())]


def test_rules_are_valid_and_do_what_they_say() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(Path(__file__).with_name("rules_test.yaml")))


def test_every_alert_is_tried() -> None:
    tried: dict[str, list[Any]] = {}
    for test in yaml.safe_load(Path(__file__).with_name("rules_test.yaml").read_text())["tests"]:
        for each in test["alert_rule_test"]:
            tried.setdefault(each["alertname"], []).extend(each["exp_alerts"])
    fires = {name for name, alerts in tried.items() if alerts}
    # Of three windows on one ratio two are tried to fire.
    assert {rule["alert"] for rule in ALERTS} - fires == {"DpstErrorBudgetDrains"}


def test_dashboard_is_valid(tmp_path: Path) -> None:
    rules = [{"record": f"dpst:panel{number}", "expr": expression} for number, (_, expression) in enumerate(panels())]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "panels.yaml"))
    dashboard = json.loads(DASHBOARD.read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in dashboard["panels"]]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("expression", expressions())
def test_metrics_exist(expression: str) -> None:
    recorded = {rule["record"] for rule in EVERY if "record" in rule}
    samples: dict[str, set[str]] = {}
    for family in Metrics().registry.collect():
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        for end in ends:
            samples[family.name + end] = set()
    bare = re.sub(r'"[^"]*"', '""', expression)
    used = set(re.findall(r"\b(?:dpst|grpc)_\w+", re.sub(r"\{[^}]*\}|\bby \([^)]*\)", "", bare)))
    assert used <= samples.keys()
    assert set(re.findall(r"dpst:[\w:]+", bare)) <= recorded
    assert used or "dpst:" in bare
    stages = set(re.findall(r'stage!?="(\w+)"', expression))
    assert stages <= {"end_to_end"}
    for outcomes in re.findall(r'outcome=~?"([\w|]+)"', expression):
        assert set(outcomes.split("|")) <= OUTCOMES


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_its_page_of_the_runbook(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    assert f"\n## {name}\n" in (ROOT / "docs" / "runbook.md").read_text()
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    assert alert["annotations"]["summary"]
    assert alert["labels"]["severity"] in ("page", "ticket", "info")


def test_the_runbook_is_about_alerts_and_settings_that_exist() -> None:
    from services.common.config import unknown_settings

    text = (ROOT / "docs" / "runbook.md").read_text()
    assert set(re.findall(r"^## (\w+)$", text, re.MULTILINE)) == {rule["alert"] for rule in ALERTS}
    assert not unknown_settings(dict.fromkeys(re.findall(r"DPST_\w+", text), ""))
    for name in re.findall(r"\b(dpst_\w+|grpc_(?:server|client)_\w+)\b", re.sub(r"dpst:\S+", "", text)):
        assert f"`{name}`" in (ROOT / "docs" / "operations.md").read_text(), name


def test_the_operators_rules_are_the_same() -> None:
    made = yaml.safe_load((ROOT / "deploy/kubernetes/components/servicemonitor/prometheusrule.yaml").read_text())
    assert made["spec"]["groups"] == GROUPS, "changed? then `make rules`"


def test_compose_shows_them() -> None:
    compose = yaml.safe_load(COMPOSE.read_text())["services"]
    for service in ("prometheus", "grafana"):
        for volume in compose[service]["volumes"]:
            source = volume.split(":")[0]
            assert (COMPOSE.parent / source).resolve().exists(), source
    assert yaml.safe_load((COMPOSE.parent / "prometheus.yaml").read_text())["rule_files"] == ["rules.yaml"]
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
