"""Ranks: processes that compute one model together, each with a part of every layer."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from budmlx.errors import ModelLoadError, RanksError
from budmlx.protocol import Place


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the ranks of its model. rank: 0 decides and samples. group: MLX's."""

    rank: int
    group: mx.distributed.Group

    @classmethod
    def connect(cls, place: Place) -> Ranks:
        """Wait until all ranks are connected.

        Raises:
            RanksError: they cannot be.
        """
        # MLX takes both from the environment alone.
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump([[address] for address in place.ring], file)
            file.flush()
            os.environ.update(MLX_RANK=str(place.rank), MLX_HOSTFILE=file.name)
            try:
                group = mx.distributed.init(strict=True, backend="ring")
            except (RuntimeError, ValueError) as error:
                taken = "bind socket" in str(error)
                raise RanksError(
                    f"Rank {place.rank} of {place.size} cannot be connected to the others: {error}",
                    code="address_taken" if taken else None,
                ) from error
        return cls(place.rank, group)

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return int(self.group.size())

    def shared(self, tokens: mx.array) -> mx.array:
        """Rank 0's tokens, on every rank.

        tokens: on the others they are zeros that depend on all that is computed before.
        """
        return mx.distributed.all_sum(tokens, group=self.group)

    def split(self, name: str, module: nn.Module, config: Mapping[str, Any]) -> None:
        """Leave a module this rank's part of every layer. name: what the model is called.

        Raises:
            ModelLoadError: it cannot be divided by the number of ranks.
        """
        size, kind = self.size, config["model_type"]
        if not hasattr(module, "shard"):
            raise ModelLoadError(
                f"{name} cannot be split over {size} ranks: mlx-lm does not know how to divide "
                f"the layers of its architecture, {kind}."
            )
        for key, value in (config.get("text_config") or config).items():
            if "num" in key and key.endswith("heads") and isinstance(value, int) and value % size:
                raise ModelLoadError(
                    f"{name} cannot be split over {size} ranks: its {key} is {value} "
                    "(config.json), which they cannot share evenly."
                )
        try:
            module.shard(self.group)
        except (ValueError, RuntimeError, AttributeError, TypeError) as error:
            raise ModelLoadError(
                f"{name} ({kind}) cannot be split over {size} ranks: {error}"
            ) from error
