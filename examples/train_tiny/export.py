"""Writes a checkpoint as an 8-bit MLX model directory.

    python export.py --run runs/tiny --out ../../budmlx/assets/tiny

Needs only mlx: the checkpoint is read through `weights.npz`, which train.py writes beside it.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.qwen3 import Model, ModelArgs
from shape import Shape

QUANTIZATION = {"group_size": 64, "bits": 8}


def config_of(shape: Shape, end: list[int], pad: int) -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.head_width,
        "intermediate_size": shape.inner,
        "vocab_size": shape.vocabulary,
        "rms_norm_eps": 1e-6,
        "rope_theta": shape.rope_base,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "attention_bias": False,
        "torch_dtype": "float32",
        "eos_token_id": end[0],
        "pad_token_id": pad,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, default=Path(__file__).parent / "runs" / "tiny")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    options.out.mkdir(parents=True, exist_ok=True)
    for file in (options.run / "tokenizer").iterdir():
        shutil.copy(file, options.out)
    generation = json.loads((options.out / "generation_config.json").read_text())
    config = config_of(Shape(), generation["eos_token_id"], generation["pad_token_id"])
    model = Model(ModelArgs.from_dict(config))
    weights = {
        name: mx.array(value) for name, value in np.load(options.run / "weights.npz").items()
    }
    model.load_weights(list(weights.items()), strict=True)
    nn.quantize(model, **QUANTIZATION)
    mx.save_safetensors(
        str(options.out / "model.safetensors"),
        dict(tree_flatten(model.parameters())),
        metadata={"format": "mlx"},
    )
    config = {**config, "quantization": QUANTIZATION, "quantization_config": QUANTIZATION}
    (options.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{options.out}: {size / 1e6:.2f} MB, shape {asdict(Shape())}")


if __name__ == "__main__":
    main()
