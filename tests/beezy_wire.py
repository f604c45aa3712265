"""What beezy-ai 0.5.5-alpha.2 does on the wire, for its documented code: it is in no package index.

Read from its source: the defaults that it adds, the nulls that it writes, the keys that its models
require of an answer.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

AGENT = "speakeasy-sdk/python 0.5.5-alpha.2 2.361.10 0.0.2 beezy-ai"
DEFAULTS = {"temperature": 0.7, "top_p": 1.0, "max_tokens": None, "random_seed": None}


class ChatCompletionRole(StrEnum):
    """Who speaks."""

    USER = "user"


class Chat:
    """`BeezyAI().chat`."""

    def __init__(self, key: str, url: str):
        self._key = key
        self._url = url

    def create(self, *, request: dict[str, Any]) -> dict[str, Any]:
        """Answer whole, as a dict with the keys that the package's models require."""
        text = self._send(
            {"safe_prompt": False, "tool_choice": "auto", **request}, "application/json"
        )
        reply: dict[str, Any] = json.loads(text)
        for choice in reply["choices"]:
            assert {"index", "finish_reason"} <= choice.keys()
            for call in choice["message"].get("tool_calls", ()):
                assert {"name", "arguments"} <= call["function"].keys()
        assert all(type(reply["usage"][f"{n}_tokens"]) is int for n in ("prompt", "completion"))
        return reply

    def stream(self, *, request: dict[str, Any]) -> Iterator[Any]:
        """Answer by events, all of which have come when the first one is seen."""
        text = self._send(request, "text/event-stream")
        for block in text.strip().split("\n\n"):
            if block.startswith(":"):
                continue
            assert block.startswith("data: ") and "\n" not in block
            if block == "data: [DONE]":
                return
            chunk = json.loads(block.removeprefix("data: "))
            assert isinstance(chunk["id"], str) and isinstance(chunk["model"], str)
            for choice in chunk["choices"]:
                assert {"index", "delta", "finish_reason"} <= choice.keys()
            yield chunk

    def _send(self, request: dict[str, Any], accept: str) -> str:
        asked = urllib.request.Request(
            f"{self._url}/chat/completions",
            json.dumps({**DEFAULTS, **request}).encode(),
            {
                "Authorization": f"Bearer {self._key}",
                "Content-Type": "application/json",
                "Accept": accept,
                "User-Agent": AGENT,
            },
        )
        with urllib.request.urlopen(asked, timeout=100) as response:
            assert response.headers["Content-Type"].startswith(accept)
            text: str = response.read().decode()
        return text


class BeezyAI:
    """The client."""

    def __init__(self, api_key_auth: str, server_url: str):
        self.chat = Chat(api_key_auth, server_url)
