"""Draft models: where they are, and whether their tokenizers are those of the models."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from budmlx.config import ModelConfig
from budmlx.engine.load.directory import model_files
from budmlx.engine.load.hub import Fetch, local_directory, model_name, pull_with_bar, resolve_model
from budmlx.engine.load.library.library import Library
from budmlx.engine.load.library.local_model import LocalModel
from budmlx.engine.text.tokenizer_files import read_tokenizer
from budmlx.errors import ConfigError, ModelLoadError
from budmlx.plugins.manager import Plugins
from budmlx.protocol import DraftModelSettings, PluginTarget

# What decides, beside the tokens, which ids a text becomes.
ENCODING = ("normalizer", "pre_tokenizer", "model")


def find_draft_model(
    config: ModelConfig,
    models_dirs: Collection[str],
    own: Collection[str],
    fetch: Fetch | None = pull_with_bar,
) -> Path | None:
    """The directory of a model's draft model; None if it has none. See `resolve_model`.

    Raises:
        ConfigError: nothing is to be drafted, so that nothing is fetched.
    """
    if config.draft_model is None:
        return None
    if config.speculation == "off":
        raise ConfigError(
            f"{config.draft_model} is to draft, but speculation is off: set it to auto, or to a "
            "number of tokens.",
            param="speculation",
        )
    return resolve_model(config.draft_model, models_dirs=models_dirs, fetch=fetch, own=own)


def local_draft_model(config: ModelConfig, models_dirs: Collection[str]) -> LocalModel | None:
    """What the files of a draft model say, if they are on this machine."""
    if config.draft_model is None:
        return None
    path = local_directory(config.draft_model, models_dirs=models_dirs)
    return None if path is None else Library().at(path)


def draft_model_settings(
    path: Path, name: str, config: ModelConfig, models_dirs: Collection[str], plugins: Plugins
) -> DraftModelSettings | None:
    """The draft model of the model in `path`, if it has one, which must be on this machine.

    Raises:
        ModelLoadError: it is not there, cannot be used, or has another tokenizer.
        ConfigError: nothing is to be drafted.
    """
    found = find_draft_model(config, models_dirs, plugins.loaded_types, fetch=None)
    if found is None or config.draft_model is None:
        return None
    drafter = model_name(config.draft_model)
    if difference := tokenizers_differ(path, name, found, drafter):
        raise ModelLoadError(
            f"{drafter} cannot draft for {name}, since their tokenizers differ: {difference}."
        )
    loader = plugins.loader(model_files(found).model_type)
    target = PluginTarget(plugin=loader.plugin, core=loader.value.core) if loader else None
    return DraftModelSettings(path=str(found.absolute()), name=drafter, loader=target)


def tokenizers_differ(one: Path, name: str, other: Path, drafter: str) -> str:
    """What differs between the tokenizers of two directories, in words; empty if nothing does.

    Raises:
        ModelLoadError: one of them cannot be read.
    """
    ours, theirs = _read(one), _read(other)
    tokens, drafted = _tokens(ours), _tokens(theirs)
    if tokens != drafted:
        every = sorted(tokens.keys() | drafted.keys())
        first = next(i for i in every if tokens.get(i) != drafted.get(i))
        own, its = (repr(each[first]) if first in each else "none" for each in (tokens, drafted))
        return f"token {first} is {own} of {name}, and {its} of {drafter}"
    differing = [key for key in ENCODING if ours.get(key) != theirs.get(key)]
    return f"tokenizer.json has another {' and another '.join(differing)}" if differing else ""


def _read(directory: Path) -> dict[str, Any]:
    """A tokenizer, in the form of tokenizer.json, whatever files it has."""
    found: dict[str, Any] = json.loads(read_tokenizer(directory).backend.to_str())
    return found


def _tokens(tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """The text of each token, by id."""
    vocab = tokenizer["model"].get("vocab") or {}
    if isinstance(vocab, dict):
        named = {number: token for token, number in vocab.items()}
    else:
        named = {number: token for number, (token, _) in enumerate(vocab)}
    return named | {each["id"]: each["content"] for each in tokenizer["added_tokens"]}
