"""Pass size: what a forward pass will compute with, estimated from config.json before anything is
loaded.

The core projects the same from the model itself (`budmlx.core.model.memory`); a test compares
both. Adapters, drafts and pictures are left out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from budmlx.backend import DEVICE_VARIABLE

LEAST_CHUNK = 512
"""Tokens of a forward pass where memory is short, unless the configuration says another number."""
# As the core has them; a test compares them.
FUSED_PREFILL = frozenset({64, 72, 80, 96, 128})
FUSED_DECODE = frozenset({64, 96, 128, 256})
UNPACKED_LAYERS = 2


@dataclass(frozen=True, slots=True)
class PassSize:
    """The sizes on which the memory of a forward pass depends.

    width: bytes of what all layers compute of one token. heads: those of queries. head: numbers of
    one. vocab: logits of a token. unpacked: bytes of a token in a layer whose keys and values are
    not quantized.
    """

    width: int
    heads: int
    head: int
    vocab: int
    unpacked: int

    @classmethod
    def of(cls, text: Mapping[str, Any], *, itemsize: int, head: int, unpacked: int) -> PassSize:
        """What a text model's part of config.json describes. Raises TypeError, ValueError."""
        names = ("hidden_size", "n_embd", "d_model")
        hidden = int(next((text[name] for name in names if text.get(name)), 4096))
        inner = int(text.get("intermediate_size") or 4 * hidden)
        heads = int(text.get("num_attention_heads") or text.get("n_head") or 1)
        width = (6 * hidden + 3 * inner) * max(itemsize, 4)
        return cls(width, heads, head, int(text.get("vocab_size") or 0), unpacked)

    def row_bytes(self, tokens: int, chunk: int, *, quantized: bool) -> int:
        """Bytes of the largest pass of one row with so many tokens.

        chunk: most tokens of a pass. quantized: keys and values are unpacked for attention.
        """
        unpacked = UNPACKED_LAYERS * self.unpacked * tokens if quantized else 0
        rest = unpacked + 16 * self.vocab
        stored = 8 * self.heads * tokens
        chunk = min(chunk, tokens)
        prefill = chunk * (self.width + (stored if self._stores(FUSED_PREFILL) else 0))
        decode = self.width + (stored if self._stores(FUSED_DECODE) else 0)
        return max(prefill, decode) + rest

    def _stores(self, fused: frozenset[int]) -> bool:
        """Whether attention stores its scores here: a GPU of Apple's need not."""
        apple = sys.platform == "darwin" and os.environ.get(DEVICE_VARIABLE) != "cpu"
        return not (apple and self.head in fused)
