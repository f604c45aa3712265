"""The configuration: one model for flags, `BUDMLX_*` variables and the TOML file.

Command line flags are generated from the fields (see `budmlx/cli/flags.py`), so a field
here is all that a new setting needs.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from budmlx.config.keys import keys_in
from budmlx.errors import ConfigError

ENV_PREFIX = "BUDMLX_"


def _split_commas(value: object) -> object:
    """A variable of the environment holds a list as one string."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def size_or_share(text: str) -> float:
    """Bytes, or a share of at most 1, of a text such as `4GiB`, `50%` or `0`.

    Raises:
        ValueError: it is none of these.
    """
    number, percent = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = math.inf
    if 0 <= share <= 1:
        return share
    try:
        if percent or share < 0:
            raise ValueError
        return float(_SIZE.validate_python(text))
    except ValueError as error:
        message = "must be a size such as 4GiB, a share such as 50%, or 0"
        raise PydanticCustomError("size_or_share", message) from error


def _check_size(text: str) -> str:
    size_or_share(text)
    return text


def kv_directory(text: str = "auto") -> str:
    """The directory that `kv_store` names; `auto` is one in the user's cache."""
    if text == "auto":
        text = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "budmlx", "kv")
    return os.path.abspath(os.path.expanduser(text))


_SIZE = TypeAdapter(ByteSize)
SizeOrShare = Annotated[str, BeforeValidator(str), AfterValidator(_check_size)]
# NoDecode: without it pydantic-settings wants JSON in the variable.
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]
Options = TypeVar("Options", bound=BaseModel)
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split_commas)]


class Config(BaseSettings):
    """Settings of `budmlx serve`. Field descriptions are the help texts of the flags."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    model: str | None = Field(
        None, description="Model directory or hub repository id; the demo model if not given."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub repository.")
    alias: Names = Field((), description="Further name that the model answers to.")
    host: str = Field("127.0.0.1", description="Address to bind.")
    port: int = Field(8080, ge=0, le=65535, description="Port to bind; 0 picks a free one.")
    api_keys: Secrets = Field(
        (), description="Accepted bearer keys. Set BUDMLX_API_KEYS; never a flag."
    )
    api_key_file: Path | None = Field(
        None, description="File with one accepted bearer key per line."
    )
    allow_host: Names = Field(
        (), description="Further host name that clients may use in the Host header."
    )
    engine_host: Literal["process", "thread"] = Field(
        "process", description="Run the core in a child process or in a thread."
    )
    memory_limit: ByteSize | None = Field(
        None,
        gt=0,
        description="Bytes for weights, KV caches and activations, such as 12GiB; "
        "default: the device's.",
    )
    kv_bits: int | None = Field(
        None, ge=4, le=8, multiple_of=4, description="Quantize KV caches to 8 or 4 bits a number."
    )
    prefix_cache: SizeOrShare = Field(
        "50%",
        description="Most memory for the KV of former prompts and replies, which prompts that "
        "begin alike reuse: a size such as 4GiB, or a share of what the model's weights leave; "
        "0 switches it off.",
    )
    prefix_cache_shared: bool = Field(
        False,
        description="Reuse KV between API keys, too; response times then tell what others sent.",
    )
    kv_store: Annotated[str, AfterValidator(kv_directory)] | None = Field(
        None,
        description="Directory that keeps this KV over restarts, or auto, which is "
        "~/.cache/budmlx/kv. It tells what prompts said, so nothing is kept if none is named.",
    )
    kv_store_size: ByteSize = Field(
        ByteSize(10 * 2**30), gt=0, description="Most bytes in that directory, such as 10GiB."
    )
    session: Names = Field(
        (), description="File of `Engine.save_session` whose KV every prompt may begin with."
    )
    max_rows: int = Field(64, ge=1, description="Most requests that generate at once.")
    max_queue: int = Field(
        256, ge=0, description="Most requests of one API key that wait; more get 503."
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="Most requests per minute and API key; more get 429."
    )
    concurrent_requests: int | None = Field(
        None, ge=1, description="Most requests at once of one API key; more get 429."
    )
    prefill_chunk: int = Field(512, ge=1, description="Most prompt tokens in one forward pass.")
    max_body: ByteSize = Field(
        ByteSize(8 * 2**20), gt=0, description="Largest request body in bytes, such as 8MiB."
    )
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
    cache: Literal["auto", "on-request", "off"] = Field(
        "on-request",
        description="Which replies the response cache keeps: those of greedy and seeded requests "
        "and of requests that ask for it (auto), only of those that ask, or none.",
    )
    cache_size: ByteSize = Field(
        ByteSize(64 * 2**20),
        ge=0,
        description="Bytes of replies that the built-in response cache keeps, such as 64MiB.",
    )
    plugin: Names = Field(
        (),
        description="Plugin that must load: its name, or package.module, or package.module:object.",
    )
    block_plugin: Names = Field((), description="Name of a plugin that must not load.")
    plugin_autoload: bool = Field(
        True, description="Load all installed plugins, not only those that --plugin names."
    )
    plugin_option: Names = Field((), description="Setting of a plugin, as plugin.setting=value.")
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
    image_host: Names = Field(
        (),
        description="Host that image URLs may name, such as example.com, *.example.com, * (any "
        "public host) or 127.0.0.1:9000; without any, images come as data: URLs only.",
    )
    incremental_tool_calls: bool = Field(
        False, description="Stream the arguments of tool calls piece by piece."
    )
    strict: bool = Field(False, description="Refuse unknown request fields with 400.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe messages to log."
    )

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Build from keyword arguments over the environment, without a TOML file.

        Raises:
            ConfigError: a setting is unknown or has an unusable value.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(explain(error)) from error

    def accepted_keys(self) -> tuple[str, ...]:
        """Every accepted bearer key: `api_keys`, then the lines of `api_key_file`.

        Blank lines and lines that begin with `#` are skipped.

        Raises:
            ConfigError: the file is unreadable or empty, or a key could never be sent.
        """
        keys = [(key.get_secret_value(), "api_keys") for key in self.api_keys]
        if self.api_key_file is not None:
            keys += keys_in(self.api_key_file)
        for key, place in keys:
            if not key or not all("!" <= character <= "~" for character in key):
                raise ConfigError(
                    f"{place}: a key must be one word of visible ASCII characters.", param=place
                )
        return tuple(dict.fromkeys(key for key, _ in keys))

    def options_of(self, plugin: str, model: type[Options]) -> Options:
        """What `plugin_option` says about a plugin, validated by the plugin's own model.

        Raises:
            ConfigError: a setting is unknown to the model or has an unusable value.
        """
        values = {}
        for entry in self.plugin_option:
            path, separator, value = entry.partition("=")
            owner, _, name = path.rpartition(".")
            if not separator or not owner or not name:
                raise ConfigError(
                    f"plugin_option: {entry!r} is not of the form plugin.setting=value.",
                    param="plugin_option",
                )
            if owner == plugin:
                values[name] = value
        try:
            return model.model_validate(values)
        except ValidationError as error:
            text = explain(error)
            raise ConfigError(f"Plugin {plugin}: {text}", param="plugin_option") from error


def explain(error: ValidationError, places: Mapping[str, str] | None = None) -> str:
    """One line that names every wrong field and where it was set; values are not shown.

    places: for a field, the flag, variable or file that set it.
    """
    problems = []
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        name = str(detail["loc"][0]) if detail["loc"] else "configuration"
        place = (places or {}).get(name)
        if detail["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, Config.model_fields, n=1)
            text = "there is no such setting" + (f" (did you mean {close[0]}?)" if close else "")
        else:
            text = detail["msg"].replace("Input should be", "must be").rstrip(".")
        problems.append(f"{name}{f' ({place})' if place else ''}: {text}")
    return "; ".join(problems)
