"""The plugin in an engine, beside rows that did not choose it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from budmlx import Engine
from budmlx.errors import InvalidRequestError

Open = Callable[..., Engine]

GREEDY = {"temperature": 0.0}
DRY = {"name": "dry", "multiplier": 100, "base": 4, "allowed_length": 2}
REQUESTS: list[dict[str, Any]] = [
    GREEDY,
    {},
    {"top_p": 0.9, "frequency_penalty": 0.5},
    {"sampler": {"name": "mirostat", "tau": 2.0}},
    {"sampler": {"name": "mirostat", "tau": 6.0, "eta": 0.5}, "top_k": 50},
    {"sampler": {"name": "xtc", "threshold": 0.05, "probability": 0.9}},
    {"sampler": {"name": "top-n-sigma", "n": 1.5}, "temperature": 2.0},
    {**GREEDY, "logits_processors": [DRY]},
    {"sampler": {"name": "xtc"}, "logits_processors": [{**DRY, "sequence_breakers": [9]}]},
]


def tokens(reply: Any) -> list[bytes]:
    return [logprob.bytes for logprob in reply.choices[0].logprobs]


def textless(model: Path) -> dict[int, float]:
    """A bias that bans the tokens that show as nothing and so could not be told apart."""
    size = Tokenizer.from_file(str(model / "tokenizer.json")).get_vocab_size()
    return dict.fromkeys([0, 1, 2, *range(size, 512)], -100.0)


async def test_rows_of_a_mixed_batch_say_what_they_say_alone(
    open_engine: Open, tiny_model: Path
) -> None:
    engine = open_engine(plugins=["sampler-extras"])
    every = {"max_tokens": 60, "logprobs": 0, "logit_bias": textless(tiny_model)}
    asks = [{**every, "seed": number, **request} for number, request in enumerate(REQUESTS)]
    alone = [tokens(await engine.achat("Hello", **ask)) for ask in asks]
    together = await asyncio.gather(*(engine.achat("Hello", **ask) for ask in asks))
    assert [tokens(reply) for reply in together] == alone
    assert len({tuple(text) for text in alone}) == len(asks), "every request has its own text"
    assert repeats(alone[0], 3) and not repeats(alone[7], 3)


def repeats(text: list[bytes], length: int) -> bool:
    """Whether some sequence of this length occurs twice."""
    seen = [tuple(text[start : start + length]) for start in range(len(text) - length + 1)]
    return len(set(seen)) < len(seen)


def test_an_option_out_of_range_is_named(open_engine: Open) -> None:
    engine = open_engine(plugins=["sampler-extras"])
    with pytest.raises(InvalidRequestError) as caught:
        engine.chat("Hello", sampler={"name": "xtc", "threshold": 0.7})
    assert caught.value.param == "sampler.threshold"
    strings = {**DRY, "sequence_breakers": ["\n"]}
    with pytest.raises(InvalidRequestError) as caught:
        engine.chat("Hello", logits_processors=[strings])
    assert caught.value.param == "logits_processors[0].sequence_breakers.0"
