"""Text, ids and prompts as callers see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tokenizers import Tokenizer as Backend

from budmlx import Engine
from budmlx.engine.text.encoding import encoding
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import EngineClosedError, InvalidRequestError
from tests.models import tiny_model_dir
from tests.tokenizers import byte_level, sentencepiece_bpe

TEXT = "Zwölf Boxkämpfer <|im_start|> 你好 😀"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(scale=2.0)) as engine:
        yield engine


def test_text_comes_back(engine: Engine) -> None:
    found = engine.tokenize(TEXT)
    assert found.text == TEXT == engine.detokenize(found.ids)
    assert len(found.pieces) == len(found.ids) > 10
    assert "<|im_start|>" in found.pieces
    assert engine.tokenize("").ids == () and engine.detokenize([]) == ""


@pytest.mark.parametrize("make", [byte_level, sentencepiece_bpe])
def test_pieces_of_several_families(make: Callable[[], Backend]) -> None:
    tokenizer = Tokenizer(make(), special_tokens={}, chat_templates={})
    ids = tokenizer.encode("The quick <|im_end|> fox", add_special=False)
    found = encoding(tokenizer, ids)
    assert "".join(found.pieces).strip() == found.text.strip() == "The quick <|im_end|> fox"
    assert "<|im_end|>" in found.pieces


def test_the_prompt_of_a_chat_is_what_chat_sends(engine: Engine) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    prompt = engine.apply_template(messages)
    assert "Be brief." in prompt.text and "Hi" in prompt.text
    assert engine.chat(messages, max_tokens=1).usage.prompt_tokens == len(prompt.ids)
    again = engine.complete(prompt.ids, temperature=0, max_tokens=6)
    assert again.text == engine.chat(messages, temperature=0, max_tokens=6).text


def test_a_prompt_may_be_longer_than_the_context(engine: Engine) -> None:
    text = "word " * engine.info.context_length
    assert len(engine.apply_template(text).ids) > engine.info.context_length


def test_what_is_wrong_is_named(engine: Engine) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.detokenize([5, engine.info.vocab_size])
    assert caught.value.param == "tokens[1]"
    with pytest.raises(InvalidRequestError) as caught:
        engine.detokenize([-1])
    assert caught.value.param == "tokens[0]"
    with pytest.raises(InvalidRequestError) as caught:
        engine.apply_template("Hi", chat_template_kwargs={"nope": 1})
    assert caught.value.param == "chat_template_kwargs.nope"


def test_a_closed_engine_says_so() -> None:
    engine = Engine.load(tiny_model_dir(scale=2.0))
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.apply_template("Hi")
