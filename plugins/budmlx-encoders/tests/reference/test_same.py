"""States, scores and vectors are those of transformers with PyTorch: `make test-encoders`.

Of causal models, too, which the core itself embeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import budmlx_encoders
import mlx.core as mx
import numpy as np
import pytest
import torch
import transformers as hf
from budmlx_encoders.families import classes
from mlx_lm.utils import load_model
from tokenizers import Tokenizer, models, pre_tokenizers

from budmlx import Engine

BASE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CAUSAL = {**BASE, "num_key_value_heads": 2, "head_dim": 16}
CONFIGS: Mapping[str, Any] = {
    "bert": hf.BertConfig(**BASE),
    "roberta": hf.RobertaConfig(**{**BASE, "pad_token_id": 1, "type_vocab_size": 1}),
    "xlm-roberta": hf.XLMRobertaConfig(**{**BASE, "pad_token_id": 1, "type_vocab_size": 1}),
    "modernbert": hf.ModernBertConfig(**BASE, local_attention=8, cls_token_id=1, sep_token_id=2),
    "nomic_bert": hf.NomicBertConfig(**BASE),
    "qwen3": hf.Qwen3Config(**CAUSAL),
    "llama": hf.LlamaConfig(**CAUSAL),
    "gemma3_text": hf.Gemma3TextConfig(**{**CAUSAL, "num_hidden_layers": 6}, sliding_window=8),
}
ENCODERS = budmlx_encoders.MODEL_TYPES
LENGTHS = (5, 23, 40)
POOLINGS = ("mean", "cls", "last", "max", "mean_sqrt", "weighted")
Array = np.ndarray[Any, Any]


def randomized(model: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) * 0.2)
    return model.eval()


def padded(config: Any) -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    ids = np.full((len(LENGTHS), max(LENGTHS)), config.pad_token_id)
    for row, length in zip(ids, LENGTHS, strict=True):
        row[:length] = random.integers(3, 300, length)
    return ids, np.arange(ids.shape[1])[None] < np.array(LENGTHS)[:, None]


def pooled(mode: str, states: Array) -> Array:
    weights = np.arange(1, len(states) + 1)[:, None]
    pools = {
        "mean": states.mean(0),
        "cls": states[0],
        "last": states[-1],
        "max": states.max(0),
        "mean_sqrt": states.sum(0) / np.sqrt(len(states)),
        "weighted": (states * weights).sum(0) / weights.sum(),
    }
    vector = pools[mode]
    return np.asarray(vector / np.linalg.norm(vector))


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("labels", [0, 1, 3])
def test_states_and_scores(kind: str, labels: int, tmp_path: Path) -> None:
    config = CONFIGS[kind]
    auto = hf.AutoModelForSequenceClassification if labels else hf.AutoModel
    if labels and kind == "nomic_bert":
        pytest.skip("no head of this family is served")
    config.num_labels = labels or 2
    model = randomized(auto.from_config(config))
    model.save_pretrained(tmp_path)
    module, _ = load_model(tmp_path, get_model_classes=classes)
    ids, mask = padded(config)
    second = np.arange(ids.shape[1])[None] >= np.array([[3], [10], [20]])
    kinds = {"token_type_ids": torch.tensor(second.astype(int))} if kind == "bert" else {}
    with torch.no_grad():
        out = model(torch.tensor(ids), attention_mask=torch.tensor(mask.astype(int)), **kinds)
    arrays = mx.array(ids), mx.array(mask), mx.array(second) if kinds else None
    if labels:
        assert np.allclose(np.array(module.classify(*arrays)), out.logits.numpy(), atol=1e-4)
        return
    states = np.array(module.encode(*arrays))
    assert np.allclose(states[mask], out.last_hidden_state.numpy()[mask], atol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("bare", [True, False])
def test_vectors(kind: str, bare: bool, tmp_path: Path) -> None:
    config = CONFIGS[kind]
    if not bare and kind in ENCODERS:
        pytest.skip("encoders have no head that makes tokens")
    auto = hf.AutoModel if bare else hf.AutoModelForCausalLM
    model = randomized(auto.from_config(config))
    model.save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({f"w{n}": n for n in range(300)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({}))
    ids, mask = padded(config)
    with torch.no_grad():
        attended = torch.tensor(mask.astype(int))
        out = model(torch.tensor(ids), attention_mask=attended, output_hidden_states=True)
    states = out.hidden_states[-1].numpy()
    texts = [row[:length].tolist() for row, length in zip(ids, LENGTHS, strict=True)]
    for mode in POOLINGS:
        with Engine.load(tmp_path, plugins=[budmlx_encoders], pooling=mode) as engine:
            together = engine.embed(texts).vectors
            for text, state, vector in zip(texts, states, together, strict=True):
                expected = pooled(mode, state[: len(text)])
                assert vector @ expected > 1 - 1e-4
                assert engine.embed([text]).vectors[0] @ expected > 1 - 1e-4
