"""What the core is told before it loads a model."""

from __future__ import annotations

import msgspec


class PluginTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a plugin brings to the core: `package.module:attribute`."""

    plugin: str
    core: str


class KVStoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the KV of prompts outlives the process.

    directory: of all models. limit: bytes of all files in it. salt: what KV depends on beside
    the model's directory.
    """

    directory: str
    limit: int
    salt: str = ""


class CoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the core needs before it can load.

    memory_limit: bytes for weights, KV caches and activations; None asks the device.
    max_rows: most rows that run at once.
    prefill_chunk: most prompt tokens in one forward pass.
    prefix_cache: bytes for KV of former prompts and replies; up to 1, the share of the memory
    that the weights leave; 0 keeps none.
    kv_store: keeps that KV on disk, too.
    kv_bits: bits of each number in a KV cache, 8 or 4; None leaves them as the model makes them.
    loader: knows the model's classes instead of mlx-lm. vision: makes its encoder.
    sessions: files whose KV every row may begin with.
    """

    model_path: str
    model_name: str
    memory_limit: int | None = None
    max_rows: int = 64
    prefill_chunk: int = 512
    prefix_cache: float = 0.0
    kv_store: KVStoreSettings | None = None
    kv_bits: int | None = None
    loader: PluginTarget | None = None
    vision: PluginTarget | None = None
    sessions: list[str] = []
