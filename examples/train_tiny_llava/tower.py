"""CLIP's vision tower in PyTorch, with the parameter names of Transformers."""

from dataclasses import dataclass

import torch
from scenes import IMAGE
from tiny_torch import product
from torch import Tensor, nn
from torch.nn import functional as F

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TowerShape:
    """The tower's size, also written to config.json."""

    width: int = 128
    layers: int = 5
    heads: int = 4
    inner: int = 512
    image: int = IMAGE
    patch: int = 8

    @property
    def grid(self) -> int:
        return self.image // self.patch


def linear(x: Tensor, *layers: nn.Linear) -> Tensor:
    """The layers side by side."""
    bias = torch.cat([layer.bias for layer in layers])
    return product(x, *(layer.weight for layer in layers)) + bias


class Attention(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.heads = shape.heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(shape.width, shape.width))

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        joined = linear(x, self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (
            part.view(rows, length, self.heads, -1).transpose(1, 2) for part in joined.chunk(3, -1)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return linear(out.transpose(1, 2).reshape(rows, length, width), self.out_proj)


class MLP(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.width, shape.inner)
        self.fc2 = nn.Linear(shape.inner, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = linear(x, self.fc1)
        return linear(hidden * torch.sigmoid(1.702 * hidden), self.fc2)  # CLIP's quick_gelu


class Layer(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(shape), MLP(shape)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Embeddings(nn.Module):
    """Patches, then positions; the class token stands first.

    The patches' kernel is kept as a matrix [width, rows * columns * channels], which is the
    order of MLX's convolutions.
    """

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.shape = shape
        self.class_embedding = nn.Parameter(torch.randn(shape.width) * 0.1)
        self.patch_embedding = nn.Linear(3 * shape.patch**2, shape.width, bias=False)
        self.position_embedding = nn.Embedding(shape.grid**2 + 1, shape.width)
        nn.init.normal_(self.position_embedding.weight, std=0.3)

    def forward(self, pixels: Tensor) -> Tensor:
        """[rows, 1 + patches, width] from pixels [rows, height, width, 3] of 0 to 255."""
        grid, patch = self.shape.grid, self.shape.patch
        scaled = (pixels.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        parts = scaled.view(-1, grid, patch, grid, patch, 3).transpose(2, 3)
        patches = product(parts.reshape(len(pixels), grid**2, -1), self.patch_embedding.weight)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat((first, patches), 1) + self.position_embedding.weight


class Tower(nn.Module):
    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = Embeddings(shape)
        self.pre_layrnorm = nn.LayerNorm(shape.width)  # spelt so in CLIP
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.post_layernorm = nn.LayerNorm(shape.width)  # not used by LLaVA
        self.post_layernorm.requires_grad_(False)
        for name, weight in self.encoder.named_parameters():
            if name.endswith(("out_proj.weight", "fc2.weight", "bias")):
                nn.init.zeros_(weight)
            elif weight.ndim == 2:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        """[rows, patches, width]: the last layer's output without the class token."""
        x = self.pre_layrnorm(self.embeddings(pixels))
        for layer in self.encoder.layers:
            x = layer(x)
        return x[:, 1:]
