"""Tiny encoders with random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from budmlx_encoders.families import FAMILIES, Arguments
from mlx.utils import tree_flatten
from tokenizers import Tokenizer, models, pre_tokenizers, processors

BASE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "pad_token_id": 1,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**BASE, "max_position_embeddings": 128, "pad_token_id": 0},
    "xlm-roberta": {**BASE, "max_position_embeddings": 130, "type_vocab_size": 1},
    "modernbert": {**BASE, "max_position_embeddings": 512, "local_attention": 8},
    "nomic_bert": {**BASE, "max_position_embeddings": 128},
}
CLASSIFIER = {"architectures": ["ModelForSequenceClassification"], "num_labels": 1}


def write_model(path: Path, config: Mapping[str, Any]) -> None:
    mx.random.seed(0)
    module = FAMILIES[config["model_type"]](Arguments(config))
    weights = {
        name: mx.random.normal(x.shape) * 0.2 if x.ndim > 1 else x
        for name, x in tree_flatten(module.parameters())
    }
    mx.save_safetensors(str(path / "model.safetensors"), weights, {"format": "mlx"})
    (path / "config.json").write_text(json.dumps(config))
    words = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", *(f"w{n}" for n in range(290))]
    vocab = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 0), ("[SEP]", 2)],
    )
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"unk_token": "[UNK]"}))
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listed = [
        {"path": folder, "type": f"sentence_transformers.models.{kind}"} for folder, kind in modules
    ]
    if "architectures" not in config:
        (path / "modules.json").write_text(json.dumps(listed))
        (path / "1_Pooling").mkdir()
        pooling = {"pooling_mode_mean_tokens": True}
        (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
