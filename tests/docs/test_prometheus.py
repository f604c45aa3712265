"""The dashboard and the job for vLLM's names hold what there is."""

from __future__ import annotations

import json
import re

from budmlx.server.telemetry.declarations import METRICS
from tests.docs.pages import DOCS

NAMES = {
    f"{each.name}{suffix}"
    for each in METRICS
    for suffix in {"counter": ["_total"], "gauge": [""]}.get(each.kind, ["_bucket", "_sum"])
}


def test_the_dashboard_shows_metrics_that_exist() -> None:
    panels = json.loads((DOCS / "prometheus" / "dashboard.json").read_text("utf-8"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    used = {name for query in queries for name in re.findall(r"budmlx_\w+", query)}
    assert len(panels) > 12 and used <= NAMES
    assert all(query.count("(") == query.count(")") for query in queries)


def test_names_are_those_of_prometheus() -> None:
    for each in METRICS:
        assert re.fullmatch(r"budmlx_[a-z_]+", each.name) and not each.name.endswith("_total")
        assert each.text.endswith(".") and len(set(each.labels)) == len(each.labels)
    assert len({each.name for each in METRICS}) == len(METRICS) > 40
