"""`BudClient` and `AsyncBudClient`: their connections, keys and time limits."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import openai

from budmlx.client.chat import AsyncChat, Chat

if TYPE_CHECKING:
    from budmlx.engine.engine import Engine
    from budmlx.server.embedded import EmbeddedServer

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_SECONDS = 600.0
RETRIES = 2


class _Destination:
    """The address of requests, and the API key for it. server: our own, if there is one."""

    def __init__(self, api_key: str | None, base_url: str | None, engine: Engine | None):
        self.server: EmbeddedServer | None = None
        if engine is None:
            url = base_url or os.environ.get("BUD_BASE_URL") or DEFAULT_URL
            # A server without keys takes any, but the package underneath wants one.
            self.key = api_key or os.environ.get("BUD_API_KEY") or "none"
        else:
            if base_url is not None:
                raise ValueError("Give either an engine or a base_url.")
            # Clients of a server elsewhere do not import ours.
            embedded = importlib.import_module("budmlx.server.embedded")
            self.server = embedded.EmbeddedServer(engine)
            url, self.key = self.server.url, self.server.key
        self.url = url.rstrip("/").removesuffix("/v1") + "/v1"

    def close(self) -> None:
        """End our own server."""
        if self.server is not None:
            self.server.close()


class BudClient:
    """Chats with a server, or with an engine of this process.

    api_key: default `BUD_API_KEY`. base_url: with `/v1` or without; default `BUD_BASE_URL`, else
    http://127.0.0.1:8080. engine: answers instead, under whatever model name; it stays open.
    timeout: in seconds, for a reply or the next piece of one. max_retries: of requests that
    failed for want of a connection or with a status that may pass, such as 429 and 503.
    headers: sent with every request.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        engine: Engine | None = None,
        timeout: float | None = TIMEOUT_SECONDS,
        max_retries: int = RETRIES,
        headers: Mapping[str, str] | None = None,
    ):
        self._destination = _Destination(api_key, base_url, engine)
        # Proxies of the environment do not reach into this process.
        http_client = None if engine is None else openai.DefaultHttpxClient(trust_env=False)
        self._client = openai.OpenAI(
            api_key=self._destination.key,
            base_url=self._destination.url,
            timeout=timeout,
            max_retries=max_retries,
            default_headers=headers,
            http_client=http_client,
        )
        self.chat = Chat(self._client)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._client.close()
        self._destination.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncBudClient:
    """`BudClient` for asyncio."""

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        engine: Engine | None = None,
        timeout: float | None = TIMEOUT_SECONDS,
        max_retries: int = RETRIES,
        headers: Mapping[str, str] | None = None,
    ):
        self._destination = _Destination(api_key, base_url, engine)
        http_client = None if engine is None else openai.DefaultAsyncHttpxClient(trust_env=False)
        self._client = openai.AsyncOpenAI(
            api_key=self._destination.key,
            base_url=self._destination.url,
            timeout=timeout,
            max_retries=max_retries,
            default_headers=headers,
            http_client=http_client,
        )
        self.chat = AsyncChat(self._client)

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._client.close()
        await asyncio.to_thread(self._destination.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
