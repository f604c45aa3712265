"""Two servers for all tests, and each balancer in front of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.fronts import Balancer, balanced
from tests.scaling.machines import Servers, needed


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("servers"))
    try:
        for tag in "ab":
            servers.start(tag)
        yield servers
    finally:
        servers.close()


@pytest.fixture(scope="package", params=["nginx", "haproxy"])
def balancer(
    request: pytest.FixtureRequest,
    servers: Servers,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Balancer]:
    needed(request.param)
    directory = tmp_path_factory.mktemp("balancer") / request.param
    with balanced(request.param, servers.ports["a"], servers.ports["b"], directory) as balancer:
        yield balancer
