"""The models that the bench writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model as load_with_mlx_lm
from tokenizers import Tokenizer

from bench.smollm2 import write_smollm2
from bench.write_model import CPU, GPU, random_quantized, write_tokenizer

HIDDEN, VOCAB = 64, 20


@pytest.mark.parametrize("vocab", [500, 12_000])
def test_every_token_of_the_bench_model_is_visible_ascii(tmp_path: Path, vocab: int) -> None:
    write_tokenizer(tmp_path, vocab)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [tokenizer.decode([token]) for token in range(vocab)]
    assert all(text and text.isascii() for text in texts)
    assert len(set(texts)) == vocab
    said = "A river, a garden:\nbabebibo BUDMLX 42!"
    ids = tokenizer.encode(said).ids
    assert tokenizer.decode(ids) == said
    assert len(ids) < len(said)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "eos_token" not in settings


def test_the_gpus_model_has_random_numbers_of_four_bits() -> None:
    small = {**GPU, "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256}
    model, settings = random_quantized({**small, "vocab_size": 512, "max_position_embeddings": 64})
    assert settings["quantization"] == {"group_size": 64, "bits": 4, "mode": "affine"}
    logits = model(mx.array([[1, 2, 3]])).astype(mx.float32)
    assert logits.shape == (1, 3, 512)
    # As those of other random weights: about equal for all tokens.
    assert 0.2 < mx.std(logits).item() < 2
    assert CPU["vocab_size"] == 8192


def gguf() -> tuple[dict[str, mx.array], dict[str, Any]]:
    """Arrays and metadata of a small model, as MLX loads them; one matrix is quantized."""
    shapes = {
        "token_embd": (VOCAB, HIDDEN),
        "output_norm": (HIDDEN,),
        "blk.0.attn_norm": (HIDDEN,),
        "blk.0.ffn_norm": (HIDDEN,),
        "blk.0.attn_q": (HIDDEN, HIDDEN),
        "blk.0.attn_k": (32, HIDDEN),
        "blk.0.attn_v": (32, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate": (128, HIDDEN),
        "blk.0.ffn_up": (128, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, 128),
    }
    arrays = {f"{name}.weight": mx.random.normal(shape) for name, shape in shapes.items()}
    parts = mx.quantize(arrays["blk.0.attn_q.weight"], 32, 4)
    for kind, array in zip(("weight", "scales", "biases"), parts, strict=True):
        arrays[f"blk.0.attn_q.{kind}"] = array
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefghi0123", "ab", "abc"]
    tokens += ["\u0120", "\u010a"]
    numbers = {
        "embedding_length": HIDDEN,
        "block_count": 1,
        "feed_forward_length": 128,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "vocab_size": VOCAB,
        "context_length": 128,
        "rope.freq_base": 1e4,
    }
    meta: dict[str, Any] = {f"llama.{name}": mx.array(value) for name, value in numbers.items()}
    meta["tokenizer.ggml.tokens"] = tokens
    meta["tokenizer.ggml.merges"] = ["a b", "ab c"]
    meta["tokenizer.ggml.token_type"] = mx.array([3] * 3 + [1] * (VOCAB - 3))
    meta["tokenizer.chat_template"] = "{{ messages }}"
    return arrays, meta


@pytest.mark.parametrize("ends", [False, True])
def test_a_gguf_file_becomes_a_model(tmp_path: Path, ends: bool) -> None:
    arrays, meta = gguf()
    write_smollm2(arrays, meta, tmp_path / "model", ends=ends)
    module, config = load_with_mlx_lm(tmp_path / "model")
    assert config["rope_traditional"] is True
    assert config.get("eos_token_id") == (2 if ends else None)
    layer = module.model.layers[0]
    parts = [arrays[f"blk.0.attn_q.{kind}"] for kind in ("weight", "scales", "biases")]
    assert mx.array_equal(layer.self_attn.q_proj.weight, mx.dequantize(*parts, 32, 4))
    assert mx.array_equal(layer.mlp.down_proj.weight, arrays["blk.0.ffn_down.weight"])
    assert module(mx.array([[3, 4, 5]])).shape == (1, 3, VOCAB)
    tokenizer = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    assert tokenizer.encode("<|im_start|>abcd 12").ids == [1, 17, 6, 18, 13, 14]
    assert tokenizer.decode([1, 17, 18, 13], skip_special_tokens=True) == "abc 1"
