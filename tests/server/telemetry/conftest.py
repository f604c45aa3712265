"""Modules that need prometheus-client, which an environment older than the dependency lacks."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = (
    [] if find_spec("prometheus_client") else ["test_metrics.py", "test_core_counts.py"]
)
