"""The typed keys under which an application and its requests keep their state."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from budmlx.config import ServerConfig
from budmlx.config.keys import ApiKey
from budmlx.engine.models.models import Models
from budmlx.engine.store.files import FileStore
from budmlx.engine.store.store import Store
from budmlx.server.dialects.base import Dialects
from budmlx.server.endpoints import Endpoint
from budmlx.server.in_flight import InFlight
from budmlx.server.keys import KeyRing
from budmlx.server.ledger import Ledger
from budmlx.server.limits import Limits
from budmlx.server.sealed import Sealer
from budmlx.types import Priority

CONFIG = web.AppKey("config", ServerConfig)
KEYS = web.AppKey("keys", KeyRing)
LEDGER = web.AppKey("ledger", Ledger)
LIMITS = web.AppKey("limits", Limits)
MODELS = web.AppKey("models", Models)
DIALECTS = web.AppKey("dialects", Dialects)
ENDPOINTS: web.AppKey[Sequence[Endpoint]] = web.AppKey("endpoints")
"""The endpoints of no dialect; each dialect has its own."""
SEALER = web.AppKey("sealer", Sealer)
FILES = web.AppKey("files", FileStore)
STORE = web.AppKey("store", Store)
IN_FLIGHT = web.AppKey("in_flight", InFlight)
REQUEST_ID = web.RequestKey("request_id", str)
API_KEY = web.RequestKey("api_key", ApiKey)
"""The API key that a request came with; absent where none is needed."""
NAMESPACE = web.RequestKey("namespace", str)
"""Digest of the API key that a request came with; absent where no keys are set."""
PAGE_ORIGIN = web.RequestKey("page_origin", str)
"""Origin of the page that a request came from, where it is another's and was let in."""
KEY_PRIORITY: web.RequestKey[Priority] = web.RequestKey("key_priority")
"""The class of the API key that a request came with; absent where the key has none."""
