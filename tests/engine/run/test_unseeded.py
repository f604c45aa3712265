"""Without a seed every request draws numbers of its own."""

from __future__ import annotations

from budmlx.engine.engine import Engine
from tests.models import tiny_model_dir

SAMPLING = {"temperature": 1.5, "max_tokens": 24, "ignore_eos": True}


def test_two_unseeded_replies_differ() -> None:
    with Engine.load(tiny_model_dir(scale=2.0), engine_host="thread") as engine:
        first, second = (engine.chat("Tell me.", **SAMPLING).text for _ in range(2))
        assert first != second
        # A seed is what makes them the same.
        first, second = (engine.chat("Tell me.", seed=0, **SAMPLING).text for _ in range(2))
        assert first == second
