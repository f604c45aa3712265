"""The vision transformers of CLIP (arXiv:2103.00020) and SigLIP (arXiv:2303.15343), and LLaVA's
projector (arXiv:2310.03744). Parameters have the names that checkpoints give them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn

from budmlx_llava.settings import Settings, TowerShape

_ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": nn.gelu,
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "quick_gelu": nn.gelu_fast_approx,
    "relu": nn.relu,
    "silu": nn.silu,
}


def activation(name: str) -> Callable[[mx.array], mx.array]:
    """The function that transformers calls so. Raises ValueError."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"the activation {name!r} of the vision tower is not supported")
    return _ACTIVATIONS[name]


class Tower(nn.Module):
    """A tower as far as it is needed: up to the last hidden state that the model looks at."""

    def __init__(self, shape: TowerShape, states: Sequence[int]):
        super().__init__()
        self.embeddings = _Embeddings(shape)
        if shape.has_class_token:
            # The name is misspelt in all checkpoints.
            self.pre_layrnorm = nn.LayerNorm(shape.hidden, shape.epsilon)
        self.encoder = _Encoder(shape, max(states))
        self._states = tuple(states)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Hidden states [tiles, tokens, hidden * states] of pictures [tiles, height, width, 3].

        With CLIP the first token stands for no patch.
        """
        hidden = self.embeddings(pixels)
        if "pre_layrnorm" in self:
            hidden = self.pre_layrnorm(hidden)
        found = [hidden]
        for layer in self.encoder.layers:
            found.append(layer(found[-1]))
        return mx.concatenate([found[state] for state in self._states], axis=-1)


class Projector(nn.Module):
    """Two layers from the tower's width to the language model's."""

    def __init__(self, settings: Settings, hidden: int):
        super().__init__()
        width = settings.tower.hidden * len(settings.states)
        self.linear_1 = nn.Linear(width, hidden, bias=settings.projector_bias)
        self.linear_2 = nn.Linear(hidden, hidden, bias=settings.projector_bias)
        self._activation = activation(settings.projector_activation)

    def __call__(self, states: mx.array) -> mx.array:
        """Embeddings [tiles, tokens, hidden] of the tower's states."""
        return self.linear_2(self._activation(self.linear_1(states)))


class _Embeddings(nn.Module):
    def __init__(self, shape: TowerShape):
        super().__init__()
        patch = shape.patch_size
        # Only SigLIP's patches have a bias, and only CLIP has a class token.
        self.patch_embedding = nn.Conv2d(
            3, shape.hidden, patch, stride=patch, bias=not shape.has_class_token
        )
        if shape.has_class_token:
            self.class_embedding = mx.zeros(shape.hidden)
        tokens = shape.side**2 + shape.has_class_token
        self.position_embedding = nn.Embedding(tokens, shape.hidden)

    def __call__(self, pixels: mx.array) -> mx.array:
        patches = self.patch_embedding(pixels).flatten(1, 2)
        if "class_embedding" in self:
            first = mx.broadcast_to(self.class_embedding, (patches.shape[0], 1, patches.shape[-1]))
            patches = mx.concatenate([first, patches], axis=1)
        return patches + self.position_embedding(mx.arange(patches.shape[1]))


class _Encoder(nn.Module):
    def __init__(self, shape: TowerShape, layers: int):
        super().__init__()
        self.layers = [_Layer(shape) for _ in range(layers)]


class _Layer(nn.Module):
    def __init__(self, shape: TowerShape):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(shape.hidden, shape.epsilon)
        self.self_attn = _Attention(shape.hidden, shape.heads)
        self.layer_norm2 = nn.LayerNorm(shape.hidden, shape.epsilon)
        self.mlp = _Mlp(shape)

    def __call__(self, hidden: mx.array) -> mx.array:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        return hidden + self.mlp(self.layer_norm2(hidden))


class _Attention(nn.Module):
    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.q_proj = nn.Linear(hidden, hidden)
        self.k_proj = nn.Linear(hidden, hidden)
        self.v_proj = nn.Linear(hidden, hidden)
        self.out_proj = nn.Linear(hidden, hidden)
        self._heads = heads

    def __call__(self, hidden: mx.array) -> mx.array:
        split = [
            mx.unflatten(project(hidden), -1, (self._heads, -1)).swapaxes(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        ]
        scale = split[0].shape[-1] ** -0.5
        mixed = mx.fast.scaled_dot_product_attention(*split, scale=scale)
        return self.out_proj(mixed.swapaxes(1, 2).flatten(-2))


class _Mlp(nn.Module):
    def __init__(self, shape: TowerShape):
        super().__init__()
        self.fc1 = nn.Linear(shape.hidden, shape.intermediate)
        self.fc2 = nn.Linear(shape.intermediate, shape.hidden)
        self._activation = activation(shape.activation)

    def __call__(self, hidden: mx.array) -> mx.array:
        return self.fc2(self._activation(self.fc1(hidden)))
