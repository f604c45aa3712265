"""Ranks: processes that compute one model together, each with a part of it."""

from __future__ import annotations

import faulthandler
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn

from budmlx.errors import ModelLoadError, RanksError
from budmlx.protocol import Place
from budmlx.protocol.settings import Parallel

CONNECT_SECONDS = 60.0


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """End the process if what is within takes longer, telling where it stood.

    MLX holds the GIL while it waits for the other ranks, so that no thread of Python could end it,
    not even when the server that started this process is gone.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the ranks of its model. rank: 0 decides and samples. group: MLX's.

    pipelined: each has whole layers, not all of them the same number.
    """

    rank: int
    group: mx.distributed.Group
    pipelined: bool = False

    @classmethod
    def connect(cls, place: Place) -> Ranks:
        """Wait until all ranks are connected; one that is not in time ends its process.

        Raises:
            RanksError: they cannot be.
        """
        if not mx.distributed.is_available(place.backend):
            raise RanksError(
                f"MLX cannot connect ranks by {place.backend} on the machine of rank {place.rank}."
            )
        # MLX takes all of it from the environment alone.
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            ring = place.backend == "ring"
            json.dump([[address] for address in place.ring] if ring else place.rdma, file)
            file.flush()
            os.environ["MLX_RANK"] = str(place.rank)
            os.environ["MLX_HOSTFILE" if ring else "MLX_IBV_DEVICES"] = file.name
            os.environ["MLX_JACCL_COORDINATOR"] = place.ring[0]
            try:
                with _at_most(CONNECT_SECONDS):
                    group = mx.distributed.init(strict=True, backend=place.backend)
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

    def split(
        self, name: str, module: nn.Module, config: Mapping[str, Any], parallel: Parallel = "auto"
    ) -> Self:
        """Leave a module this rank's part: of every layer, or some whole layers (a pipeline).

        name: what the model is called. Returns these ranks, which say what was chosen.

        Raises:
            ModelLoadError: it cannot be divided by the number of ranks.
        """
        kind, inner = config["model_type"], getattr(module, "model", None)
        tensor, pipeline = hasattr(module, "shard"), hasattr(inner, "pipeline")
        odd = self._odd_heads(config)
        chosen = parallel
        if parallel == "auto":
            chosen = "pipeline" if pipeline and (odd or not tensor) else "tensor"
        failed = f"{name} cannot be split over {self.size} ranks: "
        if not (tensor if chosen == "tensor" else pipeline):
            what = "divide the layers" if chosen == "tensor" else "make a pipeline of the layers"
            raise ModelLoadError(f"{failed}mlx-lm does not know how to {what} of its {kind}.")
        if chosen == "tensor" and odd:
            raise ModelLoadError(f"{failed}{odd} (config.json), which they cannot share evenly.")
        try:
            if chosen == "tensor":
                module.shard(self.group)
            else:
                inner.pipeline(self.group)  # type: ignore[union-attr]
        except (ValueError, RuntimeError, AttributeError, TypeError) as error:
            raise ModelLoadError(f"{failed}{error} ({kind})") from error
        return replace(self, pipelined=chosen == "pipeline")

    def _odd_heads(self, config: Mapping[str, Any]) -> str:
        """Heads that ranks cannot share evenly, in words; empty if they can."""
        numbers = (config.get("text_config") or config).items()
        heads = [(k, n) for k, n in numbers if "num" in k and k.endswith("heads")]
        odd = [f"its {k} is {n}" for k, n in heads if isinstance(n, int) and n % self.size]
        return odd[0] if odd else ""
