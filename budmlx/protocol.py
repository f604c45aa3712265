"""The messages between the engine and the core, the same for both hosts.

The thread host passes these objects through queues; the process host packs each one as a
length-prefixed msgpack frame. One `StepFrame` carries everything that a scheduler turn
produced, so that traffic does not grow with the batch.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from budmlx.types import ModelInfo

PROTOCOL_VERSION = 1


class Target(msgspec.Struct, frozen=True, kw_only=True):
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
    loader: Target | None = None
    vision: Target | None = None
    sessions: list[str] = []


class PluginCall(msgspec.Struct, frozen=True, kw_only=True):
    """A sampler or logits processor that a row chose.

    core: `package.module:factory`, resolved by the core alone. options: validated, as JSON.
    """

    plugin: str
    name: str
    core: str
    options: dict[str, Any] = {}


class Grammar(msgspec.Struct, frozen=True, kw_only=True):
    """What a row may write. source: a grammar in one of llguidance's forms.

    param: the parameter that it came from, for errors.
    """

    source: str
    param: str


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """An array as bytes. dtype: a name of numpy's."""

    dtype: str
    shape: list[int]
    data: bytes


class SessionFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file with the KV of a prompt, all but its last token. save: write it, else read it."""

    path: str
    save: bool


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A picture in a prompt.

    start: the first of its `tokens` placeholders, which stand next to each other.
    key: SHA-256, in hexadecimal, of `arrays`, what the encoder of `plugin` gets.
    """

    plugin: str
    start: int
    tokens: int
    key: str
    arrays: dict[str, Tensor]


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One row to run. Ids are already checked against the vocabulary.

    emitted_ids: tokens of this row that a former core already delivered; generation
    continues after them with the random numbers it would have used anyway.
    seed: always concrete, so that a resumed request draws the same numbers.
    choice: index among the n choices of one request; each draws other numbers.
    max_tokens: counts `emitted_ids` too.
    stop_ids: ids that end the row; the id itself is reported as its last token.
    min_tokens: no stop id may come before so many tokens.
    repetition_window: tokens that repetition_penalty looks back on; 0 means all.
    bias_ids, bias_values: ids and what is added to their logits; -inf bans an id.
    logprobs: how many alternatives to report with each token; None reports nothing.
    sampler: draws instead of us. processors: change the logits before, in this order.
    grammar: what the row may write; it is compiled before the row is queued.
    fork: rows with the same number here (not 0) have the same prompt and prefill once.
    namespace: rows reuse KV of rows with the same one only.
    owner: whose row it is; owners take turns where rows must wait.
    images: what the prompt shows, in order.
    checkpoints: places in the prompt up to which others may be the same, ascending.
    session: a file to read before the prompt is computed, or to write afterwards.
    """

    id: int
    prompt_ids: list[int]
    emitted_ids: list[int] = []
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    choice: int = 0
    max_tokens: int
    stop_ids: list[int]
    min_tokens: int = 0
    typical_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 0
    bias_ids: list[int] = []
    bias_values: list[float] = []
    logprobs: int | None = None
    sampler: PluginCall | None = None
    processors: list[PluginCall] = []
    grammar: Grammar | None = None
    fork: int = 0
    namespace: str = ""
    owner: str = ""
    images: list[Image] = []
    checkpoints: list[int] = []
    session: SessionFile | None = None


# Engine to core.


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First message to a core process."""

    version: int
    settings: CoreSettings


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """Queue a row."""

    request: GenerateRequest


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Drop a row wherever it is; unknown ids are ignored. It gets no further message."""

    id: int


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """Drop everything and end."""


ToCore = Hello | Submit | Cancel | Shutdown

# Core to engine.


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The model is in memory and requests are taken."""

    info: ModelInfo


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """The model cannot be used; the core ends."""

    message: str


RowErrorCode = Literal[
    "context_length_exceeded",
    "request_failed",
    "engine_unavailable",
    "non_finite_logits",
    "plugin_error",
    "invalid_grammar",
    "grammar_error",
    "session_error",
]


class Token(msgspec.Struct, frozen=True, array_like=True):
    """One new token of a row. `reason` is set on the row's last token.

    logprob: of the model's own distribution, before any sampling parameter.
    top: the most likely ids and their logprobs, best first.
    cached: with the first token, how many tokens of the prompt were not computed.
    from_disk: how many of them were read from disk for this row.
    """

    id: int
    token: int
    reason: Literal["stop", "length"] | None = None
    logprob: float | None = None
    top: list[tuple[int, float]] = []
    cached: int = 0
    from_disk: int = 0


class RowFailed(msgspec.Struct, frozen=True, array_like=True):
    """A row that ended without a further token. param: the parameter that is to blame."""

    id: int
    code: RowErrorCode
    message: str
    param: str | None = None


class StepFrame(msgspec.Struct, frozen=True, tag="step"):
    """What one scheduler turn produced. An empty frame is the heartbeat of an idle core.

    started: rows whose prefill began (end of their queue time).
    """

    tokens: list[Token] = []
    failed: list[RowFailed] = []
    started: list[int] = []
    waiting: int = 0
    running: int = 0
    memory: int = 0


FromCore = Loaded | LoadFailed | StepFrame
