"""The typed keys under which an application and its requests keep their state."""

from __future__ import annotations

from aiohttp import web

from budmlx.config import ServerConfig
from budmlx.engine.models import ModelSet
from budmlx.server.in_flight import InFlight

CONFIG = web.AppKey("config", ServerConfig)
MODELS = web.AppKey("models", ModelSet)
IN_FLIGHT = web.AppKey("in_flight", InFlight)
REQUEST_ID = web.RequestKey("request_id", str)
NAMESPACE = web.RequestKey("namespace", str)
"""Digest of the API key that a request came with; absent where no keys are set."""
