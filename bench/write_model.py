"""Writes the model that is measured: `python -m bench.write_model DIRECTORY`.

A float32 Llama whose decoding is bound by memory on a CPU with OpenBLAS, as that of a large
quantized model is on a GPU. It has no end-of-sequence token, so that replies have exactly
the requested length, and every token is plain ASCII, so that every token is one
visible event of a stream.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from mlx_lm.utils import save_config, save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from budmlx.testing.tiny_random import build

CONFIG: dict[str, Any] = {
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
# Random weights predict all tokens about equally; language models do not. With this factor
# on the output layer, 95 % of the probability lies on some tens to hundreds of tokens.
HEAD_SCALE = 7.0
# As in ChatML, a reply that comes back as text stands exactly where it was generated.
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)


def write_model(path: Path, head_scale: float) -> None:
    """Write weights, configuration and tokenizer to `path`."""
    model = build(CONFIG, seed=0)
    model.lm_head.weight = model.lm_head.weight * head_scale
    path.mkdir(parents=True)
    save_model(path, model)
    save_config(dict(CONFIG), path / "config.json")
    write_tokenizer(path, CONFIG["vocab_size"])


def write_tokenizer(path: Path, vocab_size: int) -> None:
    """Write a byte-level BPE of exactly `vocab_size` ASCII tokens, none of them special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    printable = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=[*printable, "\u0120", "\u010a"],  # how byte-level BPE writes " ", "\n"
        show_progress=False,
    )
    tokenizer.train_from_iterator(_invented_text(), trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} tokens")
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


def _invented_text() -> list[str]:
    """Lines of pronounceable words, enough of them for some ten thousand merges."""
    chance = random.Random(0)
    syllables = [c + v + e for c in "bcdfghklmnprstvw" for v in "aeiou" for e in ("", "n", "r")]
    words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(20_000)]
    return [" ".join(chance.choices(words, k=50)) for _ in range(4_000)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--head-scale", type=float, default=HEAD_SCALE)
    options = parser.parse_args()
    write_model(options.directory, options.head_scale)
