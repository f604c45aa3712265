"""Decoders that do not fit their vocabulary are found out and replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, normalizers, pre_tokenizers

from budmlx import Engine
from budmlx.core.model.model import Model
from budmlx.core.sample.grammar import Grammars
from budmlx.engine.text.decode import TextStream
from budmlx.engine.text.encoding import decoded
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.testing.tiny_random import LLAMA, write_random_model
from tests import tokenizers
from tests.core.driver import load

TEXT = "Zwölf  Köche, 🙂 and naïve 日本\n\n\tdone."
VOCABULARIES: dict[str, Callable[[], Backend]] = {
    "byte_level": tokenizers.byte_level,
    "sentencepiece": tokenizers.sentencepiece_bpe,
    "legacy": lambda: tokenizers.sentencepiece_bpe(legacy=True),
}
DECODERS = {
    "none": None,
    "sentencepiece": tokenizers.sentencepiece_bpe().decoder,
    "byte_level": decoders.ByteLevel(),
    "metaspace": decoders.Metaspace(),
    "fuse": decoders.Fuse(),
    "wordpiece": decoders.WordPiece(),
}


def with_decoder(backend: Backend, decoder: decoders.Decoder | None) -> Backend:
    spec = json.loads(backend.to_str())
    spec["decoder"] = None if decoder is None else json.loads(decoder.__getstate__())
    return Backend.from_str(json.dumps(spec))


def read(backend: Backend) -> Tokenizer:
    return Tokenizer(backend, special_tokens={"eos_token": "</s>"}, chat_templates={})


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_text_comes_back_whatever_the_decoder_is(vocabulary: str, decoder: str) -> None:
    tokenizer = read(with_decoder(VOCABULARIES[vocabulary](), DECODERS[decoder]))
    ids = tokenizer.encode(TEXT, add_special=False)
    stream = TextStream(tokenizer, ["done"])
    streamed = "".join([*map(stream.push, ids), stream.finish()])
    raw = b"".join(tokenizer.token_bytes[token_id] for token_id in ids)

    assert decoded(tokenizer, ids) == TEXT
    assert streamed == TEXT.removesuffix("done.") and stream.stopped
    assert raw.decode().removeprefix(" ") == TEXT


@pytest.mark.parametrize(
    "change",
    [
        lambda b: setattr(b, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda b: setattr(b, "normalizer", normalizers.NFD()),
        lambda b: setattr(b, "normalizer", normalizers.Lowercase()),
    ],
)
def test_bytes_are_found_behind_normalizers(change: Callable[[Backend], None]) -> None:
    backend = with_decoder(tokenizers.byte_level(), DECODERS["sentencepiece"])
    change(backend)
    assert read(backend).token_bytes.byte_level


@pytest.mark.parametrize(
    "make", [tokenizers.byte_level, tokenizers.sentencepiece_bpe, tokenizers.with_suffixes]
)
def test_a_decoder_that_fits_or_has_no_better_stays(make: Callable[[], Backend]) -> None:
    assert not read(make()).mended_decoder


@pytest.fixture
def tekken(tmp_path: Path) -> Path:
    """A model with a byte-level vocabulary and the decoder of SentencePiece."""
    path = write_random_model(tmp_path / "tekken", {**LLAMA, "vocab_size": 512})
    backend = Backend.from_file(str(path / "tokenizer.json"))
    with_decoder(backend, DECODERS["sentencepiece"]).save(str(path / "tokenizer.json"))
    return path


def test_forms_see_the_bytes_that_text_has(tekken: Path) -> None:
    with Engine.load(str(tekken)) as engine:
        form = {"type": "choice", "choice": ["ein Satz über 🙂\nund mehr"]}
        reply = engine.chat("hi", max_tokens=100, seed=1, response_format=form)
        assert reply.text == "ein Satz über 🙂\nund mehr"


def test_grammars_take_another_decoder_than_that_of_the_file(tekken: Path) -> None:
    model: Model = load(tekken)
    decoder = Tokenizer.load(tekken).mended_decoder
    matcher = Grammars(model.info, decoder).start('start: "a b"').matcher.result().deep_copy()
    ids = Tokenizer.load(tekken).encode("a b", add_special=False)
    assert decoder and matcher.consume_tokens(ids) and matcher.is_accepting()
