"""Settings of the server: one value, however many models are served."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ByteSize, ConfigDict, Field, SecretStr, ValidationError

from budmlx.config.explain import explain
from budmlx.config.keys import KeyFile, check_usable, parsed, text_of
from budmlx.config.values import (
    Aliases,
    AutoSize,
    Directories,
    FilesDirectory,
    KeyFilePath,
    KVDirectory,
    Names,
    Origins,
    Secrets,
    Size,
    StoreFile,
)
from budmlx.errors import ConfigError
from budmlx.logs import Format, Level

Options = TypeVar("Options", bound=BaseModel)


class ServerConfig(BaseModel):
    """Settings of the server: addresses, keys, limits, plugins, and stores that models share.

    Some are here although they act on models: plugins, since a process loads each of them once;
    `kv_store` and `cache_size`, since they describe one directory and one store, in which every
    model has entries of its own and one limit holds for all; `incremental_tool_calls`, since it
    is about what clients expect of a stream; `aliases`, since one name can mean one model only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="Address to bind.")
    port: int = Field(8080, ge=0, le=65535, description="Port to bind; 0 picks a free one.")
    listen_fd: int | None = Field(
        None,
        ge=0,
        description="Number of an open file that is a listening socket, such as 3 from a socket of "
        "systemd; it is used in place of `host` and `port`.",
    )
    api_keys: Secrets = Field(
        (), description="Accepted bearer keys. Set BUDMLX_API_KEYS; never a flag."
    )
    admin_key: Secrets = Field(
        (),
        description="Bearer keys with which models may be loaded, unloaded, fetched and deleted; "
        "they are API keys, too. Set BUDMLX_ADMIN_KEY; never a flag.",
    )
    api_key_file: KeyFilePath | None = Field(
        None,
        description="File with one accepted bearer key per line, or with what `budmlx keys add` "
        "writes, or auto, which is ~/.local/state/budmlx/keys, on a Mac ~/Library/Application "
        "Support/budmlx/keys. It is read again when it changes.",
    )
    tls_cert: Path | None = Field(
        None,
        description="PEM file with the certificate chain for HTTPS, read again when it changes. "
        "`budmlx cert` makes one.",
    )
    tls_key: Path | None = Field(None, description="PEM file with the key of `tls_cert`.")
    allow_host: Names = Field(
        (), description="Further host name that clients may use in the Host header."
    )
    allow_origin: Origins = Field(
        (),
        description="Origin of web pages that may use this server, such as http://localhost:3000.",
    )
    models_dir: Directories = Field(
        (),
        description="Directory with models: each has one of its own in it, by itself or in that of "
        "its publisher.",
    )
    aliases: Aliases = Field(
        {},
        description="Names that clients ask for and the served models they get, as NAME=MODEL. In "
        "NAME, * stands for any characters; a name without * wins, then the longest.",
    )
    demo: bool = Field(
        False,
        description="Serve the small demo model that comes with budmlx, under every name.",
    )
    default_model: str | None = Field(
        None,
        description="Model that answers to names that nothing else answers to; such names are "
        "refused if there is none.",
    )
    preload: Names = Field(
        (), description="Model to load at the start; others are loaded when a request names them."
    )
    max_models: int | None = Field(
        None, ge=1, description="Most models that are loaded at once; default: as many as fit."
    )
    memory_budget: AutoSize = Field(
        "auto",
        description="Bytes for all loaded models together, with their KV and prefix caches, such "
        "as 40GiB; auto is what the device allows.",
    )
    min_stay: float = Field(
        30.0,
        ge=0,
        description="How many seconds a loaded model stays although requests for others wait for "
        "its memory.",
    )
    when_full: Literal["wait", "fail"] = Field(
        "wait",
        description="What becomes of a request for a model that has no room before others end: it "
        "waits, or it fails with 503.",
    )
    load_wait: float = Field(
        120.0,
        ge=0,
        description="How many seconds a request waits for its model to be loaded before it gets "
        "503; 0 does not wait.",
    )
    pull_on_demand: bool = Field(
        False,
        description="Fetch a model from the hub when a request names one that is not here.",
    )
    kv_store: KVDirectory | None = Field(
        None,
        description="Directory that keeps the KV of prompts over restarts, or auto, which is "
        "~/.cache/budmlx/kv, on a Mac ~/Library/Caches/budmlx/kv. It tells what prompts said, so "
        "nothing is kept if none is named.",
    )
    kv_store_size: Size = Field(
        ByteSize(10 * 2**30), gt=0, description="Most bytes in that directory, such as 10GiB."
    )
    store: StoreFile | None = Field(
        None,
        description="File that keeps responses that clients store, over restarts, or auto, which "
        "is ~/.local/state/budmlx/store.sqlite, on a Mac ~/Library/Application "
        "Support/budmlx/store.sqlite. It holds what was said, so all is kept in memory if none is "
        "named.",
    )
    store_max_responses: int = Field(
        1000,
        ge=1,
        description="Most responses that one API key keeps stored; the least recently used ones go "
        "first.",
    )
    store_max_size: Size = Field(
        ByteSize(256 * 2**20),
        gt=0,
        description="Most bytes of the responses that one API key keeps stored, such as 256MiB.",
    )
    store_max_days: float = Field(
        30.0, gt=0, description="How many days a stored response is kept after its last use."
    )
    files_dir: FilesDirectory | None = Field(
        None,
        description="Directory that keeps files that clients upload, and batches with their "
        "replies, over restarts, or auto, which is ~/.local/state/budmlx/files, on a Mac "
        "~/Library/Application Support/budmlx/files. One server uses it at a time. They are gone "
        "at the end if none is named.",
    )
    files_max_count: int = Field(1000, ge=1, description="Most files that one API key keeps.")
    files_max_size: Size = Field(
        ByteSize(2 * 2**30), gt=0, description="Most bytes of all files that one API key keeps."
    )
    file_max_size: Size = Field(
        ByteSize(200 * 2**20), gt=0, description="Largest file in bytes, such as 200MiB."
    )
    batch_lines: int = Field(
        32, ge=1, le=1024, description="Requests of batches that run or wait in the engine at once."
    )
    server_tag: str = Field(
        "",
        pattern=r"[a-z0-9]{0,16}",
        description="End of the ids of responses, files and batches, such as a or b: a balancer in "
        "front of several servers sees whose they are.",
    )
    seal_key: Path | None = Field(
        None,
        description="File with the key that signs the reasoning which clients bring back, made if "
        "there is none; servers behind one address have copies of one. Default: seal.key beside "
        "the file of `--store auto`.",
    )
    max_queue: int = Field(
        256, ge=0, description="Most requests of one API key that wait; more get 503."
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="Most requests per minute and API key; more get 429."
    )
    concurrent_requests: int | None = Field(
        None, ge=1, description="Most requests at once of one API key; more get 429."
    )
    max_body: Size = Field(
        ByteSize(64 * 2**20), gt=0, description="Largest request body in bytes, such as 64MiB."
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
    cache_size: Size = Field(
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
    incremental_tool_calls: bool = Field(
        False, description="Stream the arguments of tool calls piece by piece."
    )
    strict: bool = Field(False, description="Refuse unknown request fields with 400.")
    metrics: bool = Field(
        True, description="Answer GET /metrics with numbers for Prometheus; needs a key if any is."
    )
    otlp_traces_endpoint: str | None = Field(
        None,
        pattern=r"https?://.+",
        description="Address of an OpenTelemetry collector that gets a trace of each request, such "
        "as http://127.0.0.1:4318/v1/traces; needs budmlx[otel].",
    )
    log_level: Level = Field(
        "info",
        description="Least severe messages to log; debug has tracebacks, which may quote prompts.",
    )
    log_format: Format = Field("text", description="Log lines of text, or of JSON.")
    log_file: Path | None = Field(
        None,
        description="File for the log, in place of the standard error stream. At 10 MiB it goes on "
        "as FILE.1, and so on up to FILE.5.",
    )
    log_prompts: bool = Field(False, description="Log what prompts and replies say.")

    def accepted_keys(self) -> tuple[str, ...]:
        """The accepted bearer keys that are known: `api_keys`, then those in `api_key_file`.

        Of keys that `budmlx keys` made only their digests are known, see `key_file`.

        Raises:
            ConfigError: the file is unusable, or a key could never be sent.
        """
        keys = _usable(self.api_keys, "api_keys")
        file = self.key_file()
        return tuple(dict.fromkeys([*keys, *(key for key, _ in file.plain)] if file else keys))

    def key_file(self) -> KeyFile | None:
        """What is in `api_key_file`; None if there is no such setting.

        Raises:
            ConfigError: the file is unreadable or holds no key, or a line is wrong.
        """
        if self.api_key_file is None:
            return None
        file = parsed(text_of(self.api_key_file))
        if not file.plain and not file.records:
            raise ConfigError(
                f"api_key_file: {self.api_key_file} holds no key; make one with: budmlx keys add "
                "NAME.",
                param="api_key_file",
            )
        return file

    @property
    def needs_key(self) -> bool:
        """Whether requests need an API key."""
        return bool(self.api_keys) or self.api_key_file is not None

    def accepted_admin_keys(self) -> tuple[str, ...]:
        """Every key of `admin_key`. Raises ConfigError: a key could never be sent."""
        return tuple(dict.fromkeys(_usable(self.admin_key, "admin_key")))

    def alias_of(self, name: str) -> str | None:
        """The served model that `aliases` has for a name; None if it has none."""
        if name in self.aliases:
            return self.aliases[name]
        patterns = sorted((key for key in self.aliases if "*" in key), key=len, reverse=True)
        found = next((key for key in patterns if _matches(key, name)), None)
        return None if found is None else self.aliases[found]

    def plugin_options(self) -> dict[str, dict[str, str]]:
        """The settings in `plugin_option`, by the name of the plugin.

        Raises:
            ConfigError: an entry is not of the form plugin.setting=value.
        """
        options: dict[str, dict[str, str]] = {}
        for entry in self.plugin_option:
            path, separator, value = entry.partition("=")
            owner, _, name = path.rpartition(".")
            if not separator or not owner or not name:
                raise ConfigError(
                    f"plugin_option: {entry!r} is not of the form plugin.setting=value.",
                    param="plugin_option",
                )
            options.setdefault(owner, {})[name] = value
        return options

    def options_of(self, plugin: str, model: type[Options]) -> Options:
        """The options of a plugin in `plugin_option`, validated by the plugin's own model.

        Raises:
            ConfigError: a setting is unknown to the model or has an unusable value.
        """
        try:
            return model.model_validate(self.plugin_options().get(plugin, {}))
        except ValidationError as error:
            text = explain(error, names=model.model_fields)
            raise ConfigError(f"Plugin {plugin}: {text}.", param="plugin_option") from error


def _usable(keys: Sequence[SecretStr], place: str) -> list[str]:
    """What keys say. Raises ConfigError for one that could never be sent."""
    found = [key.get_secret_value() for key in keys]
    for key in found:
        check_usable(key, place)
    return found


def _matches(pattern: str, name: str) -> bool:
    """Whether a name fits a pattern in which `*` stands for any characters."""
    return fnmatchcase(name, re.sub(r"[\[?]", r"[\g<0>]", pattern))
