"""Two servers for all tests, and each balancer in front of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scaling.machines import Balancer, Servers, balanced, program


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
    program(request.param)
    with balanced(request.param, servers, tmp_path_factory.mktemp("balancer") / "it") as balancer:
        yield balancer
