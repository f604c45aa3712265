"""Files of a LoRA adapter: read whole and checked as far as that needs no model.

There are two layouts: that of mlx-lm and that of PEFT. Any thread may read; MLX is not used.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budmlx.core.adapters.layouts import CONFIG, MLX_LM, Half, Layout, layout_of, refusal
from budmlx.errors import ModelLoadError

# What holds the numbers of each type, by safetensors' names; numpy has no bfloat16.
NUMBERS: Mapping[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
PICKLE = "adapter_model.bin"
LARGEST = {"F32": 3.4028235e38, "F16": 65504.0, "BF16": 3.3895314e38}


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to a layer: `scale * (x @ a.T) @ b`.

    dtype: safetensors' name of the type of the numbers. a: [rank, inputs]. b: [rank, outputs].
    tensors: the names of both in their file, for errors.
    """

    dtype: str
    a: NDArray[Any]
    b: NDArray[Any]
    scale: float
    tensors: tuple[str, str]

    @property
    def rank(self) -> int:
        """The rank of the update."""
        return int(self.a.shape[0])


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter as its files have it.

    digest: SHA-256 of them, in hexadecimal. weights: the name of the file with the tensors.
    base: what the configuration says of the model that it was made for. updates: by the paths of
    layers in the model.
    """

    path: Path
    digest: str
    weights: str
    base: str
    updates: Mapping[str, LowRank]

    @classmethod
    def read(cls, path: Path, digest: str = "") -> AdapterFiles:
        """Read the directory `path`. digest: what it must have; empty for any.

        Raises:
            ModelLoadError: names the file and the tensor or key at fault.
        """
        config_bytes = _bytes(path, CONFIG)
        config = _config(path, config_bytes)
        layout = layout_of(path, config)
        raw = _bytes(path, layout.weights)
        digests = (hashlib.sha256(part).digest() for part in (config_bytes, raw))
        found = hashlib.sha256(b"".join(digests)).hexdigest()
        if digest and found != digest:
            raise ModelLoadError(
                f"The files of the adapter in {path} were changed. Add it again under another name."
            )
        halves: dict[str, dict[Half, tuple[str, str, NDArray[Any]]]] = {}
        for name, dtype, array in _tensors(path, layout.weights, raw):
            place, half = layout.place(name)
            halves.setdefault(place, {})[half] = (name, dtype, array)
        if not halves:
            raise refusal(path, layout.weights, "it holds no LoRA tensors")
        updates = {place: _update(path, layout, place, both) for place, both in halves.items()}
        return cls(path, found, layout.weights, layout.base, updates)


def _bytes(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except FileNotFoundError:
        advice = "name the directory that mlx-lm or PEFT wrote"
        if (path / PICKLE).exists():
            advice = f"{PICKLE} is a pickle, which can run code; save it with safe_serialization"
        raise refusal(path, name, f"there is no such file; {advice}") from None
    except OSError as error:
        raise refusal(path, name, f"it cannot be read: {error.strerror}") from error


def _config(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise refusal(path, CONFIG, "it is not JSON") from error
    if not isinstance(config, dict):
        raise refusal(path, CONFIG, "it does not hold a JSON object")
    return config


def _tensors(path: Path, file: str, raw: bytes) -> list[tuple[str, str, NDArray[Any]]]:
    """Names, types and numbers of all tensors, which are finite; the numbers are not copied.

    https://huggingface.co/docs/safetensors#format
    """
    try:
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        header.pop("__metadata__", None)
        data = memoryview(raw)[start:]
        found = [(name, *_tensor(header[name], data)) for name in sorted(header)]
        if sum(array.nbytes for *_, array in found) != len(data):
            raise ValueError("there is more, or less, than the tensors")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise refusal(path, file, "it is damaged or no safetensors file; copy it again") from error
    for name, dtype, array in found:
        if dtype not in NUMBERS:
            raise refusal(path, file, f"{name} has numbers of the type {dtype}")
        if not _finite(dtype, array):
            raise refusal(path, file, f"{name} holds NaN or infinity")
    return found


def _tensor(entry: Any, data: memoryview) -> tuple[str, NDArray[Any]]:
    """The type and the numbers of one entry of a header; bytes, if the type is unknown.

    Raises:
        ValueError, TypeError, KeyError: it contradicts itself or the data.
    """
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not 0 <= begin <= end <= len(data) or not all(size >= 0 for size in shape):
        raise ValueError("offsets or sizes are impossible")
    if dtype not in NUMBERS:
        return str(dtype), np.frombuffer(data[begin:end], np.uint8)
    return dtype, np.frombuffer(data[begin:end], NUMBERS[dtype]).reshape(shape)


def _finite(dtype: str, array: NDArray[Any]) -> bool:
    if dtype == "BF16":
        return not bool(((array & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(array).all())


def _update(
    path: Path,
    layout: Layout,
    place: str,
    halves: Mapping[Half, tuple[str, str, NDArray[Any]]],
) -> LowRank:
    """The update of one layer, of its two matrices."""
    file = layout.weights
    for half in ("a", "b"):
        if half not in halves:
            there = halves["b" if half == "a" else "a"][0]
            raise refusal(path, file, f"{layout.tensor(place, half)} is missing beside {there}")
    (name_a, dtype, a), (name_b, dtype_b, b) = halves["a"], halves["b"]
    for name, array in ((name_a, a), (name_b, b)):
        if array.ndim == 3:
            raise refusal(path, file, f"{name} is for experts, which cannot have adapters yet")
        if array.ndim != 2:
            raise refusal(path, file, f"{name} is no matrix: its shape is {list(array.shape)}")
    if layout.kind == MLX_LM:
        a = a.T
    else:
        b = b.T
    rank, scale = layout.strength(place)
    for name, array in ((name_a, a), (name_b, b)):
        if array.shape[0] != rank:
            told = f"{name} has the rank {array.shape[0]}, and {CONFIG} says {rank}"
            raise refusal(path, file, told)
    if dtype_b != dtype:
        raise refusal(path, file, f"{name_b} has numbers of another type than {name_a}")
    largest = float(np.abs(_readable(dtype, b)).max(initial=0.0)) * abs(scale)
    if not math.isfinite(largest) or largest > LARGEST[dtype]:
        raise refusal(path, file, f"{name_b} is too large for the scale {scale:g}")
    return LowRank(dtype, np.ascontiguousarray(a), np.ascontiguousarray(b), scale, (name_a, name_b))


def _readable(dtype: str, array: NDArray[Any]) -> NDArray[Any]:
    """Numbers that numpy computes with."""
    if dtype != "BF16":
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)
