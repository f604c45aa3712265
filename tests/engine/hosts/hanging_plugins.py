"""Samplers and processors that never return, or end the process; resolved by import string."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from budmlx.plugins.specs import RowContext

STEPS = 3


class Sleeper:
    """Works for some steps, then waits for ever."""

    def init(self, options: Mapping[str, Any]) -> mx.array:
        return mx.zeros((1,), dtype=mx.int32)

    def process(
        self, logits: mx.array, state: mx.array, context: RowContext
    ) -> tuple[mx.array, mx.array]:
        if state.max().item() >= STEPS:
            threading.Event().wait()
        return logits, state + 1


class Holder:
    """Never returns and never lets another thread run either."""

    def __init__(self) -> None:
        re.match("(a+)+$", "a" * 60 + "b")


class Crasher:
    """Ends the process as a bug in native code does, or by the signal that a row names.

    A negative one is the opposite of the status with which it exits.
    """

    def init(self, options: Mapping[str, Any]) -> mx.array:
        return mx.array([options.get("signal", signal.SIGSEGV)])

    def sample(
        self, logits: mx.array, state: mx.array, context: RowContext, keys: mx.array
    ) -> tuple[mx.array, mx.array]:
        number = state[0].item()
        if number < 0:
            os._exit(-number)
        os.kill(os.getpid(), number)
        return mx.argmax(logits, axis=-1), state
