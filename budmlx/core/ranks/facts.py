"""Facts: what must be the same on all ranks of a model."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

from budmlx.core.model.model import Model
from budmlx.protocol import PROTOCOL_VERSION


def facts_of(model: Model) -> dict[str, str]:
    """This rank's, by name."""
    return {
        **{f"the version of {name}": version(name) for name in ("budmlx", "mlx", "mlx-lm")},
        "the protocol": str(PROTOCOL_VERSION),
        "the model's files": model.info.fingerprint,
        "the bytes of its weights": str(model.memory.weights),
        "the device's numbers": f"{model.numbers.copy_steps} {model.policy.stored_arrays}",
    }


def differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """What differs, in words; empty if nothing does."""
    return "; ".join(
        f"{name} is {theirs.get(name, 'unknown')}, not {fact}"
        for name, fact in ours.items()
        if theirs.get(name) != fact
    )
