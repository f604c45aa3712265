"""Sampling parameters for tests that must miss none."""

from __future__ import annotations

from typing import Any

from budmlx.types import RANGES, PluginChoice, SamplingParams

DEFAULTS = SamplingParams()


def all_given(**changes: Any) -> dict[str, Any]:
    """A value for every parameter that is not its default; a number is a bound of its range."""
    numbers = {
        name: low if high == getattr(DEFAULTS, name) else high
        for name, (low, high) in RANGES.items()
    }
    return {
        **numbers,
        "logit_bias": ((5, -100.0), (6, 0.1)),
        "stop": ("a", "b"),
        "stop_token_ids": (5, 6),
        "ignore_eos": True,
        "sampler": PluginChoice("one", {"a": 1}),
        "logits_processors": (PluginChoice("two"),),
        **changes,
    }
