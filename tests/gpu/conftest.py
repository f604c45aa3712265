"""Tests that mean something on a GPU; elsewhere they are skipped (`make test-gpu`).

BUDMLX_GPU_TESTS=cpu runs them on a CPU, smaller, which shows that they work.
They need pytest, numpy and what budmlx itself needs, and nothing of the other conftest.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.device import GPU, WANTED_ON_CPU


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if GPU or WANTED_ON_CPU:
        return
    skip = pytest.mark.skip(reason="MLX has no GPU here, or is told to run on the CPU")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(skip)
