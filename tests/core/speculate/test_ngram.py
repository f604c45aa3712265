"""The index of n-grams and the drafts made with it, against plain searches."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from budmlx.core.speculate.drafts import FIRST_CHANCE, Drafts
from budmlx.core.speculate.ngram import LONGEST, SHORTEST, Match, NgramIndex
from budmlx.protocol import MOST_DRAFTED

# Few different tokens, so that everything occurs often.
TEXT = st.lists(st.integers(0, 2), max_size=60)


def agreeing(ids: Sequence[int], place: int, text: Sequence[int]) -> int:
    """How many tokens before `place` are the last ones of `text`."""
    most = min(place, len(text))
    return next((n for n in range(most) if ids[place - n - 1] != text[-n - 1]), most)


def naive(ids: Sequence[int], text: Sequence[int]) -> Match | None:
    """The longest of all occurrences of the ending of `text`, the latest of those as long."""
    end = len(ids) if text is not ids else len(ids) - 1
    lengths = {place: min(agreeing(ids, place, text), LONGEST) for place in range(end + 1)}
    found = [(length, place) for place, length in lengths.items() if length >= SHORTEST]
    return Match(max(found)[1], max(found)[0]) if found else None


@given(TEXT, TEXT)
def test_the_index_finds_what_a_search_finds(text: list[int], more: list[int]) -> None:
    index = NgramIndex(text)
    assert index.find(text) == naive(text, text)
    for token in more:
        text.append(token)
        assert index.find(text) == naive(text, text)


@given(TEXT, TEXT)
def test_the_ending_of_another_text(text: list[int], other: list[int]) -> None:
    assert NgramIndex(text).find(other) == naive(text, other)


@given(st.lists(st.integers(0, 2), min_size=40, max_size=80), st.integers(1, 5))
def test_of_few_candidates_the_latest_are_compared(text: list[int], candidates: int) -> None:
    match = NgramIndex(text, candidates).find(text)
    ending = text[-SHORTEST:]
    places = [p for p in range(SHORTEST, len(text)) if text[p - SHORTEST : p] == ending]
    assert (match.place if match else None) in (places[-candidates:] or [None])


def test_a_repetition_goes_on_beyond_its_end() -> None:
    text = [1, 2, 3, 4, 1, 2, 3, 4]
    drafts = Drafts(text)
    assert drafts.draft(3) == [1, 2, 3]
    assert drafts.draft(6) == [1, 2, 3, 4, 1, 2]
    assert len(drafts.draft(100)) == MOST_DRAFTED
    assert drafts.draft(0) == []


def test_what_is_ahead_must_be_what_was_expected() -> None:
    drafts = Drafts([5, 6, 7, 8, 9, 0, 5, 6, 7])
    assert drafts.draft(2, [8]) == [9, 0]
    assert drafts.draft(2, [8, 9]) == [0, 5]
    assert drafts.draft(2, [9]) == []


def test_the_chance_is_learned_without_drafting() -> None:
    text = [1, 2, 3, 4, 5, 6]
    copying, other = list(text), list(text)
    copied, left = Drafts(copying), Drafts(other)
    for token in text * 5:
        copying.append(token)
        copied.follow(token)
    for token in [token for other in range(10, 20) for token in (1, 2, 3, other)]:
        other.append(token)
        left.follow(token)
    assert copied.chance > 0.9 > FIRST_CHANCE > left.chance
    assert Drafts([1, 2, 3]).chance == FIRST_CHANCE


@given(TEXT, TEXT)
def test_drafts_go_on_after_an_occurrence(text: list[int], more: list[int]) -> None:
    drafts = Drafts(text)
    for token in more:
        draft = drafts.draft(1)
        if draft:
            endings = [text[p - SHORTEST : p] for p in range(SHORTEST, len(text))]
            places = [p for p, e in enumerate(endings, SHORTEST) if e == text[-SHORTEST:]]
            assert any(text[place] == draft[0] for place in places)
        else:
            assert naive(text, text) is None
        text.append(token)
        drafts.follow(token)
