"""What was asked of the engine, as values: a prompt, and who asked it how."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from budmlx.protocol import Image
from budmlx.types import Request


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is given: token ids, and the pictures whose placeholders are among them.

    checkpoints: places, in ascending order, up to which other prompts may be the same.
    ends: where each message ends, if that was asked for.
    """

    ids: list[int]
    images: tuple[Image, ...] = ()
    checkpoints: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked a prompt, and how.

    namespace: whose KV it may reuse. since: how much the history had seen by then.
    """

    owner: str
    namespace: str
    prompt: Prompt
    is_chat: bool
    explain: bool
    since: int = 0

    @classmethod
    def of(cls, request: Request, prompt: Prompt, *, shared: bool) -> Asked:
        """shared: API keys may reuse each other's KV."""
        owner = "" if shared else request.namespace
        return cls(
            owner,
            _namespace(owner, request.cache_salt),
            prompt,
            request.messages is not None,
            request.explain_cache,
        )


def _namespace(owner: str, salt: str) -> str:
    """Another one for each pair, whatever characters are in them; nothing for two empty ones."""
    if not owner and not salt:
        return ""
    text = f"{len(owner)} {owner}{salt}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
