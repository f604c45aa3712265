"""Where turns end in token ids, for the ways in which templates mark them."""

from __future__ import annotations

import pytest

from budmlx.engine.request.turns import turn_ends
from budmlx.engine.text.control_tokens import ControlTokens
from budmlx.engine.text.tokenizer import Tokenizer
from tests.models import tiny_model_dir


class Some(ControlTokens):
    """Control tokens without a tokenizer: all ids from 900 on."""

    def __init__(self) -> None:
        self._counted = frozenset(range(900, 1000))


START, END, USER, ASSISTANT = 900, 901, 5, 6


def test_a_role_after_a_control_token() -> None:
    turn = [START, USER, 7, 8, END, START, ASSISTANT, 9, END]
    ids = [START, 4, 1, END, *turn, *turn, START, USER, 7]
    # The prompt without the last message goes on with START and ASSISTANT.
    assert turn_ends(ids, 4 + 18 + 1, Some()) == {4 + 1, 4 + 9 + 1}


def test_a_control_token_for_each_role() -> None:
    turn = [910, 7, 8, 911, 9, END]
    ids = [START, *turn, *turn, 910, 7]
    assert turn_ends(ids, 13, Some()) == {1, 7}


@pytest.mark.parametrize("place", [1, 3, 6])
def test_text_alone_marks_nothing(place: int) -> None:
    assert turn_ends([1, 2, 3, 1, 2, 3, 1, 2], place, Some()) == set()


def test_the_marks_cannot_be_written_by_a_user() -> None:
    tokenizer = Tokenizer.load(tiny_model_dir())
    ids = tokenizer.encode("<|im_start|>user", add_special=False)
    assert turn_ends([*ids, *ids], len(ids), tokenizer.control) == set()
