"""Models whose forward passes take long or never end, for certain tokens; a plugin loads them.

No prompt of a warm-up has the tokens `SLOW` and `STUCK`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx_lm.models import llama

SLOW, STUCK = 500, 501
SLOW_SECONDS = 3.5


class SlowLlama(llama.Model):
    """Sleeps before it computes `SLOW`, as a device does that builds kernels."""

    def __call__(self, inputs: mx.array, *arguments: Any, **options: Any) -> mx.array:
        tokens = {token for row in inputs.tolist() for token in row}
        if SLOW in tokens:
            time.sleep(SLOW_SECONDS)
        if STUCK in tokens:
            threading.Event().wait()
        return super().__call__(inputs, *arguments, **options)


class FatalLlama(llama.Model):
    """Ends the process in the first pass over several tokens that are not all the same."""

    def __call__(self, inputs: mx.array, *arguments: Any, **options: Any) -> mx.array:
        if len({token for row in inputs.tolist() for token in row}) > 1:
            os.abort()
        return super().__call__(inputs, *arguments, **options)


def slow(config: Mapping[str, Any]) -> tuple[type[SlowLlama], type[llama.ModelArgs]]:
    return SlowLlama, llama.ModelArgs


def fatal(config: Mapping[str, Any]) -> tuple[type[FatalLlama], type[llama.ModelArgs]]:
    return FatalLlama, llama.ModelArgs
