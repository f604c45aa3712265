"""The device of the tests, and how large they are on it."""

from __future__ import annotations

import os

import mlx.core as mx

GPU: bool = mx.default_device() == mx.gpu
WANTED_ON_CPU = os.environ.get("BUDMLX_GPU_TESTS") == "cpu"

# Of a large model of today. A CPU is only to show that the tests work.
VOCAB = 151_936 if GPU else 20_000
ROWS = 16 if GPU else 4
# A CPU computes with half of the digits very slowly, and not all that models need.
HALF = mx.bfloat16 if GPU else mx.float32
