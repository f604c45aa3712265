"""What the routes of plugins may reach. Only modules with routes import this, since it loads
aiohttp."""

from __future__ import annotations

from typing import Any

from aiohttp import web

ENGINE: web.AppKey[Any] = web.AppKey("budmlx_engine")
"""The key of the `budmlx.Engine` that the server answers with: `request.app[ENGINE]`."""
