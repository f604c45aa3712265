"""Weight files in memory, right and wrong."""

from __future__ import annotations

import json
from typing import Any

CONFIG = {"model_type": "llama", "hidden_size": 8}


def header(tensors: dict[str, Any]) -> bytes:
    """The length and the JSON that begin a safetensors file."""
    text = json.dumps(tensors).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def safetensors(*, fill: int = 0, rows: int = 256, name: str = "weight") -> bytes:
    """A file with one float32 tensor of shape [rows, 8]."""
    size = rows * 8 * 4
    tensor = {"dtype": "F32", "shape": [rows, 8], "data_offsets": [0, size]}
    return header({"__metadata__": {"format": "mlx"}, name: tensor}) + bytes([fill]) * size
