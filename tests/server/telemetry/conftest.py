"""Modules that need packages which an environment older than these dependencies lacks."""

from __future__ import annotations

from importlib.util import find_spec

NEED = {
    "test_metrics.py": "prometheus_client",
    "test_core_counts.py": "prometheus_client",
    "test_metrics_cost.py": "prometheus_client",
    "test_traces.py": "opentelemetry",
}

collect_ignore = [name for name, package in NEED.items() if find_spec(package) is None]
