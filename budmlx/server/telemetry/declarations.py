"""Declarations of all metrics: names, labels, buckets, a sentence, and vLLM's name if it has one.

Labels have values from the server alone: routes, models that were loaded, names of keys and
plugins, and words of this module. Nothing that a client sends becomes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from budmlx.protocol.counts import COMPILING, GAPS, ROWS

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A metric. name: without the suffix `_total` of counters. vllm: what vLLM calls it."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    vllm: str = ""


def _counter(name: str, text: str, *labels: str, vllm: str = "") -> Metric:
    return Metric("counter", f"budmlx_{name}", text, labels, vllm=vllm)


def _gauge(name: str, text: str, *labels: str, vllm: str = "") -> Metric:
    return Metric("gauge", f"budmlx_{name}", text, labels, vllm=vllm)


def _histogram(name: str, text: str, buckets: tuple[float, ...], vllm: str = "") -> Metric:
    return Metric("histogram", f"budmlx_{name}", text, ("model",), buckets, vllm)


# The server

HTTP_REQUESTS = _counter(
    "http_requests",
    "HTTP requests by route and status; 499 where the client left before its end, and "
    "no method and route where a path leads nowhere.",
    "method",
    "route",
    "status",
)
BUILD = _gauge("build_info", "Always 1; the label is the version.", "version")
CONNECTIONS = _gauge("connections", "Connected clients.")
IN_FLIGHT = _gauge("requests_in_flight", "Prompts that hold a place: running or waiting.")

BATCHES_RUNNING = _gauge("batches_running", "Batches that are not over.")
BATCH_LINES_WAITING = _gauge("batch_lines_waiting", "Their lines that have no reply.")
BATCHES = _counter("batches", "Batches that are over, by their status.", "status")
BATCH_LINES = _counter(
    "batch_lines",
    "Lines of batches by how they ended: completed, failed, cancelled or expired. They are no HTTP "
    "requests, and are counted among the prompts below.",
    "outcome",
)

# Requests for text, when they end

REQUESTS = _counter(
    "requests",
    "Prompts by how they ended: completed, failed, cancelled or refused. Those that were refused "
    "before their model was known have none.",
    "model",
    "route",
    "key",
    "outcome",
)
ERRORS = _counter(
    "request_errors",
    "Failed and refused prompts by the code of the error.",
    "model",
    "route",
    "error",
)
CHOICES = _counter(
    "choices", "Choices of replies by finish reason.", "model", "reason", vllm="request_success"
)
PROMPT_TOKENS = _counter(
    "prompt_tokens",
    "Tokens of prompts by where their KV came from: computed, memory, disk, or response_cache for "
    "those of stored replies, which need none.",
    "model",
    "key",
    "source",
    vllm="prompt_tokens",
)
GENERATION_TOKENS = _counter(
    "generation_tokens",
    "Tokens of replies, computed or from the response_cache; so far, where they did not complete.",
    "model",
    "key",
    "source",
    vllm="generation_tokens",
)
REASONING_TOKENS = _counter(
    "reasoning_tokens", "Those tokens of computed replies that were reasoning.", "model"
)
PREFIX_CACHE = _counter(
    "prefix_cache_requests",
    "Computed prompts by the reason why no more of their KV was reused.",
    "model",
    "reason",
)
RESPONSE_CACHE = _counter(
    "response_cache_requests",
    "Completed prompts that were looked up in the response cache: hit or miss.",
    "model",
    "result",
)
WAITED = _histogram(
    "request_arrival_seconds",
    "From the arrival of a computed request until its engine took it; the model may be loaded "
    "meanwhile.",
    SECONDS,
)
PREPARED = _histogram(
    "request_preparation_seconds",
    "Chat template, pictures and tokens of a computed request.",
    SECONDS,
)
QUEUE = _histogram(
    "request_queue_seconds",
    "Time in the queue of the model.",
    SECONDS,
    vllm="request_queue_time_seconds",
)
PREFILL = _histogram(
    "request_prefill_seconds",
    "From there to the first token.",
    SECONDS,
    vllm="request_prefill_time_seconds",
)
DECODE = _histogram(
    "request_decode_seconds",
    "From the first token to the last.",
    SECONDS,
    vllm="request_decode_time_seconds",
)
FIRST_TOKEN = _histogram(
    "time_to_first_token_seconds",
    "From the arrival of a computed request to its first token.",
    SECONDS,
    vllm="time_to_first_token_seconds",
)
PER_TOKEN = _histogram(
    "time_per_output_token_seconds",
    "Mean time between the tokens of a reply.",
    GAPS,
    vllm="request_time_per_output_token_seconds",
)
DURATION = _histogram(
    "request_seconds",
    "From the arrival of a completed request to its end.",
    SECONDS,
    vllm="e2e_request_latency_seconds",
)
PROMPT_LENGTH = _histogram(
    "request_prompt_tokens", "Tokens of a prompt.", TOKENS, vllm="request_prompt_tokens"
)
REPLY_LENGTH = _histogram(
    "request_generation_tokens",
    "Tokens of a reply, all choices together.",
    TOKENS,
    vllm="request_generation_tokens",
)

# Models, when somebody looks

LOADED = _gauge("model_loaded", "1 while the model is loaded, else 0.", "model")
READY = _gauge("model_ready", "1 while the requests of a loaded model make progress.", "model")
LOADS = _counter("model_loads", "How often the model was loaded.", "model")
LOAD_SECONDS = _gauge("model_load_seconds", "Duration of the last load.", "model")
RUNNING = _gauge(
    "rows_running",
    "Rows that the model computes: one for each choice.",
    "model",
    vllm="num_requests_running",
)
WAITING = _gauge("rows_waiting", "Rows in its queue.", "model", vllm="num_requests_waiting")
MEMORY = _gauge(
    "memory_bytes",
    "Memory of the device that the model's process has: active, unused (kept for reuse), peak.",
    "model",
    "kind",
)
MEMORY_LIMIT = _gauge(
    "memory_limit_bytes", "The limit for weights, KV and activations together.", "model"
)
WEIGHTS = _gauge("weights_bytes", "Memory of the weights.", "model")
KV_LIMIT = _gauge(
    "prefix_cache_limit_bytes", "The most for KV of former prompts and replies.", "model"
)
KV_USAGE = _gauge(
    "kv_usage_ratio",
    "The part in use of the memory that weights leave, from 0 to 1.",
    "model",
    vllm="kv_cache_usage_perc",
)
STORED = _gauge(
    "prefix_cache_bytes", "Memory of the KV of former prompts and replies, of late.", "model"
)
RESTARTS = _counter(
    "engine_restarts",
    "Restarts of the model's process by what ended the one before: crash, hang, or load.",
    "model",
    "reason",
)
BUSY = _counter("engine_busy_seconds", "Time in which the model computed.", "model")
BATCH_ROWS = _histogram("batch_rows", "Rows that got a token, by step of the model.", ROWS)
INTER_TOKEN = _histogram(
    "inter_token_seconds",
    "Duration of steps, once for each row that got a token.",
    GAPS,
    vllm="inter_token_latency_seconds",
)
PREEMPTED = _counter(
    "preemptions",
    "Rows that made way for others, or for want of memory, and began anew.",
    "model",
    vllm="num_preemptions",
)
DRAFT_STEPS = _counter(
    "draft_steps",
    "Steps of the model in which tokens were drafted.",
    "model",
)
DRAFTS = _counter(
    "drafts",
    "Drafts of rows that steps checked, by source: ngram (their own text), transcripts (replies of "
    "others), prediction, jump_ahead (what a grammar leaves no choice in), draft_model.",
    "model",
    "source",
    vllm="spec_decode_num_drafts",
)
PARKED = _counter(
    "parked_drafts",
    "Drafts that rows had in steps that checked none, since that would not have paid.",
    "model",
    "source",
)
DRAFTED = _counter(
    "drafted_tokens",
    "Tokens that were drafted.",
    "model",
    "source",
    vllm="spec_decode_num_draft_tokens",
)
ACCEPTED = _counter(
    "accepted_tokens",
    "Drafted tokens that were drawn.",
    "model",
    "source",
    vllm="spec_decode_num_accepted_tokens",
)
GRAMMARS = _histogram("grammar_compile_seconds", "Time to compile a grammar.", COMPILING)
GRAMMARS_KEPT = _counter(
    "grammar_cache_hits", "Rows whose grammar had been compiled for others.", "model"
)
IMAGES = _counter("images_encoded", "Pictures that the vision encoder computed.", "model")
KV_STORE = _counter(
    "kv_store_blocks",
    "Blocks of the disk tier: hits, misses, written, dropped (not written), quarantined (damaged), "
    "slower (computed, since reading takes longer).",
    "model",
    "event",
)
KV_STORE_BYTES = _counter(
    "kv_store_bytes", "Bytes of these blocks, read or written.", "model", "direction"
)

# Plugins

FAULTS = _counter(
    "plugin_faults",
    "Calls of plugins that raised, that returned something wrong (broke), that hang, or that ended "
    "the model's process (crashed); times that they took most of a second (slow), or kept "
    "the event loop from serving for a second (blocks).",
    "plugin",
    "kind",
)
HANGING = _gauge(
    "plugin_calls_hanging", "Calls of plugins that have not returned in time, now.", "plugin"
)

METRICS = tuple(each for each in globals().values() if isinstance(each, Metric))
"""All of them."""
COUNTED = (HTTP_REQUESTS, *METRICS[METRICS.index(REQUESTS) : METRICS.index(LOADED)])
"""Those that are counted here, when something happens."""
COLLECTED = tuple(each for each in METRICS if each not in COUNTED)
"""Those that are asked for when somebody looks."""
