"""The same checkpoint in budmlx, mlx-vlm and transformers: embeddings, and greedy tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from budmlx_llava import provide_vision_preprocessor
from budmlx_llava.encoder import load
from budmlx_llava.language import classes
from budmlx_llava.preprocess import normalization
from budmlx_llava.settings import Settings
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
from mlx_vlm.models.cache import make_prompt_cache as make_vlm_cache
from mlx_vlm.utils import load_model as load_vlm
from transformers import AutoModelForImageTextToText

from budmlx.plugins.vision import ModelFiles, PreparedImage

BEFORE, AFTER, STEPS = [1, 40, 41], [60, 61, 2], 24


def numbers_of(path: Path) -> Callable[[PreparedImage], Any]:
    """Makes numbers [tiles, height, width, 3] of a picture's levels, for the model in `path`."""
    files = ModelFiles.read(path)
    scale, offset = normalization(Settings.of(files), files)
    return lambda image: image.arrays["pixel_values"].astype(np.float32) * scale - offset


class Ours:
    """Preprocessor, encoder and language model of the plugin, in mlx-lm."""

    def __init__(self, path: Path):
        self.files = ModelFiles.read(path)
        spec = provide_vision_preprocessor("auto", self.files)
        assert spec is not None
        self.prepare = spec.prepare
        self.encoder = load(self.files)
        self.model, _ = load_model(path, get_model_classes=classes)

    def embed(self, image: PreparedImage) -> mx.array:
        return self.encoder.encode({name: mx.array(a) for name, a in image.arrays.items()})

    def greedy(self, image: PreparedImage) -> list[int]:
        text = [self.model.embed_tokens(mx.array([ids])) for ids in (BEFORE, AFTER)]
        prompt = mx.concatenate([text[0], self.embed(image)[None], text[1]], axis=1)
        cache = make_prompt_cache(self.model)
        ids = mx.zeros(prompt.shape[:2], dtype=mx.int32)
        logits = self.model(ids, cache=cache, input_embeddings=prompt)
        return _greedy(logits, lambda ids: self.model(ids, cache=cache))


class MlxVlm:
    """mlx-vlm's model. Its pictures are [tiles, 3, height, width]."""

    def __init__(self, path: Path):
        self.numbers = numbers_of(path)
        self.model = load_vlm(path)
        self.token = self.model.config.image_token_index

    def embed(self, image: PreparedImage) -> mx.array:
        prompt = self._prompt(image)
        return prompt[0, len(BEFORE) : prompt.shape[1] - len(AFTER)]

    def greedy(self, image: PreparedImage) -> list[int]:
        prompt = self._prompt(image)
        language = self.model.language_model
        cache = make_vlm_cache(language)
        ids = mx.zeros(prompt.shape[:2], dtype=mx.int32)
        logits = language(ids, inputs_embeds=prompt, cache=cache).logits
        return _greedy(logits, lambda ids: language(ids, cache=cache).logits)

    def projected(self, image: PreparedImage) -> mx.array:
        """Embeddings [tiles, tokens, hidden] of the tiles, before they are put together."""
        pixels = mx.array(self.numbers(image))
        *_, states = self.model.vision_tower(pixels, output_hidden_states=True)
        return self.model.multi_modal_projector(states[self.model.vision_feature_layer][:, 1:])

    def _prompt(self, image: PreparedImage) -> mx.array:
        pixels = mx.array(self.numbers(image)).transpose(0, 3, 1, 2)
        size = image.arrays.get("image_size")
        extra: dict[str, Any] = {}
        if size is not None:
            extra, pixels = {"image_sizes": mx.array(size)[None]}, pixels[None]
        ids = mx.array([BEFORE + [self.token] * image.tokens + AFTER])
        return self.model.get_input_embeddings(ids, pixels, **extra).inputs_embeds


class Transformers:
    """The reference in PyTorch."""

    def __init__(self, path: Path):
        self.numbers = numbers_of(path)
        self.model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
        self.model.eval()
        self.token = self.model.config.image_token_id

    @torch.no_grad()
    def embed(self, image: PreparedImage) -> Any:
        found = self.model.get_image_features(**self._arrays(image)).pooler_output
        return torch.cat(list(found)).numpy()

    @torch.no_grad()
    def greedy(self, image: PreparedImage) -> list[int]:
        ids = torch.tensor([BEFORE + [self.token] * image.tokens + AFTER])
        options = {"do_sample": False, "max_new_tokens": STEPS, "min_new_tokens": STEPS}
        reply = self.model.generate(input_ids=ids, **self._arrays(image), **options)
        return [int(token) for token in reply[0, ids.shape[1] :]]

    def _arrays(self, image: PreparedImage) -> dict[str, torch.Tensor]:
        pixels = torch.tensor(np.moveaxis(self.numbers(image), -1, 1))
        if "image_size" not in image.arrays:
            return {"pixel_values": pixels}
        sizes = torch.tensor(image.arrays["image_size"][None])
        return {"pixel_values": pixels[None], "image_sizes": sizes}


def _greedy(logits: mx.array, step: Any) -> list[int]:
    tokens: list[int] = []
    for _ in range(STEPS):
        tokens.append(int(mx.argmax(logits[0, -1]).item()))
        logits = step(mx.array([[tokens[-1]]]))
    return tokens
