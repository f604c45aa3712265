"""Directories of tiny LLaVA models with random weights, in the layouts that there are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from budmlx_llava.language import Model, classes
from mlx.utils import tree_flatten
from mlx_lm.utils import quantize_model
from tokenizers import AddedToken, Tokenizer

from budmlx.testing.tiny_random import LLAMA, build, write_tokenizer

Arrays = dict[str, np.ndarray[Any, Any]]
Layout = Literal["published", "new", "mlx"]

CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "image_size": 28,
    "patch_size": 7,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
SIGLIP = {**CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
QWEN = {**LLAMA, "model_type": "qwen2", "rms_norm_eps": 1e-6}
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]

LLAVA: dict[str, Any] = {
    "model_type": "llava",
    "vision_config": CLIP,
    "text_config": {**LLAMA, "tie_word_embeddings": False},
}
NEXT = {**LLAVA, "model_type": "llava_next", "image_grid_pinpoints": PINPOINTS}
ONEVISION: dict[str, Any] = {
    "model_type": "llava_onevision",
    "vision_config": SIGLIP,
    "text_config": {**QWEN, "tie_word_embeddings": False},
    "image_grid_pinpoints": PINPOINTS,
    "vision_aspect_ratio": "anyres_max_2",
}
INTERLEAVE = {
    **LLAVA,
    "vision_config": SIGLIP,
    "text_config": QWEN,
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
}
MODELS = {"llava": LLAVA, "next": NEXT, "onevision": ONEVISION, "interleave": INTERLEAVE}

CLIP_PROCESSOR: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 28},
    "crop_size": {"height": 28, "width": 28},
    "do_center_crop": True,
    "resample": 3,
}
SIGLIP_PROCESSOR: dict[str, Any] = {
    "image_processor_type": "SiglipImageProcessor",
    "size": {"height": 28, "width": 28},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
}
IMAGE_TOKEN = "<image>"
TEMPLATE = (
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n"
    "{%- if m.content is string -%}{{ m.content }}{%- else -%}{%- for part in m.content -%}"
    "{%- if part.type == 'image' -%}<image>\n{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)


def write_llava(
    path: Path,
    config: Mapping[str, Any],
    *,
    layout: Layout = "published",
    bits: int | None = None,
    tower_bits: int | None = None,
    seed: int = 0,
) -> Arrays:
    """Write a model to `path`; returns the float32 weights of its vision side, in PyTorch's
    layout, by their published names.

    layout: that of transformers before 4.52, of transformers 5, or of conversions for MLX.
    bits, tower_bits: quantize the language model, or tower and projector.
    """
    path.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = json.loads(json.dumps(dict(config)))
    settings["image_token_index"] = _write_tokenizer(path)
    vision = vision_weights(settings, seed)
    language = build(settings["text_config"], seed=seed, scale=2.0)
    text = {f"language_model.{name}": leaf for name, leaf in tree_flatten(language.parameters())}
    if bits is not None:
        model = Model(classes(settings)[1].from_dict(settings))
        model.load_weights(list(text.items()))
        model, settings = quantize_model(model, settings, 32, bits)
        text = dict(tree_flatten(model.parameters()))
    weights = {**text, **_converted(vision, layout, tower_bits)}
    if layout == "new":
        weights = {_newest(name): array for name, array in weights.items()}
    mx.save_safetensors(str(path / "model.safetensors"), weights, {"format": "mlx"})
    (path / "config.json").write_text(json.dumps(settings))
    clip = settings["vision_config"]["model_type"] == "clip_vision_model"
    processor = CLIP_PROCESSOR if clip else SIGLIP_PROCESSOR
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return vision


def vision_weights(config: Mapping[str, Any], seed: int = 0) -> Arrays:
    """Random weights of tower, projector and line break, by their published names."""
    tower, hidden = config["vision_config"], config["text_config"]["hidden_size"]
    width, inner, patch = (tower[k] for k in ("hidden_size", "intermediate_size", "patch_size"))
    clip = tower["model_type"] == "clip_vision_model"
    tokens = (tower["image_size"] // patch) ** 2 + clip
    layers = config.get("vision_feature_layer", -2)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "embeddings.position_embedding.weight": (tokens, width),
        "post_layernorm.weight": (width,),
        "post_layernorm.bias": (width,),
    }
    if clip:
        shapes["embeddings.class_embedding"] = (width,)
        shapes |= {"pre_layrnorm.weight": (width,), "pre_layrnorm.bias": (width,)}
    else:
        shapes["embeddings.patch_embedding.bias"] = (width,)
    for number in range(tower["num_hidden_layers"]):
        layer = f"encoder.layers.{number}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}self_attn.{name}", width, width)
        shapes |= _linear(f"{layer}mlp.fc1", width, inner) | _linear(
            f"{layer}mlp.fc2", inner, width
        )
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{name}.weight": (width,), f"{layer}{name}.bias": (width,)}
    shapes = {f"vision_tower.vision_model.{name}": shape for name, shape in shapes.items()}
    states = len(layers) if isinstance(layers, list) else 1
    shapes |= _linear("multi_modal_projector.linear_1", width * states, hidden)
    shapes |= _linear("multi_modal_projector.linear_2", hidden, hidden)
    if config["model_type"] != "llava":
        shapes["image_newline"] = (hidden,)
    random = np.random.default_rng(seed)
    return {
        name: (random.standard_normal(shape) * 0.3 + ("norm" in name)).astype(np.float32)
        for name, shape in shapes.items()
    }


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _converted(vision: Arrays, layout: Layout, bits: int | None) -> dict[str, mx.array]:
    weights: dict[str, mx.array] = {}
    for name, array in vision.items():
        value = mx.array(array)
        if layout == "mlx" and value.ndim == 4:
            value = value.transpose(0, 2, 3, 1)
        # As the converter of mlx-vlm: it leaves out what has no multiple of 64 elements.
        if bits is not None and value.ndim == 2 and not (value.shape[1] % 32 or value.size % 64):
            path = name.removesuffix(".weight")
            packed, scales, biases = mx.quantize(value, group_size=32, bits=bits)
            weights |= {name: packed, f"{path}.scales": scales, f"{path}.biases": biases}
        else:
            weights[name] = value
    return weights


def _newest(name: str) -> str:
    if name.startswith("language_model.model."):
        return "model.language_model." + name.removeprefix("language_model.model.")
    if name.startswith("language_model."):
        return name.removeprefix("language_model.")
    return "model." + name.replace("vision_tower.vision_model.", "vision_tower.")


def _write_tokenizer(path: Path) -> int:
    """Returns the id of the token that stands for a picture."""
    write_tokenizer(path)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(IMAGE_TOKEN, special=True)])
    tokenizer.save(str(path / "tokenizer.json"))
    config = path / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": TEMPLATE}))
    token = tokenizer.token_to_id(IMAGE_TOKEN)
    assert isinstance(token, int)
    return token


def picture(height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture with large and small structures."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / (5 + c) + c) + np.cos(columns / (9 - c)) for c in range(3)]
    noise = random.integers(-30, 30, (height, width, 3))
    return np.clip(np.stack(waves, axis=-1) * 60 + 128 + noise, 0, 255).astype(np.uint8)
