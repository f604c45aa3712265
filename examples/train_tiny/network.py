"""The model in PyTorch, with the parameter names of MLX's `qwen3`."""

import torch
from shape import Shape
from tokenizer import Factors
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


def product(x: Tensor, *weights: Tensor) -> Tensor:
    """x times the transposed weights side by side, multiplied in bfloat16, kept in float32."""
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    return F.linear(x.bfloat16(), weight.bfloat16()).float()


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.head_width = shape.heads, shape.head_width
        inner = shape.heads * shape.head_width
        self.q_proj = nn.Linear(shape.width, inner, bias=False)
        self.k_proj = nn.Linear(shape.width, inner, bias=False)
        self.v_proj = nn.Linear(shape.width, inner, bias=False)
        self.o_proj = nn.Linear(inner, shape.width, bias=False)
        self.q_norm = RMSNorm(shape.head_width)
        self.k_norm = RMSNorm(shape.head_width)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, _ = x.shape
        split = (rows, length, self.heads, self.head_width)
        joined = product(x, self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)
        q, k, v = (part.view(split) for part in joined.chunk(3, -1))
        q, k, v = (part.transpose(1, 2) for part in (self.q_norm(q), self.k_norm(k), v))
        q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return product(out.transpose(1, 2).reshape(rows, length, -1), self.o_proj.weight)


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = product(x, self.gate_proj.weight, self.up_proj.weight).chunk(2, -1)
        return product(F.silu(gate) * up, self.down_proj.weight)


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(shape), MLP(shape)
        self.input_layernorm = RMSNorm(shape.width)
        self.post_attention_layernorm = RMSNorm(shape.width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class FactoredEmbedding(nn.Module):
    """A token's vector is the sum of its piece's, its case's, its space's and its own part."""

    def __init__(self, shape: Shape, parts: Factors) -> None:
        super().__init__()
        for name in ("base", "case", "space"):
            ids = torch.tensor(getattr(parts, name))
            self.register_buffer(f"{name}_ids", ids, persistent=False)
            self.register_parameter(
                name, nn.Parameter(torch.zeros(int(ids.max()) + 1, shape.width))
            )
        self.own = nn.Parameter(torch.zeros(shape.vocabulary, shape.width))
        nn.init.normal_(self.base, std=0.03)
        nn.init.normal_(self.case, std=0.02)
        nn.init.normal_(self.space, std=0.02)

    def table(self) -> Tensor:
        factored = self.base[self.base_ids] + self.case[self.case_ids] + self.space[self.space_ids]
        return factored + self.own


class Network(nn.Module):
    def __init__(self, shape: Shape, parts: Factors) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = FactoredEmbedding(shape, parts)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)
        for name, weight in self.layers.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(weight)

    def forward(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The summed loss at the targets that are not negative, and how many were right."""
        half = self.shape.head_width // 2
        inverse = self.shape.rope_base ** (-torch.arange(half) / half)
        angles = torch.arange(ids.shape[1])[:, None] * inverse
        table = self.embed_tokens.table()
        x = F.embedding(ids, table)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin())
        learned = targets >= 0
        logits = product(self.norm(x[learned]), table)
        right = (logits.argmax(-1) == targets[learned]).sum()
        return F.cross_entropy(logits, targets[learned], reduction="sum"), right

    def plain_weights(self) -> dict[str, Tensor]:
        """The weights under MLX's names, with the embedding's parts added up."""
        weights = {
            f"model.{name}": value
            for name, value in self.state_dict().items()
            if not name.startswith("embed_tokens")
        }
        return {**weights, "model.embed_tokens.weight": self.embed_tokens.table().detach()}
