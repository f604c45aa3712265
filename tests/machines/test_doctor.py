"""`budmlx doctor --machines` over a real sshd."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.cli.doctor.machines import PAYS
from tests.engine.test_ranks import directory

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]


@pytest.mark.usefixtures("over_ssh")
def test_links_are_measured_and_advice_is_given(hostfile: Callable[..., Path]) -> None:
    words = ["doctor", "--machines", str(hostfile()), "--model", directory("llama")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    link = r"Machine second: [\d,]+ µs there and back, [\d.]+ GB/s; .* GFLOP/s"
    assert re.search(link, done.output)
    assert "waits" in done.output and "ms for the link" in done.output
    for where in ("here", "on all"):
        assert re.search(rf"{where}: [\d.,]+ tokens/s with 1 at once, ", done.output)
    gains = re.search(r"Splitting: ([\d.]+) times .* one reply, ([\d.]+) for 16", done.output)
    assert gains is not None
    best = max(map(float, gains.groups()))
    if abs(best - PAYS) > 0.005:  # they are rounded
        assert ("behind a balancer" in done.output) == (best < PAYS)


@pytest.mark.usefixtures("over_ssh")
def test_a_machine_that_cannot_be_started_is_a_fault(hostfile: Callable[..., Path]) -> None:
    hosts = [{"ips": ["127.0.0.1"]}, {"ssh": "b", "ips": ["127.0.0.1"], "python": "/none/python"}]
    done = CliRunner().invoke(app, ["doctor", "--machines", str(hostfile(hosts=hosts))])
    assert done.exit_code == 1
    assert re.search(r"FAULT Machine b: ssh ended with status 127: .*none", done.output)
