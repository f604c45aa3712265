"""Files of sentence-transformers: what an embedding model does with its hidden states.

Nothing is imported or executed here: JSON is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from budmlx.config import ModelConfig
from budmlx.errors import ModelLoadError
from budmlx.protocol import EmbeddingSettings, PoolingMode

MODULES = "modules.json"
OLD_FLAGS: Mapping[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt",
    "pooling_mode_weightedmean_tokens": "weighted",
    "pooling_mode_lasttoken": "last",
}
"""Switches of a pooling's configuration, in the order in which their results are joined."""
MODES: Mapping[str, PoolingMode] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt",
    "weightedmean": "weighted",
    "lasttoken": "last",
}
"""The same modes, as newer configurations name them."""
LENGTHS = ("sentence_bert_config.json", "sentence_roberta_config.json")
CLASSIFIER = "ForSequenceClassification"
"""How the classes of models end that score texts, or pairs of them."""
EMBED_ANY = EmbeddingSettings(pooling=["last"])


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingFiles:
    """How a model makes vectors of texts.

    settings: what the core does. prompts: beginnings of texts, by name. prompt: the name of the
    one of texts that choose none, if there is one. max_length: most tokens of a text; None for the
    model's context. pools_prompt: prompts are pooled with the text. lower: texts are in lower case.
    dimensions: numbers of a vector that are used; None for all. chats: the model generates, too.
    """

    settings: EmbeddingSettings
    prompts: Mapping[str, str] = field(default_factory=dict)
    prompt: str | None = None
    max_length: int | None = None
    pools_prompt: bool = True
    lower: bool = False
    dimensions: int | None = None
    chats: bool = False

    @classmethod
    def read(cls, path: Path, config: ModelConfig) -> EmbeddingFiles | None:
        """What the files of a model and its settings say; None if it makes no vectors.

        Raises:
            ModelLoadError: a file cannot be read, or asks for what is not known here.
        """
        classes = _optional(path / "config.json").get("architectures") or []
        if any(str(each).endswith(CLASSIFIER) for each in classes):
            return cls(settings=EmbeddingSettings(pooling=[], scores=True), **_length(path))
        steps = _steps(path)
        kinds = [kind for kind, _ in steps]
        if "Pooling" not in kinds:
            if config.pooling is not None:
                own = EmbeddingSettings(pooling=[config.pooling])
                return cls(settings=own, **_prompts(path), **_length(path))
            return cls(settings=EMBED_ANY, chats=True) if config.embed_any else None
        rest = kinds[2:]
        known = kinds[:2] == ["Transformer", "Pooling"] and set(rest) <= {"Dense", "Normalize"}
        if not known or "Normalize" in rest[:-1]:
            raise ModelLoadError(
                f"{path.name}: {MODULES} lists {', '.join(kinds)}; a transformer, its pooling, "
                "dense layers and a normalization are known, in this order."
            )
        pooling = _folder(path, steps[1][1]) / "config.json"
        modes, pools_prompt = _pooling(pooling, config.pooling)
        return cls(
            settings=EmbeddingSettings(
                pooling=modes,
                dense=[str(_folder(path, step)) for kind, step in steps if kind == "Dense"],
                normalize="Normalize" in rest,
            ),
            pools_prompt=pools_prompt,
            **_prompts(path),
            **_length(_folder(path, steps[0][1])),
        )


def _steps(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """The modules of a model, each with the last word of its type; none without a list of them.

    Those of rerankers have no pooling. Raises ModelLoadError.
    """
    modules = _read(path / MODULES) if (path / MODULES).is_file() else []
    if not isinstance(modules, list) or not all(isinstance(each, dict) for each in modules):
        raise ModelLoadError(f"{path.name}: {MODULES} does not hold a list of modules.")
    return [(str(each.get("type", "")).rpartition(".")[2], each) for each in modules]


def _folder(path: Path, module: Mapping[str, Any]) -> Path:
    """The folder of a module. Raises ModelLoadError for one outside of the model."""
    name = str(module.get("path", ""))
    if name.startswith("/") or ".." in Path(name).parts:
        raise ModelLoadError(f"{path.name}: {MODULES} names a folder outside the model: {name!r}.")
    return path / name


def _pooling(file: Path, chosen: PoolingMode | None) -> tuple[list[PoolingMode], bool]:
    """The modes, and whether prompts are pooled, too. chosen: what a setting says instead."""
    if not file.is_file():
        if chosen is not None:
            return [chosen], True
        raise ModelLoadError(
            f"{file.parent.name}/{file.name} is missing, which says how hidden states become a "
            "vector. Download the model again, or say it with --pooling."
        )
    found = _read(file)
    if not isinstance(found, dict):
        raise ModelLoadError(f"{file.parent.name}/{file.name} does not hold a JSON object.")
    named = found.get("pooling_mode", [])
    modes = [each for flag, each in OLD_FLAGS.items() if found.get(flag) is True]
    for name in [named] if isinstance(named, str) else named:
        if str(name) not in MODES:
            raise ModelLoadError(
                f"{file.parent.name}/{file.name}: `pooling_mode` {name!r} is not known."
            )
        modes.append(MODES[str(name)])
    if not modes and chosen is None:
        raise ModelLoadError(f"{file.parent.name}/{file.name} names no way of pooling.")
    return [chosen] if chosen else modes, found.get("include_prompt") is not False


def _prompts(path: Path) -> dict[str, Any]:
    found = _optional(path / "config_sentence_transformers.json")
    prompts = found.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise ModelLoadError(f"{path.name}: the prompts are no JSON object.")
    texts = {str(name): str(text) for name, text in prompts.items()}
    default = found.get("default_prompt_name")
    dimensions = found.get("truncate_dim")
    return {
        "prompts": texts,
        "prompt": str(default) if default in texts else None,
        "dimensions": dimensions if isinstance(dimensions, int) and dimensions > 0 else None,
    }


def _length(path: Path) -> dict[str, Any]:
    found = next((each for name in LENGTHS if (each := _optional(path / name))), {})
    length = found.get("max_seq_length")
    return {
        "max_length": length if isinstance(length, int) and length > 0 else None,
        "lower": found.get("do_lower_case") is True,
    }


def _optional(file: Path) -> dict[str, Any]:
    found = _read(file) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{file.parent.name}/{file.name} cannot be read: {error}") from error
