"""Links between ranks that are slow, that stall and that break: right, and resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from budmlx.engine.hosts.child import Child
from budmlx.engine.hosts.process import ProcessHost
from budmlx.engine.hosts.ranks import RankGroup
from budmlx.engine.hosts.remote import RemoteChild
from budmlx.protocol import CoreSettings, Place
from tests.engine.hosts.core_process import Rows, eventually, row, starting, undisturbed
from tests.machines.proxy import Proxies

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]


class ProxiedGroup(RankGroup):
    """Ranks with proxies between them."""

    proxies: Proxies

    def _started(
        self, rank: int, command: Sequence[str], settings: CoreSettings, place: Place
    ) -> Child | RemoteChild:
        return super()._started(rank, command, settings, self.proxies.seen_by(rank, place))


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def proxied(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ProcessHost]]:
    """Makes hosts of two ranks with these proxies between them."""
    monkeypatch.setattr("budmlx.engine.hosts.starting.RankGroup", ProxiedGroup)
    made: list[Proxies] = []
    hosts: list[ProcessHost] = []
    with starting(rows, ranks=2, warmup=False) as make:

        def start(proxies: Proxies, **options: float) -> ProcessHost:
            made.append(proxies)
            ProxiedGroup.proxies = proxies
            hosts.append(make(**options))
            return hosts[-1]

        yield start
        for each in (*hosts, *made):
            each.close()


def test_a_slow_link_changes_nothing(proxied: Callable[..., ProcessHost], rows: Rows) -> None:
    asked = [row(n, length=12) for n in range(1, 5)]
    proxies = Proxies(delay=0.005)
    host = proxied(proxies)
    for request in asked:
        host.submit(request)
    rows.wait_for(1, 2, 3, 4)
    assert rows.texts == undisturbed(asked)
    assert proxies.carried > 100_000 and host.status().restarts == 0


@pytest.mark.parametrize("fault", ["stall", "cut"])
def test_rows_resume_when_a_link_fails(
    fault: str, proxied: Callable[..., ProcessHost], rows: Rows
) -> None:
    asked = [row(n, length=100) for n in range(1, 9)]
    proxies = Proxies()
    host = proxied(proxies, watchdog_seconds=3.0)
    for request in asked:
        host.submit(request)
    rows.wait_for_tokens(8, 5)
    getattr(proxies, fault)()
    eventually(lambda: not host.status().ready)
    says = "made no step" if fault == "stall" else "was lost"
    eventually(lambda: says in host.status().reason)
    rows.wait_for(*range(1, 9))
    assert rows.texts == undisturbed(asked)
    assert set(rows.outcomes.values()) == {"length"}
    assert host.status().restarts == 1
