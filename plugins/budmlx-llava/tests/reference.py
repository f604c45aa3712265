"""Vision tower, projector and the packing of tiles in plain numpy (float64), after the modeling
files of transformers: `clip`, `siglip`, `llava`, `llava_next` and `llava_onevision`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers.image_processing_utils import select_best_resolution

Array = np.ndarray[Any, Any]

_erf = np.vectorize(math.erf)


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def quick_gelu(x: Array) -> Array:
    return x / (1 + np.exp(-1.702 * x))


class Reference:
    """A model's vision side. weights: by their published names, in PyTorch's layout."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Array]):
        self.config = config
        self.tower = config["vision_config"]
        self.clip = self.tower["model_type"] == "clip_vision_model"
        self.weights = {
            name.replace("vision_tower.vision_model.", ""): array.astype(np.float64)
            for name, array in weights.items()
        }

    def encode(self, pixels: Array, size: tuple[int, int] | None) -> Array:
        """Embeddings [tokens, hidden] of tiles [tiles, height, width, 3]."""
        onevision = self.config["model_type"] == "llava_onevision"
        states = self.states(pixels.astype(np.float64))
        layer = self.config.get("vision_feature_layer", -1 if onevision else -2)
        layers = layer if isinstance(layer, list) else [layer]
        strategy = self.config.get(
            "vision_feature_select_strategy", "full" if onevision else "default"
        )
        selected = np.concatenate([states[index] for index in layers], axis=-1)
        if strategy == "default":
            selected = selected[:, 1:]
        hidden = gelu(self.linear("multi_modal_projector.linear_1", selected))
        features = self.linear("multi_modal_projector.linear_2", hidden)
        if self.config["model_type"] == "llava":
            return features[0]
        newline = self.weights["image_newline"]
        if len(features) == 1:
            return np.concatenate([features[0], newline[None]])
        assert size is not None
        return np.concatenate([features[0], *self.packed(features[1:], size)])

    def states(self, pixels: Array) -> list[Array]:
        patch, weights = self.tower["patch_size"], self.weights
        kernel = weights["embeddings.patch_embedding.weight"]
        tiles, height, width, _ = pixels.shape
        rows, columns = height // patch, width // patch
        hidden = np.zeros((tiles, rows * columns, kernel.shape[0]))
        for row in range(rows):
            for column in range(columns):
                window = pixels[:, row * patch :, column * patch :][:, :patch, :patch]
                hidden[:, row * columns + column] = np.einsum("tyxc,ocyx->to", window, kernel)
        if self.clip:
            first = np.broadcast_to(weights["embeddings.class_embedding"], (tiles, 1, len(kernel)))
            hidden = np.concatenate([first, hidden], axis=1)
        else:
            hidden = hidden + weights["embeddings.patch_embedding.bias"]
        hidden = hidden + weights["embeddings.position_embedding.weight"]
        if self.clip:
            hidden = self.norm("pre_layrnorm", hidden)
        states = [hidden]
        for number in range(self.tower["num_hidden_layers"]):
            states.append(self.layer(f"encoder.layers.{number}.", states[-1]))
        return states

    def layer(self, name: str, x: Array) -> Array:
        heads = self.tower["num_attention_heads"]
        normed = self.norm(f"{name}layer_norm1", x)
        query, key, value = (
            self.linear(f"{name}self_attn.{part}_proj", normed).reshape(*x.shape[:2], heads, -1)
            for part in "qkv"
        )
        scores = np.einsum("tqhd,tkhd->thqk", query, key) / math.sqrt(query.shape[-1])
        odds = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = np.einsum("thqk,tkhd->tqhd", odds / odds.sum(axis=-1, keepdims=True), value)
        x = x + self.linear(f"{name}self_attn.out_proj", mixed.reshape(x.shape))
        inner = self.linear(f"{name}mlp.fc1", self.norm(f"{name}layer_norm2", x))
        act = quick_gelu if self.clip else gelu_tanh
        return x + self.linear(f"{name}mlp.fc2", act(inner))

    def linear(self, name: str, x: Array) -> Array:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name: str, x: Array) -> Array:
        epsilon = 1e-5 if self.clip else 1e-6
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def packed(self, tiles: Array, size: tuple[int, int]) -> list[Array]:
        """One by one, the features of each row of the picture, and the line break after them."""
        edge = self.tower["image_size"]
        side = edge // self.tower["patch_size"]
        height, width = select_best_resolution(size, self.config["image_grid_pinpoints"])
        rows, columns = height // edge, width // edge
        grid = np.zeros((rows * side, columns * side, tiles.shape[-1]))
        for number, tile in enumerate(tiles):
            top, left = number // columns * side, number % columns * side
            grid[top : top + side, left : left + side] = tile.reshape(side, side, -1)
        tall, wide = grid.shape[:2]
        if size[1] / size[0] > wide / tall:
            padding = (tall - int(round(size[0] * wide / size[1], 7))) // 2
            grid = grid[padding : tall - padding]
        else:
            padding = (wide - int(round(size[1] * tall / size[0], 7))) // 2
            grid = grid[:, padding : wide - padding]
        if limit := self.config.get("vision_aspect_ratio"):
            tall, wide = grid.shape[:2]
            ratio = math.sqrt(tall * wide / (int(limit.removeprefix("anyres_max_")) * side**2))
            if ratio > 1.1:
                grid = bilinear(grid, int(tall // ratio), int(wide // ratio))
        newline = self.weights["image_newline"][None]
        return [part for row in grid for part in (row, newline)]


def bilinear(grid: Array, height: int, width: int) -> Array:
    """Pixel by pixel, between the centers of cells."""
    result = np.zeros((height, width, grid.shape[-1]))
    for row in range(height):
        y = max((row + 0.5) * grid.shape[0] / height - 0.5, 0)
        for column in range(width):
            x = max((column + 0.5) * grid.shape[1] / width - 0.5, 0)
            for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                near = min(int(y) + dy, grid.shape[0] - 1), min(int(x) + dx, grid.shape[1] - 1)
                share = (y % 1 if dy else 1 - y % 1) * (x % 1 if dx else 1 - x % 1)
                result[row, column] += share * grid[near]
    return result
