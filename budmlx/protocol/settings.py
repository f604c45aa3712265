"""Settings of the core, which it receives before it loads a model."""

from __future__ import annotations

from typing import Literal

import msgspec

from budmlx.logs import Format, Level
from budmlx.protocol.adapters import AdapterSource
from budmlx.protocol.embedding import EmbeddingSettings
from budmlx.protocol.links import Certificate
from budmlx.protocol.machines import Machines

Parallel = Literal["auto", "tensor", "pipeline"]
"""How ranks divide a model: each layer, or whole layers."""
MOST_DRAFTED = 16
"""Most tokens that a row drafts in a step."""
MOST_PLACES = 128
"""Most tokens that a step with drafts feeds to all rows together: each has logits."""


class PluginTarget(msgspec.Struct, frozen=True, kw_only=True):
    """An object of a plugin for the core to import.

    core: `package.module:attribute`. what: the part of the plugin, such as `sampler dice`.
    required: the load fails without it.
    """

    plugin: str
    core: str
    what: str = ""
    required: bool = False


class DraftModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A draft model, whose tokenizer is the model's. loader: see `CoreSettings`."""

    path: str
    name: str
    loader: PluginTarget | None = None


class KVStoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The disk tier of the prefix cache.

    directory: of all models. limit: bytes of all files in it. salt: a text on which KV depends
    besides the model's directory.
    """

    directory: str
    limit: int
    salt: str = ""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The place of a core among the ranks of its model.

    rank: 0 decides what all of them compute. ring: where each listens to its neighbour, as
    HOST:PORT. control: where rank 0 awaits the others. secret: what all of them know, and nobody
    else.
    backend: MLX's, ring or jaccl; rdma: for jaccl, the devices of each rank towards each.
    certificate: of rank 0, with its key, as files; none for messages without TLS. digest: of the
    certificate, for the others; empty likewise.
    """

    rank: int
    ring: list[str]
    control: str
    secret: str
    certificate: Certificate | None = None
    digest: str = ""
    backend: str = "ring"
    rdma: list[list[str | None]] = []

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return len(self.ring)


class CoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a core and its model.

    memory_limit: bytes for weights, KV caches and activations; None asks the device.
    wired: the memory that a Mac must not page out.
    max_rows: most rows that run at once.
    prefill_chunk: most prompt tokens in one forward pass; None leaves it to the device.
    stream_slowdown: how many times longer than alone a decode step may take beside a prompt.
    prefix_cache: bytes for KV of former prompts and replies; up to 1, the share of the memory
    that the weights leave; 0 keeps none.
    kv_store: keeps that KV on disk, too.
    kv_bits: bits of each number in a KV cache, 8 or 4; None leaves them as the model makes them.
    loader: a plugin's function that gives the model's classes instead of mlx-lm. vision: a
    plugin's factory of the vision encoder. plugins: the factories of samplers and processors.
    sessions: files whose KV every row may begin with.
    adapters: what rows may choose. One that must have a digest may be missing: the rows that
    chose it fail then.
    token_decoder: what stands for the decoder in tokenizer.json, as JSON; empty leaves it.
    embedding: how the model makes vectors of texts, if it does. generates: it makes tokens, too.
    bare: its weights are those of the body alone.
    log_level, log_format: as of `logs.set_up`, for a process of its own; None leaves its log alone.
    warmup: before it serves, the core runs what requests will run.
    speculation: tokens that a row drafts in a step at most; 0 for none, auto for as many as pay.
    machines: where the ranks are, for the host alone; None for this machine.
    parallel: how ranks divide it.
    ranks: processes that compute the model together; here: so many of them share this machine.
    place: that of this one; None until the host has chosen one for each, and for a core that is
    alone.
    draft_model: drafts, too.
    """

    model_path: str
    model_name: str
    memory_limit: int | None = None
    wired: Literal["weights", "all", "none"] = "weights"
    max_rows: int = 64
    prefill_chunk: int | None = None
    stream_slowdown: float = 3.0
    prefix_cache: float = 0.0
    kv_store: KVStoreSettings | None = None
    kv_bits: int | None = None
    loader: PluginTarget | None = None
    vision: PluginTarget | None = None
    plugins: list[PluginTarget] = []
    sessions: list[str] = []
    adapters: list[AdapterSource] = []
    token_decoder: str = ""
    embedding: EmbeddingSettings | None = None
    generates: bool = True
    bare: bool = False
    warmup: bool = True
    log_level: Level | None = None
    log_format: Format = "text"
    speculation: Literal["auto"] | int = 0
    machines: Machines | None = None
    parallel: Parallel = "auto"
    ranks: int = 1
    here: int = 1
    place: Place | None = None
    draft_model: DraftModelSettings | None = None
