"""A step of 16 rows with adapters against one of a model that has none."""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from bench.rows import load, prompts
from budmlx.core.adapter_changes import load_adapters
from budmlx.core.adapters.probe import sites
from budmlx.core.model.model import Model
from budmlx.protocol import AdapterSource

ROWS, PROMPT = 16, 48
# How many adapters a model has, and rows use.
KINDS = {"none": (0, 0), "unused": (16, 0), "four": (4, 4), "sixteen": (16, 16)}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. steps: of each kind in each round. settle: before them."""

    steps: int = 16
    settle: int = 4
    rounds: int = 9
    rank: int = 8


DEFAULTS = Sizes()


def adapters(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """Medians of seconds a step, in alternating rounds: of the model as it is and, if it is in
    float32, with weights of 4 bits.

    The bare model is called, with the adapters of 16 rows on all linear layers of its blocks.
    """
    found: dict[str, float] = {}
    for weights in ("float32", "4bit"):
        if weights == "float32" and _is_quantized(load(path)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            found |= {
                f"{weights}_{kind}": seconds
                for kind, seconds in _medians(path, Path(folder), weights, sizes).items()
            }
        gc.collect()
        mx.clear_cache()
    return found


def _medians(path: Path, folder: Path, weights: str, sizes: Sizes) -> dict[str, float]:
    models = {count: _model(path, weights) for count in (0, 4, 16)}
    sources = [_write(folder / str(n), models[0], sizes.rank, n) for n in range(16)]
    names = {
        count: [answer.digest for answer in load_adapters(model, sources[:count])]
        for count, model in models.items()
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(1 + sizes.rounds):
        # The same order every time would favour one of them.
        for kind in list(KINDS)[:: 1 if turn % 2 else -1]:
            count, used = KINDS[kind]
            rows = [names[count][row % used] for row in range(ROWS)] if used else []
            seconds[kind].append(_step(models[count], rows, sizes))
    return {kind: statistics.median(each[1:]) for kind, each in seconds.items()}


def _is_quantized(model: Model) -> bool:
    return any(isinstance(each, nn.QuantizedLinear) for each in model.module.modules())


def _model(path: Path, weights: str) -> Model:
    model = load(path)
    if weights == "4bit" and not _is_quantized(model):
        nn.quantize(model.module, group_size=32, bits=4)
        mx.eval(model.module.parameters())
    return model


def _write(path: Path, model: Model, rank: int, seed: int) -> AdapterSource:
    """Write a random adapter in mlx-lm's layout."""
    keys = mx.random.split(mx.random.key(seed), 2)
    tensors = {}
    for place, site in sites(model.module, model.new_cache).items():
        if ".layers." in place:
            a = mx.random.normal((site.inputs, rank), key=keys[0]) * site.inputs**-0.5
            b = mx.random.normal((rank, site.outputs), key=keys[1]) * 0.05
            tensors |= {f"{place}.lora_a": a, f"{place}.lora_b": b}
    path.mkdir()
    config = {"lora_parameters": {"rank": rank, "scale": 2.0}}
    (path / "adapter_config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(path / "adapters.safetensors"), tensors)
    return AdapterSource(str(path))


def _step(model: Model, names: Sequence[str], sizes: Sizes) -> float:
    """Seconds a step of 16 rows. names: the adapter of each; none at all if empty."""
    cache: list[Any] = make_prompt_cache(model.module)
    ids = mx.array(prompts(ROWS, PROMPT, model.info.vocab_size))
    tokens = mx.argmax(model(ids, cache, adapters=names)[:, -1, :], axis=-1)
    mx.eval(tokens)
    begin = 0.0
    for step in range(sizes.settle + sizes.steps):
        if step == sizes.settle:
            begin = time.perf_counter()
        following = mx.argmax(model(tokens[:, None], cache, adapters=names)[:, -1, :], axis=-1)
        mx.async_eval(following)
        tokens.tolist()
        tokens = following
    return (time.perf_counter() - begin) / sizes.steps
