"""Classifiers rank documents: pairs of texts, alone and in batches."""

from __future__ import annotations

import budmlx_encoders
import mlx.core as mx
import numpy as np
import pytest
from budmlx_encoders.families import classes
from checkpoints import CLASSIFIER
from conftest import Write
from mlx_lm.utils import load_model

from budmlx import Engine
from budmlx.errors import ContextLengthError, InvalidRequestError

DOCUMENTS = ["w4 w5", "w6", " ".join(f"w{n}" for n in range(50)), "w4 w7"]


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "modernbert"])
@pytest.mark.parametrize("labels", [1, 2])
def test_scores_are_those_of_each_pair_alone(kind: str, labels: int, write: Write) -> None:
    path = write(kind, **{**CLASSIFIER, "num_labels": labels})
    module, _ = load_model(path, get_model_classes=classes)
    with Engine.load(path, plugins=[budmlx_encoders]) as engine:
        found = engine.rerank("w1 w2", DOCUMENTS)
        assert [score for _, score in found.results] == sorted(
            (score for _, score in found.results), reverse=True
        )
        for index, score in found.results:
            words = DOCUMENTS[index].split()
            ids = [0, 5, 6, 2, *(int(word[1:]) + 4 for word in words), 2]
            second = mx.arange(len(ids))[None] >= 4
            tokens = mx.array([ids])
            logits = np.array(module.classify(tokens, tokens >= 0, second))[0]
            logit = logits[0] if labels == 1 else logits[1] - logits[0]
            assert score == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
        assert found.usage.total_tokens == sum(5 + len(each.split()) for each in DOCUMENTS)


def test_what_is_too_long_and_what_it_does_not_do(write: Write) -> None:
    with Engine.load(write("bert", **CLASSIFIER), plugins=[budmlx_encoders]) as engine:
        long = "w5 " * 200
        with pytest.raises(ContextLengthError) as caught:
            engine.rerank("w1", ["w2", long])
        assert caught.value.param == "documents[1]"
        found = engine.rerank("w1", ["w2", long], truncate=True)
        assert "documents[1]" in found.warnings[0]
        with pytest.raises(ContextLengthError):
            engine.rerank(long, ["w2"])
        with pytest.raises(InvalidRequestError, match="does not support embeddings"):
            engine.embed("w1")
        with pytest.raises(InvalidRequestError):
            engine.chat("w1")
