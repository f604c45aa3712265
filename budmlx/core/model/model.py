"""A loaded model: mlx-lm's module, its caches and the memory that it takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache
from mlx_lm.utils import load_model as load_with_mlx_lm
from mlx_lm.utils import maybe_set_recommended_wired_limit

from budmlx.core.model.device import DeviceNumbers, this_device
from budmlx.core.model.memory import MemoryModel, Shape, device_memory_limit, probe_layers
from budmlx.core.model.quantized_kv import QuantizedCache, cache_maker
from budmlx.core.model.vision import Vision
from budmlx.core.plugin_calls import resolve
from budmlx.errors import ModelLoadError
from budmlx.model_identity import ModelIdentity
from budmlx.plugins.boundary import FAULTS
from budmlx.protocol import CoreSettings, PluginTarget
from budmlx.types import ModelInfo

log = logging.getLogger(__name__)

CONTEXT_KEYS = (
    "max_position_embeddings",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_positions",
    "n_ctx",
    "model_max_length",
)
# Caches that hold the keys and values of every token, so that a part of them is a whole one.
CAN_BE_CUT = (KVCache, QuantizedCache)
PADDABLE = (KVCache, QuantizedCache, RotatingKVCache)
# Models that name no limit are recurrent, so their context is not bounded by memory.
UNBOUNDED_CONTEXT = 2**20


class DeviceLostError(Exception):
    """The device refuses all further work; only a new process can continue."""


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model.

    new_cache: makes an empty cache for one row, a list with one entry per layer.
    paddable: prompts of different length can be prefilled in one batch. Recurrent caches
    would treat the padding as tokens. numbers: those of the device.
    vision: the image encoder, if the model has one.
    """

    module: nn.Module
    info: ModelInfo
    memory: MemoryModel
    new_cache: Callable[[], list[Any]]
    paddable: bool
    numbers: DeviceNumbers
    vision: Vision | None = None

    def __call__(
        self, tokens: mx.array, cache: list[Any], embeddings: mx.array | None = None
    ) -> mx.array:
        """Logits [rows, tokens, vocab] for token ids [rows, tokens]; updates `cache`.

        embeddings: [rows, tokens, hidden], used instead of those of the tokens.
        """
        extra = {} if embeddings is None else {"input_embeddings": embeddings}
        logits: mx.array = self.module(tokens, cache=cache, **extra)
        return logits


def load_model(settings: CoreSettings) -> Model:
    """Load the directory `settings.model_path`.

    Raises:
        ModelLoadError: the directory is not a model that mlx-lm can run safely.
    """
    path = Path(settings.model_path)
    try:
        module, config = load_with_mlx_lm(path, **_classes(settings.loader))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelLoadError(f"Cannot load {settings.model_name}: {error}") from error
    vision = None if settings.vision is None else Vision.open(settings.vision, path, module)
    maybe_set_recommended_wired_limit()
    new_cache = cache_maker(module, settings.kv_bits)
    cache = new_cache()
    # Lazy: gives shapes and dtypes without computing anything.
    logits = module(mx.zeros((1, 1), dtype=mx.int32), cache=cache)
    text = config.get("text_config") or config
    weights = sum(x.nbytes for _, x in tree_flatten(module.parameters()))
    weights += vision.nbytes if vision else 0
    memory = MemoryModel(
        limit=settings.memory_limit or device_memory_limit(),
        weights=weights,
        layers=(),
        shape=_shape(text, vocab=logits.shape[-1], itemsize=logits.dtype.size),
        fused_attention=mx.default_device() == mx.gpu and settings.kv_bits is None,
    )
    context = next((int(text[k]) for k in CONTEXT_KEYS if text.get(k)), UNBOUNDED_CONTEXT)
    numbers, memory = _fitted(settings.prefill_chunk, memory, cache, context)
    if memory.longest_row(context, numbers.prefill_chunk) < 1:
        raise ModelLoadError(
            f"{settings.model_name} needs more than the memory limit of "
            f"{memory.limit / 2**30:.1f} GiB (its weights take {weights / 2**30:.1f} GiB). "
            "Choose a smaller or more strongly quantized model, or raise --memory-limit."
        )
    info = ModelInfo(
        name=settings.model_name,
        path=str(path),
        model_type=str(config["model_type"]),
        context_length=context,
        vocab_size=logits.shape[-1],
        eos_token_ids=_ids(config.get("eos_token_id")),
        batchable=can_batch(module, new_cache),
        fingerprint=ModelIdentity.read(path).fingerprint(settings.kv_bits),
        created=int(time.time()),
        needs_checkpoints=not all(type(entry) in CAN_BE_CUT for entry in cache),
        numbers=numbers.shown,
    )
    paddable = info.batchable and all(type(e) in PADDABLE for e in cache)
    return Model(module, info, memory, new_cache, paddable, numbers, vision)


def _fitted(
    chunk: int | None, memory: MemoryModel, cache: Sequence[Any], context: int
) -> tuple[DeviceNumbers, MemoryModel]:
    """The numbers of this device, and the memory with its layers, which depend on the chunk.

    chunk: the one that was set, if any; else memory may make the device's smaller.
    cache: a row's, after a (lazy) forward pass.
    """

    def with_layers(chunk: int) -> MemoryModel:
        return replace(memory, layers=probe_layers(cache, chunk))

    numbers = this_device()
    if chunk is not None:
        numbers = replace(numbers, prefill_chunk=chunk)
        if numbers.warning:
            log.warning(numbers.warning)
    else:
        numbers = numbers.fitted(lambda chunk: with_layers(chunk).longest_row(context, chunk))
    return numbers, with_layers(numbers.prefill_chunk)


def _classes(loader: PluginTarget | None) -> dict[str, Any]:
    """Arguments that make mlx-lm use a plugin's classes for the model. Raises ModelLoadError."""
    if loader is None:
        return {}
    try:
        return {"get_model_classes": resolve(loader.core)}
    except FAULTS as error:
        raise ModelLoadError(f"The plugin {loader.plugin} cannot load models: {error}") from error


def can_batch(module: nn.Module, new_cache: Callable[[], list[Any]]) -> bool:
    """Whether rows can share a batch: the caches merge, and the model takes their masks.

    The second is tried on rows of different length. Building the graph is enough for a
    model to refuse; nothing is computed. A mask of the wrong rank broadcasts silently when
    there are as many rows as key-value heads, hence two numbers of rows.
    """
    if not can_merge(new_cache()):
        return False
    try:
        for rows in (3, 5):
            caches = [new_cache() for _ in range(rows)]
            for tokens, cache in enumerate(caches, start=1):
                module(mx.zeros((1, tokens), dtype=mx.int32), cache=cache)
            merged = [entries[0].merge(list(entries)) for entries in zip(*caches, strict=True)]
            module(mx.zeros((rows, 1), dtype=mx.int32), cache=merged)
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError) as error:
        log.warning("this model runs one row at a time, because it cannot batch: %s", error)
        return False
    return True


def can_merge(cache: Sequence[Any]) -> bool:
    """Whether rows with such caches can share a batch."""
    return all(
        can_merge(entry.caches) if isinstance(entry, CacheList) else hasattr(entry, "merge")
        for entry in cache
    )


def _shape(config: dict[str, Any], *, vocab: int, itemsize: int) -> Shape:
    hidden = int(config.get("hidden_size") or config.get("n_embd") or config.get("d_model") or 4096)
    return Shape(
        hidden=hidden,
        intermediate=int(config.get("intermediate_size") or 4 * hidden),
        heads=int(config.get("num_attention_heads") or config.get("n_head") or 1),
        vocab=vocab,
        itemsize=itemsize,
    )


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
