"""LoRA adapters of tiny models: written as mlx-lm and PEFT write them, and computed by mlx-lm."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model as load_with_mlx_lm

ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
LINEAR = (*ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def write_mlx(
    path: Path,
    model: Path,
    *,
    rank: int = 8,
    keys: Sequence[str] = LINEAR,
    seed: int = 0,
    strength: float = 0.5,
    prefix: str = "",
    **config: Any,
) -> Path:
    """Write an adapter of a model in mlx-lm's layout to `path` and return it.

    keys: the layers of each block. strength: of what it adds; random adapters do nothing sensible.
    prefix: of the paths of all layers.
    """
    parameters = {"rank": rank, "scale": 2.0, "dropout": 0.1, "keys": list(keys)}
    module, _ = load_with_mlx_lm(model)
    module.freeze()
    linear_to_lora_layers(module, len(module.layers), parameters)
    mx.random.seed(seed)
    tensors = {
        prefix + name: (mx.random.normal(array.shape) * (strength if name.endswith("b") else 0.2))
        for name, array in sorted(tree_flatten(module.trainable_parameters()))
    }
    base: dict[str, Any] = {"fine_tune_type": "lora", "num_layers": -1, "model": "org/base"}
    base |= {"num_layers": len(module.layers), "lora_parameters": parameters}
    save(path, "adapters.safetensors", {**base, **config}, tensors)
    return path


def save(path: Path, file: str, config: Mapping[str, Any], tensors: Mapping[str, mx.array]) -> None:
    """Write the two files of an adapter."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(path / file), dict(tensors))


def as_peft(source: Path, path: Path, dtype: mx.Dtype | None = None, **config: Any) -> Path:
    """Write an adapter of mlx-lm's layout in that of PEFT to `path` and return it."""
    own = json.loads((source / "adapter_config.json").read_text())["lora_parameters"]
    base: dict[str, Any] = {
        "peft_type": "LORA",
        "r": own["rank"],
        "lora_alpha": own["scale"] * own["rank"],
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "base_model_name_or_path": "org/base",
    }
    tensors = {}
    for name, array in mx.load(str(source / "adapters.safetensors")).items():
        place, half = name.rsplit(".lora_", 1)
        array = mx.contiguous(array.T)
        tensors[f"base_model.model.{place}.lora_{half.upper()}.weight"] = (
            array if dtype is None else array.astype(dtype)
        )
    save(path, "adapter_model.safetensors", {**base, **config}, tensors)
    return path


def alone(model: Path, adapter: Path | None) -> nn.Module:
    """mlx-lm's model with the layers of one adapter, not fused."""
    module, _ = load_with_mlx_lm(model)
    if adapter is not None:
        load_adapters(module, str(adapter))
    module.eval()
    return module


def greedy(module: nn.Module, prompt: Iterable[int], tokens: int) -> list[int]:
    """What mlx-lm generates for a prompt alone."""
    steps = generate_step(mx.array(list(prompt)), module, max_tokens=tokens)
    return [int(token) for token, _ in steps]
