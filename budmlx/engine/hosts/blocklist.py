"""Blocklist: requests that crashed the core twice, and what is refused for plugins' faults."""

from __future__ import annotations

import math

from budmlx.engine.hosts.plugin_faults import PluginFaults, PluginPolicy, fingerprint
from budmlx.errors import RequestFailedError
from budmlx.protocol import CoreRequest


class Blocklist:
    """The requests that are refused for a while.

    plugins: what is refused for the faults of plugins. used: anything was ever refused.
    """

    def __init__(self, policy: PluginPolicy) -> None:
        self.used = False
        self.plugins = PluginFaults(policy)
        self._requests: dict[bytes, float] = {}  # fingerprint -> until

    def check(self, request: CoreRequest, now: float) -> None:
        """Raise PluginError or RequestFailedError if the request is refused."""
        self.plugins.check(request, now)
        self._requests = {key: until for key, until in self._requests.items() if until > now}
        if self._requests and (until := self._requests.get(fingerprint(request))):
            raise RequestFailedError(
                "The engine crashed twice on this request, so it is refused for another "
                f"{math.ceil(until - now)} s. Change the request, or report the crash."
            )

    def __contains__(self, request: CoreRequest) -> bool:
        return fingerprint(request) in self._requests

    def add(self, request: CoreRequest, until: float) -> None:
        """Refuse a request for all API keys, until this time of the clock of `check`."""
        self.used = True
        self._requests[fingerprint(request)] = until

    def add_plugin(self, plugin: str, how: str, request: CoreRequest, now: float) -> None:
        """Refuse what a plugin ended the core on. how: the core ended."""
        self.used = True
        self.plugins.add(plugin, how, request, now)
