"""Encoders through the engine: alone and in batches, in a process, and what is refused."""

from __future__ import annotations

from typing import Any

import budmlx_encoders
import mlx.core as mx
import numpy as np
import pytest
from budmlx_encoders.families import classes
from checkpoints import CONFIGS
from conftest import Write
from mlx_lm.utils import load_model

from budmlx import Engine
from budmlx.errors import ContextLengthError, InvalidRequestError

TEXTS = ["w1 w2 w3", " ".join(f"w{n}" for n in range(60)), "w7", "w1 w2 w3 w4"]
Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("kind", CONFIGS)
def test_vectors_are_the_same_alone_and_in_batches(kind: str, write: Write) -> None:
    with Engine.load(write(kind), plugins=[budmlx_encoders]) as engine:
        together = engine.embed(TEXTS).vectors
        for text, vector in zip(TEXTS, together, strict=True):
            assert np.allclose(engine.embed(text).vectors[0], vector, atol=1e-5)
        assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
        assert engine.embed("w1 w2 w3").usage.prompt_tokens == 5


def test_in_a_process_of_its_own(write: Write) -> None:
    path = write("bert")
    with (
        Engine.load(path, plugins=[budmlx_encoders]) as one,
        Engine.load(path, plugins=["budmlx_encoders"], engine_host="process") as other,
    ):
        expected = one.embed(TEXTS).vectors
        assert np.allclose(other.embed(TEXTS).vectors, expected, atol=1e-6)


def test_an_encoder_does_not_chat_and_keeps_to_its_places(write: Write) -> None:
    with Engine.load(write("xlm-roberta"), plugins=[budmlx_encoders]) as engine:
        assert engine.info.context_length == 128, "places begin behind that of padding"
        with pytest.raises(InvalidRequestError, match="does not chat"):
            engine.chat("w1")
        with pytest.raises(ContextLengthError):
            engine.embed("w1 " * 127)
        assert engine.embed("w1 " * 127, truncate=True).usage.prompt_tokens == 128


def test_a_text_that_is_longer_than_a_pass_is_computed_whole(write: Write) -> None:
    path = write("modernbert")
    long = "w5 w6 w7 " * 100
    with (
        Engine.load(path, plugins=[budmlx_encoders]) as engine,
        Engine.load(path, plugins=[budmlx_encoders], prefill_chunk=64) as small,
    ):
        expected = engine.embed(long).vectors
        assert np.allclose(small.embed(long).vectors, expected, atol=1e-6)


# A plain BERT, written down a second time without any library of layers.


def plain_bert(weights: dict[str, Array], ids: list[int], second: list[int]) -> Array:
    def linear(x: Array, name: str) -> Array:
        return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])

    tables = [weights[f"embeddings.{name}_embeddings.weight"] for name in PARTS]
    x = tables[0][ids] + tables[1][: len(ids)] + tables[2][second]
    x = norm(x, "embeddings.LayerNorm")
    for number in range(3):
        at = f"layers.{number}."
        heads = [linear(x, at + part).reshape(-1, 4, 16) for part in ("query", "key", "value")]
        q, k, v = (each.transpose(1, 0, 2) for each in heads)
        scores = np.exp(q @ k.transpose(0, 2, 1) / 4)
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        mixed = mixed.transpose(1, 0, 2).reshape(len(ids), -1)
        x = norm(linear(mixed, at + "attended.dense") + x, at + "attended.LayerNorm")
        inner = mx.array(linear(x, at + "intermediate"))
        inner = np.array(inner * (1 + mx.erf(inner / 2**0.5)) / 2)
        x = norm(linear(inner, at + "output.dense") + x, at + "output.LayerNorm")
    return x


PARTS = ("word", "position", "token_type")


def test_bert_equals_a_plain_one(write: Write) -> None:
    path = write("bert")
    module, _ = load_model(path, get_model_classes=classes)
    weights = {name: np.array(x) for name, x in mx.load(str(path / "model.safetensors")).items()}
    ids, second = [5, 9, 200, 3, 17], [0, 0, 0, 1, 1]
    mask = mx.array([[True] * 5 + [False] * 3])
    padded = mx.array([[*ids, 1, 2, 3]])
    found = module.encode(padded, mask, mx.array([[*second, 1, 1, 1]]))
    assert np.allclose(np.array(found)[0, :5], plain_bert(weights, ids, second), atol=1e-4)
