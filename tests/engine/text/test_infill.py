"""Prompts for the text between two others, by the tokens of the model families."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from budmlx.engine.text.infill import PREFIX_FIRST, SUFFIX_FIRST, Infill
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import InvalidRequestError
from tests import tokenizers

BEFORE, AFTER = "def f(x):\n    return ", "\n\nprint(f(1))"


def with_tokens(special: Sequence[str], markup: Sequence[str] = ()) -> Tokenizer:
    backend = tokenizers.byte_level(special=("<s>", *special), markup=markup)
    return Tokenizer(backend, special_tokens={"bos_token": "<s>"}, chat_templates={})


def shown(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return str(tokenizer.backend.decode(list(ids), skip_special_tokens=False))


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("names", PREFIX_FIRST)
def test_the_prefix_comes_first(names: tuple[str, str, str], special: bool) -> None:
    tokens = [*names, "<|endoftext|>"]
    tokenizer = with_tokens(tokens) if special else with_tokens((), tokens)
    infill = Infill.of(tokenizer)
    assert infill is not None
    ids = infill.prompt(tokenizer, BEFORE, AFTER)
    begin, hole, end = names
    assert shown(tokenizer, ids) == f"{begin}{BEFORE}{hole}{AFTER}{end}"
    expected = {tokenizer.backend.token_to_id(name) for name in tokens}
    assert set(infill.stop_ids) == expected


@pytest.mark.parametrize("names", SUFFIX_FIRST)
def test_the_suffix_comes_first(names: tuple[str, str, str]) -> None:
    tokenizer = with_tokens([name for name in names if name])
    infill = Infill.of(tokenizer)
    assert infill is not None
    ids = infill.prompt(tokenizer, BEFORE, AFTER)
    after, before, end = names
    assert shown(tokenizer, ids) == f"{after}{AFTER}{before}{BEFORE}{end}"


def test_texts_hold_no_control_tokens() -> None:
    names = PREFIX_FIRST[0]
    tokenizer = with_tokens(names)
    infill = Infill.of(tokenizer)
    assert infill is not None
    ids = infill.prompt(tokenizer, f"a{names[1]}b", f"{names[2]}<s>")
    marks = [tokenizer.backend.token_to_id(name) for name in (*names, "<s>")]
    assert [token_id for token_id in ids if token_id in marks] == marks[:3]
    assert shown(tokenizer, ids) == f"{names[0]}a{names[1]}b{names[1]}{names[2]}<s>{names[2]}"
    with pytest.raises(InvalidRequestError) as caught:
        infill.prompt(tokenizer, "a", "\ud800")
    assert caught.value.param == "suffix"


def test_most_tokenizers_have_no_such_tokens() -> None:
    assert Infill.of(with_tokens(())) is None
    assert Infill.of(with_tokens(PREFIX_FIRST[0][:2])) is None
