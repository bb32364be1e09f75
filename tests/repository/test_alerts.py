"""Every alert of deploy/prometheus is explained in docs/serving.md, and its metrics are ours."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ois_client.contract import errors
from ois_runtime.serving.metrics import COUNTERS, DECODES, GAUGES, HISTOGRAMS, REQUESTS
from support.documents import ROOT

GROUPS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_page_explains_every_alert_and_no_other() -> None:
    rows = re.findall(r"^\| `(Ois\w+)` \| (\w+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert {name: kind for name, kind, _, _ in rows} == {
        rule["alert"]: rule["labels"]["severity"] for rule in RULES
    }
    assert len(rows) == len(RULES)


def test_the_metrics_and_outcomes_are_ours() -> None:
    text = " ".join(rule["expr"] for rule in RULES)
    parts = {f"{name}{end}" for name in HISTOGRAMS for end in ("_bucket", "_sum", "_count")}
    ours = {*COUNTERS, *GAUGES, *parts, DECODES[0], REQUESTS[0]}
    models = {"ois_encoder", "ois_decoder"}
    assert set(re.findall(r"\bois_\w+", text)) - models <= ours
    codes = {kind.code for kind in vars(errors).values() if hasattr(kind, "code")}
    outcomes = re.findall(r'outcome=~?"([A-Z_|]+)"', text)
    assert outcomes
    assert {one for group in outcomes for one in group.split("|")} <= codes


def test_the_page_s_codes_are_those_of_errors() -> None:
    section = PAGE.split("## On call\n", 1)[1].split("### Stopping\n", 1)[0]
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", section))
    codes = {kind.code for kind in vars(errors).values() if hasattr(kind, "code")}
    assert named <= codes
    assert len(named) > 8
