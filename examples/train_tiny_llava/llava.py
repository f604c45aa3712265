"""LLaVA in PyTorch: tower, projector and the language model of budmlx-tiny."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from tiny import Shape
from tiny_torch import Block, RMSNorm, product
from torch import Tensor, nn
from torch.nn import functional as F
from tower import Tower, TowerShape, linear

CHAT_MODEL = Path(__file__).parents[2] / "budmlx" / "assets" / "tiny"


class Language(nn.Module):
    """`qwen3` as in ../train_tiny/network.py, with a plain embedding, one row longer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary + 1, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)

    def forward(self, x: Tensor) -> Tensor:
        half = self.shape.head_width // 2
        inverse = self.shape.rope_base ** (-torch.arange(half) / half)
        angles = torch.arange(x.shape[1])[:, None] * inverse
        cos, sin = angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class Projector(nn.Module):
    def __init__(self, seen: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(seen, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return linear(F.gelu(linear(x, self.linear_1)), self.linear_2)


class Llava(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shape, seen = Shape(), TowerShape()
        self.image_token = shape.vocabulary
        self.tower, self.projector = Tower(seen), Projector(seen.width, shape.width)
        self.language = Language(shape)

    def hidden(self, ids: Tensor, pixels: Tensor | None) -> Tensor:
        """[rows, length, width]. pixels: the pictures whose tokens stand in ids, in order."""
        x = self.language.embed_tokens(ids)
        if pixels is not None:
            places = (ids == self.image_token)[..., None]
            x = x.masked_scatter(places, self.projector(self.tower(pixels)))
        return self.language(x)

    def forward(self, ids: Tensor, targets: Tensor, pixels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The summed loss at the targets that are not negative, and how many were right."""
        learned = targets >= 0
        hidden = self.hidden(ids, pixels)[learned]
        logits = product(hidden, self.language.embed_tokens.weight)
        right = (logits.argmax(-1) == targets[learned]).sum()
        return F.cross_entropy(logits, targets[learned], reduction="sum"), right

    def start(self, tower: dict[str, Tensor]) -> None:
        """Begins with the chat model's weights and a pretrained tower's."""
        self.tower.load_state_dict(tower)
        weights = chat_weights()
        table = weights["embed_tokens.weight"]
        weights["embed_tokens.weight"] = torch.cat((table, table.mean(0, keepdim=True)))
        self.language.load_state_dict(weights)
        with torch.no_grad():  # a picture's vectors begin as long as a token's
            self.projector.linear_2.weight *= table.square().mean().sqrt() / 2

    def plain_weights(self) -> dict[str, Tensor]:
        """The weights under the names of LLaVA's checkpoints, in MLX's order of axes."""
        parts = {"vision_tower.vision_model": self.tower, "language_model.model": self.language,
                 "multi_modal_projector": self.projector}  # fmt: skip
        weights = {
            f"{prefix}.{name}": value.detach()
            for prefix, part in parts.items()
            for name, value in part.state_dict().items()
        }
        patch = self.tower.shape.patch
        name = "vision_tower.vision_model.embeddings.patch_embedding.weight"
        weights[name] = weights[name].reshape(-1, patch, patch, 3)
        return weights


def dequantized(weight: np.ndarray, scales: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """8-bit weights [rows, columns / 4] as MLX packs them: four bytes in a word, lowest first."""
    values = weight.view(np.uint8).astype(np.float32)
    grouped = values.reshape(*scales.shape, -1)
    return (grouped * scales[..., None] + biases[..., None]).reshape(values.shape)


def chat_weights(folder: Path = CHAT_MODEL) -> dict[str, Tensor]:
    """The shipped chat model's weights in float32, without the prefix `model.`."""
    if json.loads((folder / "config.json").read_text())["quantization"]["bits"] != 8:
        raise SystemExit(f"{folder} is not quantized to 8 bits")
    stored = load_file(folder / "model.safetensors")
    weights = {}
    for name, value in stored.items():
        if name.endswith((".scales", ".biases")):
            continue
        stem = name.removesuffix(".weight")
        if f"{stem}.scales" in stored:
            value = dequantized(value, stored[f"{stem}.scales"], stored[f"{stem}.biases"])
        weights[name.removeprefix("model.")] = torch.from_numpy(value.astype(np.float32))
    return weights
