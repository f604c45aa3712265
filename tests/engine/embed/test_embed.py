"""`Engine.embed`: texts in, vectors out, for the layouts that embedding models come in."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from budmlx import Engine
from budmlx.engine.embed.embeddings import MOST_TEXTS
from budmlx.errors import (
    ContextLengthError,
    EngineClosedError,
    InvalidRequestError,
    ModelLoadError,
)
from tests.models import tiny_model_dir

TYPES = "sentence_transformers.models."
END = 0


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(), embed_any=True) as engine:
        yield engine


def embedder(path: Path, pooling: object, **files: Any) -> Path:
    """A directory as sentence-transformers writes it. files: their content, without `.json`."""
    shutil.copytree(tiny_model_dir(), path)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    end = tokenizer.id_to_token(END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, END)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    content = [
        {"idx": number, "name": str(number), "path": folder, "type": f"{TYPES}{kind}"}
        for number, (folder, kind) in enumerate(modules)
    ]
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for name, value in {"modules": content, **files}.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path


def test_one_text_many_texts_and_ids(engine: Engine) -> None:
    many = engine.embed(["a", "the lazy dog", engine.tokenize("a").ids])
    assert many.vectors.shape == (3, 64) and many.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(many.vectors, axis=1), 1, atol=1e-5)
    assert (many.vectors[0] == many.vectors[2]).all()
    assert np.allclose(engine.embed("a").vectors, many.vectors[:1], atol=1e-5)
    assert many.usage.prompt_tokens == sum(
        len(engine.tokenize(text).ids) for text in ("a", "the lazy dog", "a")
    )
    assert many.model == engine.info.name and many.warnings == ()


def test_what_is_there_twice_is_computed_once(engine: Engine) -> None:
    told: list[tuple[int, int]] = []
    found = engine.embed(["x", "y"] * 40, progress=lambda *counts: told.append(counts))
    assert told[-1] == (2, 2)
    assert (found.vectors[::2] == found.vectors[0]).all()
    assert not (found.vectors[0] == found.vectors[1]).all()


def test_progress_as_a_bar(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.embed(["a", "b"], progress=True)
    assert "Embedding" in capsys.readouterr().err


def test_dimensions_cut_and_keep_the_length(engine: Engine) -> None:
    whole = engine.embed("hello").vectors[0]
    short = engine.embed("hello", dimensions=8).vectors[0]
    assert np.allclose(short, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-5)


async def test_async_beside_a_chat_and_cancelled(engine: Engine) -> None:
    chat = asyncio.create_task(engine.achat("hi", max_tokens=30, ignore_eos=True))
    found, reply = await asyncio.gather(engine.aembed(["a", "b"]), chat)
    assert found.vectors.shape == (2, 64) and reply.usage.completion_tokens == 30
    task = asyncio.create_task(engine.aembed(["a" * 4000 + str(n) for n in range(50)]))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        while engine.status().running:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("texts", "options", "param"),
    [
        ([], {}, "input"),
        (["a"] * (MOST_TEXTS + 1), {}, "input"),
        (["a", ""], {}, "input[1]"),
        ([[5], [512]], {}, "input[1][0]"),
        (["a"], {"dimensions": 65}, "dimensions"),
        (["a"], {"prompt_name": "query"}, "prompt_name"),
        (["a"], {"adapter": "pirate"}, "model"),
        (["a"], {"size": 3}, "size"),
    ],
)
def test_what_is_refused(engine: Engine, texts: Any, options: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.embed(texts, **options)
    assert caught.value.param == param


def test_a_ranking_has_no_other_options(engine: Engine) -> None:
    with pytest.raises(InvalidRequestError, match=r"Known parameters: .*top_n") as caught:
        engine.rerank("a", ["b"], top=3)
    assert caught.value.param == "top"


def test_a_text_that_is_too_long_is_refused_or_cut(engine: Engine) -> None:
    long = [5] * 9000
    with pytest.raises(ContextLengthError) as caught:
        engine.embed([[1], long])
    assert caught.value.param == "input[1]"
    with Engine.load(tiny_model_dir(), embed_any=True, context_limit=40) as small:
        found = small.embed([[1], long], truncate=True)
        assert found.warnings == ("`input[1]` was cut from 9000 tokens to 40.",)
        assert np.allclose(found.vectors[1], small.embed([long[:40]]).vectors, atol=1e-6)


def test_a_chat_model_embeds_only_if_it_is_told_to() -> None:
    with (
        Engine.load(tiny_model_dir()) as engine,
        pytest.raises(InvalidRequestError, match="does not support embeddings") as caught,
    ):
        engine.embed("a")
    assert caught.value.param == "model"


def test_an_embedding_model_does_not_chat() -> None:
    with Engine.load(tiny_model_dir(), pooling="mean") as engine:
        assert engine.embed("a").vectors.shape == (1, 64)
        for ask in (engine.chat, engine.complete):
            with pytest.raises(InvalidRequestError, match="does not chat"):
                ask("a")


def test_after_close(engine: Engine) -> None:
    closed = Engine.load(tiny_model_dir(), embed_any=True)
    closed.close()
    with pytest.raises(EngineClosedError):
        closed.embed("a")


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["weightedmean"]}, "weighted"),
    ],
)
def test_the_files_say_how_to_pool(tmp_path: Path, pooling: Any, mode: Any) -> None:
    path = embedder(tmp_path / "model", pooling)
    with Engine.load(path) as engine, Engine.load(tiny_model_dir(), pooling=mode) as plain:
        ids = [*plain.tokenize("the lazy dog").ids, END]
        own = engine.embed(["the lazy dog", ids]).vectors
        assert np.allclose(own[0], own[1]), "texts end with what the tokenizer adds"
        assert np.allclose(own[1], plain.embed([ids]).vectors[0], atol=1e-6)


def test_prompts_lengths_and_dimensions(tmp_path: Path) -> None:
    path = embedder(
        tmp_path / "model",
        {"pooling_mode_mean_tokens": True, "include_prompt": False},
        config_sentence_transformers={
            "prompts": {"query": "Query: ", "document": "doc: ", "plain": ""},
            "default_prompt_name": "document",
            "truncate_dim": 16,
        },
        sentence_bert_config={"max_seq_length": 12},
    )
    with Engine.load(path) as engine:
        assert engine.embed("a").vectors.shape == (1, 16)
        assert engine.embed("a", dimensions=32).vectors.shape == (1, 32)

        def vector(name: str | None) -> Any:
            return engine.embed("a", prompt_name=name).vectors[0]

        assert (vector("query") == vector("search_query")).all()
        assert (vector(None) == vector("passage")).all()
        assert not np.allclose(vector("query"), vector("document"))
        with pytest.raises(InvalidRequestError, match="has document, plain, query"):
            vector("exotic")
        # A prompt is computed and not pooled: only the text's own states are. Ids have none.
        ids = [*engine.tokenize("a").ids, END]
        assert np.allclose(vector("plain"), engine.embed([ids], prompt_name="query").vectors[0])
        with pytest.raises(ContextLengthError):
            engine.embed("a" * 100)
        found = engine.embed("zyxwvutsrqponmlkjihgfedcba", prompt_name="plain", truncate=True)
        assert "to 12" in found.warnings[0] and found.usage.prompt_tokens == 12


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("modules", {}, "does not hold a list"),
        (
            "modules",
            [{"type": TYPES + kind, "path": ""} for kind in ("CLIPModel", "Pooling")],
            "lists CLIPModel, Pooling",
        ),
        ("1_Pooling/config", {}, "names no way of pooling"),
        ("1_Pooling/config", {"pooling_mode": "attention"}, "'attention' is not known"),
        ("1_Pooling/config", None, "1_Pooling/config.json is missing.*--pooling"),
    ],
)
def test_files_that_are_not_understood(
    tmp_path: Path, name: str, content: object, message: str
) -> None:
    path = embedder(tmp_path / "model", {"pooling_mode": "cls"})
    file = path / f"{name}.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(json.dumps(content))
    with pytest.raises(ModelLoadError, match=message):
        Engine.load(path)


def test_a_reranker_of_sentence_transformers_is_a_chat_model(tmp_path: Path) -> None:
    kinds = ("base.modules.transformer.Transformer", "cross_encoder.modules.logit_score.LogitScore")
    modules = [{"type": f"sentence_transformers.{kind}", "path": ""} for kind in kinds]
    with Engine.load(embedder(tmp_path / "model", {}, modules=modules)) as engine:
        assert len(engine.rerank("fox", ["a fox", "a dog"]).results) == 2
        with pytest.raises(InvalidRequestError, match="does not support embeddings"):
            engine.embed("a")


def test_a_setting_stands_in_for_a_missing_file(tmp_path: Path) -> None:
    path = embedder(tmp_path / "model", {})
    with Engine.load(path, pooling="mean") as engine:
        assert engine.embed("a").vectors.shape == (1, 64)
