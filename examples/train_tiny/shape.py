"""The model's size, shared by training (PyTorch) and export (MLX)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    width: int = 192
    layers: int = 4
    heads: int = 3
    head_width: int = 64
    inner: int = 512
    vocabulary: int = 4096
    rope_base: float = 10_000.0
