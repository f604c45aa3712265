"""Prompt log: what prompts and replies say, where a setting asks for it."""

from __future__ import annotations

import logging

from budmlx.engine.reply.generation import Generation
from budmlx.engine.text.tokenizer import Tokenizer

log = logging.getLogger("budmlx.prompts")


class PromptLog:
    """Writes prompts and replies as text, control tokens included."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def write(self, generation: Generation) -> None:
        """Write a prompt with the choices of its reply, as far as they are."""
        decode = self._tokenizer.backend.decode
        log.info("Prompt: %s", decode(generation.submission.prompt.ids, skip_special_tokens=False))
        for number, ids in enumerate(generation.written):
            log.info("Reply %d: %s", number, decode(ids, skip_special_tokens=False))
