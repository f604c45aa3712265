"""Discovery of plugins: those handed over, named in the configuration, installed, and built in."""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from budmlx.config import ServerConfig
from budmlx.errors import ConfigError

log = logging.getLogger(__name__)

GROUP = "budmlx"
BUILTINS = {
    "memory-cache": "budmlx.builtin.memory_cache",
    "tool-parsers": "budmlx.builtin.tool_parsers",
    "reasoning-parsers": "budmlx.builtin.reasoning",
}
"""Plugins that ship with budmlx, registered by name like any other."""

OPTIONAL = {"stable-prompts": "budmlx.builtin.stable_prompts"}
"""Plugins that ship but change prompts, so that they are loaded only when they are named."""

Source = Literal["object", "named", "installed", "built-in"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plugin that may be loaded. required: the start fails if it cannot be.

    version: of its distribution, if it is known to have one.
    """

    name: str
    source: Source
    load: Callable[[], object]
    required: bool
    version: str = ""


def candidates(config: ServerConfig, objects: Sequence[object] = ()) -> list[Candidate]:
    """All plugins that the configuration admits, in order of precedence.

    Raises:
        ConfigError: a plugin is both named and blocked.
    """
    if clash := set(config.plugin) & set(config.block_plugin):
        raise ConfigError(f"{', '.join(sorted(clash))}: named by plugin and by block_plugin.")
    found = [_object(number, item) for number, item in enumerate(objects)]
    installed = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    known = {entry.name for entry in installed} | BUILTINS.keys() | OPTIONAL.keys()
    found += [_named(name) for name in config.plugin if name not in known]
    found += [
        _installed(entry, required=entry.name in config.plugin)
        for entry in installed
        if config.plugin_autoload or entry.name in config.plugin
    ]
    found += [
        Candidate(name, "built-in", partial(import_target, target), name in config.plugin)
        for name, target in {**BUILTINS, **OPTIONAL}.items()
        if name in BUILTINS or name in config.plugin
    ]
    for name in set(config.block_plugin) - {candidate.name for candidate in found}:
        log.warning("There is no plugin %s to block", name)
    return [candidate for candidate in found if candidate.name not in config.block_plugin]


def _object(number: int, item: object) -> Candidate:
    name = getattr(item, "__name__", None) or f"{type(item).__qualname__}-{number}"
    return Candidate(name, "object", lambda: item, required=True)


def _named(name: str) -> Candidate:
    return Candidate(name, "named", partial(import_target, name), required=True)


def _installed(entry: EntryPoint, *, required: bool) -> Candidate:
    version = entry.dist.version if entry.dist is not None else ""
    return Candidate(entry.name, "installed", entry.load, required, version)


def import_target(target: str) -> Any:
    """Import `package.module` or `package.module:object`. Raises whatever the import raises."""
    module_name, _, attribute = target.partition(":")
    module = importlib.import_module(module_name)
    return getattr(module, attribute) if attribute else module


def version_of(plugin: object) -> str:
    """A version for a plugin without a distribution: its `__version__`, or a digest of its source.

    Empty for objects without a file, whose code nothing identifies.
    """
    if not isinstance(plugin, ModuleType):
        return ""
    if own := getattr(plugin, "__version__", None):
        return str(own)
    file = Path(getattr(plugin, "__file__", None) or "")
    if not file.is_file():
        return ""
    sources = sorted(file.parent.rglob("*.py")) if hasattr(plugin, "__path__") else [file]
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources))
    return f"source-{digest.hexdigest()[:8]}"
