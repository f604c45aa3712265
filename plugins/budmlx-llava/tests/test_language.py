"""The language model as mlx-lm loads it: the same as from a directory of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from budmlx_llava.language import Model, classes, complete
from checkpoints import CLIP, INTERLEAVE, LLAVA, MODELS, QWEN, write_llava
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from budmlx.testing.tiny_random import LLAMA, build

IDS = mx.array([[5, 300, 17, 2, 90]])


def load(path: Path) -> tuple[Any, dict[str, Any]]:
    module, config = load_model(path, get_model_classes=classes)
    return module, config


@pytest.mark.parametrize("layout", ["published", "new"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_language_model(name: str, layout: Any, tmp_path: Path) -> None:
    write_llava(tmp_path, MODELS[name], layout=layout)
    module, _ = load(tmp_path)
    alone = build(MODELS[name]["text_config"], seed=0, scale=2.0)
    assert mx.array_equal(module(IDS), alone(IDS))
    embeddings = module.embed_tokens(IDS)
    assert mx.array_equal(module(IDS, input_embeddings=embeddings), alone(IDS))
    assert not mx.allclose(module(IDS, input_embeddings=embeddings + 1), alone(IDS))
    assert len(module.layers) == len(make_prompt_cache(module)) == 2


@pytest.mark.parametrize("tower_bits", [None, 8])
def test_quantized(tower_bits: int | None, tmp_path: Path) -> None:
    write_llava(tmp_path, LLAVA, layout="mlx", bits=4, tower_bits=tower_bits)
    module, config = load(tmp_path)
    names = {name for name, _ in tree_flatten(module.parameters())}
    assert "language_model.model.layers.1.mlp.up_proj.scales" in names
    assert "language_model.lm_head.scales" in names
    assert not [name for name in names if "vision" in name or "projector" in name]
    assert config["quantization"]["bits"] == 4
    whole = build(LLAVA["text_config"], seed=0, scale=2.0)
    assert mx.argmax(module(IDS)[0, -1]).item() in mx.argsort(-whole(IDS)[0, -1])[:20].tolist()


def test_layers_with_a_quantization_of_their_own(tmp_path: Path) -> None:
    write_llava(tmp_path, LLAVA, bits=4)
    weights = dict(mx.load(str(tmp_path / "model.safetensors")))
    path = "language_model.lm_head"
    head = mx.dequantize(
        weights[f"{path}.weight"],
        weights[f"{path}.scales"],
        weights[f"{path}.biases"],
        group_size=32,
        bits=4,
    )
    kinds = ("weight", "scales", "biases")
    for kind, array in zip(kinds, mx.quantize(head, group_size=64, bits=8), strict=True):
        weights[f"{path}.{kind}"] = array
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization"][path] = {"group_size": 64, "bits": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    head = load(tmp_path)[0].language_model.lm_head
    assert (head.bits, head.group_size) == (8, 64)


def test_what_checkpoints_leave_out() -> None:
    """llava-hf/llava-1.5-7b-hf says little more than this of its language model."""
    config = {**LLAVA, "text_config": {"model_type": "llama", "vocab_size": 32064}}
    model, arguments = classes(config)
    text = config["text_config"]
    assert (text["hidden_size"], text["num_hidden_layers"]) == (4096, 32)
    assert (text["vocab_size"], text["tie_word_embeddings"]) == (32064, False)
    assert model is Model and arguments.from_dict(config).text_config is text
    assert complete({"model_type": "llava"})["model_type"] == "llama"
    assert complete({"model_type": "llava_onevision"})["model_type"] == "qwen2"


def test_rope_and_ties_in_the_places_of_transformers_5() -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    text = {**QWEN, "rope_parameters": rope, "tie_word_embeddings": False}
    del text["rope_theta"]
    found = complete({**INTERLEAVE, "text_config": text, "tie_word_embeddings": True})
    assert found["rope_theta"] == 5e5
    assert found["rope_scaling"] == rope
    assert found["tie_word_embeddings"]
    plain = {**QWEN, "rope_parameters": {"rope_type": "default", "rope_theta": 3e5}}
    assert "rope_scaling" not in complete({"text_config": plain})
    assert complete({"text_config": plain})["rope_theta"] == QWEN["rope_theta"]


def test_mistral_runs_as_llama() -> None:
    config = {**LLAVA, "text_config": {**LLAMA, "model_type": "mistral"}}
    model, arguments = classes(config)
    assert len(model(arguments.from_dict(config)).layers) == 2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ({"model_type": "phi3"}, "takes no embeddings"),
        ({"model_type": "bert"}, "no language model"),
        ({"model_type": "nonsense"}, "unknown type"),
        ({"model_type": "llama", "hidden_size": "many"}, "not usable"),
    ],
)
def test_what_cannot_run_is_refused(text: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        classes({"model_type": "llava", "vision_config": CLIP, "text_config": text})
