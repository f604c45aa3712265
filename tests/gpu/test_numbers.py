"""Arrays: what budmlx needs of MLX's operations, whose kernels differ from device to device."""

from __future__ import annotations

import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.base import quantized_scaled_dot_product_attention

from budmlx.core.reuse.disk import files
from budmlx.core.reuse.disk.identity import NUMBERS
from tests.gpu.device import GPU


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
def test_numbers_are_added_at_places_that_repeat(dtype: mx.Dtype) -> None:
    x = mx.zeros((3, 1000), dtype)
    rows, ids = mx.array([0, 0, 2, 2]), mx.array([5, 6, 7, 7])
    added = np.array(x.at[rows, ids].add(mx.array([1.0, -2.0, 0.5, 0.25])).astype(mx.float32))
    assert (added[0, 5], added[0, 6], added[2, 7]) == (1, -2, 0.75)
    banned = np.array(x.at[rows, ids].add(-mx.inf).astype(mx.float32))
    assert np.isneginf(banned[[0, 0, 2], [5, 6, 7]]).all()
    assert banned[1, 5] == 0


def test_numbers_are_put_at_places() -> None:
    ids = mx.array([[3, 1], [9, 0]], mx.uint32)
    values = mx.array([[1.0, 2.0], [3.0, 4.0]])
    put = mx.put_along_axis(mx.full((2, 10), -mx.inf), ids, values, axis=-1)
    assert (put[0, 1].item(), put[1, 9].item()) == (2, 3)
    words = mx.zeros(5, mx.uint32)
    words[mx.array([1, 4])] = mx.array([7, 2**31 + 5], mx.uint32)
    assert words.tolist() == [0, 7, 0, 0, 2**31 + 5]


@pytest.mark.parametrize("name", ["F32", "BF16", "F16"])
def test_kv_is_the_same_after_a_file(tmp_path: Path, name: str) -> None:
    dtype, kind = NUMBERS[name]
    x = mx.random.normal((1, 4, 256, 64)).astype(dtype)
    spec = files.ArraySpec(name, (1, 4, 1, 64))
    files.write(tmp_path, "a" * 64, (spec,), 256, [bytes(memoryview(x))])
    [buffer] = files.read(tmp_path, "a" * 64, (spec,), 256)
    back = mx.array(np.frombuffer(buffer, kind).reshape(spec.of(256))).view(dtype)
    assert mx.array_equal(back, x)


def test_the_bytes_of_a_part_are_those_of_its_numbers() -> None:
    x = (mx.arange(24).astype(mx.bfloat16) * 0.37).reshape(1, 2, 4, 3)
    part = x[..., 1:3, :]
    whole = mx.contiguous(part)
    assert bytes(memoryview(part)) == bytes(memoryview(whole))
    assert zlib.crc32(memoryview(whole)) == zlib.crc32(bytes(memoryview(whole)))


@pytest.mark.parametrize("tokens", [1, 16])
@pytest.mark.parametrize(("bits", "group"), [(8, 64), (4, 64), (4, 32)])
def test_attention_over_quantized_keys_is_right(bits: int, group: int, tokens: int) -> None:
    """Against float64 of the same quantized numbers. A GPU multiplies in TensorFloat-32."""
    mx.random.seed(bits + tokens)
    queries = mx.random.normal((3, 8, tokens, 128))
    packed = mx.quantize(mx.random.normal((3, 2, 96, 128)), group, bits)
    mask = mx.arange(96)[None, None, None] >= mx.array([0, 5, 9])[:, None, None, None]
    got = quantized_scaled_dot_product_attention(
        queries * 1, packed, packed, 0.1, mask, group_size=group, bits=bits
    )
    want = _attention(queries, mx.dequantize(*packed, group, bits), mask, 0.1)
    assert np.abs(np.array(got) - want).max() < (1e-2 if GPU else 1e-4)


def _attention(queries: mx.array, kv: mx.array, mask: mx.array, scale: float) -> np.ndarray:
    q, k = np.array(queries, np.float64), np.array(kv, np.float64)
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    scores = np.where(np.array(mask), np.einsum("bhld,bhsd->bhls", q * scale, k), -1e30)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    attended: np.ndarray = weights / weights.sum(-1, keepdims=True) @ k
    return attended
