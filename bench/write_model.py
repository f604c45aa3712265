"""Writes a model that is measured: `python -m bench.write_model DIRECTORY --shape gpu`.

Two shapes. `cpu`: a float32 Llama whose decoding is bound by memory on a CPU with OpenBLAS, as
that of a large quantized model is on a GPU. `gpu`: a 4-bit Qwen3 in the shape of 1.7B, with its
151,936 tokens. Neither has an end-of-sequence token, so that replies have exactly the requested
length, and every token is plain ASCII, so that every token is one visible event of a stream.

Random weights make flat logits: all tokens are about equally likely. Language models make
peaked ones, in which 95 % of the probability lies on some hundreds of tokens; here the weight of
the last norm, which scales all logits, makes them so.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map_with_path
from mlx_lm.utils import quantize_model, save_config, save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from budmlx.testing.tiny_random import build

CPU: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "intermediate_size": 1408,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "vocab_size": 8192,
    "rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
GPU: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 2048,
    "num_hidden_layers": 28,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "vocab_size": 151_936,
    "rope_theta": 1_000_000.0,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": False,
}
BITS, GROUP_SIZE = 4, 64
SHAPES = {"cpu": CPU, "gpu": GPU}
# The factor on the last norm with which 95 % of the probability lies on some hundreds of tokens.
PEAKED = {"cpu": 7.0, "gpu": 9.0}
LOGITS = ("peaked", "flat")
# As in ChatML, a reply that comes back as text stands exactly where it was generated.
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)


def write_model(path: Path, shape: str, logits: str) -> None:
    """Write weights, configuration and tokenizer to `path`.

    shape: a key of `SHAPES`. logits: one of `LOGITS`.
    """
    config = SHAPES[shape]
    model, settings = (
        random_quantized(config) if shape == "gpu" else (build(config, seed=0), dict(config))
    )
    if logits == "peaked":
        model.model.norm.weight = model.model.norm.weight * PEAKED[shape]
    path.mkdir(parents=True)
    save_model(path, model)
    save_config(settings, path / "config.json")
    write_tokenizer(path, config["vocab_size"])


def random_quantized(config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A bfloat16 module with random numbers of `BITS` bits, and its configuration.

    The numbers are made as they are stored: gigabytes of float32, and quantizing them, take a
    minute on some machines.
    """
    arch = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = arch.Model(arch.ModelArgs.from_dict(dict(config)))
    # All lazy: only shapes and types are used of what this computes.
    model.set_dtype(mx.bfloat16)
    model, settings = quantize_model(model, dict(config), GROUP_SIZE, BITS)
    chance = np.random.default_rng(0)
    spread = np.std(np.arange(2**BITS))

    def filled(name: str, array: mx.array) -> mx.array:
        if array.dtype == mx.uint32:
            return mx.array(chance.integers(0, 2**32, array.shape, dtype=np.uint32))
        kind = name.rpartition(".")[2]
        if kind not in ("scales", "biases"):
            return mx.ones(array.shape, array.dtype)
        # The standard deviation of mlx's own random weights.
        step = (3 * array.shape[-1] * GROUP_SIZE) ** -0.5 / spread
        value = step if kind == "scales" else -step * (2**BITS - 1) / 2
        return mx.full(array.shape, value, array.dtype)

    model.update(tree_map_with_path(filled, model.parameters()))
    return model, settings


def write_tokenizer(path: Path, vocab_size: int) -> None:
    """Write a byte-level BPE of exactly `vocab_size` ASCII tokens, none of them special."""
    merges = list(itertools.islice(_merges(), vocab_size - len(ALPHABET)))
    texts = [*ALPHABET, *(first + second for first, second in merges)]
    vocab = {text: number for number, text in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} tokens")
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


# How byte-level BPE writes the printable characters, the space and the new line.
ALPHABET = [*map(chr, range(ord("!"), ord("~") + 1)), "\u0120", "\u010a"]


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs of tokens that make a new one: syllables, then words of two and of four."""
    syllables = list(itertools.product("bcdfghjklmnprstvwz", "aeiou"))
    yield from syllables
    short = ["".join(pair) for pair in syllables]
    pairs = list(itertools.product(short, short))
    yield from pairs
    words = ["".join(pair) for pair in pairs]
    yield from itertools.product(words, words)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--shape", choices=list(SHAPES), default="cpu")
    parser.add_argument("--logits", choices=LOGITS, default="peaked")
    options = parser.parse_args()
    # Nothing here needs a GPU, whose kernels take long to build.
    mx.set_default_device(mx.cpu)
    write_model(options.directory, options.shape, options.logits)
