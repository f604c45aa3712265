"""Settings of a model: two models of one server may differ in each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from budmlx.config.values import (
    Adapters,
    AutoTokens,
    Drafts,
    Names,
    Prompt,
    SamplingValues,
    Size,
    SizeOrShare,
)
from budmlx.protocol import PoolingMode

OF_ONE_MODEL = frozenset({"model", "revision", "alias", "session", "adapter", "draft_model"})
"""Settings that say which model it is, or are of use to no other."""


class ModelConfig(BaseModel):
    """Settings of a model, its core and the reading of its text: the keys of `[models.NAME]`.

    In a table, `model_fields_set` says which settings the table has. Some are here although
    they could be the server's: `engine_host`, `memory_limit`, `wired` and `watchdog_seconds`,
    since each model has a core of its own; `cache`, since which replies are worth keeping depends
    on the model (the space for them is one, see `ServerConfig`); `prefix_cache_shared` and
    `image_host`, since a model that strangers use may need to be stricter than others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    model: str | None = Field(
        None, description="Model directory or hub repository id; the demo model if not given."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub repository.")
    alias: Names = Field((), description="Further name that the model answers to.")
    pin: bool = Field(False, description="Never unload the model to make room for another.")
    idle_unload: float = Field(
        0.0,
        ge=0,
        description="Seconds without a request after which the model is unloaded; 0: never.",
    )
    adapter: Adapters = Field(
        (),
        description="LoRA adapter that requests may choose, as NAME=DIRECTORY: what mlx-lm or PEFT "
        "wrote for this model.",
    )
    session: Names = Field(
        (), description="File of `Engine.save_session` whose KV every prompt may begin with."
    )
    engine_host: Literal["process", "thread"] = Field(
        "process", description="Run the core in a child process or in a thread."
    )
    ranks: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes of this machine that compute the model together, each with a part "
        "of it.",
    )
    parallel: Literal["auto", "tensor", "pipeline"] = Field(
        "auto",
        description="What each rank has: a part of every layer (tensor), whole layers (pipeline), "
        "or the former where the architecture can be divided so (auto).",
    )
    machines: Path | None = Field(
        None,
        description="Hostfile of `mlx.launch`: machines that compute the model together, this one "
        "first. The others are started over ssh, or by hand with `budmlx rank`.",
    )
    join_port: int = Field(
        0, ge=0, le=65535, description="Port where `budmlx rank` of other machines joins; 0: any."
    )
    join_token: Path | None = Field(
        None,
        description="File with the secret of all machines, for those that are started by hand; "
        "without it each start makes one.",
    )
    memory_limit: Size | None = Field(
        None,
        gt=0,
        description="Bytes for weights, KV caches and activations, such as 12GiB; "
        "default: the device's.",
    )
    wired: Literal["weights", "all", "none"] = Field(
        "weights",
        description="Memory that a Mac must not page out: the model's weights, all that the core "
        "uses, or none of it. Without effect elsewhere.",
    )
    context_limit: int | None = Field(
        None,
        ge=1,
        description="Most tokens of a prompt and its reply together, if that is less than the "
        "model's own limit.",
    )
    max_rows: int = Field(64, ge=1, description="Most requests that generate at once.")
    prefill_chunk: AutoTokens = Field(
        "auto",
        description="Most prompt tokens in one forward pass; auto is what suits the device.",
    )
    stream_slowdown: float = Field(
        3.0,
        gt=1,
        description="How many times longer than alone a step of running replies may take while a "
        "prompt is computed beside it; more where many prompts wait for few replies. Larger "
        "numbers bring first tokens sooner, smaller ones keep streams smoother.",
    )
    watchdog_seconds: float = Field(
        30.0, gt=0, description="Time without progress after which the core is restarted."
    )
    warmup: Literal["auto", "off"] = Field(
        "auto",
        description="Before it serves, run what requests will run, so that none of them waits "
        "for the device's kernels to be built: as much as the device needs (auto), or nothing.",
    )
    kv_bits: int | None = Field(
        None, ge=4, le=8, multiple_of=4, description="Quantize KV caches to 8 or 4 bits a number."
    )
    speculation: Drafts = Field(
        "off",
        description="Tokens that a reply drafts in a step, from what it or its prompt said before, "
        "and that the step checks: as many as pay (auto), none (off), or always so many. What is "
        "said stays the same.",
    )
    draft_model: str | None = Field(
        None,
        description="Small model with the same tokenizer that drafts, too: a directory or a hub "
        "repository id. It needs speculation.",
    )
    prefix_cache: SizeOrShare = Field(
        "50%",
        description="Most memory for the KV of former prompts and replies, which prompts that "
        "begin alike reuse: a size such as 4GiB, or a share of what the model's weights leave, at "
        "most a quarter of the device's memory; 0 switches it off.",
    )
    prefix_cache_shared: bool = Field(
        False,
        description="Reuse KV between API keys, too; response times then tell what others sent.",
    )
    cache: Literal["auto", "on-request", "off"] = Field(
        "on-request",
        description="Which replies the response cache keeps: those of greedy and seeded requests "
        "and of requests that ask for it (auto), only of those that ask, or none.",
    )
    system_prompt: Prompt | None = Field(
        None,
        description="Instructions for conversations that have no system message of their own.",
    )
    default_sampling: SamplingValues = Field(
        {},
        description="Sampling parameters of requests that do not say them, as NAME=VALUE, such as "
        "temperature=0.6; over those of the model's generation_config.json.",
    )
    generation_config: bool = Field(
        True,
        description="Take default sampling parameters from the model's generation_config.json.",
    )
    tool_parser: str = Field(
        "auto",
        description="How the model writes tool calls: a parser's name, such as hermes; by the "
        "model's chat template (auto); or none.",
    )
    reasoning_parser: str = Field(
        "auto", description="How the model writes its reasoning: a parser's name, auto, or none."
    )
    vision_preprocessor: str = Field(
        "auto",
        description="How pictures get into prompts: a preprocessor's name, auto (the model "
        "decides), or none.",
    )
    pooling: PoolingMode | None = Field(
        None,
        description="The model makes vectors of texts, in this way; for embedding models whose "
        "files do not say it.",
    )
    embed_any: bool = Field(
        False,
        description="Let a chat model make vectors of texts, too: by the last token, which few of "
        "them were trained for.",
    )
    image_host: Names = Field(
        (),
        description="Host that image URLs may name, such as example.com, *.example.com, * (any "
        "public host) or 127.0.0.1:9000; without any, images come as data: URLs only.",
    )
