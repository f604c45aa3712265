"""Pictures through an engine: the tokens are those of mlx-lm with the plugin's embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from budmlx_llava import provide_vision_preprocessor
from budmlx_llava.encoder import load
from budmlx_llava.language import classes
from checkpoints import MODELS, picture, write_llava
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
from PIL import Image

from budmlx import Engine
from budmlx.plugins.vision import ModelFiles

# Control tokens and ids beyond the vocabulary, which show as nothing, are banned.
SHOWN = range(3, 256)
GREEDY: dict[str, Any] = {
    "temperature": 0,
    "max_tokens": 12,
    "ignore_eos": True,
    "logit_bias": {token: -100.0 for token in range(512) if token not in SHOWN},
}
IMAGES = [Image.fromarray(picture(50 + 20 * n, 90 - 20 * n, seed=n)) for n in range(3)]


@pytest.fixture(scope="module", params=["llava", "next", "onevision"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / str(request.param)
    bits = 4 if request.param == "next" else None
    write_llava(path, MODELS[request.param], bits=bits)
    return path


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[Engine]:
    with Engine.load(path, plugins=["llava"], prefill_chunk=32) as engine:
        yield engine


def shows(*parts: str | Image.Image) -> list[dict[str, Any]]:
    """A user's message of texts and pictures."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


def greedy(path: Path, ids: Sequence[int], images: Sequence[Image.Image]) -> list[int]:
    """What mlx-lm says to a prompt whose placeholders are replaced by embeddings."""
    files = ModelFiles.read(path)
    spec = provide_vision_preprocessor("auto", files)
    assert spec is not None
    encoder = load(files)
    model, _ = load_model(path, get_model_classes=classes)
    prompt = model.embed_tokens(mx.array([list(ids)]))
    token = files.config["image_token_index"]
    places = [place for place, id_ in enumerate(ids) if id_ == token]
    for image in images:
        prepared = spec.prepare(np.asarray(image), "auto")
        found = encoder.encode({name: mx.array(a) for name, a in prepared.arrays.items()})
        prompt[0, mx.array(places[: prepared.tokens])] = found
        del places[: prepared.tokens]
    assert not places
    cache = make_prompt_cache(model)
    tokens: list[int] = []
    logits = model(mx.array([list(ids)]), cache, prompt)
    while len(tokens) < GREEDY["max_tokens"]:
        shown = logits[0, -1, SHOWN.start : SHOWN.stop]
        tokens.append(SHOWN.start + int(mx.argmax(shown).item()))
        logits = model(mx.array([tokens[-1:]]), cache)
    return tokens


def test_one_picture_and_two(engine: Engine, path: Path) -> None:
    texts = set()
    for images in (IMAGES[:1], IMAGES[:2], IMAGES[1::-1]):
        messages = shows("Look:", *images, "What is it?")
        ids = engine.apply_template(messages).ids
        text = engine.chat(messages, **GREEDY).text
        assert text == engine.detokenize(greedy(path, ids, images))
        texts.add(text)
    assert len(texts) == 3


async def test_rows_with_and_without_pictures_share_a_batch(engine: Engine) -> None:
    asked = [shows("Number", image, f"of {n}") for n, image in enumerate(IMAGES)]
    asked += [shows("No picture"), shows(IMAGES[0], IMAGES[2]), shows("None, again")]
    alone = [(await engine.achat(messages, **GREEDY)).text for messages in asked]
    together = await asyncio.gather(*(engine.achat(messages, **GREEDY) for messages in asked))
    assert [reply.text for reply in together] == alone
    assert len(set(alone)) == len(asked)


def test_low_detail(engine: Engine, path: Path) -> None:
    low = [{"type": "image", "image": IMAGES[0], "detail": "low"}]
    counts = [
        engine.chat(messages, **GREEDY).usage.prompt_tokens
        for messages in ([{"role": "user", "content": low}], shows(IMAGES[0]))
    ]
    assert (counts[0] < counts[1]) == (path.name != "llava")


def test_in_a_process_of_its_own(path: Path, engine: Engine) -> None:
    messages = shows("Look:", IMAGES[0])
    with Engine.load(path, plugins=["llava"], engine_host="process") as other:
        assert other.chat(messages, **GREEDY).text == engine.chat(messages, **GREEDY).text
