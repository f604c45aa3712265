"""What the routes of plugins may reach. Only modules with routes import this, since it loads
aiohttp."""

from __future__ import annotations

from typing import Any

from aiohttp import web

ENGINE: web.AppKey[Any] = web.AppKey("budmlx_engine")
"""The key of the `budmlx.Engine` that the server answers with: `request.app[ENGINE]`. A server of
several models, or of one that may be unloaded, has none."""
MODELS: web.AppKey[Any] = web.AppKey("budmlx_models")
"""The key of the `budmlx.Models` of every server: `async with
request.app[MODELS].find(name).aengine() as engine`."""
FIND: web.AppKey[Any] = web.AppKey("budmlx_find")
"""The key of a function that finds a model which the API key of a request may use: `await
request.app[FIND](request, name)`. It raises `ModelNotFoundError` for those of others."""
