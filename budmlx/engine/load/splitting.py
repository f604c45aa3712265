"""Splitting: what a model that is split over ranks cannot do yet."""

from __future__ import annotations

from collections.abc import Mapping

from budmlx.config import Config
from budmlx.engine.images.images import Images
from budmlx.engine.load.sentence_transformers import EmbeddingFiles
from budmlx.errors import ConfigError


def refuse_what_cannot_be_split(
    config: Config, name: str, images: Images, embedding: EmbeddingFiles | None
) -> None:
    """Raise ConfigError for a setting, or a model, that works on one rank alone.

    name: what the model is called.
    """
    for setting, advice in _refused(config).items():
        raise ConfigError(
            f"{setting}: a model that is split over ranks cannot have this yet; {advice}, or set "
            "ranks to 1.",
            param=setting,
        )
    if images.target is not None:
        raise ConfigError(
            f"ranks: {name} sees pictures, which ranks cannot share yet; set vision_preprocessor "
            "to none to serve its text alone, or ranks to 1.",
            param="ranks",
        )
    if embedding is not None:
        raise ConfigError(
            f"ranks: {name} makes vectors of texts, which cannot be split over ranks yet; set "
            "ranks to 1.",
            param="ranks",
        )


def _refused(config: Config) -> Mapping[str, str]:
    """Settings that are set and cannot be, each with what to do."""
    used = {
        "engine_host": (config.engine_host == "thread", "set it to process"),
        "speculation": (config.speculation != "off", "set it to off"),
        "kv_store": (config.kv_store is not None, "leave it out"),
        "session": (bool(config.session), "leave it out"),
        "adapter": (bool(config.adapter), "leave it out"),
    }
    return {setting: advice for setting, (is_used, advice) in used.items() if is_used}
