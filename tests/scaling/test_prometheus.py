"""Prometheus scrapes the servers with the file that docs/scaling.md names."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from bench.fronts import FILES, SECONDS, Balancer, free_ports, running, settle
from tests.scaling.machines import KEY, Servers, needed

pytestmark = [pytest.mark.balancers, pytest.mark.timeout(300)]


def queried(port: int, query: str) -> list[dict[str, Any]]:
    asked = urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{asked}", timeout=5) as it:
        found: list[dict[str, Any]] = json.load(it)["data"]["result"]
    return found


@pytest.mark.parametrize("balancer", ["haproxy"], indirect=True)
def test_both_are_scraped(servers: Servers, balancer: Balancer, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    (tmp_path / "key").write_text(KEY)
    replaced = {
        "127.0.0.1:8081": f"127.0.0.1:{servers.ports['a']}",
        "127.0.0.1:8082": f"127.0.0.1:{servers.ports['b']}",
        "127.0.0.1:8405": f"127.0.0.1:{balancer.numbers}",
        "/etc/prometheus/budmlx.key": str(tmp_path / "key"),
        "15s": "1s",
    }
    settle(FILES / "prometheus.yml", tmp_path / "prometheus.yml", replaced)
    command = [
        needed("prometheus"),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    deadline = time.monotonic() + SECONDS
    with running(command, tmp_path / "log"):
        while True:
            try:
                up = [each["metric"] for each in queried(port, "up == 1")]
                if {each.get("server", each["job"]) for each in up} == {"a", "b", "haproxy"}:
                    break
            except OSError:
                pass
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.2)
        infos = queried(port, "budmlx_build_info")
    assert {each["metric"]["server"] for each in infos} == {"a", "b"}
