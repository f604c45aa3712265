"""A device that fails under load: rows go on with the tokens that they would have had."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from budmlx.core.batch.group import Group
from budmlx.engine.hosts.process import ProcessHost
from budmlx.engine.hosts.thread import ThreadHost
from tests.engine.hosts.core_process import FAILING_DEVICE, Rows, core_settings, row, undisturbed

REQUESTS = [row(n, length=60) for n in range(1, 7)]


# LIMITS 100
def test_a_process_ends_and_the_next_one_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDMLX_TEST_FAILED", str(tmp_path / "failed"))
    rows = Rows()
    host = ProcessHost(core_settings(), rows, command=FAILING_DEVICE)
    try:
        for request in REQUESTS:
            host.submit(request)
        rows.wait_for(*(request.id for request in REQUESTS))
        assert host.status().restarts == 1
    finally:
        host.close()
    assert rows.texts == undisturbed(REQUESTS) and not rows.errors


def test_a_thread_computes_its_rows_again(monkeypatch: pytest.MonkeyPatch) -> None:  # LIMITS 99
    inner, steps = Group.dispatch, count(1)

    def dispatch(group: Group, *arguments: Any) -> Mapping[Any, Any]:
        if next(steps) == 20:
            raise RuntimeError("cudaGraphLaunch(graph_exec, stream_) failed: unknown error")
        return inner(group, *arguments)

    monkeypatch.setattr(Group, "dispatch", dispatch)
    rows = Rows()
    host = ThreadHost(core_settings(), rows)
    try:
        for request in REQUESTS:
            host.submit(request)
        rows.wait_for(*(request.id for request in REQUESTS))
        assert next(steps) > 20 and host.status().ready
    finally:
        host.close()
    assert rows.texts == undisturbed(REQUESTS) and not rows.errors
