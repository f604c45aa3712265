"""Incremental text against decoding at once, and stop strings against a naive search."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budmlx.engine.text.decode import TextStream
from budmlx.engine.text.tokenizer import Tokenizer
from tests import tokenizers
from tests.amount import examples

BUILDERS = {
    "byte_level": tokenizers.byte_level,
    "sentencepiece": tokenizers.sentencepiece_bpe,
    "sentencepiece_legacy": lambda: tokenizers.sentencepiece_bpe(legacy=True),
    "unigram": tokenizers.unigram,
    "suffixes": tokenizers.with_suffixes,
}
BYTE_FALLBACK = ("sentencepiece", "sentencepiece_legacy")

TEXTS = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from("abc <>é你😀ก‍")),
    max_size=60,
)


@cache
def tokenizer(kind: str) -> Tokenizer:
    return Tokenizer(
        BUILDERS[kind](),
        special_tokens={"bos_token": "<s>", "eos_token": "</s>"},
        chat_templates={},
    )


def streamed(kind: str, ids: Sequence[int], stop: Sequence[str] = ()) -> list[str]:
    stream = TextStream(tokenizer(kind), stop)
    return [*(stream.push(token_id) for token_id in ids), stream.finish()]


def ids_of(kind: str) -> st.SearchStrategy[list[int]]:
    size = tokenizer(kind).backend.get_vocab_size()
    # Beyond the vocabulary lies the padding of the logits.
    return st.lists(st.integers(0, size + 3), max_size=40)


def expected(kind: str, ids: Sequence[int]) -> str:
    """What all ids decode to at once.

    The library replaces a whole run of byte tokens if one of them is not valid; a stream
    has shown the characters before it by then. So runs are cut where they break.
    """
    backend = tokenizer(kind).backend
    shown = [i for i in ids if i not in tokenizer(kind).hidden_ids and backend.id_to_token(i)]
    if kind not in BYTE_FALLBACK:
        return backend.decode(shown)
    # Byte tokens are rewritten as the tokens of what survives of them; U+FFFD has no token.
    parts = re.split(r"((?:<0x[0-9A-F]{2}>)+)", "".join(backend.id_to_token(i) for i in shown))
    assert "".join(parts) == "".join(backend.id_to_token(i) for i in shown)
    return backend.decoder.decode(
        [
            surviving(part) if part.startswith("<0x") and part.endswith(">") else part
            for part in parts
        ]
    )


def surviving(run: str) -> str:
    data = bytes.fromhex(run.replace("<0x", "").replace(">", ""))
    text = ""
    while data:
        for length in range(1, 5):
            try:
                text += data[:length].decode()
            except UnicodeDecodeError:
                continue
            data = data[length:]
            break
        else:
            text += "\ufffd"
            data = data[1:]
    return text


@pytest.mark.hypothesis
@pytest.mark.parametrize("kind", BUILDERS)
def test_random_ids_give_what_decoding_at_once_gives(kind: str) -> None:
    @settings(max_examples=examples(100))
    @given(ids_of(kind))
    def check(ids: list[int]) -> None:
        text = "".join(streamed(kind, ids))
        assert text == expected(kind, ids)
        if "\ufffd" not in text:
            shown = [i for i in ids if i not in tokenizer(kind).hidden_ids]
            assert text == tokenizer(kind).backend.decode(shown)

    check()


@pytest.mark.parametrize("kind", BUILDERS)
def test_text_comes_back_without_half_characters(kind: str) -> None:
    @given(TEXTS)
    def check(text: str) -> None:
        ids = tokenizer(kind).control.encode_literal(text)
        pieces = streamed(kind, ids)
        assert "".join(pieces) == tokenizer(kind).backend.decode(ids)
        if "\ufffd" not in text:
            assert not any("\ufffd" in piece for piece in pieces)

    check()


def test_characters_appear_as_soon_as_they_are_complete() -> None:
    ids = tokenizer("byte_level").control.encode_literal("a𐍈")
    assert streamed("byte_level", ids) == ["a", "", "", "", "𐍈", ""]
    byte = tokenizer("sentencepiece").backend.token_to_id
    run = [byte("<0xE2>"), byte("<0x82>"), byte("<0xAC>")] * 2
    assert streamed("sentencepiece", run) == ["", "", "€", "", "", "€", ""]


def test_broken_characters_are_replaced_and_the_ones_before_stay() -> None:
    byte = tokenizer("sentencepiece").backend.token_to_id
    run = [byte(f"<0x{value}>") for value in ("E2", "82", "AC", "E2", "82")]
    assert "".join(streamed("sentencepiece", run)) == "€\ufffd\ufffd"
    ids = tokenizer("byte_level").control.encode_literal("x😀")[:-1]
    assert streamed("byte_level", ids)[-1] == "\ufffd"


def test_special_and_unknown_ids_are_not_shown() -> None:
    backend = tokenizer("byte_level").backend
    text = "<s><|im_start|>a</s><think>b"
    ids = [*backend.encode(text).ids, backend.get_vocab_size() + 7]
    assert "".join(streamed("byte_level", ids)) == "a<think>b"


def test_end_of_sequence_is_not_shown_even_if_not_marked_special() -> None:
    ends = Tokenizer(
        tokenizers.byte_level(), special_tokens={"eos_token": "</think>"}, chat_templates={}
    )
    stream = TextStream(ends)
    assert stream.push(ends.eos_token_ids[0]) == ""
    assert stream.finish() == ""


def cut_by(stops: Sequence[str], text: str) -> tuple[str, bool]:
    """Text up to the first stop string: first complete, then longest."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - len(max(found, key=len))], True
    return text, False


STOPS = st.lists(st.text("ab😀 ", min_size=1, max_size=6), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_stops_end_the_text_and_never_leak(kind: str) -> None:  # LIMITS 59
    @given(st.text("ab😀 c", max_size=40), STOPS)
    def check(text: str, stops: list[str]) -> None:
        ids = tokenizer(kind).control.encode_literal(text)
        kept, found = cut_by(stops, tokenizer(kind).backend.decode(ids))
        stream = TextStream(tokenizer(kind), stops)
        shown = ""
        for token_id in ids:
            shown += stream.push(token_id)
            # Whatever follows, what is shown must remain a beginning of the right text.
            assert kept.startswith(shown)
        assert shown + stream.finish() == kept
        assert stream.stopped == found

    check()


@given(st.text("abc", max_size=30), STOPS, st.text("ab 😀", max_size=6))
def test_what_is_shown_is_never_part_of_a_later_stop(
    text: str, stops: list[str], more: str
) -> None:
    start, end = (tokenizer("byte_level").control.encode_literal(t) for t in (text, more))
    stream = TextStream(tokenizer("byte_level"), stops)
    shown = "".join(stream.push(token_id) for token_id in start)
    assert cut_by(stops, text + more)[0].startswith(shown)
    shown += "".join(stream.push(token_id) for token_id in end) + stream.finish()
    assert shown == cut_by(stops, text + more)[0]


@pytest.mark.parametrize(
    ("stops", "text", "kept"),
    [
        (["ab", "abc"], "xabc", "x"),
        (["abcd", "bc"], "xabcd", "xa"),
        (["abcd", "cd"], "xabcd", "x"),
        (["aab"], "aaaab", "aa"),
        (["\n\nUser:"], "hi\n\nUse", "hi\n\nUse"),
        (["😀"], "a😀b", "a"),
    ],
)
def test_overlapping_stops(stops: list[str], text: str, kept: str) -> None:  # LIMITS 61
    ids = tokenizer("byte_level").control.encode_literal(text)
    assert "".join(streamed("byte_level", ids, stops)) == kept


def test_nothing_follows_a_stop() -> None:
    stream = TextStream(tokenizer("byte_level"), ["b"])
    shown = [stream.push(i) for i in tokenizer("byte_level").control.encode_literal("abcd")]
    assert shown == ["a", "", "", ""]
    assert stream.finish() == ""


def test_long_replies_with_long_stops_take_linear_time() -> None:
    # Quadratic work in either part would run for minutes here.
    stops = ["a" * 255 + chr(ord("b") + index) for index in range(16)]
    backend = tokenizer("byte_level").backend
    letter, lone = backend.token_to_id("a"), backend.token_to_id("ð")
    stream = TextStream(tokenizer("byte_level"), stops)
    shown = sum(len(stream.push(letter)) for _ in range(500_000))
    assert shown == 500_000 - 255
    assert len(stream.finish()) == 255
    stream = TextStream(tokenizer("byte_level"))
    assert sum(len(stream.push(lone)) for _ in range(100_000)) == 99_999
