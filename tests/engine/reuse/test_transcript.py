"""Replies that come back as text are the model's own ids in the next prompt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from budmlx import Engine, hookimpl
from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.reuse.tracker import MAX_REPLIES, Transcript
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.plugins.specs import RowContext, SamplerSpec
from budmlx.protocol import Image
from tests.models import tiny_model_dir


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(tiny_model_dir(scale=4.0))


def letters(tokenizer: Tokenizer, text: str) -> list[int]:
    """The text with one id for each byte, as no tokenizer writes it."""
    return [tokenizer.encode(letter, add_special=False)[0] for letter in text]


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special=False)


PROMPT = "<|im_start|>assistant\n"
END = "<|im_end|>\n<|im_start|>user\nthe quick\n"


def test_own_ids_take_the_place_of_the_same_text(tokenizer: Tokenizer) -> None:
    said = "the quick brown fox jumps"
    prompt, own = encode(tokenizer, PROMPT), letters(tokenizer, said)
    usual, rest = encode(tokenizer, said), encode(tokenizer, END)
    assert own != usual
    transcript = Transcript(tokenizer)
    asked = TokenizedPrompt([*prompt, *usual, *rest])
    assert transcript.spliced("", asked) == asked
    transcript.add("", prompt, [[], letters(tokenizer, "the lazy dog"), own])
    assert transcript.spliced("", asked).ids == [*prompt, *own, *rest]
    assert transcript.spliced("other", asked) == asked
    # A reply that a stop string cut short, and one whose text was changed.
    cut = encode(tokenizer, said[:9])
    assert transcript.spliced("", TokenizedPrompt([*prompt, *cut, *rest])).ids == [
        *prompt, *letters(tokenizer, said[:9]), *rest,
    ]  # fmt: skip
    for text in ("A" + said, said[:9] + "er", said[:9] + "A" + said[9:]):
        changed = TokenizedPrompt([*prompt, *encode(tokenizer, text), *rest])
        assert transcript.spliced("", changed) == changed
    longer = TokenizedPrompt([*prompt, *encode(tokenizer, said + " high"), *rest])
    assert transcript.spliced("", longer).ids[len(prompt) :][: len(own)] == own


def test_every_turn_of_a_conversation(tokenizer: Tokenizer) -> None:
    transcript = Transcript(tokenizer)
    spoken: list[int] = []
    rendered: list[int] = []
    for turn in range(5):
        said = f"the quick brown fox {turn}"
        spoken += encode(tokenizer, PROMPT)
        rendered += encode(tokenizer, PROMPT)
        assert transcript.spliced("", TokenizedPrompt(rendered)).ids == spoken
        transcript.add("", spoken, [letters(tokenizer, said)])
        spoken += [*letters(tokenizer, said), *encode(tokenizer, END)]
        rendered += [*encode(tokenizer, said), *encode(tokenizer, END)]


def test_pictures_move_along(tokenizer: Tokenizer) -> None:
    said = "the quick"
    prompt, own, usual = (
        encode(tokenizer, PROMPT),
        letters(tokenizer, said),
        encode(tokenizer, said),
    )
    before = Image(plugin="p", start=0, tokens=1, key="a", arrays={})
    after = msgspec.structs.replace(before, start=len(prompt) + len(usual) + 2)
    transcript = Transcript(tokenizer)
    transcript.add("", prompt, [own])
    asked = TokenizedPrompt([*prompt, *usual, *encode(tokenizer, END)], (before, after))
    moved = transcript.spliced("", asked).images
    assert moved[0].start == 0 and moved[1].start == len(prompt) + len(own) + 2


def test_it_forgets(tokenizer: Tokenizer) -> None:
    transcript = Transcript(tokenizer)
    said = "the quick"
    for number in range(MAX_REPLIES + 1):
        transcript.add("", [number, 5], [letters(tokenizer, said)])
    usual = encode(tokenizer, said)
    assert transcript.spliced("", TokenizedPrompt([0, 5, *usual])).ids == [0, 5, *usual]
    assert transcript.spliced("", TokenizedPrompt([1, 5, *usual])).ids != [1, 5, *usual]


PIECES = st.lists(st.sampled_from(["the", " quick", " brown", "é", "\n", "x", "<", "im", "日本"]))


@given(PIECES, PIECES, st.integers(0, 3))
def test_the_text_never_changes(said: list[str], then: list[str], kept: int) -> None:
    tokenizer = Tokenizer.load(tiny_model_dir(scale=4.0))
    own = [id_ for piece in said for id_ in letters_of(tokenizer, piece)]
    text = "".join(said[: len(said) - kept]) + "".join(then)
    asked = TokenizedPrompt(encode(tokenizer, PROMPT + text + END))
    transcript = Transcript(tokenizer)
    prompt = encode(tokenizer, PROMPT)
    transcript.add("", prompt, [own])
    spliced = transcript.spliced("", asked)
    decode = tokenizer.backend.decode
    assert decode(spliced.ids, skip_special_tokens=False) == decode(
        asked.ids, skip_special_tokens=False
    )
    assert tokenizer.control.among(spliced.ids) == tokenizer.control.among(asked.ids)
    if not then and not kept:
        assert spliced.ids[len(prompt) : len(prompt) + len(own)] == own


def letters_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """One id for each byte."""
    return [id_ for byte in text for id_ in encode(tokenizer, byte)]


class Options(BaseModel):
    ids: list[int]


class Spells:
    """Draws given ids, whatever the model thinks."""

    def init(self, options: Mapping[str, Any]) -> dict[str, mx.array]:
        return {"ids": mx.array([options["ids"]]), "next": mx.array([0])}

    def sample(
        self, logits: mx.array, state: dict[str, mx.array], context: RowContext, keys: mx.array
    ) -> tuple[mx.array, dict[str, mx.array]]:
        drawn = mx.take_along_axis(state["ids"], state["next"][:, None], axis=1)[:, 0]
        return drawn, {**state, "next": state["next"] + 1}


class Plugin:
    @hookimpl
    def add_samplers(self) -> list[SamplerSpec]:
        return [SamplerSpec("spells", Options, f"{__name__}:Spells")]


# Where the assistant begins to speak is written as its earlier turns are.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "<|im_start|>assistant{{ '\n' }}"
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("models") / "chat"
    shutil.copytree(tiny_model_dir(scale=4.0), path)
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": TEMPLATE}))
    with Engine.load(path, plugins=[Plugin()]) as engine:
        yield engine


def test_turns_are_computed_once(engine: Engine, tokenizer: Tokenizer) -> None:
    own = letters(tokenizer, "the quick brown fox jumps over the dog")
    sampler = {"name": "spells", "ids": own}
    messages = [{"role": "user", "content": "Tell me of the fox. " * 4}]
    before = 0
    for _ in range(3):
        reply = engine.chat(messages, sampler=sampler, max_tokens=len(own))
        # All that was computed before: the last token drawn was not fed any more.
        assert reply.usage.cached_tokens >= before
        before = reply.usage.prompt_tokens + len(own) - 1
        messages += [
            {"role": "assistant", "content": reply.text},
            {"role": "user", "content": "More."},
        ]
    seeded = engine.chat(messages, sampler=sampler, seed=1, max_tokens=2).usage
    assert seeded.cached_tokens < before - len(own)


def test_salts_keep_conversations_apart(engine: Engine) -> None:
    asked = {"messages": "Salted. " * 20, "temperature": 0, "max_tokens": 4}
    assert engine.chat(**asked, cache_salt="a").usage.cached_tokens == 0
    assert engine.chat(**asked, cache_salt="a").usage.cached_tokens > 0
    assert engine.chat(**asked, cache_salt="b").usage.cached_tokens == 0
