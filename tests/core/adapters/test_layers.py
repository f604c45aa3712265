"""Layers with adapters: which can have some, how they are laid out, and what each row gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from budmlx.core.adapters.layers import AdapterLinear, Choice, Chosen, layout_of
from budmlx.core.adapters.probe import sites

INPUTS, OUTPUTS, TOKENS = 64, 96, 3


def update(rank: int, seed: int, dtype: mx.Dtype = mx.float32) -> tuple[mx.array, mx.array]:
    keys = mx.random.split(mx.random.key(seed))
    a = mx.random.normal((rank, INPUTS), key=keys[0]).astype(dtype)
    return a, mx.random.normal((rank, OUTPUTS), key=keys[1]).astype(dtype)


def layer_of(ranks: Sequence[int], dtype: mx.Dtype = mx.float32) -> AdapterLinear:
    """A layer with an adapter of each rank; they are called by their numbers."""
    layer = AdapterLinear(nn.Linear(INPUTS, OUTPUTS), Chosen())
    for number, rank in enumerate(ranks):
        layer.put(str(number), *update(rank, number, dtype))
    return layer


def computed(layer: AdapterLinear, x: mx.array, names: Sequence[str]) -> mx.array:
    layer._chosen.choice = Choice(names)
    return layer(x)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize(
    ("ranks", "stride"),
    [([8], 0), ([8, 4, 16], 0), ([4] * 17, 4), ([32] * 12 + [8] * 3, 32), ([64, 64, 64], 0)],
)
def test_each_row_gets_its_own_update(ranks: list[int], stride: int, dtype: mx.Dtype) -> None:
    layer = layer_of(ranks, dtype)
    assert layer.layout.stride == stride
    last = str(len(ranks) - 1)
    for names in (["0"], ["", "0", last, "0"], ["", last], [last, last], ["", "?"], ["?", "0"]):
        x = mx.random.normal((len(names), TOKENS, INPUTS), key=mx.random.key(1)).astype(dtype)
        y, plain = computed(layer, x, names), layer.base(x)
        for row, name in enumerate(names):
            if name not in layer.layout.names:
                assert mx.array_equal(y[row], plain[row])
                continue
            a, b = update(ranks[int(name)], int(name), dtype)
            wanted = plain[row] + (x[row] @ a.T) @ b
            tolerance = 1e-4 if dtype == mx.float32 else 1
            assert mx.allclose(y[row], wanted, rtol=1e-2, atol=tolerance), names


def test_adapters_leave_and_come_back() -> None:
    layer = layer_of([4] * 20)
    x = mx.random.normal((2, TOKENS, INPUTS))
    before = computed(layer, x, ["", "7"])
    nbytes = layer.nbytes
    for number in range(20):
        if number != 7:
            layer.drop(str(number))
    assert layer.layout.stride == 0 and layer.nbytes == nbytes // 20
    assert mx.allclose(computed(layer, x, ["", "7"]), before, atol=1e-4)
    layer.put("new", *update(16, 30))
    layer.drop("unknown")
    assert mx.allclose(computed(layer, x, ["new", "7"])[1], before[1], atol=1e-4)
    layer.drop("7")
    layer.drop("new")
    assert not layer.nbytes and mx.array_equal(computed(layer, x, ["", "7"]), layer.base(x))


def test_what_one_adapter_makes_infinite_stays_with_its_rows() -> None:
    for ranks in ([4, 4], [4] * 17):
        layer = layer_of(ranks)
        layer.drop("1")
        layer.put("1", mx.full((4, INPUTS), 3e38), mx.ones((4, OUTPUTS)))
        x = mx.ones((3, 1, INPUTS))
        y = computed(layer, x, ["", "1", "0"])
        assert mx.array_equal(y[0], layer.base(x)[0])
        assert not mx.isfinite(y[1]).any() and mx.isfinite(y[2]).all()


def test_layers_that_are_laid_out_alike_share_what_a_pass_needs() -> None:
    choice = Choice(["b", ""])
    first = choice.part(layout_of((("a", 4), ("b", 8))))
    assert first is choice.part(layout_of((("a", 4), ("b", 8))))
    assert first is not None and (first.begin, first.end) == (4, 12)
    assert choice.part(layout_of((("a", 4),))) is None


class Model(nn.Module):
    """Uses its layers in ways that do, and do not, let them have adapters."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("called", "read", "flat", "first", "never", "out"):
            setattr(self, name, nn.Linear(8, 8))
        self.embed = nn.Embedding(16, 8)
        self.packed = nn.Linear(64, 8).to_quantized(32, 4)
        self.blocks = [{"inner": nn.Linear(8, 8, bias=False)}]

    def __call__(self, tokens: mx.array, cache: Any) -> mx.array:
        x = self.called(self.embed(tokens))
        x = x @ self.read.weight.T
        x = self.flat(x.reshape(-1, 8)).reshape(x.shape)
        if tokens.shape[1] > 1:
            x = self.first(x)
        x = self.packed(mx.concatenate([x] * 8, axis=-1))
        return self.out(self.blocks[0]["inner"](x))


def test_layers_that_cannot_have_adapters_are_told() -> None:
    model = Model()
    before = dict(model.named_modules())
    found = sites(model, list)
    assert {name: site.problem for name, site in found.items()} == {
        "called": "",
        "read": "its weight is read by the model instead of calling it",
        "flat": "it does not get one input for each row",
        "first": "it is not called in every pass",
        "never": "it is not called in every pass",
        "packed": "",
        "blocks.0.inner": "",
        "out": "",
    }
    assert (found["packed"].inputs, found["packed"].outputs) == (64, 8)
    assert dict(model.named_modules()).items() == before.items()


def test_a_model_that_does_not_take_others_layers_has_none() -> None:
    class Strict(Model):
        def __call__(self, tokens: mx.array, cache: Any) -> mx.array:
            if not isinstance(self.called, nn.Linear):
                raise TypeError("a linear layer, please")
            return super().__call__(tokens, cache)

    model = Strict()
    problems = {site.problem for site in sites(model, list).values()}
    assert problems == {"the model does not run with it replaced (a linear layer, please)"}
    assert isinstance(model.called, nn.Linear)
