"""Tokenized prompts, and their submission to the core."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from budmlx.protocol import Image
from budmlx.types import Request


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """Token ids for the model, and the pictures whose placeholders are among them.

    checkpoints: places, in ascending order, up to which other prompts may be the same.
    ends: where each message ends, if the request wants an explanation of its reuse.
    """

    ids: list[int]
    images: tuple[Image, ...] = ()
    checkpoints: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Submission:
    """A prompt as it is submitted to the core, with the namespace of its owner.

    namespace: that of the KV that it may reuse. since: `History.count` at the submission.
    adapter: the digest of the one that it uses, if any.
    """

    owner: str
    namespace: str
    prompt: TokenizedPrompt
    is_chat: bool
    explain: bool
    since: int = 0
    adapter: str = ""

    @classmethod
    def of(cls, request: Request, prompt: TokenizedPrompt, *, shared: bool) -> Submission:
        """shared: API keys may reuse each other's KV."""
        owner = "" if shared else request.namespace
        return cls(
            owner,
            _namespace(owner, request.cache_salt, request.adapter),
            prompt,
            request.messages is not None,
            request.explain_cache,
            adapter=request.adapter,
        )


def _namespace(owner: str, salt: str, adapter: str) -> str:
    """The namespace of three texts: distinct for distinct ones, and empty for empty ones."""
    if adapter:
        # A text that begins with no number is none of the others.
        text = f"adapter {adapter} {_namespace(owner, salt, '')}"
    elif owner or salt:
        text = f"{len(owner)} {owner}{salt}"
    else:
        return ""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
