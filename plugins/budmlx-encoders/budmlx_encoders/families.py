"""The families, and which of them a model is of. Only the core imports this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budmlx_encoders.bert import Bert
from budmlx_encoders.encoder import Encoder
from budmlx_encoders.modernbert import ModernBert
from budmlx_encoders.nomic import Nomic

FAMILIES: Mapping[str, type[Encoder]] = {
    "bert": Bert,
    "roberta": Bert,
    "xlm-roberta": Bert,
    "modernbert": ModernBert,
    "nomic_bert": Nomic,
}


class Arguments(dict[str, Any]):
    """What mlx-lm hands to a model: all of config.json."""

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Arguments:
        """The arguments of a configuration."""
        return cls(config)


def classes(config: Mapping[str, Any]) -> tuple[type[Encoder], type[Arguments]]:
    """The classes for `mlx_lm.utils.load_model`. config: config.json."""
    return FAMILIES[config["model_type"]], Arguments
