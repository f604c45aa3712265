"""What Prometheus and Grafana are given: a dashboard, and vLLM's names for our metrics."""

from __future__ import annotations

import json
from typing import Any

from budmlx.server.telemetry.declarations import METRICS, Metric
from tests.docs.tables import table

SUFFIXES = {"counter": "(_total)", "gauge": "()", "histogram": "(_bucket|_sum|_count)"}


def metrics() -> str:
    """All metrics."""
    rows = [
        (f"`{full(each)}`", each.kind, ", ".join(f"`{name}`" for name in each.labels), each.text)
        for each in METRICS
    ]
    return table(("Metric", "Kind", "Labels", "What it is"), rows)


def full(metric: Metric) -> str:
    """The name of a metric in queries."""
    return metric.name + ("_total" if metric.kind == "counter" else "")


def of_vllm() -> str:
    """vLLM's names."""
    rows = [
        (f"`vllm:{each.vllm}{'_total' if each.kind == 'counter' else ''}`", f"`{full(each)}`")
        for each in METRICS
        if each.vllm
    ]
    return table(("vLLM", "budmlx"), sorted(rows))


def as_vllm() -> str:
    """A job of Prometheus that stores our metrics under vLLM's names."""
    lines = [
        "# Made by `make docs`: scrapes budmlx, and stores its metrics under vLLM's names.",
        "scrape_configs:",
        "  - job_name: budmlx-as-vllm",
        "    static_configs:",
        '      - targets: ["127.0.0.1:8080"]',
        "    # authorization: { credentials_file: /path/to/the/key }",
        "    metric_relabel_configs:",
    ]
    lines += [
        f"      - {{ source_labels: [__name__], regex: {each.name}{SUFFIXES[each.kind]}, "
        f'target_label: __name__, replacement: "vllm:{each.vllm}$1" }}'
        for each in METRICS
        if each.vllm
    ]
    lines += [
        '      - { source_labels: [__name__], regex: "vllm:.*", action: keep }',
        "      - { source_labels: [model], target_label: model_name }",
        "      - { source_labels: [reason], target_label: finished_reason }",
    ]
    return "\n".join(lines) + "\n"


MODEL = '{model=~"$model"}'
PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...] | str], ...] = (
    (
        "Requests by outcome",
        "reqps",
        (("sum by (outcome) (rate(budmlx_requests_total[$__rate_interval]))", "{{outcome}}"),),
    ),
    (
        "Errors by code",
        "reqps",
        (("sum by (error) (rate(budmlx_request_errors_total[$__rate_interval]))", "{{error}}"),),
    ),
    (
        "Rows",
        "short",
        (
            (f"budmlx_rows_running{MODEL}", "{{model}} running"),
            (f"budmlx_rows_waiting{MODEL}", "{{model}} waiting"),
        ),
    ),
    (
        "Tokens of replies",
        "tokens/s",
        (
            (
                f"sum by (model) (rate(budmlx_generation_tokens_total{MODEL}[$__rate_interval]))",
                "{{model}}",
            ),
        ),
    ),
    (
        "Tokens of prompts by source",
        "tokens/s",
        (
            (
                f"sum by (source) (rate(budmlx_prompt_tokens_total{MODEL}[$__rate_interval]))",
                "{{source}}",
            ),
        ),
    ),
    (
        "Why no more KV was reused",
        "reqps",
        (
            (
                "sum by (reason) "
                f"(rate(budmlx_prefix_cache_requests_total{MODEL}[$__rate_interval]))",
                "{{reason}}",
            ),
        ),
    ),
    ("Time to the first token", "s", "budmlx_time_to_first_token_seconds"),
    ("Between tokens", "s", "budmlx_inter_token_seconds"),
    ("In the queue", "s", "budmlx_request_queue_seconds"),
    ("Prefill", "s", "budmlx_request_prefill_seconds"),
    ("Whole requests", "s", "budmlx_request_seconds"),
    ("Rows of a step", "short", "budmlx_batch_rows"),
    (
        "Memory",
        "bytes",
        (
            (f"budmlx_memory_bytes{MODEL}", "{{model}} {{kind}}"),
            (f"budmlx_weights_bytes{MODEL}", "{{model}} weights"),
            (f"budmlx_prefix_cache_bytes{MODEL}", "{{model}} prefix cache"),
            (f"budmlx_memory_limit_bytes{MODEL}", "{{model}} limit"),
        ),
    ),
    (
        "Busy",
        "percentunit",
        ((f"rate(budmlx_engine_busy_seconds_total{MODEL}[$__rate_interval])", "{{model}}"),),
    ),
    (
        "Restarts and preemptions",
        "short",
        (
            (
                f"increase(budmlx_engine_restarts_total{MODEL}[$__rate_interval])",
                "{{model}} {{reason}}",
            ),
            (
                f"increase(budmlx_preemptions_total{MODEL}[$__rate_interval])",
                "{{model}} preemptions",
            ),
        ),
    ),
    (
        "Faults of plugins",
        "short",
        (
            ("increase(budmlx_plugin_faults_total[$__rate_interval])", "{{plugin}} {{kind}}"),
            ("budmlx_plugin_calls_hanging", "{{plugin}} hanging"),
        ),
    ),
)
"""Title, unit, and queries with their legends, or a histogram of which quantiles are shown."""


def dashboard() -> str:
    """Grafana's dashboard, as JSON."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    panels = [
        _panel(number, title, unit, shown, source)
        for number, (title, unit, shown) in enumerate(PANELS)
    ]
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        {
            "name": "model",
            "type": "query",
            "datasource": source,
            "query": "label_values(budmlx_model_loaded, model)",
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
        },
    ]
    whole = {
        "title": "budmlx",
        "uid": "budmlx",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": panels,
    }
    return json.dumps(whole, indent=1) + "\n"


def _panel(number: int, title: str, unit: str, shown: Any, source: Any) -> dict[str, Any]:
    if isinstance(shown, str):
        rate = f"sum by (le) (rate({shown}_bucket{MODEL}[$__rate_interval]))"
        shown = [(f"histogram_quantile({q}, {rate})", f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"x": 12 * (number % 2), "y": 8 * (number // 2), "w": 12, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": query, "legendFormat": legend}
            for at, (query, legend) in enumerate(shown)
        ],
    }
