"""The configuration: one model, the only reader of environment, TOML and flags.

Order of precedence: flags, then `BUDMLX_*` variables, then the TOML file, then defaults.
Command line flags are generated from the fields (see `budmlx/cli/flags.py`), so a field
here is all that a new setting needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    SettingsConfigDict,
)


class Config(BaseSettings):
    """Settings of `budmlx serve`. Field descriptions are the help texts of the flags."""

    model_config = SettingsConfigDict(
        env_prefix="BUDMLX_", extra="forbid", frozen=True, toml_file=None
    )

    model: str | None = Field(
        None, description="Model directory or hub repository id; the demo model if not given."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub repository.")
    alias: tuple[str, ...] = Field((), description="Further name that the model answers to.")
    host: str = Field("127.0.0.1", description="Address to bind.")
    port: int = Field(8080, ge=0, le=65535, description="Port to bind; 0 picks a free one.")
    api_keys: tuple[SecretStr, ...] = Field(
        (), description="Accepted bearer keys. Set BUDMLX_API_KEYS; never a flag."
    )
    api_key_file: Path | None = Field(
        None, description="File with one accepted bearer key per line."
    )
    allow_host: tuple[str, ...] = Field(
        (), description="Further host name that clients may use in the Host header."
    )
    engine_host: Literal["process", "thread"] = Field(
        "process", description="Run the core in a child process or in a thread."
    )
    memory_limit: int | None = Field(
        None,
        gt=0,
        description="Bytes for weights, KV caches and activations; default: the device's.",
    )
    max_rows: int = Field(64, ge=1, description="Most requests that generate at once.")
    max_queue: int = Field(256, ge=0, description="Most requests that wait; more get 503.")
    prefill_chunk: int = Field(512, ge=1, description="Most prompt tokens in one forward pass.")
    max_body: int = Field(8 * 2**20, gt=0, description="Largest request body in bytes.")
    drain_seconds: float = Field(
        10.0, ge=0, description="How long running replies may take to finish after SIGTERM."
    )
    hold_seconds: float = Field(
        10.0, ge=0, description="How long a stream's headers wait for its first token."
    )
    keepalive_seconds: float = Field(
        15.0, gt=0, description="Pause after which a silent stream gets a comment line."
    )
    watchdog_seconds: float = Field(
        30.0, gt=0, description="Time without progress after which the core is restarted."
    )
    strict: bool = Field(False, description="Refuse unknown request fields with 400.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe messages to log."
    )
