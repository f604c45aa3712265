"""Vectors of texts equal what the model's body and plain numpy give for each text alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import mlx.core as mx
import numpy as np
import pytest

from budmlx.core.batch.texts import Texts
from budmlx.core.model.model import Model
from budmlx.errors import ModelLoadError
from budmlx.protocol import EmbeddingSettings, EmbedRequest, PoolingMode
from tests.core.architectures import ARCHITECTURES
from tests.core.driver import Driver, load, request
from tests.models import tiny_model_dir

Vectors = dict[tuple[int, int], np.ndarray[Any, Any]]
MODES: tuple[PoolingMode, ...] = get_args(PoolingMode)
LENGTHS = (3, 17, 40, 1, 70, 5, 90)


def some_texts(lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    return [[(7 * i + 3 * j) % 300 + 1 for j in range(n)] for i, n in enumerate(lengths)]


def settings(*modes: PoolingMode, **more: Any) -> EmbeddingSettings:
    return EmbeddingSettings(pooling=list(modes), **{"normalize": False, **more})


def computed(driver: Driver, *requests: EmbedRequest) -> Vectors:
    for each in requests:
        driver.scheduler.submit(each)
    driver.run()
    vectors = [vector for frame in driver.frames for vector in frame.vectors]
    assert len({(each.id, each.text) for each in vectors}) == len(vectors)
    return {(each.id, each.text): np.frombuffer(each.values, "<f4") for each in vectors}


def states(model: Model, ids: list[int]) -> np.ndarray[Any, Any]:
    """The hidden states of one text alone, in plain numpy."""
    assert model.embedder is not None
    more = {"cache": model.embedder.new_cache()} if model.embedder.stateful else {}  # type: ignore[misc]
    return np.array(model.embedder.body(mx.array([ids]), **more)[0].astype(mx.float32))


def pooled(mode: str, rows: np.ndarray[Any, Any], skip: int = 0) -> np.ndarray[Any, Any]:
    """As sentence-transformers pools the states of one text."""
    kept = rows[min(skip, len(rows) - 1) :]
    weights = np.arange(len(rows) - len(kept), len(rows))[:, None] + 1
    pools = {
        "last": lambda: rows[-1],
        "cls": lambda: rows[0],
        "mean": lambda: kept.mean(0),
        "max": lambda: kept.max(0),
        "mean_sqrt": lambda: kept.sum(0) / np.sqrt(len(kept)),
        "weighted": lambda: (kept * weights).sum(0) / weights.sum(),
    }
    return np.asarray(pools[mode]())


@pytest.mark.parametrize("skip", [0, 4])
def test_every_pooling_of_texts_in_mixed_batches_and_in_parts(skip: int) -> None:
    model = load(embedding=settings(*MODES))
    texts = some_texts()
    request = EmbedRequest(id=5, texts=texts, skips=[skip] * len(texts) if skip else [])
    found = computed(Driver(model, prefill_chunk=64), request)
    for number, ids in enumerate(texts):
        rows = states(model, ids)
        expected = np.concatenate([pooled(mode, rows, skip) for mode in MODES])
        assert np.allclose(found[5, number], expected, atol=1e-5), (number, len(ids))


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text", "mamba", "falcon_h1", "gemma2"])
def test_all_kinds_of_caches(kind: str) -> None:
    model = load(tiny_model_dir(ARCHITECTURES[kind]), embedding=settings("last", normalize=True))
    texts = some_texts((3, 9, 40))
    found = computed(Driver(model, prefill_chunk=32), EmbedRequest(id=1, texts=texts))
    for number, ids in enumerate(texts):
        expected = states(model, ids)[-1]
        assert found[1, number] @ expected / np.linalg.norm(expected) > 1 - 1e-5


def dense_layer(path: Path, rows: int, columns: int, activation: str) -> Mapping[str, mx.array]:
    path.mkdir()
    weights = {
        "linear.weight": mx.random.normal((rows, columns)),
        "linear.bias": mx.random.normal((rows,)),
    }
    mx.save_safetensors(str(path / "model.safetensors"), weights)
    name = f"torch.nn.modules.activation.{activation}"
    (path / "config.json").write_text(json.dumps({"activation_function": name}))
    return weights


def test_dense_layers_and_normalization(tmp_path: Path) -> None:
    layer = dense_layer(tmp_path / "2_Dense", 8, 64, "Tanh")
    own = settings("mean", dense=[str(tmp_path / "2_Dense")], normalize=True)
    model = load(embedding=own)
    [text] = some_texts((12,))
    found = computed(Driver(model), EmbedRequest(id=1, texts=[text]))[1, 0]
    x = pooled("mean", states(model, text))
    x = np.tanh(np.array(layer["linear.weight"]) @ x + np.array(layer["linear.bias"]))
    assert np.allclose(found, x / np.linalg.norm(x), atol=1e-5)


def test_a_dense_layer_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    dense_layer(tmp_path / "2_Dense", 8, 64, "Exotic")
    own = settings("mean", dense=[str(tmp_path / "2_Dense")])
    with pytest.raises(ModelLoadError, match=r"2_Dense .* 'Exotic'"):
        load(embedding=own)


@pytest.mark.parametrize("said", [{"use_bidirectional_attention": True}, {"is_causal": False}])
def test_a_bidirectional_configuration_is_refused(said: dict[str, bool]) -> None:
    path = tiny_model_dir({**ARCHITECTURES["llama"], **said})
    with pytest.raises(ModelLoadError, match=next(iter(said))):
        load(path, embedding=settings("last"))


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma3_text"])
def test_a_checkpoint_of_the_bare_body(kind: str, tmp_path: Path) -> None:
    whole = tiny_model_dir({**ARCHITECTURES[kind], "tie_word_embeddings": False})
    for file in whole.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).symlink_to(file)
    weights = dict(mx.load(str(whole / "model.safetensors")))  # type: ignore[arg-type]
    body = {name.removeprefix("model."): x for name, x in weights.items() if "lm_head" not in name}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), body, {"format": "mlx"})
    (tmp_path / "model.safetensors.index.json").unlink(missing_ok=True)
    own = settings("last")
    texts = EmbedRequest(id=1, texts=some_texts((5,)))
    one = computed(Driver(load(whole, embedding=own)), texts)[1, 0]
    other = computed(Driver(load(tmp_path, embedding=own, bare=True)), texts)[1, 0]
    assert (one == other).all()


def test_beside_rows_the_rows_get_the_same_tokens() -> None:
    model = load(embedding=settings("mean"))
    alone = Driver(model)
    alone.submit(request(1, [5, 6, 7]))
    alone.run()
    beside = Driver(model)
    beside.submit(request(1, [5, 6, 7]))
    found = computed(beside, EmbedRequest(id=2, texts=some_texts()))
    assert beside.tokens == alone.tokens
    assert len(found) == len(LENGTHS)
    first = next(n for n, frame in enumerate(beside.frames) if frame.vectors)
    assert any(frame.tokens for frame in beside.frames[:first]) or beside.frames[first].tokens


def test_a_request_that_is_cancelled_gets_no_further_vector() -> None:
    driver = Driver(load(embedding=settings("mean")), prefill_chunk=64)
    driver.scheduler.submit(EmbedRequest(id=2, texts=some_texts((60, 60, 200))))
    driver.scheduler.submit(EmbedRequest(id=3, texts=some_texts((60,)), owner="other"))
    frame = driver.turn()
    assert frame.started and frame.running == 2
    driver.scheduler.cancel(2)
    before = len(driver.frames)
    driver.run()
    assert {each.id for each in driver.frames[before - 1].vectors} <= {2, 3}
    later = [each for frame in driver.frames[before:] for each in frame.vectors]
    assert 2 not in {each.id for each in later}
    assert not driver.executor.texts.requests


class _Failing:
    """A body that raises on one token."""

    def __init__(self, body: Any):
        self._body = body

    def __call__(self, tokens: mx.array, **more: Any) -> mx.array:
        if (tokens == 511).any().item():
            raise ValueError("poison")
        states: mx.array = self._body(tokens, **more)
        return states


def test_a_fault_fails_the_request_that_it_belongs_to(caplog: pytest.LogCaptureFixture) -> None:
    model = load(embedding=settings("mean"))
    driver = Driver(model)
    broken = Texts(model)
    assert model.embedder is not None
    object.__setattr__(model.embedder, "body", _Failing(model.embedder.body))
    driver.executor.texts = broken
    driver.submit(request(9, [5, 6, 7]))
    good, bad = some_texts((4, 5)), [[4, 511, 4], [8, 9]]
    found = computed(driver, EmbedRequest(id=1, texts=good), EmbedRequest(id=2, texts=bad))
    assert set(found) >= {(1, 0), (1, 1)}
    assert driver.failed.keys() == {2}
    assert driver.failed[2].code == "request_failed"
    assert driver.reasons[9] == "length"


def test_a_text_that_memory_cannot_hold_is_refused() -> None:
    model = load(embedding=settings("mean"))
    limit = model.memory.total([[600]], 64)
    driver = Driver(model.limited(limit), prefill_chunk=64)
    driver.scheduler.submit(EmbedRequest(id=1, texts=some_texts((2000,))))
    driver.turn()
    assert driver.failed[1].code == "context_length_exceeded"
    assert not driver.scheduler.busy
