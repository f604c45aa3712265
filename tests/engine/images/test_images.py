"""Pictures through the whole engine: what the model sees, batches, reuse, errors."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model as load_with_mlx_lm
from PIL import Image

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.images.images import Images
from budmlx.engine.load.directory import model_files
from budmlx.engine.request.python_api import chat_request
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import ConfigError, ContextLengthError, InvalidRequestError, PluginError
from budmlx.plugins.manager import Plugins
from tests import vision_plugin_core
from tests.models import tiny_model_dir
from tests.vision_plugin import (
    PICTURES_FIRST,
    TOKEN,
    parts,
    picture,
    prepare,
    write_vision_model,
)

PLUGIN = "tests.vision_plugin"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision_model(tmp_path_factory.mktemp("models") / "marks")


@pytest.fixture(scope="module", params=["thread", "process"])
def engine(path: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    with Engine.load(
        path, plugins=[PLUGIN], engine_host=request.param, watchdog_seconds=5
    ) as engine:
        yield engine


@pytest.fixture(scope="module")
def cold(path: Path) -> Iterator[Engine]:
    with Engine.load(path, plugins=[PLUGIN], prefix_cache="0", prefill_chunk=5) as engine:
        yield engine


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def greedy(path: Path, ids: list[int], colours: dict[int, Any], count: int) -> list[int]:
    """Tokens by mlx-lm's model alone. colours: what stands at places of the prompt."""
    module, _ = load_with_mlx_lm(path, get_model_classes=vision_plugin_core.classes)
    encoder = vision_plugin_core.Encoder(64)
    embedded = module.embed_tokens(mx.array([ids]))
    for place, colour in colours.items():
        embedded[0, place] = encoder.encode({"colours": mx.array(colour[None])})[0]
    cache = make_prompt_cache(module)
    tokens = [mx.argmax(module(mx.array([ids]), cache, embedded)[0, -1]).item()]
    while len(tokens) < count:
        tokens.append(mx.argmax(module(mx.array([tokens[-1:]]), cache)[0, -1]).item())
    return tokens


@pytest.mark.parametrize("template", ["marks", "first"])
def test_the_model_sees_what_mlx_lm_shows_it(tmp_path: Path, template: str) -> None:
    chosen = {"template": PICTURES_FIRST} if template == "first" else {}
    path = write_vision_model(tmp_path / "model", **chosen)
    one, two = picture(1), picture(2)
    messages = parts("Now", one, "and", two, "?")
    with Engine.load(path, plugins=[PLUGIN], prefill_chunk=7) as engine:
        reply = engine.chat(messages, **GREEDY)
        encoding = engine.apply_template(messages)
    ids = list(encoding.ids)
    token = max(ids, key=ids.count)
    places = [place for place, id_ in enumerate(ids) if id_ == token]
    assert len(places) == 8 and reply.usage.prompt_tokens == len(ids)
    if template == "first":
        assert f"user{TOKEN * 8}Nowand?" in encoding.text
    else:
        assert f"user\nNow{TOKEN * 4}\nand{TOKEN * 4}\n?" in encoding.text
    shown = [*prepare(one, "auto").arrays["colours"], *prepare(two, "auto").arrays["colours"]]
    expected = greedy(path, ids, dict(zip(places, shown, strict=True)), 12)
    assert reply.text == engine.detokenize(expected)


def test_every_way_to_give_a_picture(engine: Engine, tmp_path: Path) -> None:
    pixels = picture(3)
    data = png(pixels)
    file = tmp_path / "picture.png"
    file.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    asked = [parts("What is", each) for each in (pixels, data, file, Image.fromarray(pixels))]
    for source in (str(file), url):
        named = {"type": "image", "image": source}
        asked.append([{"role": "user", "content": [*parts("What is")[0]["content"], named]}])
    texts = {engine.chat(each, **GREEDY).text for each in asked}
    as_url = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is"}]
    assert len(texts) == 1
    other = engine.chat([{"role": "user", "content": as_url}], **GREEDY)
    assert other.text not in texts  # the picture comes first there
    assert engine.chat(parts("What is", picture(4)), **GREEDY).text not in texts
    assert engine.chat(parts("What is", pixels, detail="low"), **GREEDY).text not in texts


async def test_rows_see_their_own_pictures_only(engine: Engine, cold: Engine) -> None:
    asked = [parts("Describe", picture(seed), "please") for seed in range(10, 22)]
    asked += [parts("No picture here, number " + str(n)) for n in range(4)]
    alone = [cold.chat(each, **GREEDY).text for each in asked]
    together = await asyncio.gather(*(engine.achat(each, **GREEDY) for each in asked))
    assert [reply.text for reply in together] == alone
    assert len(set(alone[:12])) > 3
    choices = engine.chat(asked[0], **{**GREEDY, "temperature": 1.5, "seed": 5, "n": 4}).choices
    single = cold.chat(asked[0], **{**GREEDY, "temperature": 1.5, "seed": 5})
    assert choices[0].text == single.text and len({choice.text for choice in choices}) > 1


def test_kv_is_reused_for_the_same_picture_only(engine: Engine, cold: Engine) -> None:
    story = "Once there was a long story about a fox. " * 4
    first = parts(story, picture(30), "What is it?")
    before = engine.chat(first, **GREEDY)
    again = engine.chat(first, **GREEDY)
    assert again.text == before.text == cold.chat(first, **GREEDY).text
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
    other = parts(story, picture(31), "What is it?")
    elsewhere = engine.chat(other, **GREEDY)
    place = engine.apply_template(parts(story)).ids
    common = sum(a == b for a, b in zip(place, engine.apply_template(other).ids, strict=False))
    assert 16 <= elsewhere.usage.cached_tokens <= common
    assert elsewhere.text == cold.chat(other, **GREEDY).text
    turns = [*first, {"role": "assistant", "content": "A fox."}, *parts(picture(32), "And this?")]
    assert engine.chat(turns, **GREEDY).text == cold.chat(turns, **GREEDY).text


def test_a_kept_reply_belongs_to_its_picture(engine: Engine) -> None:
    asked = {"cache": True, **GREEDY}
    assert not engine.chat(parts("Kept", picture(40)), **asked).cached
    assert engine.chat(parts("Kept", picture(40)), **asked).cached
    assert not engine.chat(parts("Kept", picture(41)), **asked).cached


def test_users_cannot_write_placeholders(engine: Engine) -> None:
    text = f"Look: {TOKEN}"
    encoding = engine.apply_template(parts(text, picture(1)))
    assert list(encoding.ids).count(max(encoding.ids, key=list(encoding.ids).count)) >= 4
    assert encoding.text.count(TOKEN) == 5  # four are the picture's, one is text
    assert engine.chat(parts(text, picture(1)), **GREEDY).text


def colour(*values: int, height: int = 8) -> Any:
    return np.full((height, 8, 3), values, np.uint8)


def test_a_fault_of_the_plugin_fails_one_request(engine: Engine, cold: Engine) -> None:
    async def ask_all() -> list[Any]:
        shown = [picture(50), colour(0, 0, 0), colour(255, 255, 255), picture(51)]
        shown += [picture(1, height=13), picture(1, height=14)]
        asked = [engine.achat(parts("Say", each), **GREEDY) for each in shown]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    first, dark, white, last, unlucky, empty = asyncio.run(ask_all())
    assert first.text == cold.chat(parts("Say", picture(50)), **GREEDY).text
    assert last.text == cold.chat(parts("Say", picture(51)), **GREEDY).text
    for error, words in (
        (dark, "failed in its vision encoder"),
        (white, r"vision encoder did not return an array of shape \[4, 64\]"),
        (unlucky, "failed in its vision preprocessor"),
        (empty, "not a number of tokens"),
    ):
        with pytest.raises(PluginError, match=words):
            raise error


def test_refusals(engine: Engine) -> None:
    url = "https://example.com/a.png"
    image = {"type": "image_url", "image_url": {"url": url}}
    for messages, param, words in (
        ([{"role": "user", "content": [image]}], "messages[0].content[0].image_url.url", "data:"),
        (
            [{"role": "user", "content": [{**image, "image_url": "/etc/passwd"}]}],
            "messages[0].content[0].image_url.url",
            "begins with data:",
        ),
        ([{"role": "system", "content": [image]}], "messages[0].content", "user"),
        (parts(*[picture(0)] * 101), "messages", "101"),
        (parts(b"nothing"), "messages[0].content[0].image", "cannot be decoded"),
    ):
        with pytest.raises(InvalidRequestError, match=words) as caught:
            engine.chat(messages, **GREEDY)
        assert caught.value.param == param
    with pytest.raises(InvalidRequestError, match="for this model") as caught:
        engine.chat(parts(*[picture(1, height=15)] * 3), **GREEDY)
    assert caught.value.param == "messages[0].content[2].image"
    with pytest.raises(ContextLengthError):
        engine.chat(parts("word " * 9000, picture(1)), **GREEDY)


def test_the_pictures_of_a_request_have_a_limit_together(path: Path) -> None:
    config = Config.of(engine_host="thread", plugin=(PLUGIN,))
    plugins = Plugins.load(config)
    images = Images(plugins, Tokenizer.load(path), model_files(path), config, max_pixels=10_000)
    huge = np.zeros((60, 60, 3), np.uint8)
    with pytest.raises(InvalidRequestError, match="10,000 pixels together") as caught:
        images.prepared(chat_request(parts(huge, huge, huge), GREEDY))
    assert caught.value.code == "image_too_large"
    _, shown = images.prepared(chat_request(parts(huge, huge), GREEDY))
    assert len(shown) == 2


def test_models_without_pictures_say_so(path: Path) -> None:
    with Engine.load(tiny_model_dir(scale=4.0), plugins=[PLUGIN]) as engine:
        with pytest.raises(InvalidRequestError, match="text only") as caught:
            engine.chat(parts("Look", picture(1)), **GREEDY)
        assert caught.value.param == "messages[0].content[1]"
    settings = {"plugins": [PLUGIN], "vision_preprocessor": "none"}
    with Engine.load(path, **settings) as engine:
        assert engine.chat("Hello", **GREEDY).text
        with pytest.raises(InvalidRequestError, match="text only"):
            engine.chat(parts("Look", picture(1)), **GREEDY)
    with pytest.raises(ConfigError, match="no plugin knows 'other'"):
        Engine.load(path, plugins=[PLUGIN], vision_preprocessor="other")


def test_an_encoder_that_hangs_is_named_and_disabled(path: Path) -> None:
    red = parts("Stop", colour(255, 0, 0))
    with Engine.load(path, plugins=[PLUGIN], engine_host="process", watchdog_seconds=2) as engine:
        for _ in range(2):
            with pytest.raises(PluginError, match=re.escape(PLUGIN)):
                engine.chat(red, **GREEDY)
        assert engine.chat("Text goes on", **GREEDY).text
