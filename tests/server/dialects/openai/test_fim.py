"""The text between two others, in Mistral's and in Ollama's protocol."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.errors import InvalidRequestError
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.tools import check_error, events, exchange, post

TOKENS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
FIM = "/v1/fim/completions"
TEXTS = {"prompt": "def f(x):\n    ", "suffix": "\n\nf(1)"}


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A model whose tokenizer has the tokens."""
    path: Path = tmp_path_factory.mktemp("models") / "coder"
    shutil.copytree(tiny_model_dir(scale=2.0), path)
    backend = Backend.from_file(str(path / "tokenizer.json"))
    backend.add_special_tokens(list(TOKENS))
    backend.save(str(path / "tokenizer.json"))
    with Engine.load(path, prefix_cache="0") as engine:
        yield engine


@pytest.fixture
async def coding(coder: Engine) -> AsyncIterator[HttpServer]:
    server = await HttpServer.start(Models.of(coder), Config(port=0, drain_seconds=0))
    yield server
    await server.drain()


def expected(engine: Engine, **sampling: Any) -> str:
    """What the model says to the ids that its family would send."""
    begin, hole, end = (engine.tokenize(token, add_special=False).ids for token in TOKENS)
    before, after = (
        engine.tokenize(TEXTS[key], add_special=False).ids for key in ("prompt", "suffix")
    )
    ids = [*begin, *before, *hole, *after, *end]
    stops = [*begin, *hole, *end, *engine.tokenize("<|endoftext|>", add_special=False).ids]
    return engine.complete(ids, stop_token_ids=stops, **sampling).text


async def ask(server: HttpServer, path: str, **fields: Any) -> bytes:
    answer = await exchange(server, post(json.dumps({"model": "coder", **fields}).encode(), path))
    assert answer.status == 200, answer.content
    return answer.content


async def test_whole_and_streamed(coding: HttpServer, coder: Engine) -> None:
    text = expected(coder, temperature=0.9, seed=4, max_tokens=12)
    assert text
    fields = {**TEXTS, "temperature": 0.9, "random_seed": 4, "max_tokens": 12}
    whole = json.loads(await ask(coding, FIM, **fields))
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": text}
    *chunks, _ = events(await ask(coding, FIM, stream=True, **fields))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == text
    options = {"temperature": 0.9, "seed": 4, "num_predict": 12}
    lines = (await ask(coding, "/api/generate", options=options, **TEXTS)).splitlines()
    assert "".join(json.loads(line)["response"] for line in lines) == text
    assert coder.complete(**TEXTS, temperature=0.9, seed=4, max_tokens=12).text == text  # type: ignore[arg-type]


async def test_without_a_suffix_the_end_is_open(coding: HttpServer) -> None:
    fields = {"prompt": "a", "max_tokens": 2, "temperature": 0}
    reply = json.loads(await ask(coding, FIM, **fields))
    assert reply["usage"]["prompt_tokens"] == 4


async def test_the_tokens_are_shown_as_a_capability(coding: HttpServer) -> None:
    shown = json.loads(await ask(coding, "/api/show"))
    assert "insert" in shown["capabilities"] and ".Suffix" in shown["template"]


async def test_other_models_refuse(server: HttpServer, engine: Engine) -> None:
    body = json.dumps({"model": "demo", **TEXTS, "max_tokens": 2}).encode()
    error = check_error(await exchange(server, post(body, FIM)), 400, param="suffix")
    assert "cannot fill in" in error["message"]
    answer = await exchange(server, post(body, "/api/generate"))
    assert answer.status == 400 and "suffix" in answer.json["error"]
    with pytest.raises(InvalidRequestError, match="cannot fill in"):
        engine.complete("a", suffix="b")


def test_ids_have_no_suffix(coder: Engine) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        coder.complete([5, 6], suffix="b")
    assert caught.value.param == "suffix"
