"""Tiny model with random weights, written by `python -m budmlx.testing.tiny_random PATH`.

Tests and plugin authors run real models that take milliseconds; what such a model says is
noise. The tokenizer is a byte-level BPE with a ChatML template.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm.utils import quantize_model, save_config, save_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 512,
    "rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{%- if tools -%}<|im_start|>system\n<tools>{%- for t in tools -%}{{ t | tojson }}\n"
    "{%- endfor -%}</tools><|im_end|>\n{%- endif -%}"
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{%- for c in m.tool_calls or [] -%}<tool_call>{{ c.function | tojson }}</tool_call>"
    "{%- endfor -%}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)


def write_random_model(
    path: Path,
    config: Mapping[str, Any] = LLAMA,
    *,
    bits: int | None = None,
    group_size: int = 32,
    seed: int = 0,
    scale: float = 1.0,
) -> Path:
    """Write config, weights and tokenizer to `path` and return it.

    bits: quantize the weights to that many bits; None keeps float32.
    scale: factor on the random matrices; larger values make more varied greedy text.
    """
    settings = dict(config)
    model = build(settings, seed=seed, scale=scale)
    if bits is not None:
        model, settings = quantize_model(model, settings, group_size, bits)
    path.mkdir(parents=True, exist_ok=True)
    save_model(path, model)
    save_config(settings, path / "config.json")
    write_tokenizer(path, vocab_size=int(settings.get("vocab_size", 512)))
    return path


def build(config: Mapping[str, Any], *, seed: int, scale: float = 1.0) -> nn.Module:
    """A float32 module of mlx-lm's for `config["model_type"]`, with random weights."""
    arch = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    mx.random.seed(seed)
    model = arch.Model(arch.ModelArgs.from_dict(dict(config)))
    model.update(
        tree_map(
            lambda p: (
                (p * scale if p.ndim >= 2 else p).astype(mx.float32)
                if mx.issubdtype(p.dtype, mx.floating)
                else p
            ),
            model.parameters(),
        )
    )
    model.eval()
    mx.eval(model.parameters())
    return model


def write_tokenizer(path: Path, vocab_size: int = 512) -> None:
    """Write a byte-level BPE tokenizer of at most `vocab_size` tokens with a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(t, special=True) for t in CONTROL_TOKENS],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"], trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHATML,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    eos = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))


if __name__ == "__main__":
    write_random_model(Path(sys.argv[1]))
