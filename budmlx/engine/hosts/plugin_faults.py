"""Plugin faults: what is refused after a plugin crashed the core or never returned.

First the request at hand; then all requests with the same options, if different requests failed
with them; the whole plugin only if it failed with different options. One client's bad option
costs nobody else the plugin. All of it ends after a while.
"""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass

import msgspec

from budmlx.errors import PluginError
from budmlx.protocol import CoreRequest, EmbedRequest

log = logging.getLogger(__name__)

ALL = b""
"""Stands for any options of a plugin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginPolicy:
    """Counts and seconds of the refusals.

    requests: different requests that fail with the same options before those are refused.
    options: different options with which requests fail before the plugin is disabled.
    memory_seconds: how long a failure counts, and how long its request is refused.
    back_off: seconds of the first refusal of options or of a plugin; doubles.
    """

    requests: int = 2
    options: int = 3
    memory_seconds: float = 600.0
    back_off: float = 60.0
    back_off_max: float = 3600.0


@dataclass(slots=True)
class _Refusal:
    """why: a sentence. until: end of the refusal. times: how often it was refused."""

    why: str
    until: float
    times: int = 0


class PluginFaults:
    """The faults of plugins in the core, and what is refused for them. `now` is any clock."""

    def __init__(self, policy: PluginPolicy):
        self._policy = policy
        self._requests: dict[bytes, _Refusal] = {}
        self._options: dict[tuple[str, bytes], _Refusal] = {}  # by plugin, and options or ALL
        self._failures: dict[tuple[str, bytes], dict[bytes, float]] = {}  # until, by request
        self._unchosen: set[str] = set()

    def check(self, request: CoreRequest, now: float) -> None:
        """Raise PluginError if the request is refused."""
        for plugin in sorted(chosen_plugins(request)):
            for options in (ALL, options_digest(request, plugin)):
                _refuse(self._options.get((plugin, options)), now)
        if self._requests:
            _refuse(self._requests.get(fingerprint(request)), now)

    def add(self, plugin: str, how: str, request: CoreRequest, now: float) -> str:
        """Note that a plugin ended the core on a request; returns a sentence. how: in words."""
        self._forget(now)
        options, digest = options_digest(request, plugin), fingerprint(request)
        why = f"The engine failed in the plugin {plugin}: {how}."
        until = now + self._policy.memory_seconds
        self._requests[digest] = _Refusal(why + " This request is refused", until)
        self._failures.setdefault((plugin, options), {})[digest] = until
        failed = [key for key in self._failures if key[0] == plugin]
        if len(failed) >= self._policy.options:
            self._pause(plugin, ALL, why + " The plugin is disabled", now)
            for key in failed:
                del self._failures[key]
        elif len(self._failures[plugin, options]) >= self._policy.requests:
            what = f"The plugin {plugin} is refused with these options"
            self._pause(plugin, options, f"{why} {what}", now)
        return why

    def believes(self, plugin: str) -> bool:
        """Whether a plugin may have ended the core although no row chose it: the first time."""
        known = plugin in self._unchosen
        self._unchosen.add(plugin)
        return not known

    def _pause(self, plugin: str, options: bytes, why: str, now: float) -> None:
        refusal = self._options.setdefault((plugin, options), _Refusal(why, now))
        seconds = self._policy.back_off * 2 ** min(refusal.times, 30)
        seconds = min(seconds, self._policy.back_off_max)
        refusal.why, refusal.until = why, now + seconds
        refusal.times += 1
        log.error("%s for %.0f s.", why, seconds)

    def _forget(self, now: float) -> None:
        """Drop what is over; a refusal of options is remembered longer, since it doubles."""
        self._requests = {key: each for key, each in self._requests.items() if each.until > now}
        recent = {
            key: {digest: until for digest, until in failures.items() if until > now}
            for key, failures in self._failures.items()
        }
        self._failures = {key: failures for key, failures in recent.items() if failures}
        oldest = now - 2 * self._policy.back_off_max
        self._options = {key: each for key, each in self._options.items() if each.until > oldest}


def chosen_plugins(request: CoreRequest) -> set[str]:
    """The plugins whose sampler, logits processors or vision encoder a request needs."""
    if isinstance(request, EmbedRequest):
        return set()
    calls = (request.sampler, *request.processors, *request.images)
    return {call.plugin for call in calls if call is not None}


def options_digest(request: CoreRequest, plugin: str) -> bytes:
    """Digest of all that a request gives a plugin: names, options, pictures."""
    assert not isinstance(request, EmbedRequest)  # it chooses none
    calls = [
        call
        for call in (request.sampler, *request.processors)
        if call is not None and call.plugin == plugin
    ]
    images = [image.key for image in request.images if image.plugin == plugin]
    return hashlib.sha256(msgspec.msgpack.encode([calls, images], order="sorted")).digest()


def fingerprint(request: CoreRequest) -> bytes:
    """Digest of a request, the same for all of its choices and whenever it is repeated."""
    anonymous: CoreRequest
    if isinstance(request, EmbedRequest):
        anonymous = msgspec.structs.replace(request, id=0, owner="")
    else:
        anonymous = msgspec.structs.replace(
            request,
            id=0,
            seed=0,
            choice=0,
            fork=0,
            emitted_ids=[],
            namespace="",
            owner="",
            request="",
        )
    return hashlib.sha256(msgspec.msgpack.encode(anonymous)).digest()


def _refuse(refusal: _Refusal | None, now: float) -> None:
    if refusal is not None and refusal.until > now:
        seconds = math.ceil(refusal.until - now)
        raise PluginError(f"{refusal.why} for another {seconds} s; leave it out, or change it.")
