"""What mlx-lm says, one request at a time: greedy tokens, or the greedy ones of a form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model
from tokenizers import Tokenizer

Processor = Callable[[mx.array, mx.array], mx.array]


@dataclass(frozen=True, slots=True)
class Greedy:
    """The text of a reply, without its end-of-sequence token, and how it ended."""

    text: str
    finish_reason: str


class Reference:
    """mlx-lm's model in a directory, in float32 on the CPU."""

    def __init__(self, directory: Path):
        self._model, config = load_model(directory)
        self._end = config["eos_token_id"]
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))

    def greedy(self, ids: tuple[int, ...], most: int, grammar: str = "") -> Greedy:
        """The most likely tokens, `most` of them at most. grammar: in llguidance's language."""
        found: list[int] = []
        processors = [self._constrained(grammar)] if grammar else []
        steps = generate_step(
            mx.array(ids), self._model, max_tokens=most, logits_processors=processors
        )
        for token, _ in steps:
            if token == self._end:
                return Greedy(self._tokenizer.decode(found), "stop")
            found.append(token)
        return Greedy(self._tokenizer.decode(found), "length")

    def _constrained(self, grammar: str) -> Processor:
        tokenizer = LLTokenizer(self._tokenizer.to_str(), eos_token=self._end)
        matcher = LLMatcher(tokenizer, grammar)
        begun = False

        def allowed(tokens: mx.array, logits: mx.array) -> mx.array:
            nonlocal begun
            if begun and not matcher.is_stopped():  # mlx-lm computes one step ahead
                assert matcher.consume_token(tokens[-1].item()), matcher.get_error()
            begun = True
            if matcher.is_stopped():
                return mx.where(mx.arange(logits.shape[-1]) == self._end, logits, -mx.inf)
            bias = np.frombuffer(matcher.compute_logit_bias(), np.uint8)[: logits.shape[-1]]
            return mx.where(mx.array(bias != 0), logits, -mx.inf)

        return allowed
