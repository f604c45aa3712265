"""Writes the files on disk anew: `python -m tests.recorded.write_stores`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from budmlx import Engine
from budmlx.cli.show_config import to_toml
from budmlx.config import Config
from budmlx.config.sources import LoadedConfig
from tests.recorded import write_files
from tests.recorded.stores import (
    ABOUT,
    BOOK,
    CONFIG_FILE,
    CONFIG_VALUES,
    GREEDY,
    KV_STORE,
    QUESTION,
    SESSION,
    maker,
    recorded_model,
)

SETTINGS: dict[str, Any] = {
    "model": "org/name",
    "revision": "main",
    "alias": ["demo", "other"],
    "host": "::1",
    "port": 8181,
    "api_keys": ["first-key", "second-key"],
    "api_key_file": "/etc/budmlx/keys",
    "allow_host": ["example.com"],
    "engine_host": "thread",
    "memory_limit": "12GiB",
    "kv_bits": 8,
    "prefix_cache": "25%",
    "prefix_cache_shared": True,
    "kv_store": "/var/cache/budmlx/kv",
    "kv_store_size": "3GiB",
    "session": ["/var/lib/budmlx/book"],
    "max_rows": 7,
    "max_queue": 8,
    "requests_per_minute": 9,
    "concurrent_requests": 10,
    "prefill_chunk": 128,
    "max_body": "2MiB",
    "drain_seconds": 1.5,
    "hold_seconds": 2.5,
    "keepalive_seconds": 3.5,
    "watchdog_seconds": 4.5,
    "cache": "auto",
    "cache_size": "5MiB",
    "plugin": ["cache-sqlite"],
    "block_plugin": ["reasoning-parsers"],
    "plugin_autoload": False,
    "plugin_option": ["cache-sqlite.path=/var/cache/budmlx/replies"],
    "tool_parser": "hermes",
    "reasoning_parser": "none",
    "vision_preprocessor": "none",
    "image_host": ["example.com", "*.example.org"],
    "incremental_tool_calls": True,
    "strict": True,
    "log_level": "debug",
}
"""Every setting, with a value that is not the default."""


def main() -> None:
    """Write all files."""
    write_files.write()
    with TemporaryDirectory() as folder:
        _write_stores(Path(folder))
    config = Config(**SETTINGS)
    keys = json.dumps(SETTINGS["api_keys"])
    text = to_toml(LoadedConfig(config, dict.fromkeys(SETTINGS, "recorded")))
    CONFIG_FILE.write_text(text.replace("# api_keys =", f"api_keys = {keys}  #"), "utf-8")
    CONFIG_VALUES.write_text(json.dumps(values(config), indent=2) + "\n", "utf-8")


def values(config: Config) -> dict[str, Any]:
    """All settings as JSON, secrets in the clear."""
    keys = [key.get_secret_value() for key in config.api_keys]
    return {**config.model_dump(mode="json"), "api_keys": keys}


def _write_stores(folder: Path) -> None:
    model = recorded_model(folder)
    shutil.rmtree(KV_STORE, ignore_errors=True)
    with Engine.load(model, kv_store=str(KV_STORE)) as engine:
        cold = engine.chat(QUESTION, **GREEDY)
    with Engine.load(model, kv_store=str(KV_STORE)) as engine:
        from_disk = engine.chat(QUESTION, **GREEDY).usage.cached_tokens
    with Engine.load(model) as engine:
        tokens = engine.save_session(BOOK, SESSION)
        engine.load_session(SESSION)
        lent = engine.chat(QUESTION, cache_salt="other", **GREEDY).usage.cached_tokens
    about = {
        "maker": maker(model),
        "text": cold.text,
        "from_disk": from_disk,
        "session_tokens": tokens,
        "from_session": lent,
    }
    ABOUT.write_text(json.dumps(about, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
