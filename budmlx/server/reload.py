"""Reloading: a running server reads its configuration again, and takes what it can."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from budmlx import logs
from budmlx.config import Config, ModelConfig
from budmlx.errors import ConfigError
from budmlx.server.errors import HttpError
from budmlx.server.keys import KeyRing
from budmlx.server.rate_limit import LIMITER
from budmlx.server.security import check_bind
from budmlx.server.state import KEYS, MODELS

log = logging.getLogger(__name__)

Read = Callable[[], Config]
"""Reads the configuration as the server did when it began. Raises ConfigError."""

OF_KEYS = frozenset({"api_keys", "admin_key", "api_key_file"})
OF_LIMITS = frozenset({"requests_per_minute", "concurrent_requests"})
OF_MODELS = (ModelConfig.model_fields.keys() - {"model"}) | {"aliases", "default_model", "models"}
TAKEN = OF_KEYS | OF_LIMITS | OF_MODELS | {"log_level"}
"""Settings that a running server takes. It keeps what it has of the others."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What was different. taken: settings that hold from now on. restart: those that hold after a
    restart. models: those that are loaded, and have other settings when they are loaded again.
    """

    taken: Sequence[str]
    restart: Sequence[str]
    models: Sequence[str]


class Reloader:
    """Reads the configuration of a server again. read: None if there is nothing to read."""

    def __init__(self, app: web.Application, config: Config, read: Read | None):
        self._app = app
        self._config = config
        self._read = read
        self._lock = asyncio.Lock()

    async def reload(self) -> Reloaded:
        """Read it again. What is wrong changes nothing.

        Raises:
            HttpError: 400, if it is wrong, or there is none.
        """
        if self._read is None:
            raise HttpError(
                400,
                "This server has no configuration to read: it was not started by `budmlx serve`.",
                code="no_configuration",
            )
        async with self._lock:
            try:
                return await self._taken(await asyncio.to_thread(self._read))
            except ConfigError as error:
                raise HttpError(
                    400,
                    f"The configuration is wrong, and the former one stays in use: {error.message}",
                    code="config_error",
                ) from error

    async def _taken(self, new: Config) -> Reloaded:
        old = self._config
        fields = type(new).model_fields
        names = {name for name in fields if getattr(new, name) != getattr(old, name)}
        changed = TAKEN & names
        values: dict[str, Any] = {name: getattr(new, name) for name in changed}
        merged = old.model_copy(update=values)
        check_bind(merged)
        KeyRing(merged)  # It raises before anything has changed.
        models: list[str] = []
        if changed & OF_MODELS:
            models = await asyncio.to_thread(self._app[MODELS].reconfigure, merged)
        self._app[KEYS].configure(merged)
        limiter = self._app[LIMITER]
        limiter.per_minute = merged.requests_per_minute
        limiter.concurrent = merged.concurrent_requests
        if "log_level" in changed:
            logs.set_level(merged.log_level)
            for engine in self._app[MODELS].loaded:
                engine.set_log_level(merged.log_level)
        self._config = merged
        found = Reloaded(sorted(changed), sorted(names - changed), models)
        log.info(
            "The configuration was read again. Taken: %s. After a restart: %s. When loaded again: "
            "%s.",
            *(", ".join(each) or "nothing" for each in (found.taken, found.restart, found.models)),
        )
        return found


RELOADER: web.AppKey[Reloader] = web.AppKey("reloader")
