"""A plugin that shows pictures to a random model as the mean colours of their quarters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

import budmlx
from budmlx.plugins.vision import (
    Detail,
    ModelFiles,
    ModelLoaderSpec,
    Pixels,
    PreparedImage,
    VisionEncoderSpec,
    VisionPreprocessorSpec,
)
from budmlx.testing.tiny_random import CHATML, LLAMA, write_random_model

MODEL_TYPE = "picture_llama"
TOKEN = "<|picture|>"
# Writes pictures itself, before the text, as the templates of some models do.
PICTURES_FIRST = (
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n"
    "{%- if m.content is string -%}{{ m.content }}{%- else -%}"
    "{%- for p in m.content if p.type == 'image' -%}" + TOKEN + "{%- endfor -%}"
    "{%- for p in m.content if p.type == 'text' -%}{{ p.text }}{%- endfor -%}"
    "{%- endif -%}<|im_end|>\n{%- endfor -%}<|im_start|>assistant\n"
)


def write_vision_model(path: Path, template: str = CHATML) -> Path:
    """A random llama whose type only this plugin loads, with a token for pictures."""
    write_random_model(path, LLAMA, scale=4.0)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(TOKEN, special=True)])
    tokenizer.save(str(path / "tokenizer.json"))
    for name, changes in (
        ("config.json", {"model_type": MODEL_TYPE}),
        ("tokenizer_config.json", {"chat_template": template}),
        ("preprocessor_config.json", {"quarters": 4}),
    ):
        file = path / name
        before = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**before, **changes}))
    return path


def prepare(pixels: Pixels, detail: Detail) -> PreparedImage:
    """Colours [tokens, 3]: of the quarters, or of the whole at low detail."""
    if pixels.shape[0] == 13:
        raise RuntimeError("unlucky")
    if pixels.shape[0] == 14:
        return PreparedImage()
    if pixels.shape[0] == 15:
        return PreparedImage(tokens=1, arrays={"colours": np.zeros((2**21, 3), np.float32)})
    height, width = (n // 2 or 1 for n in pixels.shape[:2])
    parts = [pixels[:height, :width], pixels[:height, -width:]]
    parts += [pixels[-height:, :width], pixels[-height:, -width:]]
    if detail == "low":
        parts = [pixels]
    colours = np.array([part.mean(axis=(0, 1)) for part in parts], np.float32)
    return PreparedImage(tokens=len(parts), arrays={"colours": colours / 255})


@budmlx.hookimpl
def provide_vision_preprocessor(name: str, model: ModelFiles) -> VisionPreprocessorSpec | None:
    if name not in ("auto", "quarters") or model.model_type != MODEL_TYPE:
        return None
    assert model.preprocessor["quarters"] == 4
    return VisionPreprocessorSpec("quarters", prepare, placeholder=TOKEN)


@budmlx.hookimpl
def provide_vision_encoder(model: ModelFiles) -> VisionEncoderSpec | None:
    if model.model_type != MODEL_TYPE:
        return None
    return VisionEncoderSpec("quarters", "tests.vision_plugin_core:load")


@budmlx.hookimpl
def add_model_loaders() -> Iterable[ModelLoaderSpec]:
    return [ModelLoaderSpec("quarters", (MODEL_TYPE,), "tests.vision_plugin_core:classes")]


def parts(*content: str | Pixels, detail: str = "auto") -> list[dict[str, Any]]:
    """A user's message of texts and pictures."""
    shown: list[Mapping[str, Any]] = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part, "detail": detail}
        for part in content
    ]
    return [{"role": "user", "content": shown}]


def picture(seed: int, height: int = 8, width: int = 8) -> Pixels:
    """A picture of noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
