"""Blocklist: requests that crashed the core twice, and plugins that ended it."""

from __future__ import annotations

import hashlib
import math

import msgspec

from budmlx.errors import PluginError, RequestFailedError
from budmlx.protocol import GenerateRequest


class Blocklist:
    """The requests that are refused for a while, and the plugins that are refused for good.

    plugins: the message about each. used: anything was ever refused.
    """

    def __init__(self) -> None:
        self.used = False
        self.plugins: dict[str, str] = {}
        self._requests: dict[bytes, float] = {}  # fingerprint -> until

    def check(self, request: GenerateRequest, now: float) -> None:
        """Raise PluginError or RequestFailedError if the request is refused."""
        for plugin in chosen_plugins(request) & self.plugins.keys():
            raise PluginError(self.plugins[plugin])
        self._requests = {key: until for key, until in self._requests.items() if until > now}
        if self._requests and (until := self._requests.get(_fingerprint(request))):
            raise RequestFailedError(
                "The engine crashed twice on this request, so it is refused for another "
                f"{math.ceil(until - now)} s. Change the request, or report the crash."
            )

    def __contains__(self, request: GenerateRequest) -> bool:
        return _fingerprint(request) in self._requests

    def add(self, request: GenerateRequest, until: float) -> None:
        """Refuse a request for all API keys, until this time of the clock of `check`."""
        self.used = True
        self._requests[_fingerprint(request)] = until

    def add_plugin(self, plugin: str, how: str) -> str:
        """Refuse the requests that choose a plugin; returns the message. how: the core ended."""
        self.used = True
        self.plugins[plugin] = (
            f"The engine failed in the plugin {plugin}: {how}. The plugin is disabled until the "
            "server is restarted; leave it out of the request."
        )
        return self.plugins[plugin]


def chosen_plugins(request: GenerateRequest) -> set[str]:
    """The plugins whose sampler, logits processors or vision encoder a request needs."""
    calls = (request.sampler, *request.processors, *request.images)
    return {call.plugin for call in calls if call is not None}


def _fingerprint(request: GenerateRequest) -> bytes:
    """Digest of a request, the same for all of its choices and whenever it is repeated."""
    anonymous = msgspec.structs.replace(
        request, id=0, seed=0, choice=0, fork=0, emitted_ids=[], namespace="", owner=""
    )
    return hashlib.sha256(msgspec.msgpack.encode(anonymous)).digest()
