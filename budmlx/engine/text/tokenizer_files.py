"""Tokenizer files: what a model directory says of its tokenizer, mostly without transformers.

Importing transformers takes longer than starting the rest of the server, so that
`tokenizer.json` is read with the tokenizers library, and the files beside it here.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from budmlx.engine.template.template import SPECIAL_TOKEN_NAMES
from budmlx.errors import ModelLoadError

_Parts = tuple[Backend, dict[str, str], dict[str, str]]
"""Backend, named special tokens, chat templates by name."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The tokenizer of a directory. special_tokens: `bos_token` -> `<s>` and so on.

    chat_templates: by name. eos_token_ids: those of generation_config.json.
    tool_parser: mlx-lm's name of the format of calls, which converted models have; or empty.
    """

    backend: Backend
    special_tokens: Mapping[str, str]
    chat_templates: Mapping[str, str]
    eos_token_ids: tuple[int, ...]
    tool_parser: str


def read_tokenizer(directory: Path) -> TokenizerFiles:
    """Read the files of a model directory. Never runs code from it.

    Raises:
        ModelLoadError: a file is missing or cannot be read.
    """
    eos = _read_json(directory / "generation_config.json").get("eos_token_id") or []
    eos_ids = [eos] if isinstance(eos, int) else eos
    if not isinstance(eos_ids, list) or not all(isinstance(each, int) for each in eos_ids):
        raise ModelLoadError(
            "generation_config.json: eos_token_id must be a token id or a list of them."
        )
    native = (directory / "tokenizer.json").is_file()
    backend, special, templates = _read(directory) if native else _convert(directory)
    declared = _read_json(directory / "tokenizer_config.json").get("tool_parser_type")
    named = declared if isinstance(declared, str) else ""
    return TokenizerFiles(backend, special, templates, tuple(eos_ids), named)


def _read(directory: Path) -> _Parts:
    """The parts of a directory with tokenizer.json."""
    config = _read_config(directory)
    try:
        special = {name: config[name] for name in SPECIAL_TOKEN_NAMES if config.get(name)}
        return _read_backend(directory, config), special, _read_templates(directory, config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(f"tokenizer_config.json cannot be used: {error!r}") from error


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path.name} must hold a JSON object.")
    return content


def _read_config(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json, with the files that older models have beside it.

    Named special tokens are plain strings, `added` lists further `AddedToken`s by id.
    """
    config = _read_json(directory / "tokenizer_config.json")
    config.setdefault("extra_special_tokens", config.get("additional_special_tokens"))
    if "added_tokens_decoder" not in config:
        config |= _read_json(directory / "special_tokens_map.json")
        named = _read_json(directory / "added_tokens.json")
        config["added_tokens_decoder"] = {i: {"content": token} for token, i in named.items()}
    for name in SPECIAL_TOKEN_NAMES:
        if isinstance(config.get(name), dict):
            config[name] = config[name]["content"]
    return config


def _read_backend(directory: Path, config: Mapping[str, Any]) -> Backend:
    """tokenizer.json, with tokens that only tokenizer_config.json knows."""
    try:
        backend = Backend.from_file(str(directory / "tokenizer.json"))
    except Exception as error:  # The library raises nothing more specific.
        raise ModelLoadError(f"tokenizer.json cannot be read: {error}") from error
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    listed = sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0]))
    backend.add_tokens([AddedToken(**t) for _, t in listed if t["content"] not in known])
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    for content in _special_contents(config):
        token = added.get(content) or AddedToken(content, normalized=False)
        if not token.special:
            token.special = True
            backend.add_special_tokens([token])
    return backend


def _special_contents(config: Mapping[str, Any]) -> Iterator[str]:
    extra = config.get("extra_special_tokens") or []
    named = [config.get(name) for name in SPECIAL_TOKEN_NAMES]
    for token in [*named, *(extra.values() if isinstance(extra, dict) else extra)]:
        content = token["content"] if isinstance(token, dict) else token
        if content:
            yield content


def _read_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name. Files take precedence over tokenizer_config.json."""
    files = {path.stem: path for path in (directory / "additional_chat_templates").glob("*.jinja")}
    if (directory / "chat_template.jinja").is_file():
        files["default"] = directory / "chat_template.jinja"
    if files:
        return {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    older = _read_json(directory / "chat_template.json")
    return _by_name(config.get("chat_template") or older.get("chat_template"))


def _by_name(source: Any) -> dict[str, str]:
    """Templates by name, from any of the forms in which models list them."""
    if isinstance(source, list):
        return {entry["name"]: entry["template"] for entry in source}
    if isinstance(source, str):
        return {"default": source}
    return dict(source or {})


def _convert(directory: Path) -> _Parts:
    """The parts of a directory without tokenizer.json."""
    # The only import of transformers: it takes a second that most models need not wait.
    transformers = importlib.import_module("transformers")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # Whatever a converter raises.
        raise ModelLoadError(
            "The model has no tokenizer.json, and its other tokenizer files cannot be read."
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Backend):
        raise ModelLoadError(
            "The model's tokenizer has no fast form. Convert it to tokenizer.json first."
        )
    return backend, dict(tokenizer.special_tokens_map), _by_name(tokenizer.chat_template)
