"""Layers with adapters: the model's own, and what the adapter of each row adds to its result.

An adapter adds `(x @ A) @ B` to `layer(x)`, with its scale in B: LoRA, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from typing import Any

import mlx.core as mx
import mlx.nn as nn

# Where more adapters than this, or so much rank, would stand side by side, each row is multiplied
# by the matrices of its own: that costs about as much as twelve adapters, however many there are.
SIDE_BY_SIDE = 16
MOST_RANK = 128
WORTH_GATHERING = 12


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """Where adapters stand in the matrices of a layer. Layers that are laid out alike share one.

    names, ranks: of the adapters, in their order. stride: the ranks that each one has room for if
    each row is multiplied by its own; 0 where all of them are, side by side.
    """

    names: tuple[str, ...]
    ranks: tuple[int, ...]
    stride: int

    @property
    def spans(self) -> dict[str, tuple[int, int]]:
        """The begin and end of each adapter's ranks in the matrices."""
        spans, begin = {}, 0
        for name, rank in zip(self.names, self.ranks, strict=True):
            spans[name] = (begin, begin + rank)
            begin += self.stride or rank
        return spans


@lru_cache
def layout_of(adapters: tuple[tuple[str, int], ...]) -> Layout:
    """The layout for adapters, each with its rank."""
    names = tuple(name for name, _ in adapters)
    ranks = tuple(rank for _, rank in adapters)
    total, most = sum(ranks), max(ranks, default=0)
    crowded = total > MOST_RANK and total >= WORTH_GATHERING * most
    gathered = len(names) > SIDE_BY_SIDE or crowded
    return Layout(names, ranks, most if gathered else 0)


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a layer's matrices that a pass needs.

    begin, end: of the ranks that are multiplied. on: which of these each row has, [rows, 1, ranks]
    or [rows, 1, 1]; None where every row has all. own: the number of each row's adapter, [rows],
    where each row is multiplied by its own.
    """

    begin: int
    end: int
    on: mx.array | None = None
    own: mx.array | None = None


class Choice:
    """The adapters of a pass. names: of each row, empty for none."""

    def __init__(self, names: Sequence[str]):
        self._names = names
        self._parts: dict[Layout, Part | None] = {}

    def part(self, layout: Layout) -> Part | None:
        """What the pass needs of a layer; None if no row has an adapter there."""
        if layout not in self._parts:
            self._parts[layout] = self._part(layout)
        return self._parts[layout]

    def _part(self, layout: Layout) -> Part | None:
        spans = layout.spans
        used = {name for name in self._names if name in spans}
        if not used:
            return None
        begin = min(spans[name][0] for name in used)
        end = max(spans[name][1] for name in used)
        if len(used) == 1 and all(name in used for name in self._names):
            return Part(begin, end)
        if layout.stride:
            on = mx.array([[[name in used]] for name in self._names])
            numbers = {name: number for number, name in enumerate(layout.names)}
            own = [numbers.get(name, 0) for name in self._names]
            return Part(0, 0, on, mx.array(own, dtype=mx.uint32))
        nothing = (0, 0)
        rows = [spans.get(name, nothing) for name in self._names]
        on = [[[first <= at < last for at in range(begin, end)]] for first, last in rows]
        return Part(begin, end, mx.array(on))


class Chosen:
    """Beside the model: the choice for the pass that is being built. Without one, layers are the
    model's own.
    """

    choice: Choice | None = None


class AdapterLinear(nn.Module):  # type: ignore[misc]
    """A linear layer, quantized or not, and the updates of adapters for its rows.

    It takes x [rows, tokens, inputs]. chosen: says which adapter each row has.
    """

    def __init__(self, base: nn.Module, chosen: Chosen):
        super().__init__()
        self.base = base
        self.layout = layout_of(())
        self._chosen = chosen

    def __call__(self, x: mx.array) -> mx.array:
        """The layer's result [rows, tokens, outputs]; of rows without an adapter, exactly."""
        y: mx.array = self.base(x)
        choice = self._chosen.choice
        part = None if choice is None else choice.part(self.layout)
        if part is None:
            return y
        update = self._side_by_side if part.own is None else self._gathered
        return y + update(x, part).astype(y.dtype)

    def _side_by_side(self, x: mx.array, part: Part) -> mx.array:
        z = x @ self._a[part.begin : part.end].T
        if part.on is not None:
            # Not a product: what an adapter makes of others' rows may be infinite.
            z = mx.where(part.on, z, mx.zeros((), z.dtype))
        return z @ self._b[part.begin : part.end]

    def _gathered(self, x: mx.array, part: Part) -> mx.array:
        stride = self.layout.stride
        a = self._a.reshape(-1, stride, self._a.shape[1])
        b = self._b.reshape(-1, stride, self._b.shape[1])
        dtype = mx.result_type(x, a)
        product = partial(_product if _copies(dtype) else mx.gather_mm, rhs_indices=part.own)
        z = product(x.astype(dtype), a.swapaxes(1, 2).astype(dtype))
        return product(mx.where(part.on, z, mx.zeros((), dtype)), b.astype(dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices of all adapters, and of what fills them up to the stride."""
        return int(self._a.nbytes + self._b.nbytes) if self.layout.names else 0

    @property
    def copied(self) -> int:
        """Bytes that are copied for each row of a pass while the layer is computed."""
        if not self.layout.stride or not _copies(self._a.dtype):
            return 0
        return int(self.layout.stride * (self._a.nbytes + self._b.nbytes) // len(self._a))

    def nbytes_with(self, rank: int, widths: int, dtype: mx.Dtype) -> int:
        """What `nbytes` will be with a further adapter. widths: inputs and outputs together."""
        ranks = [*self.layout.ranks, rank]
        layout = layout_of(tuple((str(number), each) for number, each in enumerate(ranks)))
        dtypes = [dtype, _dtype(self.base), *([self._a.dtype] if self.layout.names else [])]
        stored = len(ranks) * layout.stride or sum(ranks)
        return stored * widths * int(reduce(mx.result_type, dtypes).size)

    def put(self, name: str, a: mx.array, b: mx.array) -> None:
        """Add an adapter. a: [rank, inputs]. b: [rank, outputs], with its scale."""
        self._lay({**self._updates(), name: (a, b)})

    def drop(self, name: str) -> None:
        """Forget an adapter, if there is one of that name."""
        self._lay({each: both for each, both in self._updates().items() if each != name})

    def _updates(self) -> dict[str, tuple[mx.array, mx.array]]:
        return {
            name: (self._a[begin:end], self._b[begin:end])
            for name, (begin, end) in self.layout.spans.items()
        }

    def _lay(self, updates: Mapping[str, tuple[mx.array, mx.array]]) -> None:
        """Make the matrices for these adapters, and then use them."""
        layout = layout_of(tuple((name, a.shape[0]) for name, (a, _) in updates.items()))
        if layout.names:
            # As the layer computes with them, so that no pass has to convert anything.
            dtype = reduce(mx.result_type, (a for a, _ in updates.values()), _dtype(self.base))
            both = [
                mx.concatenate(
                    [_padded(pair[half], layout.stride).astype(dtype) for pair in updates.values()]
                )
                for half in (0, 1)
            ]
            mx.eval(both)
            self._a, self._b = both
        self.layout = layout


def _dtype(layer: nn.Module) -> mx.Dtype:
    """The type of the numbers that a linear layer makes."""
    dtype: mx.Dtype = (
        layer.scales if isinstance(layer, nn.QuantizedLinear) else layer.weight
    ).dtype
    return dtype


def _copies(dtype: mx.Dtype) -> bool:
    """Whether products of each row's own matrices need copies: `mx.gather_mm` cannot take them."""
    return bool(dtype != mx.float32 and mx.default_device() == mx.cpu)


def _padded(matrix: mx.array, stride: int) -> mx.array:
    """The matrix with rows of zeros, so that it has at least `stride`."""
    return mx.pad(matrix, [(0, max(stride - matrix.shape[0], 0)), (0, 0)])


def _product(x: mx.array, matrices: mx.array, rhs_indices: Any) -> mx.array:
    """`mx.gather_mm` of x [rows, tokens, n] where that does not take such numbers: a CPU."""
    return x @ matrices[rhs_indices]
