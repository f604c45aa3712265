"""Loading: from a directory to a model in memory, within the bounds of the device."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache
from mlx_lm.utils import load_model as load_with_mlx_lm
from msgspec import structs

from budmlx.core.adapters.loaded import Adapters
from budmlx.core.model.bare import bare_classes
from budmlx.core.model.batchable import can_batch
from budmlx.core.model.device_numbers import DeviceNumbers, this_device
from budmlx.core.model.draft_model import MOST_TAKEN_IN, DraftModel
from budmlx.core.model.embedder import Embedder, bidirectional, is_encoder
from budmlx.core.model.memory import MemoryModel, probe_layers, state_arrays
from budmlx.core.model.memory_policy import DeviceMemory, MemoryPolicy
from budmlx.core.model.model import Model
from budmlx.core.model.quantized_kv import QuantizedCache, cache_maker, unpacked_bytes
from budmlx.core.model.ranks import Ranks
from budmlx.core.model.scores import ALL_SCORES, stored_scores
from budmlx.core.model.shape import Shape
from budmlx.core.model.vision import Vision
from budmlx.core.plugin_calls import resolve
from budmlx.errors import ModelLoadError
from budmlx.model_context import UNBOUNDED_CONTEXT, context_of
from budmlx.model_identity import ModelIdentity
from budmlx.plugins.boundary import is_interrupt
from budmlx.protocol import MOST_PLACES, CoreSettings
from budmlx.types import ModelInfo
from budmlx.units import size_text
from budmlx.weight_digests import WeightDigests

log = logging.getLogger(__name__)

# Caches that hold the keys and values of every token, so that a part of them is a whole one.
CAN_BE_CUT = (KVCache, QuantizedCache)
# The last tokens of a pass can be taken back from these.
TAKES_BACK = (*CAN_BE_CUT, RotatingKVCache)
# The attention of these chooses blocks by their places in the cache, as if all rows ended together.
READS_PLACES = ("minimax_m3_vl",)
PADDABLE = (KVCache, QuantizedCache, RotatingKVCache)


def load_model(
    settings: CoreSettings, device: DeviceMemory | None = None, ranks: Ranks | None = None
) -> Model:
    """Load the directory `settings.model_path`.

    device: None for MLX's default. ranks: the processes that share both, if there are others.

    Raises:
        ModelLoadError: the directory is not a model that mlx-lm can run safely, or it is too
            large; then its weights have not been read.
    """
    path = Path(settings.model_path)
    device = device or DeviceMemory.here().shared(settings.here)
    policy = MemoryPolicy.choose(device, settings.memory_limit, settings.wired)
    module, config, ranks = _open(settings, path, ranks)
    weights = sum(x.nbytes for _, x in tree_flatten(module.parameters()))
    if weights > policy.limit:
        raise _too_large(settings, policy, weights)
    vision = None if settings.vision is None else Vision.open(settings.vision, path, module)
    weights += vision.nbytes if vision else 0
    encoder = is_encoder(module)
    new_cache = list if encoder else cache_maker(module, settings.kv_bits)
    cache = new_cache()
    shape = _shape(module, cache, config.get("text_config") or config)
    embedder = _embedder(settings, module, shape)
    weights += sum(x.nbytes for x in embedder.pooler.arrays) if embedder else 0
    speculation = _speculation(settings, cache, str(config["model_type"]))
    drafter = _draft_model(settings, device, policy, shape.vocab, speculation)
    weights += drafter.memory.weights if drafter else 0
    memory = MemoryModel(
        limit=policy.limit,
        weights=weights,
        layers=(),
        shape=shape,
        scores=ALL_SCORES if encoder else stored_scores(device, module, cache, shape),
        arrays=len(state_arrays(cache)),
        unpacked=unpacked_bytes(cache),
        places=0 if speculation in ("off", "unsupported") else MOST_PLACES,
        drafter=drafter.memory if drafter else None,
    )
    context = getattr(module, "context_length", None) or context_of(config) or UNBOUNDED_CONTEXT
    numbers, memory = _fitted(settings.prefill_chunk, memory, cache, context)
    if memory.longest_row(context, numbers.prefill_chunk) < 1:
        raise _too_large(settings, policy, weights)
    _read_weights(settings, policy, [module, *([drafter.module] if drafter else [])])
    info = ModelInfo(
        **_identity(settings, path, config),
        context_length=context,
        vocab_size=shape.vocab,
        batchable=not encoder and can_batch(module, new_cache),
        generates=settings.generates and not encoder,
        needs_checkpoints=not all(type(entry) in CAN_BE_CUT for entry in cache),
        speculation=speculation,
        numbers=numbers.shown,
    )
    paddable = info.batchable and all(type(e) in PADDABLE for e in cache)
    own = Adapters(module, new_cache), vision, embedder, ranks, drafter
    return Model(module, info, memory, policy, new_cache, paddable, numbers, *own)


def _identity(settings: CoreSettings, path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `ModelInfo` that say which model it is."""
    return {
        "name": settings.model_name,
        "path": str(path),
        "model_type": str(config["model_type"]),
        "eos_token_ids": _ids(config.get("eos_token_id")),
        "fingerprint": ModelIdentity.read(path).fingerprint(WeightDigests(path), settings.kv_bits),
        "created": int(time.time()),
        "draft_model": settings.draft_model.name if settings.draft_model else "",
    }


def _open(
    settings: CoreSettings, path: Path, ranks: Ranks | None
) -> tuple[nn.Module, dict[str, Any], Ranks | None]:
    """The model, or this rank's part of it, its configuration, and how the ranks have divided it;
    of the weights only the headers are read."""
    try:
        module, config = load_with_mlx_lm(path, lazy=True, **_classes(settings))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _unusable(settings, error) from error
    if not is_encoder(module) and (said := bidirectional(config)):
        raise ModelLoadError(
            f"{settings.model_name} lets tokens see those that follow them (config.json says "
            f"{said}), which mlx-lm does not compute: all that it gives would be wrong. A plugin "
            "such as budmlx-encoders may have its architecture."
        )
    if ranks is not None:
        ranks = ranks.split(settings.model_name, module, config, settings.parallel)
    return module, config, ranks


def _shape(module: nn.Module, cache: list[Any], text: Mapping[str, Any]) -> Shape:
    """The sizes of a model. text: its configuration. cache: empty; it holds a token afterwards.

    Lazy: it gives shapes and dtypes without computing anything.
    """
    tokens = mx.zeros((1, 1), dtype=mx.int32)
    encoder = is_encoder(module)
    out = module.encode(tokens, tokens == 0) if encoder else module(tokens, cache=cache)
    vocab = int(text["vocab_size"]) if encoder else out.shape[-1]
    return Shape.of(text, vocab=vocab, itemsize=out.dtype.size)


def _read_weights(
    settings: CoreSettings, policy: MemoryPolicy, modules: Sequence[nn.Module]
) -> None:
    policy.set_limits()
    try:
        mx.eval([module.parameters() for module in modules])
    except (OSError, ValueError, RuntimeError) as error:
        raise _unusable(settings, error) from error
    policy.wire()


def _embedder(settings: CoreSettings, module: nn.Module, shape: Shape) -> Embedder | None:
    if settings.embedding is None:
        return None
    try:
        return Embedder.of(module, settings.embedding, shape.hidden)
    except ModelLoadError as error:
        raise _unusable(settings, error) from error


def _unusable(settings: CoreSettings, error: Exception) -> ModelLoadError:
    return ModelLoadError(f"Cannot load {settings.model_name}: {error}")


def _too_large(settings: CoreSettings, policy: MemoryPolicy, weights: int) -> ModelLoadError:
    return ModelLoadError(
        f"{settings.model_name} needs more than the memory limit of "
        f"{size_text(policy.limit)} (its weights take {size_text(weights)}). "
        "Choose a smaller or more strongly quantized model, or raise --memory-limit."
    )


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
        if not cache:
            # An encoder's: no text is cut, so that a pass may be as long as the longest.
            numbers = replace(numbers, prefill_chunk=max(numbers.prefill_chunk, context))
        numbers = numbers.fitted(lambda chunk: with_layers(chunk).longest_row(context, chunk))
    return numbers, with_layers(numbers.prefill_chunk)


def _classes(settings: CoreSettings) -> dict[str, Any]:
    """Arguments that make mlx-lm use other classes for the model. Raises ModelLoadError."""
    loader = settings.loader
    if loader is None:
        return {"get_model_classes": bare_classes} if settings.bare else {}
    try:
        return {"get_model_classes": resolve(loader.core)}
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise ModelLoadError(f"The plugin {loader.plugin} cannot load models: {error}") from error


def _speculation(settings: CoreSettings, cache: Sequence[Any], model_type: str) -> str:
    """See `ModelInfo.speculation`. cache: a row's."""
    if not cache or not _takes_back(cache) or model_type in READS_PLACES:
        return "unsupported"
    return str(settings.speculation or "off")


def _takes_back(cache: Sequence[Any]) -> bool:
    return all(
        _takes_back(entry.caches) if isinstance(entry, CacheList) else type(entry) in TAKES_BACK
        for entry in cache
    )


def _draft_model(
    settings: CoreSettings, device: DeviceMemory, policy: MemoryPolicy, vocab: int, speculation: str
) -> DraftModel | None:
    """The draft model, whose weights have not been read. vocab: logits of the model."""
    asked = settings.draft_model
    if asked is None:
        return None
    if speculation in ("off", "unsupported"):
        reason = "is off" if speculation == "off" else "is not possible with its caches"
        raise ModelLoadError(
            f"{settings.model_name} has a draft model, {asked.name}, but speculation {reason}."
        )
    own = structs.replace(settings, model_name=asked.name, loader=asked.loader, bare=False)
    module, config, _ = _open(own, Path(asked.path), None)
    new_cache = list if is_encoder(module) else cache_maker(module, None)
    cache = new_cache()
    if not cache or not all(type(entry) in CAN_BE_CUT for entry in cache):
        kinds = ", ".join(sorted({type(entry).__name__ for entry in cache})) or "none"
        raise ModelLoadError(
            f"{asked.name} cannot draft: its caches ({kinds}) do not hold the keys and values of "
            "every token, so that no tokens can be taken back."
        )
    shape = _shape(module, cache, config.get("text_config") or config)
    chunk = min(settings.prefill_chunk or MOST_TAKEN_IN, MOST_TAKEN_IN)
    memory = MemoryModel(
        limit=policy.limit,
        weights=sum(x.nbytes for _, x in tree_flatten(module.parameters())),
        layers=probe_layers(cache, chunk),
        shape=shape,
        scores=stored_scores(device, module, cache, shape),
        arrays=len(state_arrays(cache)),
        places=MOST_PLACES,
    )
    context = context_of(config) or UNBOUNDED_CONTEXT
    together = can_batch(module, new_cache)
    return DraftModel(module, new_cache, together, memory, shape.vocab, vocab, context, chunk)


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
